//! Following the feed: snapshot, then every entry, then proof that none is missing.

use std::time::{Duration, Instant};

use futures::future::join_all;
use tokio_util::sync::CancellationToken;

use super::{Freshness, Revocations};
use crate::store::feed::Position;
use crate::store::{Store, StoreError};
use crate::telemetry::metrics;

const BEAT: Duration = Duration::from_millis(500);
const RETRY: Duration = Duration::from_millis(50);

/// Keeps revocations current until told to stop.
pub async fn follow(
    store: Store,
    revocations: &Revocations,
    freshness: &Freshness,
    retention: Duration,
    stop: CancellationToken,
) {
    let work = async {
        tokio::join!(
            join_all((0..store.feed_readers()).map(|reader| read(
                &store,
                reader,
                revocations,
                freshness
            ))),
            join_all((0..store.buckets()).map(|bucket| beat(
                &store,
                bucket,
                revocations,
                freshness
            ))),
            forget(revocations, retention),
        )
    };
    tokio::select! {
        () = stop.cancelled() => {}
        _ = work => {}
    }
}

async fn forget(revocations: &Revocations, retention: Duration) {
    let mut timer = tokio::time::interval(Duration::from_secs(30));
    loop {
        timer.tick().await;
        revocations.forget(retention);
    }
}

async fn read(store: &Store, reader: usize, revocations: &Revocations, freshness: &Freshness) {
    loop {
        match catch_up(store, reader, revocations, freshness).await {
            Ok(positions) => {
                // A read in flight when history is found changed may deliver what was lost.
                tokio::select! {
                    () = freshness.lost(reader) => tracing::warn!("the feed has a gap; reading it anew"),
                    () = entries(store, reader, revocations, freshness, positions) => {}
                }
                metrics::feed_resync();
            }
            Err(error) => {
                tracing::debug!(%error, "the feed cannot be read");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Notes where the feeds end, then learns every tombstone: what comes after stands in the feed.
async fn catch_up(
    store: &Store,
    reader: usize,
    revocations: &Revocations,
    freshness: &Freshness,
) -> Result<Vec<Position>, StoreError> {
    let buckets = (reader..usize::from(store.buckets())).step_by(store.feed_readers());
    let positions = buckets.map(|bucket| async move {
        let bucket = u8::try_from(bucket).unwrap_or(u8::MAX);
        let position = store.feed_tail(bucket).await?;
        for (revocation, at) in store.feed_tombstones(bucket).await? {
            revocations.learn(bucket, &revocation, at);
        }
        freshness.applied(bucket, position.seq);
        Ok::<_, StoreError>(position)
    });
    futures::future::try_join_all(positions).await
}

/// Applies entries in order until one is missing.
async fn entries(
    store: &Store,
    reader: usize,
    revocations: &Revocations,
    freshness: &Freshness,
    mut positions: Vec<Position>,
) {
    loop {
        let entries = match store.feed_read(reader, &positions).await {
            Ok(entries) => entries,
            Err(error) => {
                tracing::debug!(%error, "the feed cannot be read");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        for entry in entries {
            revocations.learn(entry.bucket, &entry.revocation, entry.at);
            let Some(position) = positions.iter_mut().find(|at| at.bucket == entry.bucket) else {
                return;
            };
            if entry.seq != position.seq + 1 && !reads_over_gaps() {
                return;
            }
            (position.seq, position.id) = (entry.seq, entry.id);
            freshness.applied(entry.bucket, entry.seq);
        }
    }
}

#[cfg(feature = "mutations")]
fn reads_over_gaps() -> bool {
    crate::mutation::is(crate::mutation::Mutation::Cursor)
}

#[cfg(not(feature = "mutations"))]
const fn reads_over_gaps() -> bool {
    false
}

/// Beats at the start, and then each bucket at a moment of its own, so that they do not all stand
/// before a check at once.
async fn beat(store: &Store, bucket: u16, revocations: &Revocations, freshness: &Freshness) {
    let apart = BEAT * u32::from(bucket + 1) / u32::from(store.buckets());
    let mut timer = tokio::time::interval_at(tokio::time::Instant::now() + apart, BEAT);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let bucket = u8::try_from(bucket).unwrap_or(u8::MAX);
    loop {
        let applied = freshness.before_beat(bucket);
        let sent = Instant::now();
        match store.feed_heartbeat(bucket).await {
            Ok(beat) => {
                revocations.tick(bucket, beat.time);
                freshness.beat(bucket, applied, sent, beat.seq);
            }
            Err(error) => tracing::debug!(%error, "no heartbeat"),
        }
        timer.tick().await;
    }
}
