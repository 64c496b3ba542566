//! What must be true of every history, each as a sweep over it. `B` is the time that a revocation
//! may take to be seen: 250 ms when nothing is wrong, `check.max_staleness` otherwise.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::history::{Action, History, NEVER, Op, Outage, Outcome, Refusal, Sid, Time};

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
        limit,
        successor,
        reuse,
        revocation,
        resurrection,
        phantom_loss,
        identity,
        monotone,
        expiry,
        evictions,
        fail_safe,
        events,
        convergence,
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

/// Whether an answer says that a session is dead, and not that a token has expired.
fn denies(history: &History, op: &Op) -> bool {
    let apart = history.promise.leeway;
    match (&op.action, &op.outcome) {
        (Action::Refresh { .. }, Outcome::Refused(why)) => {
            matches!(why, Refusal::Revoked | Refusal::Reused)
        }
        (Action::Check { expires, .. }, Outcome::Refused(_)) => {
            // The clock that is furthest ahead must not have reached it.
            op.ret + apart.saturating_sub(super::LEEWAY) < *expires
        }
        _ => false,
    }
}

/// INV-5: a session that anybody saw refused is never let in again.
pub(crate) fn resurrection(history: &History) -> Vec<Violation> {
    let mut found = Vec::new();
    for (session, ops) in by_session(history) {
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
    let apart = history.promise.leeway.saturating_sub(super::LEEWAY);
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
