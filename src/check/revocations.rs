//! What is known to be dead.

use std::collections::HashMap as Map;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use papaya::{HashMap, ResizeMode};

use super::cut_offs::{CutOff, CutOffs};
use super::hash::RandomHash;
use super::{Identity, News};
use crate::model::{Revocation, Session, SessionId, Timestamp, UserId};
use crate::telemetry::metrics;

/// When a session was revoked, and in which bucket: the time above the lowest eight bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Held(u64);

impl Held {
    fn new(bucket: u8, at: Timestamp) -> Self {
        Self(at.0 << 8 | u64::from(bucket))
    }

    fn at(self) -> Timestamp {
        Timestamp(self.0 >> 8)
    }

    fn bucket(self) -> u8 {
        self.0.to_be_bytes()[7]
    }
}

/// A set that only grows, until no token is left that an entry could speak of. All times are the
/// store's.
pub struct Revocations {
    /// Sessions, by id: when they were revoked.
    sessions: HashMap<u128, Held, RandomHash>,
    /// Sessions that go on, by id: what was issued for them up to this time is dead.
    credentials: HashMap<u128, Held, RandomHash>,
    users: HashMap<UserId, CutOffs>,
    /// By bucket: everything issued up to this time is dead or has to be refreshed.
    everything: Box<[AtomicU64]>,
    /// By bucket: everything issued up to this time is dead, and somebody said so.
    stated: Box<[AtomicU64]>,
    /// What this process was told is done, while the feed has not said it: since when, and where.
    unseen: Mutex<Map<Revocation, (Instant, u8)>>,
    /// How many these are.
    unseen_len: AtomicUsize,
    /// By bucket: the newest time that is known.
    clocks: Box<[AtomicU64]>,
    /// What became known last.
    pub news: News,
    /// How many entries there may be.
    most: usize,
    coarsening: Mutex<()>,
}

impl Revocations {
    /// Nothing yet, in so many buckets, and at most so many entries.
    pub fn new(buckets: usize, most: usize) -> Self {
        let times = || (0..buckets).map(|_| AtomicU64::new(0)).collect();
        Self {
            // A table that is still being moved, entry by entry, would be looked through twice.
            sessions: HashMap::builder()
                .hasher(RandomHash::default())
                .resize_mode(ResizeMode::Blocking)
                .build(),
            credentials: HashMap::builder()
                .hasher(RandomHash::default())
                .resize_mode(ResizeMode::Blocking)
                .build(),
            users: HashMap::builder().resize_mode(ResizeMode::Blocking).build(),
            everything: times(),
            stated: times(),
            unseen: Mutex::default(),
            unseen_len: AtomicUsize::new(0),
            clocks: times(),
            news: News::new(),
            most,
            coarsening: Mutex::new(()),
        }
    }

    /// Whether an identity is dead.
    pub fn cover(&self, identity: &Identity) -> bool {
        let everything = self.everything[usize::from(identity.bucket)].load(Ordering::Acquire);
        if identity.issued.0 <= everything
            || self.sessions.pin().contains_key(&identity.session.as_u128())
        {
            return true;
        }
        if !self.credentials.is_empty()
            && let Some(before) = self.credentials.pin().get(&identity.session.as_u128())
            && identity.issued <= before.at()
        {
            return true;
        }
        !self.users.is_empty()
            && (self.users.pin().get(&identity.user))
                .is_some_and(|cuts| cuts.cover(identity.session, identity.issued))
    }

    /// Whether a session is dead by what somebody said, whatever the store says of it.
    pub fn end_of(&self, bucket: u8, session: &Session) -> bool {
        let stated = self.stated[usize::from(bucket)].load(Ordering::Acquire);
        session.created.0 <= stated
            || self.sessions.pin().contains_key(&session.id.as_u128())
            || (self.users.pin().get(&session.user))
                .is_some_and(|cuts| cuts.cover(session.id, session.created))
    }

    /// Whether a session is dead by name, whatever was issued for it.
    pub(super) fn name(&self, session: SessionId) -> bool {
        self.sessions.pin().contains_key(&session.as_u128())
    }

    /// Learns from the feed of a revocation that was made at some time. In any order and any number
    /// of times.
    pub fn learn(&self, bucket: u8, revocation: &Revocation, at: Timestamp) {
        self.seen(revocation);
        self.news.tell(revocation, at);
        self.hold(bucket, revocation, at);
    }

