//! Whether the answers that one user's clients got are those of some order of their operations,
//! each at one moment between its call and its answer: the search of Wing and Gong, with the
//! memory of Lowe.
//!
//! An operation whose outcome nobody knows may take effect at any moment after its call, or never.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::history::{Action, History, NEVER, Op, Outcome, Refusal, Sid, Time};

/// How many steps the search may take before it gives up.
const BOUND: usize = 400_000;

/// What the search found.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Verdict {
    /// There is such an order.
    Linear,
    /// There is none: so many operations can be put in order, and this is the first in the way.
    Broken { ordered: usize, stuck: Box<Op> },
    /// Nobody knows: the search was too long.
    TooLong,
}

/// A session as the specification has it. It is known by the request that asked for it, because
/// its id may never have reached a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Session {
    Unborn,
    /// `foreign`: the last client to rotate was another one than the first.
    Live {
        generation: u32,
        foreign: bool,
    },
    Revoked,
    Reused,
}

type State = Vec<Session>;

/// What is known of a user's sessions beforehand.
struct Facts {
    limit: usize,
    /// By session of the state: its id, and when it began: that decides which is the oldest.
    known: Vec<Option<(Sid, u64, String)>>,
    /// When its request was first sent, in milliseconds of the store's clock.
    asked: Vec<u64>,
    of_request: HashMap<usize, usize>,
    of_sid: HashMap<Sid, usize>,
}

impl Facts {
    fn new(history: &History, ops: &[&Op]) -> Self {
        let mut facts = Self {
            limit: history.promise.limit,
            known: Vec::new(),
            asked: Vec::new(),
            of_request: HashMap::new(),
            of_sid: HashMap::new(),
        };
        for op in ops {
            let Action::Create { request } = op.action else { continue };
            let next = facts.known.len();
            let session = *facts.of_request.entry(request).or_insert(next);
            if session == next {
                facts.known.push(None);
                facts.asked.push(history.epoch + op.call / 1000);
            }
            if let Outcome::Created { session: sid, created } = op.outcome {
                let name = history.names.get(sid).cloned().unwrap_or_default();
                facts.known[session] = Some((sid, created, name));
                facts.of_sid.insert(sid, session);
            }
        }
        facts
    }

    /// Which sessions may make room for another: the oldest, or one of which nobody knows how old
    /// it is.
    fn victims(&self, state: &State) -> Vec<usize> {
        let live = |session: &usize| matches!(state[*session], Session::Live { .. });
        let all = 0..state.len();
        let oldest =
            all.clone().filter(live).filter(|session| self.known[*session].is_some()).min_by_key(
                |session| self.known[*session].as_ref().map(|(_, at, name)| (*at, name)),
            );
        let age = oldest.and_then(|session| self.known[session].as_ref()).map(|known| known.1);
        let unknown = all.filter(live).filter(|session| {
            self.known[*session].is_none() && age.is_none_or(|age| self.asked[*session] <= age)
        });
        oldest.into_iter().chain(unknown).collect()
    }

    /// The states after a session began.
    fn born(&self, state: &State, session: usize) -> Vec<State> {
        let later = |other: &usize| {
            let (mine, other) = (&self.known[session], &self.known[*other]);
            matches!((mine, other), (Some(mine), Some(other)) if other.1 > mine.1)
        };
        // The bucket's clock never goes back.
        if (0..state.len()).any(|other| state[other] != Session::Unborn && later(&other)) {
            return Vec::new();
        }
        let mut states = vec![state.clone()];
        let count = |state: &State| {
            state.iter().filter(|session| matches!(session, Session::Live { .. })).count()
        };
        while states.iter().any(|state| count(state) >= self.limit) {
            let make_room = |state: State| {
                if count(&state) < self.limit {
                    return vec![state];
                }
                let without = |victim: usize| {
                    let mut state = state.clone();
                    state[victim] = Session::Revoked;
                    state
                };
                self.victims(&state).into_iter().map(without).collect()
            };
            states = states.into_iter().flat_map(make_room).collect();
        }
        for state in &mut states {
            state[session] = Session::Live { generation: 1, foreign: false };
        }
        states
    }

