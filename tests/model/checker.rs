//! The checker checked: for each invariant a history that keeps it and one that breaks it, and
//! nothing else.

use std::collections::BTreeMap;

use super::history::{
    Action, Event, History, NEVER, Op, Outage, Outcome, Promise, Refusal, Rest, Sid, Span, Time,
};
use super::linear::{self, Verdict};
use super::{LEEWAY, invariants};

const MS: Time = 1000;
const FAR: Time = 3_600_000 * MS;

/// A history, told operation by operation. Times are milliseconds; user 0 unless said otherwise.
struct Story(History);

impl Story {
    fn new() -> Self {
        let promise = Promise {
            limit: 2,
            healthy: 250 * MS,
            staleness: 1000 * MS,
            grace: 1000 * MS,
            leeway: LEEWAY,
            absolute: FAR * 24,
            recovery: 1500 * MS,
            long_lived: true,
            reasserted: None,
        };
        let names = (0..10).map(|sid| format!("s{sid}")).collect();
        let (ops, faults, stalls, rest) = (Vec::new(), Vec::new(), Vec::new(), Rest::default());
        Self(History { promise, ops, faults, stalls, epoch: 0, names, rest })
    }

    fn op(mut self, call: Time, ret: Time, action: Action, outcome: Outcome) -> Self {
        let ret = if ret == NEVER { NEVER } else { ret * MS };
        let (client, gateway, user, call) = (0, 0, 0, call * MS);
        self.0.ops.push(Op { client, gateway, user, call, ret, action, outcome });
        self
    }

    fn event(mut self, at: Time, session: Sid, ended: Option<&str>) -> Self {
        let ended = ended.map(str::to_owned);
        self.0.rest.events.push(Event { user: 0, session, at: at * MS, ended });
        let live = self.0.rest.live.entry(0).or_default();
        match self.0.rest.events.last().unwrap().ended {
            None => live.push(session),
            Some(_) => live.retain(|sid| *sid != session),
        }
        self.0.rest.records.clone_from(&self.0.rest.live[&0]);
        self
    }

    /// Request and session have the same number.
    fn create(self, at: Time, session: Sid) -> Self {
        let outcome = Outcome::Created { session, created: at };
        self.op(at, at + 1, Action::Create { request: session }, outcome).event(at, session, None)
    }

    fn refresh(self, at: Time, session: Sid, generation: u32, next: u32) -> Self {
        let action = Action::Refresh { session, generation, foreign: false };
        let outcome = Outcome::Granted { generation: next, token: next.into(), issued: at };
        self.op(at, at + 1, action, outcome)
    }

    fn refused(self, at: Time, session: Sid, generation: u32, why: Refusal) -> Self {
        let action = Action::Refresh { session, generation, foreign: false };
        self.op(at, at + 1, action, Outcome::Refused(why))
    }

    fn revoke(self, at: Time, session: Sid) -> Self {
        self.op(at, at + 1, Action::Revoke { session }, Outcome::Ended).event(
            at,
            session,
            Some("admin"),
        )
    }

    fn check(self, at: Time, session: Sid, allowed: bool) -> Self {
        self.check_until(at, session, allowed, FAR)
    }

    fn check_until(self, at: Time, session: Sid, allowed: bool, expires: Time) -> Self {
        let action = Action::Check { session, generation: 1, expires, strict: false };
        let outcome = if allowed {
            Outcome::Allowed { user: 0, session }
        } else {
            Outcome::Refused(Refusal::Invalid)
        };
        self.op(at, at + 1, action, outcome)
    }

    fn list(self, at: Time, sessions: &[Sid]) -> Self {
        self.op(at, at + 1, Action::List, Outcome::Listed(sessions.to_vec()))
    }

    fn fault(mut self, from: Time, to: Time, outage: Outage) -> Self {
        let (from, to) = (from * MS, to * MS);
        self.0.faults.push(Span { from, to, what: "a fault".to_owned(), outage });
        self
    }

    /// The names of the promises that it breaks, without the sentence after the number.
    fn breaks(&self) -> Vec<String> {
        let mut names: Vec<String> = invariants::violations(&self.0)
            .iter()
            .map(|violation| violation.invariant.split(' ').next().unwrap().to_owned())
            .collect();
        names.sort();
        names.dedup();
        names
    }

