//! The only room that knows Redis: connections, keys, scripts, the feed.
//!
//! All state is there. One operation is one Lua script (`lua/`), so two requests that race are
//! put in order by the server. Everything of a user lives in one bucket, which is one slot of a
//! cluster.

pub mod accounts;
mod client;
mod credentials;
pub mod devices;
pub mod embedded;
pub mod feed;
mod keys;
pub mod limits;
mod reply;
mod scripts;
pub mod sessions;

use std::time::Duration;

use fred::prelude::*;
use futures::future::join_all;

use crate::config::Redis;
use crate::model::UserId;

/// Why the store did not answer. Nothing is known of what was asked then; a write may or may not
/// have happened, and can be sent again.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Not reachable, too slow, or not able to serve.
    #[error("the session store cannot be used: {0}")]
    Unavailable(String),
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
        Self::Unavailable(error.to_string())
    }
}

/// The sessions in Redis.
#[derive(Clone)]
pub struct Store {
    pool: Pool,
    feeds: Vec<Client>,
    buckets: u16,
    retention: Duration,
}

impl Store {
    /// Prepares the connections; they are made in the background, again and again until they hold.
    pub fn connect(config: &Redis, url: &str, retention: Duration) -> Result<Self, StoreError> {
        let (pool, feeds) = client::build(config, url)?;
        pool.connect();
        for feed in &feeds {
            feed.connect();
        }
        Ok(Self { pool, feeds, buckets: config.buckets, retention })
    }

    /// Waits for the first connection, then refuses a server whose settings would lose data, and
    /// pins what every gateway on it must agree on.
    pub async fn prepare(&self) -> Result<(), StoreError> {
        self.pool.wait_for_connect().await?;
        let server: String = self.pool.info(Some(fred::types::InfoKind::Server)).await?;
        let memory: String = self.pool.info(Some(fred::types::InfoKind::Memory)).await?;
        check_settings(&server, &memory)?;
        let meta = keys::META;
        let _: i64 = self.pool.hsetnx(meta, "schema", "1").await?;
        let _: i64 = self.pool.hsetnx(meta, "buckets", self.buckets).await?;
        let pinned: Vec<String> = self.pool.hmget(meta, vec!["schema", "buckets"]).await?;
        if pinned != ["1".to_owned(), self.buckets.to_string()] {
            return Err(StoreError::Unsafe(format!(
                "redis.buckets: this Redis was set up with schema {} and {} buckets, this gateway \
                 is for schema 1 and {} (set redis.buckets to what it was set up with)",
                pinned.first().map_or("?", String::as_str),
                pinned.get(1).map_or("?", String::as_str),
                self.buckets,
            )));
        }
        Ok(())
    }

    /// Whether a connection stands at this moment.
    pub fn is_up(&self) -> bool {
        self.pool.clients().iter().any(Client::is_connected)
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
        let close =
            async { tokio::join!(self.pool.quit(), join_all(self.feeds.iter().map(Client::quit))) };
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
            "redis.url: the server's maxmemory-policy is {policy}, which would end sessions when \
             memory is full; set it: CONFIG SET maxmemory-policy noeviction"
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
