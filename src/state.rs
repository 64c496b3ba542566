//! The app: which parts there are, and what they need of each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use metrics_exporter_prometheus::PrometheusHandle;
use metrics_process::Collector;
use tokio::sync::Semaphore;

use crate::check::{Activities, ActivityWriter, Check};
use crate::config::Config;
use crate::http::{Cookies, Failures};
use crate::login::Logins;
use crate::login::users::Users;
use crate::model::{Revocation, Session, SessionId, UserId};
use crate::sessions::Sessions;
use crate::sessions::location::Locations;
use crate::store::Store;
use crate::telemetry::metrics;
use crate::token::KeyRing;
use crate::token::access::AccessTokens;

/// What requests are answered with.
pub struct Gateway {
    /// As it was at start.
    pub config: Config,
    /// The hot path.
    pub check: Check,
    /// What can be done with a session.
    pub sessions: Arc<Sessions>,
    /// How browsers keep sessions.
    pub cookies: Cookies,
    /// How people log in.
    pub logins: Logins,
    /// For requests to the API, one each.
    pub places: Semaphore,
    /// Addresses whose credentials were refused.
    pub failures: Failures,
    /// Where addresses are.
    pub locations: Arc<Locations>,
    /// Renders what was measured.
    pub metrics: PrometheusHandle,
    /// Measures this process.
    pub process: Collector,
    store: Store,
    prepared: AtomicBool,
    stopping: AtomicBool,
}

/// How long a revocation is kept: longer than any token lives that it could speak of.
pub fn retention(config: &Config) -> Duration {
    const LEAST: Duration = Duration::from_mins(20);
    const MARGIN: Duration = Duration::from_mins(5);
    LEAST.max(config.tokens.access_ttl + MARGIN)
}

impl Gateway {
    /// Wires the parts together.
    pub fn new(
        config: Config,
        store: Store,
        keys: Arc<KeyRing>,
        locations: Arc<Locations>,
        users: Users,
        metrics: PrometheusHandle,
    ) -> (Arc<Self>, ActivityWriter) {
        let tokens = AccessTokens {
            issuer: config.issuer(),
            audience: config.tokens.audience.clone(),
            ttl: config.tokens.access_ttl.as_secs(),
        };
        let (activities, writer) =
            Activities::new(store.clone(), Arc::clone(&locations), config.check.activity_flush);
        let check = Check::new(
            store.clone(),
            Arc::clone(&keys),
            tokens.clone(),
            activities,
            &config.check,
            config.redis.timeout,
        );
        let sessions = Sessions::new(
            store.clone(),
            Arc::clone(&keys),
            tokens,
            Arc::clone(&locations),
            &config,
        );
        let sessions = Arc::new(sessions);
        let gateway = Self {
            cookies: Cookies::new(&config),
            logins: Logins::new(users, Arc::clone(&sessions), store.clone(), keys, &config.limits),
            places: Semaphore::new(config.limits.requests_at_once),
            failures: Failures::per_minute(config.limits.failures_per_minute),
            config,
            check,
            sessions,
            locations,
            metrics,
            process: Collector::default(),
            store,
            prepared: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
        };
        (Arc::new(gateway), writer)
    }

    /// The store has ended something of a user: this gateway need not wait for the feed to say so.
    pub(crate) fn ended(&self, user: &UserId, revocation: Revocation) {
        self.check.revocations.end(self.store.bucket_of(user), revocation);
    }

    /// The same, and whether as many replicas have it as the settings ask for.
    pub(crate) async fn confirmed(&self, user: &UserId, revocation: Revocation) -> bool {
        self.ended(user, revocation.clone());
        self.store.confirm(self.store.bucket_of(user), &revocation).await
    }

    /// The same of everything, by bucket.
    pub(crate) async fn everything_confirmed(&self, revocations: Vec<Revocation>) -> bool {
        let confirmed = revocations.into_iter().zip(0..).map(async |(revocation, bucket)| {
            self.check.revocations.end(bucket, revocation.clone());
            self.store.confirm(bucket, &revocation).await
        });
        join_all(confirmed).await.into_iter().all(|confirmed| confirmed)
    }

    /// Sessions of a user gave way to a new one.
    pub(crate) fn evicted(&self, user: &UserId, sessions: &[SessionId]) {
        for session in sessions {
            self.ended(user, Revocation::Session(*session));
        }
    }

    /// Whether this gateway knows that a session has ended, whatever the store says: a server that
    /// took over may not know it yet.
    pub(crate) fn knows_the_end_of(&self, session: &Session) -> bool {
        self.check.revocations.end_of(self.store.bucket_of(&session.user), session)
    }

    /// The store was found fit.
    pub(crate) fn prepared(&self) {
        self.prepared.store(true, Ordering::Release);
    }

    /// No new requests, please.
    pub(crate) fn stopping(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Whether requests should go elsewhere.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Tells the metrics how things are at this moment.
    pub(crate) fn measure(&self) {
        let Check { freshness, revocations, .. } = &self.check;
        metrics::feed(freshness.worst(), revocations.len(), self.store.is_up());
        metrics::tasks(tokio::runtime::Handle::current().metrics().num_alive_tasks());
    }

    /// Each part, and what keeps it from being of use.
    pub(crate) fn readiness(&self) -> Vec<(&'static str, Option<String>)> {
        let staleness = self.check.freshness.worst();
        let allowed = self.config.check.max_staleness;
        let redis = if !self.prepared.load(Ordering::Acquire) {
            Some("not connected yet".to_owned())
        } else if !self.store.is_up() {
            Some("not connected".to_owned())
        } else {
            None
        };
        let feed = (staleness > allowed).then(|| match staleness {
            Duration::MAX => "not read yet".to_owned(),
            _ => format!("{:.1} s old", staleness.as_secs_f64()),
        });
        let stopping = self.is_stopping().then(|| "stopping".to_owned());
        vec![("redis", redis), ("feed", feed), ("process", stopping)]
    }
}
