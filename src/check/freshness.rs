//! How current the revocations are: a proof, not a hope.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Of one bucket.
#[derive(Default)]
struct Progress {
    /// The number of the last revocation that was applied.
    applied: u64,
    /// What a heartbeat saw and when it was sent, while that is not applied yet.
    awaited: Option<(u64, Instant)>,
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

    /// The reader has applied everything up to a number.
    pub(super) fn applied(&self, bucket: u8, seq: u64) {
        let mut progress = self.lock(bucket);
        progress.applied = seq;
        if let Some((awaited, sent)) = progress.awaited
            && awaited <= seq
        {
            progress.awaited = None;
            self.prove(bucket, sent);
        }
    }

    /// What had been applied when a heartbeat is about to be sent.
    pub(super) fn before_beat(&self, bucket: u8) -> u64 {
        self.lock(bucket).applied
    }

    /// A heartbeat that was sent at `sent` saw `seq`.
    pub(super) fn beat(&self, bucket: u8, applied_then: u64, sent: Instant, seq: u64) {
        /// Entries that the reader has not seen by then are not in the stream any more.
        const GAP: Duration = Duration::from_secs(2);
        let mut progress = self.lock(bucket);
        if seq < applied_then {
            self.lose(bucket);
        } else if progress.applied >= seq {
            self.prove(bucket, sent);
        } else {
            match progress.awaited {
                Some((_, since)) if sent.saturating_duration_since(since) > GAP => {
                    progress.awaited = None;
                    self.lose(bucket);
                }
                Some(_) => {}
                None => progress.awaited = Some((seq, sent)),
            }
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

    #[test]
    fn nothing_is_fresh_before_it_is_proved() {
        assert_eq!(Freshness::new(1, 1).staleness(0, Instant::now()), Duration::MAX);
    }

    #[test]
    fn a_beat_that_was_read_up_to_is_a_proof() {
        let freshness = Freshness::new(1, 1);
        freshness.applied(0, 7);
        freshness.beat(0, 7, Instant::now(), 7);
        assert!(freshness.staleness(0, Instant::now()) < Duration::from_secs(1));
    }

    #[test]
    fn a_beat_ahead_of_the_reader_waits_for_it() {
        let freshness = Freshness::new(1, 1);
        freshness.applied(0, 7);
        freshness.beat(0, 7, Instant::now(), 8);
        assert_eq!(freshness.staleness(0, Instant::now()), Duration::MAX);
        freshness.applied(0, 8);
        assert!(freshness.staleness(0, Instant::now()) < Duration::from_secs(1));
    }

    #[test]
    fn a_history_that_went_back_is_noticed() {
        let freshness = Freshness::new(1, 1);
        freshness.applied(0, 7);
        freshness.beat(0, 7, Instant::now(), 6);
        assert!(woken(&freshness));
        assert_eq!(freshness.staleness(0, Instant::now()), Duration::MAX);
    }

    #[test]
    fn entries_that_never_come_are_noticed() {
        let freshness = Freshness::new(1, 1);
        let sent = Instant::now();
        freshness.beat(0, 0, sent, 1);
        assert!(!woken(&freshness));
        freshness.beat(0, 0, sent + Duration::from_secs(3), 1);
        assert!(woken(&freshness));
    }
}
