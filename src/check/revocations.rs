//! What is known to be dead.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use papaya::{HashMap, ResizeMode};

use super::Identity;
use super::hash::RandomHash;
use crate::model::{Revocation, SessionId, Timestamp, UserId};
use crate::telemetry::metrics;

#[derive(Clone, Copy)]
struct CutOff {
    before: Timestamp,
    kept: Option<SessionId>,
}

/// A set that only grows, until no token is left that an entry could speak of. All times are the
/// store's.
pub struct Revocations {
    /// Sessions, by id: when they were revoked.
    sessions: HashMap<u128, Timestamp, RandomHash>,
    /// Sessions that go on, by id: what was issued for them up to this time is dead.
    credentials: HashMap<u128, Timestamp, RandomHash>,
    users: HashMap<UserId, CutOff>,
    /// By bucket: everything issued up to this time.
    everything: Box<[AtomicU64]>,
    /// By bucket: the newest time that is known.
    clocks: Box<[AtomicU64]>,
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
            clocks: times(),
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
            && identity.issued <= *before
        {
            return true;
        }
        !self.users.is_empty()
            && self.users.pin().get(&identity.user).is_some_and(|cut| {
                identity.issued <= cut.before && cut.kept != Some(identity.session)
            })
    }

    /// Whether a session is dead by name, whatever was issued for it.
    pub(super) fn name(&self, session: SessionId) -> bool {
        self.sessions.pin().contains_key(&session.as_u128())
    }

    /// Learns of a revocation that was made at some time. In any order and any number of times.
    pub fn learn(&self, bucket: u8, revocation: &Revocation, at: Timestamp) {
        match revocation {
            // Of two times for the same the later is the safe one.
            Revocation::Session(sid) => {
                self.sessions.pin().update_or_insert(sid.as_u128(), |old| at.max(*old), at);
            }
            Revocation::Credentials { session, before } => {
                let id = session.as_u128();
                self.credentials.pin().update_or_insert(id, |old| *before.max(old), *before);
            }
            // The newest says all that the older ones said: what one of them kept and a later one
            // did not is dead, and what a later one keeps was alive then.
            Revocation::User { user, before, kept } => {
                let new = CutOff { before: *before, kept: *kept };
                self.users.pin().update_or_insert(
                    user.clone(),
                    |old| if old.before > new.before { *old } else { new },
                    new,
                );
            }
            Revocation::Everything { before } => self.cut(bucket, *before),
        }
        if self.len() > self.most {
            self.coarsen();
        }
    }

    /// A session was ended a moment ago, by this process. Until the feed says when, the newest time
    /// that the store has told stands for it: this process's own clock may be ahead, and a cut-off in
    /// the future would refuse what was issued after it.
    pub fn end(&self, session: SessionId) {
        let newest = self.clocks.iter().map(|clock| clock.load(Ordering::Acquire)).max();
        self.learn(0, &Revocation::Session(session), Timestamp(newest.unwrap_or(0)));
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
            sessions.values().chain(credentials.values()).copied().collect();
        times.extend(users.values().map(|cut| cut.before));
        let half = times.len() / 2;
        if times.len() <= self.most {
            return;
        }
        let (_, &mut before, _) = times.select_nth_unstable(half);
        for bucket in 0..self.everything.len() {
            self.cut(u8::try_from(bucket).unwrap_or(u8::MAX), before);
        }
        sessions.retain(|_, at| *at > before);
        users.retain(|_, cut| cut.before > before);
        credentials.retain(|_, cut| *cut > before);
        metrics::revocations_coarsened();
        tracing::warn!(
            most = self.most,
            "more revocations than check.max_revocations: older access tokens have to be refreshed"
        );
    }

    /// A bucket's clock says so much.
    pub(super) fn tick(&self, bucket: u8, now: Timestamp) {
        self.clocks[usize::from(bucket)].fetch_max(now.0, Ordering::AcqRel);
    }

    /// Forgets what is so old that no token is left of before. Of all clocks the slowest counts.
    pub(super) fn forget(&self, retention: Duration) {
        let now = self.clocks.iter().map(|clock| clock.load(Ordering::Acquire)).min().unwrap_or(0);
        let retention = u64::try_from(retention.as_millis()).unwrap_or(u64::MAX);
        let oldest = Timestamp(now.saturating_sub(retention));
        self.sessions.pin().retain(|_, at| *at >= oldest);
        self.users.pin().retain(|_, cut| cut.before >= oldest);
        self.credentials.pin().retain(|_, before| *before >= oldest);
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
            set.end(SessionId([i; 16]));
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