    fn verdict(&self) -> Verdict {
        linear::check(&self.0, 0)
    }

    #[track_caller]
    fn fine(&self) {
        assert_eq!(self.breaks(), Vec::<String>::new());
        assert_eq!(self.verdict(), Verdict::Linear);
    }

    #[track_caller]
    fn broken(&self, names: &[&str]) {
        assert_eq!(self.breaks(), names);
    }

    #[track_caller]
    fn in_no_order(&self) {
        assert!(matches!(self.verdict(), Verdict::Broken { .. }), "{:?}", self.verdict());
    }
}

fn story() -> Story {
    Story::new()
}

#[test]
fn inv_1_the_limit() {
    let full = story().create(0, 0).create(10, 1);
    let evicting = full.event(20, 0, Some("evicted")).create(20, 2);
    evicting.list(30, &[1, 2]).fine();
    story().create(0, 0).create(10, 1).list(30, &[0, 1, 5]).broken(&["INV-1"]);
    let three = story().create(0, 0).create(10, 1).create(20, 2);
    three.refresh(30, 0, 1, 2).refresh(40, 1, 1, 2).refresh(50, 2, 1, 2).broken(&["INV-1"]);
}

#[test]
fn inv_1_counts_what_was_live_at_once_by_answers_alone() {
    let mut story = story().create(0, 0).create(10, 1).create(20, 2);
    story = story.refresh(30, 0, 1, 2).refresh(40, 1, 1, 2).refresh(50, 2, 1, 2);
    story.0.rest = Rest::default();
    let limit = invariants::store::limit(&story.0);
    assert_eq!(limit.len(), 1, "{limit:?}");
    story.in_no_order();
}

#[test]
fn inv_2_a_single_successor() {
    story().create(0, 0).refresh(10, 0, 1, 2).refresh(20, 0, 1, 2).fine();
    let two = story().create(0, 0).refresh(10, 0, 1, 2).refresh(20, 0, 1, 3);
    two.broken(&["INV-2"]);
    two.in_no_order();
}

#[test]
fn inv_3_reuse_ends_the_session() {
    let used = || story().create(0, 0).refresh(10, 0, 1, 2).refresh(20, 0, 2, 3);
    let caught = || used().refused(30, 0, 1, Refusal::Reused).event(30, 0, Some("reused"));
    caught().check(40, 0, true).check(400, 0, false).fine();
    let granted = used().refresh(30, 0, 1, 2);
    granted.broken(&["INV-3", "INV-8"]);
    granted.in_no_order();
    caught().check(400, 0, true).broken(&["INV-3", "INV-5"]);
    let late = story().create(0, 0).refresh(10, 0, 1, 2);
    let action = Action::Check { session: 0, generation: 2, expires: FAR, strict: false };
    let seen = late.op(20, 21, action, Outcome::Allowed { user: 0, session: 0 });
    seen.refresh(2000, 0, 1, 2).broken(&["INV-3"]);
}

#[test]
fn inv_4_a_revocation_is_obeyed() {
    let revoked = || story().create(0, 0).revoke(100, 0);
    revoked().check(300, 0, true).check(360, 0, false).fine();
    revoked().check(360, 0, true).broken(&["INV-4"]);
    revoked().refresh(110, 0, 1, 2).broken(&["INV-4"]);
    revoked().refresh(110, 0, 1, 2).in_no_order();
    let strict = Action::Check { session: 0, generation: 1, expires: FAR, strict: true };
    let allowed = Outcome::Allowed { user: 0, session: 0 };
    revoked().op(110, 111, strict, allowed).broken(&["INV-4"]);
}

#[test]
fn inv_4_of_all_but_the_one_that_is_kept() {
    let action = Action::RevokeAll { kept: Some(1) };
    let revoked = || {
        let two = story().create(0, 0).create(10, 1);
        two.op(100, 101, action.clone(), Outcome::EndedAll(1)).event(100, 0, Some("revoked"))
    };
    revoked().check(400, 1, true).check(400, 0, false).fine();
    revoked().check(400, 0, true).broken(&["INV-4"]);
}

