//! What credentials are made for: the record of a session, and another seed for it.

use fred::prelude::*;

use super::reply::Record;
use super::{Store, StoreError, scripts};
use crate::model::{SessionId, Timestamp, UserId};
use crate::token::handle::Seed;

impl Store {
    /// A session as it is, if it is live at this moment, and when that moment is.
    pub async fn session_load(
        &self,
        bucket: u8,
        sid: SessionId,
    ) -> Result<Option<(Timestamp, Record)>, StoreError> {
        let args = vec![sid.to_string().into()];
        let mut reply = self.run(&scripts::LOAD, bucket, args).await?;
        let outcome = reply.text()?;
        let echoed = reply.session_id()?;
        reply.must_echo(echoed == sid)?;
        if outcome != "live" {
            return Ok(None);
        }
        let user = reply.text()?;
        let issued = reply.time()?;
        let expires = reply.time()?;
        let record = reply.session(sid, expires, String::new())?;
        reply.must_echo(record.session.user.as_str() == user)?;
        Ok(Some((issued, record)))
    }

    /// Gives a session of a user another seed, and with it new credentials. Returns when these are
    /// issued; `None` when it is not theirs or not live.
    pub async fn session_reauthenticate(
        &self,
        user: &UserId,
        sid: SessionId,
        seed: Seed,
        method: &str,
        mark: &str,
    ) -> Result<Option<(Timestamp, Record)>, StoreError> {
        let args: Vec<Value> = vec![
            sid.to_string().into(),
            user.as_str().into(),
            Value::Bytes(seed.to_vec().into()),
            method.into(),
            mark.into(),
        ];
        let mut reply = self.run(&scripts::REAUTHENTICATE, self.bucket_of(user), args).await?;
        let outcome = reply.text()?;
        let echoed = reply.session_id()?;
        let same = echoed == sid && reply.text()? == user.as_str();
        reply.must_echo(same)?;
        if outcome != "live" {
            return Ok(None);
        }
        let issued = reply.time()?;
        let expires = reply.time()?;
        let agent = reply.text()?;
        let record = reply.session(sid, expires, agent)?;
        reply.must_echo(record.session.user == *user && record.seed == seed)?;
        Ok(Some((issued, record)))
    }
}
