//! What must be true of every history, each as a sweep over it. `B` is the time that a revocation
//! may take to be seen: 250 ms when nothing is wrong, `check.max_staleness` otherwise.

mod endings;
pub(crate) mod store;
mod tokens;

use std::collections::BTreeMap;

use super::LEEWAY;
use super::history::{Action, History, NEVER, Op, Outcome, Refusal, Sid, Time};

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Violation {
    /// Which, as `docs/testing.md` has it.
    pub(crate) invariant: &'static str,
    pub(crate) what: String,
    /// Whose operations explain it.
    pub(crate) user: Option<usize>,
    pub(crate) session: Option<Sid>,
    pub(crate) at: Time,
}

/// The sweeps. That each user's history is that of some order of operations is [`super::linear`].
pub(crate) fn violations(history: &History) -> Vec<Violation> {
    let sweeps = [
        store::limit,
        tokens::successor,
        tokens::reuse,
        endings::revocation,
        endings::resurrection,
        endings::phantom_loss,
        tokens::identity,
        store::monotone,
        tokens::expiry,
        store::evictions,
        endings::fail_safe,
        store::events,
        store::convergence,
    ];
    sweeps.iter().flat_map(|sweep| sweep(history)).collect()
}

fn about(
    invariant: &'static str,
    op: &Op,
    session: Option<Sid>,
    what: impl Into<String>,
) -> Violation {
    let (user, at) = (Some(op.user), op.call);
    Violation { invariant, what: what.into(), user, session, at }
}

fn told(invariant: &'static str, user: Option<usize>, at: Time, what: String) -> Violation {
    Violation { invariant, what, user, session: None, at }
}

fn by_session(history: &History) -> BTreeMap<Sid, Vec<&Op>> {
    let mut sessions: BTreeMap<Sid, Vec<&Op>> = BTreeMap::new();
    for op in &history.ops {
        if let Some(session) = op.session() {
            sessions.entry(session).or_default().push(op);
        }
    }
    sessions
}

/// The first answer that made a session known.
fn births(history: &History) -> BTreeMap<Sid, &Op> {
    let mut births: BTreeMap<Sid, &Op> = BTreeMap::new();
    for op in &history.ops {
        if let Outcome::Created { session, .. } = op.outcome {
            let first = births.entry(session).or_insert(op);
            if op.ret < first.ret {
                *first = op;
            }
        }
    }
    births
}

/// Whether an answer proves that a session was live when it was asked for.
fn proves(op: &Op, session: Sid) -> bool {
    match (&op.action, &op.outcome) {
        (Action::Refresh { session: of, .. }, Outcome::Granted { .. })
        | (Action::Check { session: of, strict: true, .. }, Outcome::Allowed { .. }) => {
            *of == session
        }
        (_, Outcome::Listed(sessions)) => sessions.contains(&session),
        _ => false,
    }
}

/// What shows that a session was let in after an answer that said it is dead.
fn lives_after(
    history: &History,
    name: &'static str,
    ops: &[&Op],
    dead: &Op,
    session: Sid,
) -> Option<Violation> {
    // An end that a failover took back is back itself after a while.
    let excused = history.failover().filter(|(from, _)| dead.ret >= *from || dead.ret == NEVER);
    let since = excused.map_or(dead.ret, |(_, healed)| dead.ret.max(healed));
    let alive = ops.iter().find(|op| match (&op.action, &op.outcome) {
        (Action::Refresh { .. }, Outcome::Granted { .. })
        | (Action::Check { strict: true, .. }, Outcome::Allowed { .. }) => op.call > since,
        (Action::Check { .. }, Outcome::Allowed { .. }) => {
            op.call > since && op.call > since + history.bound(since, op.call)
        }
        _ => false,
    })?;
    let what = format!(
        "s{session} was let in {} ms after it was dead:\n      {dead}\n      {alive}",
        (alive.call - since) / 1000
    );
    Some(about(name, alive, Some(session), what))
}

/// Whether an answer says that a session is dead, and not that a token has expired.
fn denies(history: &History, op: &Op) -> bool {
    let apart = history.promise.leeway;
    match (&op.action, &op.outcome) {
        (Action::Refresh { .. }, Outcome::Refused(why)) => {
            matches!(why, Refusal::Revoked | Refusal::Reused)
        }
        (Action::Check { expires, .. }, Outcome::Refused(_)) => {
            // The clock that is furthest ahead must not have reached it.
            op.ret + apart.saturating_sub(LEEWAY) < *expires
        }
        _ => false,
    }
}