    /// The states in which an operation may leave a state, if it can be answered there as it was.
    fn step(&self, state: &State, op: &Op) -> Vec<State> {
        let same = || vec![state.clone()];
        let with = |session: usize, new: Session| {
            let mut state = state.clone();
            state[session] = new;
            vec![state]
        };
        match &op.action {
            Action::Create { request } => {
                let session = self.of_request[request];
                match (&op.outcome, state[session]) {
                    (Outcome::Created { .. } | Outcome::Unknown, Session::Unborn) => {
                        self.born(state, session)
                    }
                    // Sent again before its tokens were used, or after.
                    (Outcome::Created { .. }, Session::Live { generation: 1, .. })
                    | (
                        Outcome::Conflict,
                        Session::Live { generation: 2.., .. } | Session::Revoked | Session::Reused,
                    ) => same(),
                    _ => Vec::new(),
                }
            }
            Action::Refresh { session, generation, foreign } => {
                let Some(&session) = self.of_sid.get(session) else {
                    return same();
                };
                refresh(state, session, *generation, *foreign, &op.outcome)
            }
            Action::Revoke { session } => match self.of_sid.get(session) {
                None => same(),
                Some(&session) => match state[session] {
                    Session::Unborn => Vec::new(),
                    Session::Live { .. } => with(session, Session::Revoked),
                    _ => same(),
                },
            },
            Action::RevokeAll { kept } => {
                let kept = kept.and_then(|sid| self.of_sid.get(&sid)).copied();
                let mut after = state.clone();
                let mut ended = 0;
                for (session, slot) in after.iter_mut().enumerate() {
                    if Some(session) != kept && matches!(slot, Session::Live { .. }) {
                        *slot = Session::Revoked;
                        ended += 1;
                    }
                }
                match op.outcome {
                    Outcome::EndedAll(count) if count != ended => Vec::new(),
                    _ => vec![after],
                }
            }
            Action::List => match &op.outcome {
                Outcome::Listed(sids) if !self.lists(state, sids) => Vec::new(),
                _ => same(),
            },
            Action::Check { .. } => same(),
        }
    }

    fn lists(&self, state: &State, sids: &[Sid]) -> bool {
        let live = state.iter().enumerate().filter(|(_, s)| matches!(s, Session::Live { .. }));
        let (known, unknown): (Vec<_>, Vec<_>) =
            live.partition(|(session, _)| self.known[*session].is_some());
        let named = |sid: &&Sid| self.of_sid.contains_key(sid);
        let listed = sids.iter().filter(named).count();
        let all = known.iter().all(|(session, _)| {
            self.known[*session].as_ref().is_some_and(|(sid, ..)| sids.contains(sid))
        });
        all && listed == known.len() && sids.len() - listed == unknown.len()
    }
}

/// The states after a refresh, if it can be answered as it was.
fn refresh(
    state: &State,
    session: usize,
    presented: u32,
    by_foreign: bool,
    outcome: &Outcome,
) -> Vec<State> {
    let after = |new: Session| {
        let mut state = state.clone();
        state[session] = new;
        state
    };
    let Session::Live { generation, foreign } = state[session] else {
        let told = match (state[session], outcome) {
            (_, Outcome::Unknown)
            | (Session::Reused, Outcome::Refused(Refusal::Reused))
            // The record may be gone when it is read, whatever ended it.
            | (Session::Revoked | Session::Reused, Outcome::Refused(Refusal::Revoked)) => true,
            _ => false,
        };
        return if told { vec![state.clone()] } else { Vec::new() };
    };
    let rotated = || after(Session::Live { generation: presented + 1, foreign: by_foreign });
    let last = presented + 1 == generation;
    match outcome {
        Outcome::Granted { generation: next, .. } if presented == generation => {
            if *next == presented + 1 { vec![rotated()] } else { Vec::new() }
        }
        Outcome::Granted { generation: next, .. } if last && by_foreign == foreign => {
            if *next == generation { vec![state.clone()] } else { Vec::new() }
        }
        Outcome::Refused(Refusal::Reused) if presented < generation => {
            vec![after(Session::Reused)]
        }
        Outcome::Refused(Refusal::Invalid) if last && by_foreign != foreign => {
            vec![state.clone()]
        }
        Outcome::Unknown if presented == generation => vec![rotated()],
        // Whether it is too late for the last one is a matter of time, which is not known.
        Outcome::Unknown if last => vec![after(Session::Reused)],
        Outcome::Unknown if presented < generation => vec![after(Session::Reused)],
        _ => Vec::new(),
    }
}

