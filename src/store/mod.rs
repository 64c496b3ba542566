//! The only room that knows Redis: connections, keys, scripts, the feed.
//!
//! All state is there. One operation is one Lua script (`lua/`), so two requests that race are
//! put in order by the server. Everything of a user lives in one bucket, which is one slot of a
//! cluster.

pub mod accounts;
mod client;
mod cluster;
mod confirm;
mod connection;
mod credentials;
pub mod devices;
pub mod embedded;
pub mod feed;
mod keys;
pub mod limits;
#[cfg(feature = "mutations")]
mod mutations;
mod reply;
mod scripts;
pub mod sessions;
mod topology;

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use fred::prelude::*;
use futures::future::join_all;

use client::Plan;
use topology::Topology;

use crate::config::Redis;
use crate::model::UserId;

/// Why the store did not answer. Nothing is known of what was asked then; a write may or may not
/// have happened, and can be sent again.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Not reachable, too slow, or not able to serve.
    #[error("the session store cannot be used: {0}")]
    Unavailable(fred::error::Error),
    /// Its answer is not one to this question.
    #[error("unexpected reply of {script}: {problem}")]
    Reply {
        /// What was called.
        script: &'static str,
        /// What is wrong with the answer.
        problem: &'static str,
    },
    /// Its settings would lose sessions or revocations.
    #[error("{0}")]
    Unsafe(String),
}

impl From<fred::error::Error> for StoreError {
    fn from(error: fred::error::Error) -> Self {
        Self::Unavailable(error)
    }
}

impl StoreError {
    fn unavailable(why: &'static str) -> Self {
        Self::Unavailable(Error::new(ErrorKind::Unknown, why))
    }
}

/// How the keys are laid out.
const SCHEMA: &str = "2";

/// The sessions in Redis.
#[derive(Clone)]
pub struct Store {
    topology: Topology,
    /// With [`Durability::Wait`](crate::config::Durability::Wait): how many replicas have to have a
    /// revocation.
    replicas: u32,
    timeout: Duration,
    buckets: u16,
    retention: Duration,
    /// By bucket: how many commands in a row have failed.
    failures: Arc<[AtomicU32]>,
}

impl Store {
    /// Prepares the connections; they are made in the background, again and again until they hold.
    pub fn connect(config: &Redis, url: &str, retention: Duration) -> Result<Self, StoreError> {
        Ok(Self {
            topology: Topology::begin(Plan::new(config, url)?, config.buckets)?,
            replicas: config.wait_replicas,
            timeout: config.timeout,
            failures: (0..config.buckets).map(|_| AtomicU32::new(0)).collect(),
            buckets: config.buckets,
            retention,
        })
    }

    /// Waits for the first connections, then refuses servers whose settings would lose data, and pins
    /// what every gateway on them must agree on.
    pub async fn prepare(&self) -> Result<(), StoreError> {
        for links in self.topology.servers()? {
            let client = links.next().client();
            client.wait_for_connect().await?;
            let server: String = client.info(Some(fred::types::InfoKind::Server)).await?;
            let memory: String = client.info(Some(fred::types::InfoKind::Memory)).await?;
            check_settings(&server, &memory)?;
        }
        let client = self.topology.links_of_meta().next().client();
        let meta = keys::META;
        let _: i64 = client.hsetnx(meta, "schema", SCHEMA).await?;
        let _: i64 = client.hsetnx(meta, "buckets", self.buckets).await?;
        let pinned: Vec<String> = client.hmget(meta, vec!["schema", "buckets"]).await?;
        let [schema, buckets] = &pinned[..] else {
            return Err(StoreError::unavailable("it does not tell how it was set up"));
        };
        if schema != SCHEMA {
            return Err(StoreError::Unsafe(format!(
                "redis.url: the sessions in this Redis are laid out by schema {schema}, this \
                 gateway reads schema {SCHEMA} (use the version that made them, or an empty Redis: \
                 everybody logs in again then)"
            )));
        }
        if *buckets != self.buckets.to_string() {
            return Err(StoreError::Unsafe(format!(
                "redis.buckets: this Redis was set up with {buckets} buckets, this gateway is for \
                 {} (set redis.buckets to what it was set up with)",
                self.buckets,
            )));
        }
        Ok(())
    }

    /// Whether a connection stands at this moment.
    pub fn is_up(&self) -> bool {
        let connections = self.topology.connections();
        connections.iter().any(|connection| connection.client().is_connected())
    }

    /// How many buckets there are.
    pub fn buckets(&self) -> u16 {
        self.buckets
    }

    /// The bucket that a user lives in.
    pub fn bucket_of(&self, user: &UserId) -> u8 {
        keys::bucket_of(user, self.buckets)
    }

    /// Ends the connections after what was sent has been answered, or half a second later: the
    /// client can wait for ever on a connection that was just made or broken.
    pub async fn close(&self) {
        let quit = self.topology.connections().into_iter().map(|connection| connection.client());
        let close = join_all(quit.map(async |client| client.quit().await));
        let _ = tokio::time::timeout(Duration::from_millis(500), close).await;
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// A server that evicts keys loses sessions silently; one before 7.0 cannot run the scripts.
fn check_settings(server: &str, memory: &str) -> Result<(), StoreError> {
    let field = |info: &str, name: &str| {
        info.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(|value| value.trim().to_owned())
    };
    let version = field(server, "redis_version").unwrap_or_default();
    let major = version.split('.').next().and_then(|text| text.parse::<u32>().ok()).unwrap_or(0);
    if major < 7 {
        return Err(StoreError::Unsafe(format!(
            "redis.url: the server has version {version}; Redis 7.0 or Valkey 8 is the oldest that \
             can run the scripts"
        )));
    }
    match field(memory, "maxmemory_policy").as_deref() {
        Some("noeviction") | None => Ok(()),
        Some(policy) => Err(StoreError::Unsafe(format!(
            "redis.url: a server's maxmemory-policy is {policy}, which would end sessions when \
             memory is full; set it on each: CONFIG SET maxmemory-policy noeviction"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_would_lose_sessions_is_refused() {
        let check = |version: &str, policy: &str| {
            check_settings(
                &format!("# Server\r\nredis_version:{version}\r\n"),
                &format!("# Memory\r\nmaxmemory_policy:{policy}\r\n"),
            )
            .map_err(|error| error.to_string())
        };
        assert_eq!(check("7.0.15", "noeviction"), Ok(()));
        assert!(check("6.2.6", "noeviction").unwrap_err().contains("version 6.2.6"));
        assert!(check("7.2.4", "volatile-lru").unwrap_err().contains("volatile-lru"));
    }
}
