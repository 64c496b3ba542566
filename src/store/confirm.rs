//! Whether replicas have what was revoked (`redis.durability = "wait"`).

use std::sync::Arc;
use std::time::Duration;

use fred::prelude::*;
use fred::types::{ClusterHash, CustomCommand};

use super::connection::Connection;
use super::{Store, StoreError, keys, scripts};
use crate::config;
use crate::model::Revocation;

/// A connection of its own for `WAIT`, which holds up whatever comes after it.
#[derive(Clone)]
pub(super) struct Confirmations {
    pub(super) connection: Arc<Connection>,
    replicas: u32,
    timeout: Duration,
}

impl Confirmations {
    pub(super) fn new(config: &config::Redis, connection: Arc<Connection>) -> Self {
        Self { connection, replicas: config.wait_replicas, timeout: config.timeout }
    }
}

impl Store {
    /// Whether as many replicas as the settings ask for have a revocation that was acknowledged.
    /// `true` at once unless they ask for any. Never an error: the revocation itself is done.
    pub async fn confirm(&self, bucket: u8, revocation: &Revocation) -> bool {
        let Some(confirmations) = &self.confirmations else {
            return true;
        };
        match self.wait(confirmations, bucket, revocation).await {
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
        confirmations: &Confirmations,
        bucket: u8,
        revocation: &Revocation,
    ) -> Result<bool, StoreError> {
        let Confirmations { connection, replicas, timeout } = confirmations;
        let args = vec![revocation.to_string().into()];
        let mut reply = self.run_on(connection, &scripts::CONFIRM, bucket, args).await?;
        reply.must_be("confirmed")?;
        if reply.number()? == 0 {
            return Ok(false);
        }
        let slot = ClusterHash::Custom(fred::util::redis_keyslot(keys::feed(bucket).as_bytes()));
        // Those that stand before it on the connection may take as long as this one.
        let options = Options { timeout: Some(*timeout * 2), ..Options::default() };
        let confirmed: u32 = connection
            .client()
            .with_options(&options)
            .custom(
                CustomCommand::new("WAIT", slot, false),
                vec![i64::from(*replicas), i64::try_from(timeout.as_millis()).unwrap_or(250)],
            )
            .await?;
        tracing::debug!(confirmed, "replicas have a revocation");
        Ok(confirmed >= *replicas)
    }
}
