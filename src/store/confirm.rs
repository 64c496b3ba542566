//! Whether replicas have what was revoked (`redis.durability = "wait"`).

use std::sync::Arc;

use fred::prelude::*;
use fred::types::{ClusterHash, CustomCommand};

use super::connection::Connection;
use super::{Store, StoreError, scripts};
use crate::model::Revocation;

impl Store {
    /// Whether as many replicas as the settings ask for have a revocation that was acknowledged.
    /// `true` at once unless they ask for any. Never an error: the revocation itself is done.
    pub async fn confirm(&self, bucket: u8, revocation: &Revocation) -> bool {
        let links = self.topology.links(bucket);
        let Some(connection) = &links.waiting else {
            return true;
        };
        match self.wait(connection, bucket, revocation).await {
            Ok(confirmed) => confirmed,
            Err(error) => {
                tracing::warn!(%error, "a revocation is not confirmed by replicas");
                false
            }
        }
    }

    /// `WAIT` speaks of the writes of its own connection, so one is made there first. It finds the
    /// revocation, or that its server has been replaced by one without it.
    async fn wait(
        &self,
        connection: &Arc<Connection>,
        bucket: u8,
        revocation: &Revocation,
    ) -> Result<bool, StoreError> {
        let args = vec![revocation.to_string().into()];
        let mut reply = self.run_on(connection, &scripts::CONFIRM, bucket, args).await?;
        reply.must_be("confirmed")?;
        if reply.number()? == 0 {
            return Ok(false);
        }
        // Those that stand before it on the connection may take as long as this one.
        let options = Options { timeout: Some(self.timeout * 2), ..Options::default() };
        let limit = i64::try_from(self.timeout.as_millis()).unwrap_or(250);
        let confirmed: u32 = connection
            .client()
            .with_options(&options)
            .custom(
                CustomCommand::new("WAIT", ClusterHash::FirstKey, false),
                vec![i64::from(self.replicas), limit],
            )
            .await?;
        Ok(confirmed >= self.replicas)
    }
}
