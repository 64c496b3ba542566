//! How current the revocations are: a proof, not a hope.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::store::feed::{EntryId, Mark, Position};

/// What was applied lately of one bucket, and what a heartbeat told that is not applied yet.
#[derive(Default)]
struct Progress {
    applied: Mark,
    /// The ids of the marks up to `applied`, the newest last.
    recent: VecDeque<EntryId>,
    /// What a heartbeat saw and when it was sent.
    awaited: Option<(Mark, Instant)>,
}

/// What a mark is to this process's history of the bucket.
enum Known {
    /// A part of it.
    Yes,
    /// Of another history.
    No,
    /// Too far back to tell.
    Perhaps,
}

impl Progress {
    fn knows(&self, mark: Mark) -> Known {
        let back = usize::try_from(self.applied.seq - mark.seq).unwrap_or(usize::MAX);
        match self.recent.iter().rev().nth(back) {
            Some(id) if *id == mark.id => Known::Yes,
            Some(_) => Known::No,
            None => Known::Perhaps,
        }
    }
}

/// By bucket: when this process last knew everything that the feed said.
pub struct Freshness {
    start: Instant,
    progress: Box<[Mutex<Progress>]>,
    /// Milliseconds after `start`, plus one; zero is never.
    fresh: Box<[AtomicU64]>,
    /// Wakes a reader when history is not what it was.
    lost: Box<[Notify]>,
}

impl Freshness {
    pub(super) fn new(buckets: usize, readers: usize) -> Self {
        Self {
            start: Instant::now(),
            progress: (0..buckets).map(|_| Mutex::default()).collect(),
            fresh: (0..buckets).map(|_| AtomicU64::new(0)).collect(),
            lost: (0..readers).map(|_| Notify::new()).collect(),
        }
    }

    /// Returns when what a reader has read is not the history that there is.
    pub(super) async fn lost(&self, reader: usize) {
        self.lost[reader].notified().await;
    }

    fn lose(&self, bucket: u8) {
        #[cfg(feature = "mutations")]
        if crate::mutation::is(crate::mutation::Mutation::Cursor) {
            return;
        }
        self.lost[usize::from(bucket) % self.lost.len()].notify_one();
    }

    fn lock(&self, bucket: u8) -> std::sync::MutexGuard<'_, Progress> {
        self.progress[usize::from(bucket)].lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn prove(&self, bucket: u8, at: Instant) {
        let millis = at.saturating_duration_since(self.start).as_millis();
        let millis = u64::try_from(millis).unwrap_or(u64::MAX - 1) + 1;
        self.fresh[usize::from(bucket)].fetch_max(millis, Ordering::AcqRel);
    }

    /// The reader begins anew: it knows everything up to a mark, by the tombstones.
    pub(super) fn begun(&self, at: Position) {
        {
            let mut progress = self.lock(at.bucket);
            progress.recent.clear();
            // A heartbeat of the history before says nothing about this one.
            if progress.awaited.is_some_and(|(awaited, _)| awaited.seq != at.mark.seq) {
                progress.awaited = None;
            }
        }
        self.applied(at.bucket, at.mark);
    }

    /// The reader has applied everything up to a mark.
    pub(super) fn applied(&self, bucket: u8, mark: Mark) {
        /// So many revocations may come between a heartbeat and its reply.
        const RECENT: usize = 1024;
        let mut progress = self.lock(bucket);
        progress.applied = mark;
        if progress.recent.len() == RECENT {
            progress.recent.pop_front();
        }
        progress.recent.push_back(mark.id);
        if let Some((awaited, sent)) = progress.awaited
            && awaited.seq <= mark.seq
        {
            progress.awaited = None;
            self.compare(&progress, bucket, awaited, sent);
        }
    }

    /// What had been applied when a heartbeat is about to be sent.
    pub(super) fn before_beat(&self, bucket: u8) -> Mark {
        self.lock(bucket).applied
    }

    /// A heartbeat that was sent at `sent` saw `newest`.
    pub(super) fn beat(&self, bucket: u8, applied_then: Mark, sent: Instant, newest: Mark) {
        /// Entries that the reader has not seen by then are not in the stream any more.
        const GAP: Duration = Duration::from_secs(2);
        let mut progress = self.lock(bucket);
        if newest.seq < applied_then.seq {
            self.lose(bucket);
        } else if newest.seq <= progress.applied.seq && !progress.recent.is_empty() {
            self.compare(&progress, bucket, newest, sent);
        } else {
            match progress.awaited {
                Some((_, since)) if sent.saturating_duration_since(since) > GAP => {
                    progress.awaited = None;
                    self.lose(bucket);
                }
                Some(_) => {}
                None => progress.awaited = Some((newest, sent)),
            }
        }
    }

