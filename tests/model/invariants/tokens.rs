//! What a token is good for, and for how long.

use std::collections::HashMap;

use super::{Violation, about, births, by_session, lives_after};
use crate::model::history::{Action, History, NEVER, Op, Outcome, Refusal, Sid, Time};

/// INV-2: a generation of a refresh token has one successor, whoever asks and however often.
pub(crate) fn successor(history: &History) -> Vec<Violation> {
    let mut successors: HashMap<(Sid, u32), u64> = HashMap::new();
    let mut found = Vec::new();
    for op in &history.ops {
        if let (
            Action::Refresh { session, generation, .. },
            Outcome::Granted { token, generation: next, .. },
        ) = (&op.action, &op.outcome)
            && *successors.entry((*session, *generation)).or_insert(*token) != *token
        {
            let what = format!(
                "generation {generation} of s{session} has two successors, {next} is the second"
            );
            found.push(about("INV-2 single successor", op, Some(*session), what));
        }
    }
    found
}

/// INV-3: a token that was used and replaced, presented again, is refused: always when the one
/// after the next was issued, and past the grace window when the successor was seen in use. After
/// that the session is dead.
pub(crate) fn reuse(history: &History) -> Vec<Violation> {
    const NAME: &str = "INV-3 reuse ends the session";
    /// Activity is written every 100 ms.
    const SEEN: Time = 1_000_000;
    let mut found = Vec::new();
    for (session, ops) in by_session(history) {
        for op in &ops {
            let Action::Refresh { generation, .. } = op.action else { continue };
            match op.outcome {
                Outcome::Granted { .. } => {
                    let before = |least: u32| {
                        let granted = |old: &&&Op| matches!(old.outcome, Outcome::Granted { generation, .. } if generation >= least);
                        ops.iter().filter(granted).map(|old| old.ret).min().unwrap_or(NEVER)
                    };
                    let in_use = ops.iter().any(|old| {
                        matches!(old.action, Action::Check { generation: of, .. } if of > generation)
                            && matches!(old.outcome, Outcome::Allowed { .. })
                            && old.ret + SEEN < op.call
                            && history.calm(old.ret, old.ret + SEEN)
                            && history.bound(old.ret, old.ret + SEEN) < history.promise.healthy * 2
                    });
                    let late =
                        before(generation + 1).saturating_add(history.promise.grace) < op.call;
                    // A failover takes rotations back, and what was seen of them.
                    let lost = history.failover().is_some_and(|(from, _)| from < op.ret);
                    if before(generation + 2) < op.call && !lost || late && in_use && !lost {
                        let what = format!("generation {generation} was used long before");
                        found.push(about(NAME, op, Some(session), what));
                    }
                }
                Outcome::Refused(Refusal::Reused) => {
                    found.extend(lives_after(history, NAME, &ops, op, session));
                }
                _ => {}
            }
        }
    }
    found
}

/// INV-7: a token speaks for the user and the session that it was issued to, and a list holds
/// nobody else's sessions.
pub(crate) fn identity(history: &History) -> Vec<Violation> {
    const NAME: &str = "INV-7 identity";
    let births = births(history);
    let mut found = Vec::new();
    for op in history.ops.iter().chain(&history.rest.checks) {
        match (&op.action, &op.outcome) {
            (Action::Check { session: of, .. }, Outcome::Allowed { user, session })
                if (*user, *session) != (op.user, *of) =>
            {
                found.push(about(NAME, op, Some(*of), format!("it is somebody else's: {op}")));
            }
            (_, Outcome::Listed(sessions)) => {
                for session in sessions {
                    if births.get(session).is_some_and(|birth| birth.user != op.user) {
                        let what = format!("s{session} is another user's: {op}");
                        found.push(about(NAME, op, Some(*session), what));
                    }
                }
            }
            _ => {}
        }
    }
    found
}

/// INV-9: no token is good after it expired, and no session after its absolute end.
pub(crate) fn expiry(history: &History) -> Vec<Violation> {
    const NAME: &str = "INV-9 expiry";
    let births = births(history);
    let end = |session: &Sid| match births.get(session)?.outcome {
        Outcome::Created { created, .. } => {
            Some(history.stores(created) + history.promise.absolute)
        }
        _ => None,
    };
    let mut found = Vec::new();
    for op in history.ops.iter().chain(&history.rest.checks) {
        let what = match (&op.action, &op.outcome) {
            (Action::Check { expires, .. }, Outcome::Allowed { .. })
                if op.call > expires + history.promise.leeway =>
            {
                "an expired token is good"
            }
            (Action::Check { session, expires, .. }, _)
                if end(session).is_some_and(|end| *expires > end) =>
            {
                "a token outlives its session"
            }
            (Action::Refresh { session, .. }, Outcome::Granted { .. })
                if end(session).is_some_and(|end| op.call > end) =>
            {
                "a session goes on after its absolute end"
            }
            _ => continue,
        };
        found.push(about(NAME, op, op.session(), format!("{what}: {op}")));
    }
    found
}
