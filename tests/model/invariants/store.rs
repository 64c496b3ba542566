//! What the store keeps, counts and tells.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Violation, about, births, proves, told};
use crate::model::LEEWAY;
use crate::model::history::{Action, History, NEVER, Op, Outcome, Sid, Time};

/// INV-1: a user never has more live sessions than the limit. A session was live from the answer
/// that made it until the last call that found it live.
pub(crate) fn limit(history: &History) -> Vec<Violation> {
    const NAME: &str = "INV-1 limit";
    let most = history.promise.limit;
    let mut found = Vec::new();
    for op in &history.ops {
        if let Outcome::Listed(sessions) = &op.outcome
            && sessions.len() > most
        {
            found.push(about(NAME, op, None, format!("{} sessions are listed", sessions.len())));
        }
    }
    if history.failover().is_some() {
        // A lost end and a lost beginning make two lives of one.
        return found;
    }
    let births = births(history);
    let mut edges: BTreeMap<usize, Vec<(Time, i64, Sid)>> = BTreeMap::new();
    for (session, birth) in &births {
        let proofs = history.ops.iter().filter(|op| op.user == birth.user && proves(op, *session));
        if let Some(last) = proofs.map(|op| op.call).max()
            && last > birth.ret
        {
            let edges = edges.entry(birth.user).or_default();
            edges.extend([(birth.ret, 1, *session), (last, -1, *session)]);
        }
    }
    for (user, mut edges) in edges {
        edges.sort_unstable();
        let (mut live, mut reported) = (0, false);
        for (at, change, session) in edges {
            live += change;
            if usize::try_from(live).is_ok_and(|live| live > most) && !reported {
                reported = true;
                let what = format!("{live} sessions were live at once, s{session} the last");
                found.push(told(NAME, Some(user), at, what));
            }
        }
    }
    for (user, live) in &history.rest.live {
        if live.len() > most {
            let what = format!("{} sessions are left", live.len());
            found.push(told(NAME, Some(*user), NEVER, what));
        }
    }
    let mut live: HashMap<usize, usize> = HashMap::new();
    for event in &history.rest.events {
        let live = live.entry(event.user).or_default();
        match event.ended {
            None => *live += 1,
            Some(_) => *live = live.saturating_sub(1),
        }
        if *live > most {
            let what = format!("the store began s{} as the {live}th", event.session);
            found.push(told(NAME, Some(event.user), event.at, what));
        }
    }
    found
}

/// INV-8: generations, times of issue and sequence numbers never go back.
pub(crate) fn monotone(history: &History) -> Vec<Violation> {
    const NAME: &str = "INV-8 monotone";
    let mut found = Vec::new();
    if history.failover().is_some() {
        return found;
    }
    let mut granted: Vec<(&Op, Sid, u32, u64)> = Vec::new();
    for op in &history.ops {
        if let (Action::Refresh { session, .. }, Outcome::Granted { generation, issued, .. }) =
            (&op.action, &op.outcome)
        {
            granted.push((op, *session, *generation, *issued));
        }
    }
    granted.sort_by_key(|(op, ..)| op.ret);
    for (i, (op, session, generation, issued)) in granted.iter().enumerate() {
        let before = granted[..i].iter().filter(|(old, ..)| old.ret < op.call);
        for (old, of, was, at) in before.filter(|(old, ..)| old.user == op.user) {
            if of == session && was > generation {
                let what =
                    format!("generation {generation} came after {was}:\n      {old}\n      {op}");
                found.push(about(NAME, op, Some(*session), what));
            } else if at > issued {
                let what = format!("issued at {issued}, {at} before:\n      {old}\n      {op}");
                found.push(about(NAME, op, Some(*session), what));
            } else {
                continue;
            }
            break;
        }
    }
    let mut newest: BTreeMap<&str, u64> = BTreeMap::new();
    for (at, sequences) in &history.rest.sequences {
        for (bucket, seq) in sequences {
            let newest = newest.entry(bucket).or_default();
            if seq < newest {
                let what = format!("the feed of {bucket} went from {newest} back to {seq}");
                found.push(told(NAME, None, *at, what));
            }
            *newest = (*newest).max(*seq);
        }
    }
    found
}

/// INV-10: what was evicted was the oldest, and the user had as many as they may.
pub(crate) fn evictions(history: &History) -> Vec<Violation> {
    /// Sessions of one moment are put in order by their ids, and after a cut-off dated one later.
    const SAME: Time = 2_000;
    let mut live: HashMap<usize, BTreeMap<Sid, Time>> = HashMap::new();
    let mut found = Vec::new();
    if history.failover().is_some() {
        return found;
    }
    for event in &history.rest.events {
        let live = live.entry(event.user).or_default();
        let Some(cause) = &event.ended else {
            live.insert(event.session, event.at);
            continue;
        };
        let oldest = live.values().copied().min().unwrap_or(0);
        let count = live.len();
        let born = live.remove(&event.session);
        if cause != "evicted" {
            continue;
        }
        let what = match born {
            None => format!("s{} was evicted and had not begun", event.session),
            Some(at) if at > oldest + SAME => format!("s{} was not the oldest", event.session),
            Some(_) if count < history.promise.limit => {
                format!("s{} was evicted as one of {count}", event.session)
            }
            Some(_) => continue,
        };
        found.push(told("INV-10 evictions", Some(event.user), event.at, what));
    }
    found
}