#[test]
fn inv_4_gives_more_time_during_a_fault_and_to_a_machine_that_stalls() {
    let revoked = || story().create(0, 0).revoke(100, 0);
    revoked().fault(90, 95, Outage::Nobody).check(1000, 0, true).fine();
    revoked().fault(90, 95, Outage::Nobody).check(1200, 0, true).broken(&["INV-4"]);
    let mut stalled = revoked().check(500, 0, true);
    stalled.0.stalls.push((200 * MS, 300 * MS));
    stalled.fine();
    stalled.0.stalls[0].1 = 50 * MS;
    stalled.broken(&["INV-4"]);
}

#[test]
fn inv_4_after_a_failover_has_time_to_heal() {
    let mut story = story().create(0, 0).revoke(100, 0).fault(90, 500, Outage::Nobody);
    story.0.faults[0].what = "failover that lost writes".to_owned();
    story.0.promise.reasserted = Some(2000 * MS);
    let mut healed = story.refresh(1500, 0, 1, 2).check(3600, 0, false);
    healed.broken(&[]);
    healed = healed.refresh(2600, 0, 2, 3);
    healed.broken(&["INV-4"]);
}

#[test]
fn inv_5_no_resurrection() {
    // Nobody was told that it was ended: the answer was lost.
    let lost = || {
        let ended = Action::Revoke { session: 0 };
        let story = story().create(0, 0).op(100, NEVER, ended, Outcome::Unknown);
        story.event(100, 0, Some("admin")).check(120, 0, false)
    };
    lost().check(300, 0, true).check(400, 0, false).fine();
    lost().check(400, 0, true).broken(&["INV-5"]);
    lost().refresh(130, 0, 1, 2).broken(&["INV-5"]);
}

#[test]
fn inv_6_no_phantom_loss() {
    story().create(0, 0).revoke(100, 0).refused(120, 0, 1, Refusal::Revoked).fine();
    story().create(0, 0).check(120, 0, false).broken(&["INV-6"]);
    let early = story().create(0, 0).refused(50, 0, 1, Refusal::Revoked).revoke(100, 0);
    early.broken(&["INV-6"]);
    early.in_no_order();
    let forgotten = story().create(0, 0).refused(50, 0, 1, Refusal::Invalid);
    forgotten.broken(&["INV-6"]);
    forgotten.in_no_order();
    story().create(0, 0).refused(50, 0, 1, Refusal::Expired).broken(&["INV-6"]);
}

#[test]
fn inv_7_identity() {
    let theirs = Action::Check { session: 0, generation: 1, expires: FAR, strict: false };
    let allowed = Outcome::Allowed { user: 3, session: 0 };
    story().create(0, 0).op(10, 11, theirs, allowed).broken(&["INV-7"]);
    let mut listed = story().create(0, 0).list(10, &[0]);
    listed.fine();
    listed.0.ops[1].user = 1;
    listed.broken(&["INV-7"]);
}

#[test]
fn inv_8_nothing_goes_back() {
    let mut story = story().create(0, 0).refresh(10, 0, 1, 2).refresh(20, 0, 2, 3);
    let sequences = |at: Time, seq: u64| (at * MS, BTreeMap::from([("00".to_owned(), seq)]));
    story.0.rest.sequences = vec![sequences(0, 1), sequences(10, 1), sequences(20, 4)];
    story.fine();
    story.0.rest.sequences.push(sequences(30, 3));
    story.broken(&["INV-8"]);
    story.0.rest.sequences.pop();
    if let Outcome::Granted { issued, .. } = &mut story.0.ops[2].outcome {
        *issued = 5;
    }
    story.broken(&["INV-8"]);
}

#[test]
fn inv_9_expiry() {
    let token = |at: Time| story().create(0, 0).check_until(at, 0, true, 1000 * MS);
    token(5900).fine();
    token(6100).broken(&["INV-9"]);
    let mut short = story().create(0, 0).refresh(2000, 0, 1, 2);
    short.fine();
    short.0.promise.absolute = 1900 * MS;
    short.broken(&["INV-9"]);
}

#[test]
fn inv_10_evictions_are_of_the_oldest() {
    let full = || story().create(0, 0).create(10, 1);
    full().event(20, 0, Some("evicted")).create(20, 2).list(30, &[1, 2]).fine();
    let youngest = full().event(20, 1, Some("evicted")).create(20, 2).list(30, &[0, 2]);
    youngest.broken(&["INV-10"]);
    youngest.in_no_order();
    story().create(0, 0).event(20, 0, Some("evicted")).create(20, 2).broken(&["INV-10"]);
}

