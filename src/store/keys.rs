//! Names of keys. What else a bucket holds is named by the scripts, from the same prefix.

use xxhash_rust::xxh3::xxh3_64;

use crate::model::{SessionId, UserId};

/// What every gateway on this Redis agrees on.
pub(super) const META: &str = "gh:meta";

/// `xxh3_64(user) mod buckets`; a power of two up to 256.
pub(super) fn bucket_of(user: &UserId, buckets: u16) -> u8 {
    u8::try_from(xxh3_64(user.as_str().as_bytes()) & u64::from(buckets - 1)).unwrap_or(0)
}

/// The one key that a script is called with: sequence and cut-offs of a bucket.
pub(super) fn feed(bucket: u8) -> String {
    format!("gh:{{{bucket:02x}}}:feed")
}

/// The stream of revocations.
pub(super) fn revoked(bucket: u8) -> String {
    format!("gh:{{{bucket:02x}}}:revoked")
}

/// The tombstones by time.
pub(super) fn index(bucket: u8) -> String {
    format!("gh:{{{bucket:02x}}}:revoked:index")
}

/// Whom the password file has named, and the marks of their passwords.
pub(super) fn accounts(bucket: u8) -> String {
    format!("gh:{{{bucket:02x}}}:accounts")
}

/// The devices of a user.
pub(super) fn device(bucket: u8, user: &UserId) -> String {
    format!("gh:{{{bucket:02x}}}:device:{user}")
}

/// The record of a session.
pub(super) fn session(bucket: u8, sid: SessionId) -> String {
    format!("gh:{{{bucket:02x}}}:session:{sid}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_stay_where_they_are() {
        // A change here would lose every session that exists.
        let bucket = |user: &str| bucket_of(&user.parse().unwrap(), 16);
        assert_eq!([bucket("ann"), bucket("bob"), bucket("carol")], [8, 5, 4]);
        assert_eq!(feed(10), "gh:{0a}:feed");
    }
}
