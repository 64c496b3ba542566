//! Following the feed: snapshot, then every entry, then proof that none is missing. And the other
//! way: what this process knows and the store has lost, it says again.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::{join_all, try_join_all};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::{Freshness, Revocations};
use crate::model::Revocation;
#[cfg(feature = "mutations")]
use crate::mutation::{self, Mutation};
use crate::store::feed::Position;
use crate::store::{Store, StoreError};
use crate::telemetry::metrics;

const BEAT: Duration = Duration::from_millis(500);
const RETRY: Duration = Duration::from_millis(50);
/// What the store may have forgotten by itself is not said again.
const MARGIN: Duration = Duration::from_mins(1);

/// Keeps revocations current.
#[derive(Clone)]
pub struct Follower {
    /// Where the feed is.
    pub store: Store,
    /// What is kept current.
    pub revocations: Arc<Revocations>,
    /// The proof that it is.
    pub freshness: Arc<Freshness>,
    /// How long a revocation matters.
    pub retention: Duration,
}

impl Follower {
    /// Follows until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        let work = async {
            tokio::join!(
                join_all((0..self.store.feed_readers()).map(|reader| self.read(reader))),
                join_all((0..self.store.buckets()).map(|bucket| self.beat(bucket))),
                self.insist(),
                self.forget(),
            )
        };
        tokio::select! {
            () = stop.cancelled() => {}
            _ = work => {}
        }
    }

    async fn forget(&self) {
        let mut timer = tokio::time::interval(Duration::from_secs(30));
        loop {
            timer.tick().await;
            self.revocations.forget(self.retention);
        }
    }

    async fn read(&self, reader: usize) {
        loop {
            match self.catch_up(reader).await {
                Ok(positions) => {
                    // A read in flight when history is found changed may deliver what was lost.
                    tokio::select! {
                        () = self.freshness.lost(reader) => {}
                        () = self.entries(reader, positions) => {}
                    }
                    tracing::warn!(reader, "the feed is not what was read of it; reading it anew");
                    metrics::feed_resync();
                    if let Err(error) = self.store.feed_reconnect(reader).await {
                        tracing::debug!(%error, "the feed cannot be read");
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "the feed cannot be read");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Notes where the feeds end, then learns every tombstone: what comes after stands in the feed.
    async fn catch_up(&self, reader: usize) -> Result<Vec<Position>, StoreError> {
        let buckets =
            (reader..usize::from(self.store.buckets())).step_by(self.store.feed_readers());
        // A million tombstones are work for more than one core.
        try_join_all(buckets.map(|bucket| {
            let (follower, bucket) = (self.clone(), u8::try_from(bucket).unwrap_or(u8::MAX));
            let task = tokio::spawn(async move { follower.agree(bucket).await });
            async {
                match AbortOnDropHandle::new(task).await {
                    Ok(agreed) => agreed,
                    Err(died) => std::panic::resume_unwind(died.into_panic()),
                }
            }
        }))
        .await
    }

    /// Afterwards this process knows what the bucket knows, and the other way round.
    async fn agree(&self, bucket: u8) -> Result<Position, StoreError> {
        let position = self.store.feed_tail(bucket).await?;
        let held = self.revocations.held(bucket, self.retention.saturating_sub(MARGIN));
        let tombstones = self.store.feed_tombstones(bucket).await?;
        for (revocation, at) in &tombstones {
            self.revocations.learn(bucket, revocation, *at);
        }
        if !held.is_empty() {
            let known: HashSet<_> = tombstones.iter().map(|(revocation, _)| revocation).collect();
            let lost: Vec<_> = held.into_iter().filter(|held| !known.contains(held)).collect();
            self.assert(bucket, &lost).await?;
        }
        self.freshness.begun(position);
        Ok(position)
    }

    async fn assert(&self, bucket: u8, revocations: &[Revocation]) -> Result<(), StoreError> {
        #[cfg(feature = "mutations")]
        if mutation::is(Mutation::Reassert) {
            return Ok(());
        }
        let lost = self.store.feed_assert(bucket, revocations).await?;
        for revocation in revocations {
            self.revocations.seen(revocation);
        }
        if lost > 0 {
            metrics::revocations_reasserted(lost);
            tracing::warn!(bucket, lost, "Redis had lost revocations; they were made again");
        }
        Ok(())
    }

    /// What was acknowledged here and does not come by in the feed was perhaps acknowledged by a
    /// server that has been replaced since.
    async fn insist(&self) {
        const LATE: Duration = Duration::from_millis(750);
        let mut timer = tokio::time::interval(Duration::from_millis(250));
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            timer.tick().await;
            for (bucket, revocation) in self.revocations.unseen_for(LATE) {
                if let Err(error) = self.assert(bucket, &[revocation]).await {
                    tracing::debug!(%error, "revocations cannot be asserted");
                    break;
                }
            }
        }
    }

    /// Applies entries in order until one is missing.
    async fn entries(&self, reader: usize, mut positions: Vec<Position>) {
        loop {
            let entries = match self.store.feed_read(reader, &positions).await {
                Ok(entries) => entries,
                Err(error) => {
                    tracing::debug!(%error, "the feed cannot be read");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            };
            for entry in entries {
                self.revocations.learn(entry.bucket, &entry.revocation, entry.at);
                let Some(at) = positions.iter_mut().find(|at| at.bucket == entry.bucket) else {
                    return;
                };
                let gap = entry.mark.seq != at.mark.seq + 1 || entry.previous != at.mark.id;
                #[cfg(feature = "mutations")]
                let gap = gap && !mutation::is(Mutation::Cursor);
                if gap {
                    return;
                }
                at.mark = entry.mark;
                self.freshness.applied(entry.bucket, entry.mark);
            }
        }
    }

    /// Beats at the start, and then each bucket at a moment of its own, so that they do not all stand
    /// before a check at once.
    async fn beat(&self, bucket: u16) {
        let apart = BEAT * u32::from(bucket + 1) / u32::from(self.store.buckets());
        let mut timer = tokio::time::interval_at(tokio::time::Instant::now() + apart, BEAT);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let bucket = u8::try_from(bucket).unwrap_or(u8::MAX);
        loop {
            let applied = self.freshness.before_beat(bucket);
            let sent = Instant::now();
            match self.store.feed_heartbeat(bucket).await {
                Ok(beat) => {
                    self.revocations.tick(bucket, beat.time);
                    self.freshness.beat(bucket, applied, sent, beat.newest);
                }
                Err(error) => tracing::debug!(%error, "no heartbeat"),
            }
            timer.tick().await;
        }
    }
}