/// Looks for an order of one user's operations.
pub(crate) fn check(history: &History, user: usize) -> Verdict {
    let matters = |op: &&Op| {
        op.user == user
            && !matches!(op.action, Action::Check { .. })
            && op.outcome != Outcome::NotDone
            // A list that was not answered says nothing and does nothing.
            && !(op.action == Action::List && op.outcome == Outcome::Unknown)
    };
    let mut ops: Vec<&Op> = history.ops.iter().filter(matters).collect();
    ops.sort_by_key(|op| op.call);
    let facts = Facts::new(history, &ops);
    let mut search =
        Search { facts: &facts, ops: &ops, seen: HashSet::new(), steps: 0, deepest: (0, None) };
    let mut done = vec![false; ops.len()];
    let known = ops.iter().filter(|op| op.ret != NEVER).count();
    match search.run(&mut done, &vec![Session::Unborn; facts.known.len()], 0, known) {
        Some(true) => Verdict::Linear,
        Some(false) => {
            let (ordered, stuck) = search.deepest;
            let stuck = stuck.or(ops.first().copied());
            match stuck {
                Some(op) => Verdict::Broken { ordered, stuck: Box::new(op.clone()) },
                None => Verdict::Linear,
            }
        }
        None => Verdict::TooLong,
    }
}

struct Search<'a> {
    facts: &'a Facts,
    ops: &'a [&'a Op],
    /// Sets of operations and states from which there is no way on.
    seen: HashSet<(Vec<u64>, State)>,
    steps: usize,
    /// The most that could be put in order, and which operation could not come next.
    deepest: (usize, Option<&'a Op>),
}

impl Search<'_> {
    /// `None` when it takes too long. `left` counts the operations whose outcome is known.
    fn run(
        &mut self,
        done: &mut [bool],
        state: &State,
        ordered: usize,
        left: usize,
    ) -> Option<bool> {
        if left == 0 {
            return Some(true);
        }
        self.steps += 1;
        if self.steps > BOUND {
            return None;
        }
        if !self.seen.insert((bits(done), state.clone())) {
            return Some(false);
        }
        let candidates = self.candidates(done);
        if self.deepest.1.is_none() || ordered > self.deepest.0 {
            self.deepest = (ordered, candidates.first().map(|i| self.ops[*i]));
        }
        for i in candidates {
            let op = self.ops[i];
            for next in self.facts.step(state, op) {
                let known = usize::from(op.ret != NEVER);
                // What changes nothing need not have happened.
                if known == 0 && next == *state {
                    continue;
                }
                done[i] = true;
                let found = self.run(done, &next, ordered + known, left - known);
                done[i] = false;
                if found != Some(false) {
                    return found;
                }
            }
        }
        Some(false)
    }

    /// Operations that may come next: those that were called before any other has returned. First
    /// those that have to return soonest, and what nobody knows of last.
    fn candidates(&self, done: &[bool]) -> Vec<usize> {
        let mut first: Time = NEVER;
        let mut candidates = Vec::new();
        for (i, op) in self.ops.iter().enumerate() {
            if op.call > first {
                break;
            }
            if !done[i] {
                candidates.push(i);
                first = first.min(op.ret);
            }
        }
        candidates.retain(|i| self.ops[*i].call <= first);
        candidates.sort_by_key(|i| (self.ops[*i].ret, *i));
        candidates
    }
}

fn bits(done: &[bool]) -> Vec<u64> {
    done.chunks(64)
        .map(|chunk| chunk.iter().rev().fold(0, |word, bit| word << 1 | u64::from(*bit)))
        .collect()
}

/// Every user's verdict.
pub(crate) fn check_all(history: &History, users: usize) -> BTreeMap<usize, Verdict> {
    (0..users).map(|user| (user, check(history, user))).collect()
}