/// INV-12: a session begins once and ends once, and the store says why.
pub(crate) fn events(history: &History) -> Vec<Violation> {
    const NAME: &str = "INV-12 events";
    const ROUNDING: Time = 10_000;
    let mut found = Vec::new();
    if history.failover().is_some() {
        return found;
    }
    let mut seen: BTreeSet<(Sid, bool)> = BTreeSet::new();
    for event in &history.rest.events {
        let session = event.session;
        let mut wrong = |what: String| {
            let (user, session) = (Some(event.user), Some(session));
            found.push(Violation { invariant: NAME, what, user, session, at: event.at });
        };
        if !seen.insert((session, event.ended.is_some())) {
            wrong(format!("s{session} began or ended twice"));
        }
        let Some(cause) = event.ended.as_deref() else { continue };
        let explained = history.about(event.user, Some(session)).any(|op| {
            op.call <= event.at + ROUNDING
                && match cause {
                    "reused" => matches!(op.action, Action::Refresh { .. }),
                    "evicted" => {
                        matches!(op.action, Action::Create { .. })
                            && op.ret.saturating_add(ROUNDING) >= event.at
                    }
                    "revoked" | "admin" | "logout" => {
                        matches!(op.action, Action::Revoke { .. } | Action::RevokeAll { .. })
                    }
                    _ => false,
                }
        });
        // A create is not about the session that it evicts.
        let evicted = cause == "evicted"
            && history.ops.iter().any(|op| {
                op.user == event.user
                    && matches!(op.action, Action::Create { .. })
                    && op.call <= event.at + ROUNDING
                    && op.ret.saturating_add(ROUNDING) >= event.at
            });
        let expired = cause == "expired" && !history.promise.long_lived;
        if !explained && !evicted && !expired {
            wrong(format!("nobody did what s{session} ended by: {cause}"));
        }
    }
    for (session, birth) in births(history) {
        if !seen.contains(&(session, false)) {
            found.push(about(NAME, birth, Some(session), format!("s{session} never began")));
        }
    }
    for op in &history.ops {
        if let (Action::Revoke { session }, Outcome::Ended) = (&op.action, &op.outcome)
            && !seen.contains(&(*session, true))
        {
            found.push(about(NAME, op, Some(*session), format!("s{session} never ended: {op}")));
        }
    }
    found
}

/// INV-13: when the faults are over, every gateway is ready within two seconds, all agree about
/// every token, and the store holds what its events say and nothing else.
pub(crate) fn convergence(history: &History) -> Vec<Violation> {
    const NAME: &str = "INV-13 convergence";
    let rest = &history.rest;
    let mut found: Vec<Violation> =
        rest.not_ready.iter().map(|what| told(NAME, None, NEVER, what.clone())).collect();
    let lossy = history.failover().is_some();
    let live: BTreeSet<Sid> = rest.live.values().flatten().copied().collect();
    let records: BTreeSet<Sid> = rest.records.iter().copied().collect();
    if live != records {
        let odd: Vec<&Sid> = live.symmetric_difference(&records).collect();
        found.push(told(NAME, None, NEVER, format!("records and sets differ by {odd:?}")));
    }
    let mut told_live = BTreeSet::new();
    for event in &rest.events {
        match event.ended {
            None => told_live.insert(event.session),
            Some(_) => told_live.remove(&event.session),
        };
    }
    if live != told_live && !lossy {
        let odd: Vec<&Sid> = live.symmetric_difference(&told_live).collect();
        found.push(told(NAME, None, NEVER, format!("events and sets differ by {odd:?}")));
    }
    let apart = history.promise.leeway.saturating_sub(LEEWAY);
    for op in &rest.checks {
        let Action::Check { session, expires, .. } = op.action else { continue };
        if op.ret + apart >= expires {
            continue;
        }
        let fine = match &op.outcome {
            Outcome::Allowed { .. } => live.contains(&session) || lossy,
            Outcome::Refused(_) => !live.contains(&session),
            _ => false,
        };
        if !fine {
            let state = if live.contains(&session) { "live" } else { "not live" };
            let what = format!("s{session} is {state} in the store: {op}");
            found.push(about(NAME, op, Some(session), what));
        }
    }
    found
}
