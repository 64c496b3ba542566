//! What the sessions of a user know of the password file.

use fred::prelude::*;
use futures::future::try_join_all;

use super::{Store, StoreError, keys, scripts};
use crate::model::{SessionId, UserId};

/// In place of the mark of a password: its user may not log in.
pub const DISABLED: &str = "-";
/// In place of the mark of a password: the file does not name the user any more.
pub const GONE: &str = "";

impl Store {
    /// Ends what began with another password than the one with this mark. Returns what it ended.
    pub async fn account_sync(
        &self,
        user: &UserId,
        mark: &str,
        cause: &str,
    ) -> Result<Vec<SessionId>, StoreError> {
        let args = vec![user.as_str().into(), mark.into(), cause.into()];
        let mut reply = self.run(&scripts::ACCOUNT, self.bucket_of(user), args).await?;
        let (_, echoed) = (reply.text()?, reply.text()?);
        reply.must_echo(echoed == user.as_str())?;
        reply.session_ids()
    }

    /// Everybody whom the password file has named.
    pub async fn accounts(&self) -> Result<Vec<UserId>, StoreError> {
        let buckets = (0..self.buckets).map(|bucket| {
            let bucket = u8::try_from(bucket).unwrap_or(u8::MAX);
            let client = self.topology.links(bucket).next().client();
            async move { client.hkeys::<Vec<String>, _>(keys::accounts(bucket)).await }
        });
        let names = try_join_all(buckets).await?;
        Ok(names.concat().into_iter().filter_map(|name| name.parse().ok()).collect())
    }
}
