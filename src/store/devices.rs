//! The devices that users chose to remember.

use fred::prelude::*;

use super::{Store, StoreError, keys, scripts};
use crate::model::UserId;

impl Store {
    /// What a device of a user is called, if it is remembered.
    pub async fn device_name(
        &self,
        user: &UserId,
        device: &str,
    ) -> Result<Option<String>, StoreError> {
        let bucket = self.bucket_of(user);
        let client = self.topology.links(bucket).next().client();
        let value: Option<String> = client.hget(keys::device(bucket, user), device).await?;
        Ok(value.and_then(|value| Some(value.splitn(3, ' ').nth(2)?.to_owned())))
    }

    /// Remembers a device of a user.
    pub async fn device_seen(
        &self,
        user: &UserId,
        device: &str,
        name: &str,
    ) -> Result<(), StoreError> {
        let args = vec![user.as_str().into(), device.into(), name.into()];
        let mut reply = self.run(&scripts::DEVICE, self.bucket_of(user), args).await?;
        reply.text()?;
        let same = reply.text()? == user.as_str() && reply.text()? == device;
        reply.must_echo(same)
    }
}