    /// A mark that has been passed is a proof when it is of the history that was read.
    fn compare(&self, progress: &Progress, bucket: u8, mark: Mark, sent: Instant) {
        match progress.knows(mark) {
            Known::Yes => self.prove(bucket, sent),
            Known::No => self.lose(bucket),
            Known::Perhaps => {}
        }
    }

    /// How long before `now` this process last provably knew all revocations of a bucket.
    pub fn staleness(&self, bucket: u8, now: Instant) -> Duration {
        match self.fresh[usize::from(bucket)].load(Ordering::Acquire) {
            0 => Duration::MAX,
            millis => (now.saturating_duration_since(self.start))
                .saturating_sub(Duration::from_millis(millis - 1)),
        }
    }

    /// The staleness of the bucket that is worst off.
    pub fn worst(&self) -> Duration {
        let now = Instant::now();
        (0..self.fresh.len())
            .map(|bucket| self.staleness(u8::try_from(bucket).unwrap_or(u8::MAX), now))
            .max()
            .unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn woken(freshness: &Freshness) -> bool {
        use futures::FutureExt as _;
        freshness.lost(0).now_or_never().is_some()
    }

    fn mark(seq: u64, id: &str) -> Mark {
        Mark { seq, id: id.parse().unwrap() }
    }

    fn proved(freshness: &Freshness) -> bool {
        freshness.staleness(0, Instant::now()) < Duration::from_secs(1)
    }

    #[test]
    fn nothing_is_fresh_before_it_is_proved() {
        assert_eq!(Freshness::new(1, 1).staleness(0, Instant::now()), Duration::MAX);
    }

    #[test]
    fn a_beat_that_was_read_up_to_is_a_proof() {
        let freshness = Freshness::new(1, 1);
        freshness.applied(0, mark(7, "70-0"));
        freshness.beat(0, mark(7, "70-0"), Instant::now(), mark(7, "70-0"));
        assert!(proved(&freshness));
    }

    #[test]
    fn a_beat_ahead_of_the_reader_waits_for_it() {
        let freshness = Freshness::new(1, 1);
        freshness.applied(0, mark(7, "70-0"));
        freshness.beat(0, mark(7, "70-0"), Instant::now(), mark(8, "80-0"));
        assert!(!proved(&freshness));
        freshness.applied(0, mark(8, "80-0"));
        assert!(proved(&freshness));
    }

    #[test]
    fn a_reader_ahead_of_the_beat_has_passed_it() {
        let freshness = Freshness::new(1, 1);
        for seq in 1..=3_000 {
            freshness.applied(0, mark(seq, &format!("{seq}0-0")));
        }
        let then = mark(1, "10-0");
        freshness.beat(0, then, Instant::now(), mark(1_500, "15000-0"));
        assert!(!proved(&freshness) && !woken(&freshness), "too far back to tell");
        freshness.beat(0, then, Instant::now(), mark(2_500, "25000-0"));
        assert!(proved(&freshness));
    }

    #[test]
    fn a_history_that_went_back_is_noticed() {
        let freshness = Freshness::new(1, 1);
        freshness.applied(0, mark(7, "70-0"));
        freshness.beat(0, mark(7, "70-0"), Instant::now(), mark(6, "60-0"));
        assert!(woken(&freshness) && !proved(&freshness));
    }

    #[test]
    fn another_history_of_the_same_length_is_noticed() {
        let freshness = Freshness::new(1, 1);
        freshness.applied(0, mark(7, "70-0"));
        freshness.beat(0, mark(7, "70-0"), Instant::now(), mark(7, "71-0"));
        assert!(woken(&freshness) && !proved(&freshness));
        freshness.beat(0, mark(7, "70-0"), Instant::now(), mark(8, "81-0"));
        freshness.applied(0, mark(8, "80-0"));
        assert!(woken(&freshness) && !proved(&freshness), "also when the beat came first");
    }

    #[test]
    fn who_begins_anew_forgets_the_history_before() {
        let freshness = Freshness::new(1, 1);
        freshness.applied(0, mark(7, "70-0"));
        freshness.beat(0, mark(7, "70-0"), Instant::now(), mark(9, "90-0"));
        freshness.begun(Position { bucket: 0, mark: mark(6, "61-0") });
        assert!(!woken(&freshness) && !proved(&freshness));
        freshness.beat(0, mark(6, "61-0"), Instant::now(), mark(6, "61-0"));
        assert!(proved(&freshness));
    }

    #[test]
    fn entries_that_never_come_are_noticed() {
        let freshness = Freshness::new(1, 1);
        let sent = Instant::now();
        freshness.beat(0, Mark::default(), sent, mark(1, "10-0"));
        assert!(!woken(&freshness));
        freshness.beat(0, Mark::default(), sent + Duration::from_secs(3), mark(1, "10-0"));
        assert!(woken(&freshness));
    }
}