    fn hold(&self, bucket: u8, revocation: &Revocation, at: Timestamp) {
        match revocation {
            // Of two times for the same the later is the safe one.
            Revocation::Session(sid) => {
                let new = Held::new(bucket, at);
                self.sessions.pin().update_or_insert(sid.as_u128(), |old| new.max(*old), new);
            }
            Revocation::Credentials { session, before } => {
                let new = Held::new(bucket, *before);
                let id = session.as_u128();
                self.credentials.pin().update_or_insert(id, |old| new.max(*old), new);
            }
            Revocation::User { user, before, kept } => {
                let new = CutOff { bucket, before: *before, kept: *kept, stated: true };
                let first = || CutOffs(vec![new]);
                self.users.pin().update_or_insert_with(user.clone(), |old| old.with(new), first);
            }
            Revocation::Everything { before } => {
                self.stated[usize::from(bucket)].fetch_max(before.0, Ordering::AcqRel);
                self.cut(bucket, *before);
            }
        }
        if self.len() > self.most {
            self.coarsen();
        }
    }

    /// This process was told that a revocation is done. Until the feed says when, the newest time
    /// that the store has told stands for it: this process's own clock may be ahead, and a cut-off in
    /// the future would refuse what was issued after it.
    pub fn end(&self, bucket: u8, revocation: Revocation) {
        let newest = self.clocks.iter().map(|clock| clock.load(Ordering::Acquire)).max();
        let said = match &revocation {
            Revocation::Session(sid) => self.sessions.pin().contains_key(&sid.as_u128()),
            Revocation::Credentials { session, before } => {
                let credentials = self.credentials.pin();
                credentials.get(&session.as_u128()).is_some_and(|held| held.at() >= *before)
            }
            Revocation::User { user, before, kept } => {
                let this = CutOff { bucket, before: *before, kept: *kept, stated: true };
                self.users.pin().get(user).is_some_and(|cuts| cuts.include(&this))
            }
            Revocation::Everything { before } => {
                self.stated[usize::from(bucket)].load(Ordering::Acquire) >= before.0
            }
        };
        self.hold(bucket, &revocation, Timestamp(newest.unwrap_or(0)));
        if !said {
            let mut unseen = self.unseen();
            unseen.insert(revocation, (Instant::now(), bucket));
            self.unseen_len.store(unseen.len(), Ordering::Release);
        }
    }

    fn unseen(&self) -> MutexGuard<'_, Map<Revocation, (Instant, u8)>> {
        self.unseen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store knows of a revocation.
    pub(super) fn seen(&self, revocation: &Revocation) {
        if self.unseen_len.load(Ordering::Acquire) > 0 {
            let mut unseen = self.unseen();
            unseen.remove(revocation);
            self.unseen_len.store(unseen.len(), Ordering::Release);
        }
    }

    /// What was done a while ago and the feed has not said: the server that did it may be gone, and
    /// what it did with it.
    pub(super) fn unseen_for(&self, age: Duration) -> Vec<(u8, Revocation)> {
        let unseen = self.unseen();
        let late = unseen.iter().filter(|(_, (since, _))| since.elapsed() > age);
        late.map(|(revocation, (_, bucket))| (*bucket, revocation.clone())).collect()
    }

    /// What a bucket must know of, if its history was replaced by another: all that is held and is
    /// not so old that the bucket may have forgotten it.
    pub(super) fn held(&self, bucket: u8, retention: Duration) -> Vec<Revocation> {
        let oldest = Self::oldest(&self.clocks[usize::from(bucket)], retention);
        let sessions = self.sessions.pin();
        let of_bucket = |held: &Held| held.bucket() == bucket && held.at() >= oldest;
        let mut all: Vec<Revocation> = (sessions.iter().filter(|(_, held)| of_bucket(held)))
            .map(|(sid, _)| Revocation::Session(SessionId(sid.to_be_bytes())))
            .collect();
        let credentials = self.credentials.pin();
        all.extend(credentials.iter().filter(|(_, held)| of_bucket(held)).map(|(sid, held)| {
            Revocation::Credentials { session: SessionId(sid.to_be_bytes()), before: held.at() }
        }));
        let users = self.users.pin();
        for (user, cuts) in &users {
            let of_bucket =
                |cut: &&CutOff| cut.stated && cut.bucket == bucket && cut.before >= oldest;
            all.extend(cuts.0.iter().filter(of_bucket).map(|cut| Revocation::User {
                user: user.clone(),
                before: cut.before,
                kept: cut.kept,
            }));
        }
        let before = Timestamp(self.stated[usize::from(bucket)].load(Ordering::Acquire));
        if before.0 > 0 && before >= oldest {
            all.push(Revocation::Everything { before });
        }
        all
    }

    fn oldest(clock: &AtomicU64, retention: Duration) -> Timestamp {
        let retention = u64::try_from(retention.as_millis()).unwrap_or(u64::MAX);
        Timestamp(clock.load(Ordering::Acquire).saturating_sub(retention))
    }

    fn cut(&self, bucket: u8, before: Timestamp) {
        self.everything[usize::from(bucket)].fetch_max(before.0, Ordering::AcqRel);
    }

