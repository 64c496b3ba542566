//! Every metric, in one place. Labels are closed sets: never a user, a session or an address.

use std::sync::LazyLock;
use std::time::Duration;

use metrics::{Counter, Histogram, counter, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

const SECONDS: [f64; 13] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0,
];

/// Collects metrics from now on. The handle renders them, and needs `run_upkeep` now and then.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .install_recorder()?;
    gauge!("gatehouse_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(handle)
}

/// How a check was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckResult {
    /// A live session that fulfils what was asked for.
    Allowed,
    /// Nobody, where that was allowed.
    Anonymous,
    /// No credential.
    Missing,
    /// Not a credential of ours, or expired.
    Invalid,
    /// It was revoked.
    Revoked,
    /// Live, without the role.
    Forbidden,
    /// Live, but the login is too old.
    TooOld,
    /// A request that no honest proxy sends.
    Refused,
    /// It cannot be known.
    Unavailable,
}

impl CheckResult {
    const ALL: [(Self, &'static str); 9] = [
        (Self::Allowed, "allowed"),
        (Self::Anonymous, "anonymous"),
        (Self::Missing, "missing"),
        (Self::Invalid, "invalid"),
        (Self::Revoked, "revoked"),
        (Self::Forbidden, "forbidden"),
        (Self::TooOld, "too_old"),
        (Self::Refused, "refused"),
        (Self::Unavailable, "unavailable"),
    ];
}

/// Where the answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// This process's memory.
    Memory,
    /// Redis was asked.
    Store,
}

struct Checks {
    counters: [[Counter; 2]; 9],
    duration: Histogram,
}

static CHECKS: LazyLock<Checks> = LazyLock::new(|| Checks {
    counters: CheckResult::ALL.map(|(_, result)| {
        ["memory", "store"].map(
            |source| counter!("gatehouse_checks_total", "result" => result, "source" => source),
        )
    }),
    duration: histogram!("gatehouse_check_duration_seconds"),
});

/// A check was answered.
pub fn check(result: CheckResult, source: Source, elapsed: Duration) {
    CHECKS.counters[result as usize][source as usize].increment(1);
    CHECKS.duration.record(elapsed);
}

/// A script ran, or could not.
pub(crate) fn redis_command(command: &'static str, elapsed: Duration, answered: bool) {
    histogram!("gatehouse_redis_command_duration_seconds", "command" => command).record(elapsed);
    if !answered {
        counter!("gatehouse_redis_errors_total", "command" => command).increment(1);
    }
}

/// A session began; `method` is one of a few.
pub(crate) fn session_created(method: &'static str) {
    counter!("gatehouse_sessions_created_total", "method" => method).increment(1);
}

/// Sessions ended, as far as this gateway ended them.
pub(crate) fn sessions_ended(cause: &'static str, number: u64) {
    counter!("gatehouse_sessions_ended_total", "cause" => cause).increment(number);
}

/// How many sessions are live, over all buckets.
pub(crate) fn sessions_active(number: f64) {
    gauge!("gatehouse_sessions_active").set(number);
}

/// A refresh was answered.
pub(crate) fn refresh(result: &'static str) {
    counter!("gatehouse_refresh_total", "result" => result).increment(1);
}

/// Activity that could not be taken note of, because too much waits to be written.
pub(crate) fn activity_dropped() {
    counter!("gatehouse_activity_dropped_total").increment(1);
}

/// The state of the feed.
pub(crate) fn feed(staleness: Duration, held: usize, up: bool) {
    gauge!("gatehouse_feed_staleness_seconds").set(staleness.as_secs_f64());
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    gauge!("gatehouse_revocations_held").set(held as f64);
    gauge!("gatehouse_redis_up").set(if up { 1.0 } else { 0.0 });
}

/// The feed was read anew.
pub(crate) fn feed_resync() {
    counter!("gatehouse_feed_resyncs_total").increment(1);
}

/// A request to the API was answered.
pub(crate) fn http_request(route: String, method: &'static str, status: u16, elapsed: Duration) {
    let code = format!("{status}");
    counter!("gatehouse_http_requests_total", "route" => route.clone(), "method" => method, "status" => code)
        .increment(1);
    histogram!("gatehouse_http_request_duration_seconds", "route" => route).record(elapsed);
}

/// A limiter decided.
pub(crate) fn rate_limit(policy: &'static str, allowed: bool) {
    let decision = if allowed { "allowed" } else { "limited" };
    counter!("gatehouse_ratelimit_total", "policy" => policy, "decision" => decision).increment(1);
}
