//! Activity without traffic: seen in memory, written in batches.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Identity;
use crate::model::{SessionId, Timestamp};
use crate::sessions::location::Locations;
use crate::store::Store;
use crate::store::sessions::Activity;
use crate::telemetry::metrics;

/// How many notes can wait; beyond that activity is dropped, and counted.
const WAITING: usize = 65_536;
/// How many sessions one script is given.
const BATCH: usize = 64;
/// A session is noted at most this often, in seconds.
const EVERY: u64 = 5;

struct Seen {
    bucket: u8,
    session: SessionId,
    generation: u32,
    at: Timestamp,
    from: Option<IpAddr>,
}

/// Takes note of sessions in use.
#[derive(Clone)]
pub struct Activities(mpsc::Sender<Seen>);

/// Writes what was taken note of.
pub struct ActivityWriter {
    seen: mpsc::Receiver<Seen>,
    store: Store,
    locations: Arc<Locations>,
    every: Duration,
}

impl Activities {
    /// A place to take notes, and who writes them down.
    pub fn new(store: Store, locations: Arc<Locations>, every: Duration) -> (Self, ActivityWriter) {
        let (sender, seen) = mpsc::channel(WAITING);
        (Self(sender), ActivityWriter { seen, store, locations, every })
    }

    /// A credential was just used by its user, at an address if that is known. Costs one load of
    /// an atomic, mostly.
    pub fn note(&self, identity: &Identity, now: Timestamp, from: impl FnOnce() -> Option<IpAddr>) {
        let last = identity.noted.load(Ordering::Relaxed);
        if now.seconds() < last + EVERY {
            return;
        }
        identity.noted.store(now.seconds(), Ordering::Relaxed);
        let seen = Seen {
            bucket: identity.bucket,
            session: identity.session,
            generation: identity.generation,
            at: now,
            from: from(),
        };
        if self.0.try_send(seen).is_err() {
            metrics::activity_dropped();
        }
    }
}

impl ActivityWriter {
    /// Writes every few seconds, and once more at the end.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut timer = tokio::time::interval(self.every);
        let mut waiting = HashMap::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(seen) = self.seen.recv() => collect(&mut waiting, seen),
                _ = timer.tick() => self.write(&mut waiting).await,
            }
        }
        while let Ok(seen) = self.seen.try_recv() {
            collect(&mut waiting, seen);
        }
        self.write(&mut waiting).await;
    }

    async fn write(&self, waiting: &mut HashMap<SessionId, Seen>) {
        let now = Timestamp::now();
        let mut buckets: HashMap<u8, Vec<Activity>> = HashMap::new();
        for (session, seen) in waiting.drain() {
            buckets.entry(seen.bucket).or_default().push(Activity {
                session,
                age: Duration::from_millis(now.since(seen.at)),
                generation: seen.generation,
                place: seen.from.map(|ip| (ip.to_string(), self.locations.locate(ip))),
            });
        }
        for (bucket, activities) in buckets {
            for batch in activities.chunks(BATCH) {
                if let Err(error) = self.store.session_touch(bucket, batch).await {
                    tracing::debug!(%error, "activity was not written");
                }
            }
        }
    }
}

fn collect(waiting: &mut HashMap<SessionId, Seen>, seen: Seen) {
    let (at, generation, from) = (seen.at, seen.generation, seen.from);
    let newest = waiting.entry(seen.session).or_insert(seen);
    newest.at = newest.at.max(at);
    newest.generation = newest.generation.max(generation);
    newest.from = from.or(newest.from);
}