    /// Replaces the older half by a cut-off: what was issued up to the newest of them is dead. Whoever
    /// holds such a token refreshes it once, earlier than they would have.
    fn coarsen(&self) {
        let Ok(_one_at_a_time) = self.coarsening.try_lock() else {
            return;
        };
        let (sessions, users) = (self.sessions.pin(), self.users.pin());
        let credentials = self.credentials.pin();
        let mut times: Vec<Timestamp> =
            sessions.values().chain(credentials.values()).map(|held| held.at()).collect();
        times.extend(users.values().map(CutOffs::newest));
        let half = times.len() / 2;
        if times.len() <= self.most {
            return;
        }
        let (_, &mut before, _) = times.select_nth_unstable(half);
        for bucket in 0..self.everything.len() {
            self.cut(u8::try_from(bucket).unwrap_or(u8::MAX), before);
        }
        sessions.retain(|_, held| held.at() > before);
        users.retain(|_, cuts| cuts.newest() > before);
        credentials.retain(|_, held| held.at() > before);
        metrics::revocations_coarsened();
        tracing::warn!(
            most = self.most,
            "more revocations than check.max_revocations: older access tokens have to be refreshed"
        );
    }

    /// What the clock of every bucket has passed.
    pub fn clock(&self) -> Timestamp {
        let clocks = self.clocks.iter().map(|clock| clock.load(Ordering::Acquire));
        Timestamp(clocks.min().unwrap_or(0))
    }

    /// A bucket's clock says so much.
    pub(super) fn tick(&self, bucket: u8, now: Timestamp) {
        self.clocks[usize::from(bucket)].fetch_max(now.0, Ordering::AcqRel);
    }

    /// Forgets what is so old that no token is left of before. Of all clocks the slowest counts.
    pub(super) fn forget(&self, retention: Duration) {
        let oldest = self.clocks.iter().map(|clock| Self::oldest(clock, retention)).min();
        let oldest = oldest.unwrap_or_default();
        self.sessions.pin().retain(|_, held| held.at() >= oldest);
        self.credentials.pin().retain(|_, held| held.at() >= oldest);
        self.users.pin().retain(|_, cuts| cuts.newest() >= oldest);
    }

