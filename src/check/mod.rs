//! The hot path: is this request from a live session?
//!
//! Answered from memory. A token's signature is verified once and remembered by its exact bytes;
//! a cookie's session is loaded once and remembered too. What was revoked is looked up after that, always. The feed keeps the revocations current and
//! proves twice a second that it does; when the proof is too old, Redis is asked for every check.

mod activity;
mod assertions;
mod cookie;
mod cut_offs;
mod follow;
mod freshness;
mod hash;
mod identity;
mod news;
mod revocations;

use std::sync::Arc;
use std::time::{Duration, Instant};

use quick_cache::UnitWeighter;
use quick_cache::sync::{Cache, DefaultLifecycle};
use tokio::sync::Semaphore;

pub use activity::{Activities, ActivityWriter};
pub use assertions::Assertions;
pub use follow::Follower;
pub use freshness::Freshness;
pub use identity::Identity;
pub use news::{Missed, News};
pub use revocations::Revocations;

use cookie::Cookies;
use hash::RandomHash;

use crate::config;
use crate::model::Timestamp;
use crate::store::Store;
use crate::telemetry::metrics::Source;
use crate::token::KeyRing;
use crate::token::access::{AccessTokens, LEEWAY};

/// Checks that ask Redis at the same time. Where it answers at all, so many are answered in the time
/// that one may take.
const STORE_CHECKS: usize = 4096;

/// Why a credential does not prove a live session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Not a token of ours, or expired.
    Invalid,
    /// Its session was revoked.
    Revoked,
    /// The feed is too old and Redis cannot be asked.
    Unknown,
}

/// Decides about credentials.
pub struct Check {
    /// How tokens are verified.
    pub tokens: AccessTokens,
    /// With which keys.
    pub keys: Arc<KeyRing>,
    /// What is known to be dead.
    pub revocations: Arc<Revocations>,
    /// How current that is.
    pub freshness: Arc<Freshness>,
    /// Who wants to know which sessions are in use.
    pub activities: Activities,
    /// What applications are told that do not believe the network.
    pub assertions: Assertions,
    store: Store,
    verified: Cache<Box<[u8]>, Arc<Identity>, UnitWeighter, RandomHash>,
    max_staleness: Duration,
    /// For checks that ask Redis, one each.
    places: Semaphore,
    cookies: Cookies,
}

impl Check {
    /// A check over what the feed will make known. Who waits for the store waits for `patience`.
    pub fn new(
        store: Store,
        keys: Arc<KeyRing>,
        tokens: AccessTokens,
        activities: Activities,
        settings: &config::Check,
        patience: Duration,
    ) -> Self {
        let remembered = settings.remembered_tokens;
        let buckets = usize::from(store.buckets());
        Self {
            assertions: Assertions::new(tokens.issuer.clone(), Arc::clone(&keys)),
            tokens,
            keys,
            revocations: Arc::new(Revocations::new(buckets, settings.max_revocations)),
            freshness: Arc::new(Freshness::new(buckets, store.feed_readers())),
            activities,
            store,
            verified: Cache::with(
                remembered,
                remembered as u64,
                UnitWeighter,
                RandomHash::default(),
                DefaultLifecycle::default(),
            ),
            max_staleness: settings.max_staleness,
            places: Semaphore::new(STORE_CHECKS),
            cookies: Cookies::new(remembered, patience),
        }
    }

    /// Who a bearer token speaks for, if its session is live. `now` and `instant` are the same
    /// moment on two clocks. `strict` asks Redis in any case.
    pub async fn authenticate(
        &self,
        token: &[u8],
        now: Timestamp,
        instant: Instant,
        strict: bool,
    ) -> (Result<Arc<Identity>, Refusal>, Source) {
        let Some(identity) = self.verified(token, now) else {
            return (Err(Refusal::Invalid), Source::Memory);
        };
        if self.revocations.cover(&identity) {
            return (Err(Refusal::Revoked), Source::Memory);
        }
        if strict || self.freshness.staleness(identity.bucket, instant) > self.max_staleness {
            return (self.ask(identity).await, Source::Store);
        }
        (Ok(identity), Source::Memory)
    }

    /// Whether the store says that the session is live.
    async fn ask(&self, identity: Arc<Identity>) -> Result<Arc<Identity>, Refusal> {
        let _place = self.places.try_acquire().map_err(|_| Refusal::Unknown)?;
        match self.store.session_live(identity.bucket, identity.session).await {
            Ok(Some(user)) if user == identity.user => Ok(identity),
            Ok(_) => Err(Refusal::Revoked),
            Err(_) => Err(Refusal::Unknown),
        }
    }

    /// The identity of a genuine token. Only what was verified is remembered, without the header,
    /// which is the same for all tokens of a key.
    fn verified(&self, token: &[u8], now: Timestamp) -> Option<Arc<Identity>> {
        let (key, rest) = self.keys.header_of(token)?;
        if let Some(identity) = self.verified.get(rest)
            && identity.key == key
        {
            return (identity.expires + LEEWAY > now.seconds()).then_some(identity);
        }
        let claims = self.tokens.verify(std::str::from_utf8(token).ok()?, now, &self.keys).ok()?;
        let bucket = self.store.bucket_of(&claims.sub);
        let identity = Arc::new(Identity::new(&claims, key, bucket)?);
        self.verified.insert(rest.into(), Arc::clone(&identity));
        Some(identity)
    }
}
