//! Every metric, in one place. Labels are closed sets: never a user, a session or an address.

use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use metrics::{counter, gauge, histogram};
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

/// The counts of one thread, on cache lines of their own: processors that count at the same time do
/// not contend.
#[repr(align(128))]
struct Checks {
    results: [[AtomicU64; 2]; CheckResult::ALL.len()],
    /// By upper bound, the last without one.
    durations: [AtomicU64; SECONDS.len() + 1],
    nanoseconds: AtomicU64,
}

impl Checks {
    const fn new() -> Self {
        Self {
            results: [const { [const { AtomicU64::new(0) }; 2] }; CheckResult::ALL.len()],
            durations: [const { AtomicU64::new(0) }; SECONDS.len() + 1],
            nanoseconds: AtomicU64::new(0),
        }
    }
}

/// More threads than this share.
static CHECKS: [Checks; 64] = [const { Checks::new() }; 64];

thread_local! {
    static MINE: &'static Checks = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        &CHECKS[NEXT.fetch_add(1, Ordering::Relaxed) % CHECKS.len()]
    };
}

/// A check was answered.
pub fn check(result: CheckResult, source: Source, elapsed: Duration) {
    let seconds = elapsed.as_secs_f64();
    let bucket = SECONDS.iter().position(|bound| seconds <= *bound).unwrap_or(SECONDS.len());
    let nanoseconds = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
    MINE.with(|mine| {
        mine.results[result as usize][source as usize].fetch_add(1, Ordering::Relaxed);
        mine.durations[bucket].fetch_add(1, Ordering::Relaxed);
        mine.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    });
}

/// The checks in Prometheus's text format, which the recorder does not know of.
pub(crate) fn render_checks(out: &mut String) -> fmt::Result {
    let sum = |count: &dyn Fn(&Checks) -> &AtomicU64| -> u64 {
        CHECKS.iter().map(|checks| count(checks).load(Ordering::Relaxed)).sum()
    };
    writeln!(out, "# HELP gatehouse_checks_total Checks answered.")?;
    writeln!(out, "# TYPE gatehouse_checks_total counter")?;
    for (result, label) in CheckResult::ALL {
        for (source, from) in [(Source::Memory, "memory"), (Source::Store, "store")] {
            let count = sum(&|checks| &checks.results[result as usize][source as usize]);
            writeln!(out, r#"gatehouse_checks_total{{result="{label}",source="{from}"}} {count}"#)?;
        }
    }
    let name = "gatehouse_check_duration_seconds";
    writeln!(out, "# HELP {name} Time from the request's header to the answer's.")?;
    writeln!(out, "# TYPE {name} histogram")?;
    let mut count = 0;
    for i in 0..=SECONDS.len() {
        count += sum(&|checks| &checks.durations[i]);
        let bound = SECONDS.get(i).map_or_else(|| "+Inf".to_owned(), f64::to_string);
        writeln!(out, r#"{name}_bucket{{le="{bound}"}} {count}"#)?;
    }
    let total = Duration::from_nanos(sum(&|checks| &checks.nanoseconds));
    writeln!(out, "{name}_sum {}", total.as_secs_f64())?;
    writeln!(out, "{name}_count {count}")
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

/// A login with a password was answered.
pub(crate) fn login_attempt(result: &'static str) {
    counter!("gatehouse_login_attempts_total", "method" => "password", "result" => result)
        .increment(1);
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

/// What runs at the same time.
pub(crate) fn tasks(alive: usize) {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    gauge!("gatehouse_tasks").set(alive as f64);
}

/// There were more revocations than may be held one by one.
pub(crate) fn revocations_coarsened() {
    counter!("gatehouse_revocations_coarsened_total").increment(1);
}

/// Revocations that the store had lost were made again.
pub(crate) fn revocations_reasserted(count: u64) {
    counter!("gatehouse_revocations_reasserted_total").increment(count);
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