    /// How many are held.
    pub fn len(&self) -> usize {
        self.sessions.len() + self.credentials.len() + self.users.len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Map;
    use uuid::Uuid;

    use super::*;
    use crate::token::AccessClaims;

    fn identity(user: &str, session: u8, issued: u64) -> Identity {
        let claims = AccessClaims {
            iss: String::new(),
            sub: user.parse().unwrap(),
            aud: Vec::new(),
            exp: 0,
            iat: issued / 1000,
            jti: Uuid::new_v7(uuid::Timestamp::from_unix(
                uuid::NoContext,
                issued / 1000,
                u32::try_from(issued % 1000).unwrap() * 1_000_000,
            )),
            sid: SessionId([session; 16]),
            generation: 1,
            auth_time: 0,
            amr: Vec::new(),
            roles: Vec::new(),
            extra: Map::new(),
        };
        Identity::new(&claims, 0, 3).unwrap()
    }

    fn user(user: &str, before: u64, kept: Option<u8>) -> Revocation {
        let kept = kept.map(|byte| SessionId([byte; 16]));
        Revocation::User { user: user.parse().unwrap(), before: Timestamp(before), kept }
    }

    #[test]
    fn a_session_is_dead_and_no_other() {
        let set = Revocations::new(16, 100);
        set.learn(3, &Revocation::Session(SessionId([1; 16])), Timestamp(1_000));
        assert!(set.cover(&identity("ann", 1, 5)));
        assert!(!set.cover(&identity("ann", 2, 5)));
    }

    #[test]
    fn credentials_die_and_their_session_goes_on() {
        let set = Revocations::new(16, 100);
        for before in [1_000, 900] {
            let session = SessionId([1; 16]);
            let before = Timestamp(before);
            set.learn(3, &Revocation::Credentials { session, before }, before);
        }
        assert!(set.cover(&identity("ann", 1, 1_000)), "to the millisecond");
        assert!(!set.cover(&identity("ann", 1, 1_001)), "issued after");
        assert!(!set.cover(&identity("ann", 2, 900)), "another session");
        set.tick(3, Timestamp(100_000));
        assert_eq!(set.len(), 1);
    }

    #[test]
    fn a_users_cut_off_spares_what_is_kept_and_what_comes_after() {
        let set = Revocations::new(16, 100);
        set.learn(3, &user("ann", 1_000, Some(1)), Timestamp(1_000));
        assert!(!set.cover(&identity("ann", 1, 900)), "kept");
        assert!(set.cover(&identity("ann", 2, 1_000)), "to the millisecond");
        assert!(!set.cover(&identity("ann", 3, 1_001)), "issued after");
        assert!(!set.cover(&identity("bob", 2, 900)), "somebody else");
        set.learn(3, &user("ann", 2_000, None), Timestamp(2_000));
        set.learn(3, &user("ann", 1_000, Some(1)), Timestamp(1_000));
        assert!(set.cover(&identity("ann", 1, 900)), "an older one does not undo a newer");
    }

    #[test]
    fn what_one_cut_off_keeps_another_covers() {
        let set = Revocations::new(16, 100);
        set.learn(3, &user("ann", 1_000, None), Timestamp(1_000));
        set.learn(3, &user("ann", 2_000, Some(1)), Timestamp(2_000));
        assert!(set.cover(&identity("ann", 1, 900)), "it had ended before it was kept");
        assert!(!set.cover(&identity("ann", 1, 1_500)), "it began in between");
        for sid in 2..40 {
            set.learn(3, &user("ann", 2_000 + u64::from(sid), Some(sid)), Timestamp(2_000));
        }
        assert!(set.cover(&identity("ann", 1, 900)));
        assert!(set.cover(&identity("ann", 1, 1_500)));
        assert!(!set.cover(&identity("ann", 50, 2_040)));
    }

    #[test]
    fn only_what_was_said_is_said_again() {
        let set = Revocations::new(16, 100);
        let said: Vec<_> = (1..=20).map(|i| user("ann", 2_000 + u64::from(i), Some(i))).collect();
        for revocation in &said {
            set.learn(3, revocation, Timestamp(2_000));
        }
        let held = set.held(3, Duration::from_mins(1));
        assert!(!held.is_empty() && held.iter().all(|held| said.contains(held)), "{held:?}");
        assert!(set.held(4, Duration::from_mins(1)).is_empty(), "another bucket");
    }

    #[test]
    fn everything_of_a_bucket_ends_at_once() {
        let set = Revocations::new(16, 100);
        set.learn(4, &Revocation::Everything { before: Timestamp(1_000) }, Timestamp(1_000));
        assert!(!set.cover(&identity("ann", 1, 900)), "another bucket");
        set.learn(3, &Revocation::Everything { before: Timestamp(1_000) }, Timestamp(1_000));
        assert!(set.cover(&identity("ann", 1, 1_000)));
        assert!(!set.cover(&identity("ann", 1, 1_001)));
    }

    #[test]
    fn the_old_is_forgotten_by_the_slowest_clock() {
        let set = Revocations::new(2, 100);
        set.learn(0, &Revocation::Session(SessionId([1; 16])), Timestamp(1_000));
        set.learn(0, &user("ann", 1_000, None), Timestamp(1_000));
        set.tick(0, Timestamp(100_000));
        set.forget(Duration::from_mins(1));
        assert_eq!(set.len(), 2, "the other bucket has not said what time it is");
        set.tick(1, Timestamp(61_000));
        set.forget(Duration::from_mins(1));
        assert_eq!(set.len(), 2);
        set.tick(1, Timestamp(61_001));
        set.forget(Duration::from_mins(1));
        assert!(set.is_empty());
    }

    #[test]
    fn a_clock_that_is_behind_makes_nothing_older() {
        let set = Revocations::new(1, 100);
        for at in [1_000_000, 5] {
            set.learn(0, &Revocation::Session(SessionId([1; 16])), Timestamp(at));
        }
        set.tick(0, Timestamp(1_000_000));
        set.forget(Duration::from_mins(1));
        assert_eq!(set.len(), 1);
    }

    #[test]
    fn what_ended_here_is_dead_at_once_and_by_the_stores_clock() {
        let set = Revocations::new(16, 100);
        set.tick(3, Timestamp(1_000));
        for i in 1..=101 {
            set.end(3, Revocation::Session(SessionId([i; 16])));
            assert!(set.cover(&identity("ann", i, 1_000)));
        }
        assert!(!set.cover(&identity("ann", 200, 1_001)), "no cut-off is later than the store");
    }

    #[test]
    fn too_many_become_a_cut_off_that_covers_them() {
        let set = Revocations::new(16, 100);
        for i in 1..=101_u8 {
            let at = Timestamp(1_000 + u64::from(i));
            set.learn(3, &Revocation::Session(SessionId([i; 16])), at);
        }
        assert_eq!(set.len(), 50);
        for i in 1..=101_u8 {
            assert!(set.cover(&identity("ann", i, 1_000)), "{i}: never let in again");
        }
        assert!(set.cover(&identity("ann", 200, 1_051)), "an innocent one has to refresh");
        assert!(!set.cover(&identity("ann", 200, 1_052)), "and is let in then");
    }
}
