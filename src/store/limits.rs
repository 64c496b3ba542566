//! How often something may be tried, over all gateways.

use std::time::Duration;

use fred::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

use super::{Store, StoreError, millis, scripts};

/// How often a subject may try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// How long it takes until an attempt is forgotten.
    pub every: Duration,
    /// Attempts at once.
    pub most: u32,
    /// What an attempt costs; what succeeds gets some of it back.
    pub price: u32,
    /// The longest wait.
    pub longest: Duration,
    /// Past the attempts at once each of a row costs twice the one before.
    pub rows: bool,
}

/// A decision about a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// It may try.
    pub allowed: bool,
    /// Attempts that are left.
    pub left: u64,
    /// How long until one is allowed.
    pub wait: Duration,
    /// How long until all are.
    pub reset: Duration,
}

impl Store {
    /// Counts an attempt of a subject, and decides about it.
    pub async fn rate_limit(&self, subject: &str, rule: &Rule) -> Result<Decision, StoreError> {
        self.limit(subject, rule, i64::from(rule.price)).await
    }

    /// Gives back so many attempts, because one succeeded.
    pub async fn rate_forgive(
        &self,
        subject: &str,
        rule: &Rule,
        attempts: u32,
    ) -> Result<(), StoreError> {
        self.limit(subject, rule, -i64::from(attempts)).await.map(drop)
    }

    async fn limit(&self, subject: &str, rule: &Rule, price: i64) -> Result<Decision, StoreError> {
        let bucket = xxh3_64(subject.as_bytes()) & u64::from(self.buckets - 1);
        let args: Vec<Value> = vec![
            subject.into(),
            millis(rule.every).into(),
            i64::from(rule.most).into(),
            price.into(),
            millis(rule.longest).into(),
            i64::from(rule.rows).into(),
        ];
        let bucket = u8::try_from(bucket).unwrap_or(0);
        let mut reply = self.run(&scripts::LIMIT, bucket, args).await?;
        let outcome = reply.text()?;
        let echoed = reply.text()?;
        reply.must_echo(echoed == subject)?;
        Ok(Decision {
            allowed: outcome == "allowed",
            left: reply.number()?,
            wait: Duration::from_millis(reply.number()?),
            reset: Duration::from_millis(reply.number()?),
        })
    }
}
