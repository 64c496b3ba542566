//! Connections that are replaced when they stop to be of use.
//!
//! The client makes a broken connection anew by itself, and can hang for ever while it does so: on
//! a server that takes the connection and says nothing, for one. So whoever is not answered any
//! more gets another client, and the old one is dropped.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use fred::prelude::*;
use fred::types::config::Server;
use tokio::sync::Mutex;
use tokio_util::task::AbortOnDropHandle;

use super::StoreError;

/// After so long without an answer, though there was a question, a connection is replaced.
const SILENCE: Duration = Duration::from_secs(1);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// How long a new connection may take, and what is under way on the old one.
const HANDOVER: Duration = Duration::from_secs(1);

/// A client, which lives until this is dropped.
struct Live {
    client: Client,
    _task: AbortOnDropHandle<Result<(), Error>>,
}

impl Live {
    fn begin(builder: &Builder) -> Result<Self, StoreError> {
        let client = builder.build()?;
        let task = AbortOnDropHandle::new(client.connect());
        Ok(Self { client, _task: task })
    }
}

/// One connection to one server.
pub(super) struct Connection {
    builder: Builder,
    live: ArcSwap<Live>,
    start: Instant,
    /// Since when nothing is answered, in milliseconds after `start` plus one; zero is never.
    silent: AtomicU64,
    /// It answered something else than was asked.
    distrusted: AtomicBool,
    replacing: Mutex<()>,
}

impl Connection {
    /// Connects in the background, again and again until it holds.
    pub(super) fn begin(builder: Builder) -> Result<Arc<Self>, StoreError> {
        let connection = Arc::new(Self {
            live: ArcSwap::from_pointee(Live::begin(&builder)?),
            builder,
            start: Instant::now(),
            silent: AtomicU64::new(0),
            distrusted: AtomicBool::new(false),
            replacing: Mutex::default(),
        });
        tokio::spawn(Self::tend(Arc::downgrade(&connection)));
        Ok(connection)
    }

    pub(super) fn client(&self) -> Client {
        self.live.load().client.clone()
    }

    /// Notes whether the server has answered.
    pub(super) fn note(&self, answered: bool) {
        if !answered {
            let now = self.start.elapsed().as_millis();
            let now = u64::try_from(now).unwrap_or(u64::MAX - 1) + 1;
            let _ = self.silent.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        } else if self.silent.load(Ordering::Relaxed) != 0 {
            self.silent.store(0, Ordering::Relaxed);
        }
    }

    /// It answered something else than was asked, and may do so from now on.
    pub(super) fn distrust(&self) {
        self.distrusted.store(true, Ordering::Release);
    }

    fn is_of_use(&self) -> bool {
        let silence = match self.silent.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => self.start.elapsed().saturating_sub(Duration::from_millis(since - 1)),
        };
        !self.distrusted.load(Ordering::Acquire) && silence < SILENCE
    }

    /// Puts a new client in the place of this one, as soon as it is connected.
    pub(super) async fn replace(&self) -> Result<(), StoreError> {
        let _one_at_a_time = self.replacing.lock().await;
        let new = Live::begin(&self.builder)?;
        tokio::time::timeout(HANDOVER, new.client.wait_for_connect())
            .await
            .map_err(|_| StoreError::unavailable("no new connection in time"))??;
        let old = self.live.swap(Arc::new(new));
        self.distrusted.store(false, Ordering::Release);
        self.silent.store(0, Ordering::Relaxed);
        tokio::spawn(async move {
            tokio::time::sleep(HANDOVER).await;
            drop(old);
        });
        Ok(())
    }

    /// Replaces the client whenever it is of no use, for as long as somebody has the connection.
    async fn tend(connection: Weak<Self>) {
        let mut timer = tokio::time::interval(LOOK);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            timer.tick().await;
            let Some(connection) = connection.upgrade() else {
                return;
            };
            if !connection.is_of_use() {
                match connection.replace().await {
                    Ok(()) => tracing::info!("a connection to Redis was replaced"),
                    Err(error) => tracing::debug!(%error, "a connection to Redis is of no use"),
                }
            }
        }
    }
}

/// Connections to one server.
pub(super) struct Links {
    /// Which member of a Cluster it is.
    pub(super) member: Option<Server>,
    commands: Vec<Arc<Connection>>,
    next: AtomicUsize,
    /// For what waits for replicas, which holds up whatever comes after it.
    pub(super) waiting: Option<Arc<Connection>>,
}

impl Links {
    pub(super) fn new(
        member: Option<Server>,
        commands: Vec<Arc<Connection>>,
        waiting: Option<Arc<Connection>>,
    ) -> Self {
        Self { member, commands, next: AtomicUsize::new(0), waiting }
    }

    /// One for commands; they are used in turn.
    pub(super) fn next(&self) -> &Arc<Connection> {
        &self.commands[self.next.fetch_add(1, Ordering::Relaxed) % self.commands.len()]
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Connection>> {
        self.commands.iter().chain(&self.waiting)
    }
}
