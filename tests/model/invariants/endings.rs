//! What has ended is over, and what has not is not.

use std::collections::HashMap;

use super::{Violation, about, births, by_session, denies, lives_after};
use crate::model::history::{Action, History, NEVER, Op, Outage, Outcome, Refusal, Sid, Time};

/// INV-4: after a revocation was acknowledged, no refresh is granted, and after `B` no gateway lets
/// the session in.
pub(crate) fn revocation(history: &History) -> Vec<Violation> {
    const NAME: &str = "INV-4 revocation";
    let sessions = by_session(history);
    let births = births(history);
    let mut found = Vec::new();
    for end in &history.ops {
        match (&end.action, &end.outcome) {
            (Action::Revoke { session }, Outcome::Ended) => {
                let ops = sessions.get(session).map_or(&[][..], Vec::as_slice);
                found.extend(lives_after(history, NAME, ops, end, *session));
            }
            (Action::RevokeAll { kept }, Outcome::EndedAll(_)) => {
                for (session, birth) in &births {
                    if birth.user == end.user && birth.ret < end.call && Some(*session) != *kept {
                        found.extend(lives_after(history, NAME, &sessions[session], end, *session));
                    }
                }
            }
            _ => {}
        }
    }
    found
}

/// INV-5: a session that anybody saw refused is never let in again.
pub(crate) fn resurrection(history: &History) -> Vec<Violation> {
    let births = births(history);
    // A store that lost the beginning of a session refuses it, and memory does not until its tokens
    // expire.
    let forgotten = |session: &Sid| {
        let birth = births.get(session).map_or(NEVER, |birth| birth.ret);
        history.failover().is_some_and(|(from, _)| birth >= from)
    };
    let mut found = Vec::new();
    for (session, ops) in by_session(history) {
        if forgotten(&session) {
            continue;
        }
        let dead = ops.iter().filter(|op| denies(history, op)).min_by_key(|op| op.ret);
        if let Some(dead) = dead {
            let name = "INV-5 no resurrection";
            found.extend(lives_after(history, name, &ops, dead, session));
        }
    }
    found
}

/// INV-6: nobody is refused without a reason that the store knows of.
pub(crate) fn phantom_loss(history: &History) -> Vec<Violation> {
    const NAME: &str = "INV-6 no phantom loss";
    /// Both clocks are the machine's, but the store's counts milliseconds.
    const ROUNDING: Time = 10_000;
    if history.failover().is_some() {
        return Vec::new();
    }
    let ends: HashMap<Sid, Time> = history
        .rest
        .events
        .iter()
        .filter(|event| event.ended.is_some())
        .map(|event| (event.session, event.at))
        .collect();
    let mut found = Vec::new();
    for op in &history.ops {
        let Some(session) = op.session() else { continue };
        let ended = ends.get(&session).is_some_and(|at| *at <= op.ret.saturating_add(ROUNDING));
        if denies(history, op) && !ended {
            found.push(about(NAME, op, Some(session), format!("s{session} had not ended: {op}")));
        }
        let lost = match (&op.action, &op.outcome) {
            (Action::Refresh { foreign, .. }, Outcome::Refused(Refusal::Invalid)) => {
                // Another client has just rotated it, and that one alone is told the successor.
                let other = |op: &Op| matches!(op.action, Action::Refresh { foreign: true, .. });
                !foreign && !history.about(op.user, Some(session)).any(other)
            }
            (_, Outcome::Missing | Outcome::Refused(Refusal::Expired)) => {
                history.promise.long_lived
            }
            _ => false,
        };
        if lost {
            found.push(about(NAME, op, Some(session), format!("s{session} is not known: {op}")));
        }
    }
    found
}

/// INV-11: who cannot have learnt of a revocation within the staleness bound lets nobody in, and
/// nothing that has to ask the store is answered with yes while it cannot be asked.
pub(crate) fn fail_safe(history: &History) -> Vec<Violation> {
    let mut found = Vec::new();
    for span in &history.faults {
        for op in &history.ops {
            let hit = match span.outage {
                Outage::Nobody => false,
                Outage::Gateway(gateway) => gateway == op.gateway,
                Outage::Everybody => true,
            };
            if !hit || op.ret > span.to {
                continue;
            }
            let from = match op.action {
                Action::Check { strict: false, .. } => span.from + history.promise.staleness,
                _ => span.from,
            };
            let yes = !matches!(
                op.outcome,
                Outcome::Refused(_) | Outcome::NotDone | Outcome::Unknown | Outcome::Missing
            );
            if op.call > from && yes {
                let what = format!("{} since {} ms: {op}", span.what, (op.call - span.from) / 1000);
                found.push(about("INV-11 fail safe", op, op.session(), what));
            }
        }
    }
    found
}
