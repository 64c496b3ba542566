//! Session cookies: the record behind one is loaded once, by one request, and remembered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::constant_time;
use quick_cache::UnitWeighter;
use quick_cache::sync::{Cache, DefaultLifecycle};

use super::hash::RandomHash;
use super::{Check, Identity, Refusal};
use crate::model::Timestamp;
use crate::store::sessions::Record;
use crate::telemetry::metrics::Source;
use crate::token::handle::{Handle, HandleKind};

/// For how many seconds it is remembered that a session is dead: a browser does not know, and goes on
/// asking.
const DEAD: u64 = 5;

#[derive(Clone)]
struct Remembered {
    /// `None`: there is no such session.
    identity: Option<Arc<Identity>>,
    /// In seconds.
    until: u64,
}

/// Genuine cookies, by their exact bytes.
pub(super) struct Cookies {
    remembered: Cache<Vec<u8>, Remembered, UnitWeighter, RandomHash>,
    patience: Duration,
}

impl Cookies {
    pub(super) fn new(most: usize, patience: Duration) -> Self {
        let remembered = Cache::with(
            most,
            most as u64,
            UnitWeighter,
            RandomHash::default(),
            DefaultLifecycle::default(),
        );
        Self { remembered, patience }
    }
}

impl Check {
    /// Who a session cookie speaks for, if its session is live. `now` and `instant` are the same moment
    /// on two clocks. `strict` asks Redis in any case.
    pub async fn authenticate_cookie(
        &self,
        cookie: &[u8],
        now: Timestamp,
        instant: Instant,
        strict: bool,
    ) -> (Result<Arc<Identity>, Refusal>, Source) {
        if let Some(Remembered { identity, until }) = self.cookies.remembered.get(cookie) {
            match identity {
                None if until > now.seconds() => return (Err(Refusal::Revoked), Source::Memory),
                Some(identity) if until > now.seconds() && !self.revocations.cover(&identity) => {
                    let staleness = self.freshness.staleness(identity.bucket, instant);
                    if strict || staleness > self.max_staleness {
                        return (self.ask(identity).await, Source::Store);
                    }
                    return (Ok(identity), Source::Memory);
                }
                Some(identity) if self.revocations.name(identity.session) => {
                    return (Err(Refusal::Revoked), Source::Memory);
                }
                // Behind a cut-off a session may live on, and then it is loaded after that.
                _ => drop(self.cookies.remembered.remove(cookie)),
            }
        }
        let Some(handle) = std::str::from_utf8(cookie)
            .ok()
            .and_then(|text| Handle::decode(HandleKind::Cookie, text, &self.keys).ok())
        else {
            return (Err(Refusal::Invalid), Source::Memory);
        };
        if self.revocations.name(handle.session) {
            return (Err(Refusal::Revoked), Source::Memory);
        }
        // Many may wait for one load, and for each that failed, one after the other.
        let loaded = tokio::time::timeout(self.cookies.patience, self.load(cookie, &handle));
        let answer = match loaded.await.unwrap_or(Err(Refusal::Unknown)) {
            Ok(identity) if self.revocations.cover(&identity) => Err(Refusal::Revoked),
            answer => answer,
        };
        (answer, Source::Store)
    }

    /// The session of a genuine cookie, loaded by the first who asks.
    async fn load(&self, cookie: &[u8], handle: &Handle) -> Result<Arc<Identity>, Refusal> {
        let guard = match self.cookies.remembered.get_value_or_guard_async(cookie).await {
            Ok(remembered) => return remembered.identity.ok_or(Refusal::Revoked),
            Err(guard) => guard,
        };
        let _place = self.places.try_acquire().map_err(|_| Refusal::Unknown)?;
        let loaded = self.store.session_load(handle.bucket, handle.session).await;
        let loaded = loaded.map_err(|_| Refusal::Unknown)?;
        // A server that took over may not know yet what has ended.
        let known = |record: &Record| self.revocations.end_of(handle.bucket, &record.session);
        let loaded = loaded.filter(|(_, record)| !known(record));
        let identity = loaded.and_then(|(at, record)| {
            let (theirs, ours) = (&handle.seed, &record.seed);
            constant_time::verify_slices_are_equal(theirs, ours).ok()?;
            // Remembered no longer than revocations are, as an access token is.
            Identity::of_session(&record.session, handle.bucket, at, self.tokens.ttl)
        });
        let identity = identity.map(Arc::new);
        let until = match &identity {
            Some(identity) => identity.expires,
            None => Timestamp::now().seconds() + DEAD,
        };
        let _ = guard.insert(Remembered { identity: identity.clone(), until });
        identity.ok_or(Refusal::Revoked)
    }
}
