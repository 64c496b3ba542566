//! What is known to be dead.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use papaya::HashMap;

use super::Identity;
use crate::model::{Revocation, SessionId, Timestamp, UserId};

#[derive(Clone, Copy)]
struct CutOff {
    before: Timestamp,
    kept: Option<SessionId>,
    learnt: Timestamp,
}

/// A set that only grows, until no token is left that an entry could speak of.
pub struct Revocations {
    /// Sessions, by id; when this process learnt of it.
    sessions: HashMap<u128, Timestamp>,
    users: HashMap<UserId, CutOff>,
    /// By bucket: everything issued up to this time.
    everything: Box<[AtomicU64]>,
}

impl Revocations {
    pub(super) fn new(buckets: usize) -> Self {
        Self {
            sessions: HashMap::new(),
            users: HashMap::new(),
            everything: (0..buckets).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Whether an identity is dead.
    pub fn cover(&self, identity: &Identity) -> bool {
        let everything = self.everything[usize::from(identity.bucket)].load(Ordering::Acquire);
        if identity.issued.0 <= everything
            || self.sessions.pin().contains_key(&identity.session.as_u128())
        {
            return true;
        }
        !self.users.is_empty()
            && self.users.pin().get(&identity.user).is_some_and(|cut| {
                identity.issued <= cut.before && cut.kept != Some(identity.session)
            })
    }

    /// Learns of a revocation. In any order and any number of times.
    pub fn learn(&self, bucket: u8, revocation: &Revocation) {
        let learnt = Timestamp::now();
        match revocation {
            Revocation::Session(sid) => {
                self.sessions.pin().insert(sid.as_u128(), learnt);
            }
            // The newest says all that the older ones said: what one of them kept and a later one
            // did not is dead, and what a later one keeps was alive then.
            Revocation::User { user, before, kept } => {
                let new = CutOff { before: *before, kept: *kept, learnt };
                self.users.pin().update_or_insert(
                    user.clone(),
                    |old| if old.before > new.before { *old } else { new },
                    new,
                );
            }
            Revocation::Everything { before } => {
                self.everything[usize::from(bucket)].fetch_max(before.0, Ordering::AcqRel);
            }
        }
    }

    /// Forgets what is so old that no token is left of before.
    pub(super) fn forget(&self, retention: Duration) {
        let retention = u64::try_from(retention.as_millis()).unwrap_or(u64::MAX);
        let oldest = Timestamp(Timestamp::now().0.saturating_sub(retention));
        self.sessions.pin().retain(|_, learnt| *learnt >= oldest);
        self.users.pin().retain(|_, cut| cut.learnt >= oldest);
    }

    /// How many are held.
    pub fn len(&self) -> usize {
        self.sessions.len() + self.users.len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Map;
    use uuid::Uuid;

    use super::*;
    use crate::token::AccessClaims;

    fn identity(user: &str, session: u8, issued: u64) -> Identity {
        let claims = AccessClaims {
            iss: String::new(),
            sub: user.parse().unwrap(),
            aud: Vec::new(),
            exp: 0,
            iat: issued / 1000,
            jti: Uuid::new_v7(uuid::Timestamp::from_unix(
                uuid::NoContext,
                issued / 1000,
                u32::try_from(issued % 1000).unwrap() * 1_000_000,
            )),
            sid: SessionId([session; 16]),
            generation: 1,
            auth_time: 0,
            amr: Vec::new(),
            roles: Vec::new(),
            extra: Map::new(),
        };
        Identity::new(&claims, 3).unwrap()
    }

    fn user(user: &str, before: u64, kept: Option<u8>) -> Revocation {
        let kept = kept.map(|byte| SessionId([byte; 16]));
        Revocation::User { user: user.parse().unwrap(), before: Timestamp(before), kept }
    }

    #[test]
    fn a_session_is_dead_and_no_other() {
        let set = Revocations::new(16);
        set.learn(3, &Revocation::Session(SessionId([1; 16])));
        assert!(set.cover(&identity("ann", 1, 5)));
        assert!(!set.cover(&identity("ann", 2, 5)));
    }

    #[test]
    fn a_users_cut_off_spares_what_is_kept_and_what_comes_after() {
        let set = Revocations::new(16);
        set.learn(3, &user("ann", 1_000, Some(1)));
        assert!(!set.cover(&identity("ann", 1, 900)), "kept");
        assert!(set.cover(&identity("ann", 2, 1_000)), "to the millisecond");
        assert!(!set.cover(&identity("ann", 3, 1_001)), "issued after");
        assert!(!set.cover(&identity("bob", 2, 900)), "somebody else");
        set.learn(3, &user("ann", 2_000, None));
        set.learn(3, &user("ann", 1_000, Some(1)));
        assert!(set.cover(&identity("ann", 1, 900)), "an older one does not undo a newer");
    }

    #[test]
    fn everything_of_a_bucket_ends_at_once() {
        let set = Revocations::new(16);
        set.learn(4, &Revocation::Everything { before: Timestamp(1_000) });
        assert!(!set.cover(&identity("ann", 1, 900)), "another bucket");
        set.learn(3, &Revocation::Everything { before: Timestamp(1_000) });
        assert!(set.cover(&identity("ann", 1, 1_000)));
        assert!(!set.cover(&identity("ann", 1, 1_001)));
    }

    #[test]
    fn the_old_is_forgotten() {
        let set = Revocations::new(16);
        set.learn(3, &Revocation::Session(SessionId([1; 16])));
        set.forget(Duration::from_mins(1));
        assert_eq!(set.len(), 1);
        set.sessions.pin().insert(SessionId([1; 16]).as_u128(), Timestamp(1));
        set.forget(Duration::from_mins(1));
        assert!(set.is_empty());
    }
}