#[test]
fn inv_11_fail_safe() {
    let frozen = |outage: Outage| story().create(0, 0).fault(100, 5000, outage);
    frozen(Outage::Everybody).check(1050, 0, true).fine();
    frozen(Outage::Everybody).check(1150, 0, true).broken(&["INV-11"]);
    frozen(Outage::Gateway(0)).check(1150, 0, true).broken(&["INV-11"]);
    frozen(Outage::Gateway(1)).check(1150, 0, true).fine();
    frozen(Outage::Everybody).list(150, &[0]).broken(&["INV-11"]);
    frozen(Outage::Everybody).check(5100, 0, true).fine();
}

#[test]
fn inv_12_events() {
    story().create(0, 0).revoke(100, 0).fine();
    story().create(0, 0).revoke(100, 0).event(101, 0, Some("admin")).broken(&["INV-12"]);
    story().create(0, 0).event(100, 0, Some("admin")).broken(&["INV-12"]);
    story().create(0, 0).event(100, 0, Some("orphaned")).broken(&["INV-12"]);
    let ended = Action::Revoke { session: 0 };
    let silent = story().create(0, 0).op(100, 101, ended, Outcome::Ended);
    silent.broken(&["INV-12"]);
}

#[test]
fn inv_13_convergence() {
    let after = |allowed: bool| {
        let mut story = story().create(0, 0).check(9000, 0, allowed);
        story.0.rest.checks.extend(story.0.ops.pop());
        story
    };
    after(true).fine();
    after(false).broken(&["INV-13"]);
    let mut slow = story();
    slow.0.rest.not_ready.push("gateway 1".to_owned());
    slow.broken(&["INV-13"]);
    let mut stray = story().create(0, 0);
    stray.0.rest.records.push(7);
    stray.broken(&["INV-13"]);
}

#[test]
fn an_operation_that_nobody_knows_of_happened_or_did_not() {
    let lost = Action::Create { request: 1 };
    let asked = || story().create(0, 0).op(10, NEVER, lost.clone(), Outcome::Unknown);
    assert_eq!(asked().list(20, &[0]).verdict(), Verdict::Linear);
    assert_eq!(asked().list(20, &[0, 7]).verdict(), Verdict::Linear);
    assert_eq!(asked().list(20, &[0]).list(30, &[0, 7]).verdict(), Verdict::Linear);
    asked().list(20, &[0, 7]).list(30, &[0]).in_no_order();
    asked().list(20, &[0, 7, 8]).in_no_order();
    story().list(5, &[7]).op(10, NEVER, lost.clone(), Outcome::Unknown).in_no_order();
}

#[test]
fn operations_at_the_same_time_are_put_in_order() {
    let two = |list: &[Sid]| {
        let create = Action::Create { request: 0 };
        let story = story().op(0, 50, create, Outcome::Created { session: 0, created: 10 });
        let revoke = Action::Revoke { session: 0 };
        story.op(5, 60, revoke, Outcome::Ended).op(
            20,
            40,
            Action::List,
            Outcome::Listed(list.to_vec()),
        )
    };
    assert_eq!(two(&[]).verdict(), Verdict::Linear);
    assert_eq!(two(&[0]).verdict(), Verdict::Linear);
    two(&[3]).in_no_order();
}

#[test]
fn another_client_is_refused_the_successor_of_a_rotation() {
    let by_foreign = |story: Story, at: Time, generation: u32, outcome: Outcome| {
        story.op(at, at + 1, Action::Refresh { session: 0, generation, foreign: true }, outcome)
    };
    let refused = Outcome::Refused(Refusal::Invalid);
    let rotated = || story().create(0, 0).refresh(10, 0, 1, 2);
    by_foreign(rotated(), 20, 1, refused.clone()).fine();
    let next = Outcome::Granted { generation: 3, token: 3, issued: 20 };
    let theirs = by_foreign(rotated(), 20, 2, next).refused(30, 0, 2, Refusal::Invalid);
    theirs.fine();
    by_foreign(story().create(0, 0), 20, 1, refused).in_no_order();
}
