//! The mutations that need the store: what is one script was two steps; see [`crate::mutation`].

use fred::prelude::*;

use super::sessions::Limits;
use super::{Store, StoreError, keys};
use crate::model::{SessionId, UserId};
use crate::mutation::{self, BETWEEN, Mutation};

impl Store {
    /// Finds room and forgets that others may take it before the session begins.
    pub(super) async fn limits_seen_before(
        &self,
        user: &UserId,
        limits: Limits,
    ) -> Result<Limits, StoreError> {
        if !mutation::is(Mutation::Limit) {
            return Ok(limits);
        }
        let live = self.session_list(user).await?.len();
        tokio::time::sleep(BETWEEN).await;
        let room = live < usize::try_from(limits.sessions).unwrap_or(0);
        Ok(Limits { sessions: if room { 100 } else { limits.sessions }, ..limits })
    }

    /// Reads a record and writes it again, whatever has happened to it meanwhile.
    pub(super) async fn write_what_was_read(
        &self,
        bucket: u8,
        sid: SessionId,
    ) -> Result<(), StoreError> {
        if !mutation::is(Mutation::Rotation) {
            return Ok(());
        }
        let client = self.commands.next().client();
        let (key, expiry) =
            (keys::session(bucket, sid), keys::feed(bucket).replace("feed", "expiry"));
        let record: std::collections::HashMap<String, Value> = client.hgetall(&key).await?;
        let expires: Option<f64> = client.zscore(&expiry, sid.to_string()).await?;
        tokio::time::sleep(BETWEEN).await;
        let (Some(expires), Some(user), Some(created)) = (
            expires,
            record.get("u").and_then(Value::as_string),
            record.get("c").and_then(Value::as_u64),
        ) else {
            return Ok(());
        };
        let sessions = keys::feed(bucket).replace("feed", &format!("user:{user}"));
        let member = format!("{created:011x}{sid}");
        let _: () = client.hset(&key, record).await?;
        let _: () =
            client.zadd(&expiry, None, None, false, false, (expires, sid.to_string())).await?;
        let _: () = client.zadd(&sessions, None, None, false, false, (expires, member)).await?;
        Ok(())
    }
}
