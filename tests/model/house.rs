//! Three gateways over one Redis, each with a way to it of its own, which can be led elsewhere.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use tokio::task::block_in_place;

use crate::harness::{Gatehouse, Gateway, Redis, eventually, free_port, spawn_in};

/// How many gateways there are.
pub(crate) const GATEWAYS: usize = 3;

/// How far the clocks of the gateways are from the store's, where they can be set wrong.
pub(crate) const APART_MS: [i64; GATEWAYS] =
    if cfg!(feature = "mutations") { [4000, -4000, 0] } else { [0; GATEWAYS] };

/// The processes of a run.
pub(crate) struct House {
    base: Gatehouse,
    gateways: Vec<RwLock<Arc<Gateway>>>,
    settings: Vec<String>,
    mutation: String,
    replica: Option<Arc<Redis>>,
    primary: RwLock<Arc<Redis>>,
}

impl House {
    /// Starts everything; with a replica of the Redis, if one is asked for. `mutation` is empty, or
    /// what is broken on purpose.
    pub(crate) async fn start(settings: &[String], replica: bool, mutation: &str) -> Self {
        let base = Gatehouse::with(0, &[]).await;
        let primary = Arc::clone(&base.redis);
        let mut house = Self {
            base,
            gateways: Vec::new(),
            settings: settings.to_vec(),
            mutation: mutation.to_owned(),
            replica: None,
            primary: RwLock::new(primary),
        };
        if replica {
            house.replica = Some(Arc::new(block_in_place(Redis::start)));
            house.replicate().await;
        }
        for i in 0..GATEWAYS {
            house.lead(i, &house.primary());
            let gateway = Arc::new(house.spawn(i, 0).await);
            house.gateways.push(RwLock::new(gateway));
        }
        for i in 0..GATEWAYS {
            let up = eventually(Duration::from_secs(20), || house.ready(i)).await;
            assert!(up, "gateway {i} does not start: {}", house.log(i));
        }
        house
    }

    /// The Redis that counts.
    pub(crate) fn primary(&self) -> Arc<Redis> {
        Arc::clone(&self.primary.read().unwrap())
    }

    /// The one that follows it, or that has lost it.
    pub(crate) fn replica(&self) -> Arc<Redis> {
        Arc::clone(self.replica.as_ref().unwrap())
    }

    pub(crate) fn gateway(&self, i: usize) -> Arc<Gateway> {
        Arc::clone(&self.gateways[i].read().unwrap())
    }

    /// Whether a gateway says that it is ready; not, when it says nothing in a second.
    pub(crate) async fn ready(&self, i: usize) -> bool {
        let gateway = self.gateway(i);
        tokio::time::timeout(Duration::from_secs(1), gateway.ready()).await.unwrap_or(false)
    }

    /// Kills a gateway as a crash would.
    pub(crate) fn kill_gateway(&self, i: usize) {
        self.gateway(i).process.signal("KILL");
    }

    /// Starts a gateway in the place of one that was killed, and waits until it is ready.
    pub(crate) async fn restart_gateway(&self, i: usize, life: usize) {
        let gateway = Arc::new(self.spawn(i, life).await);
        *self.gateways[i].write().unwrap() = gateway;
        let up = eventually(Duration::from_secs(20), || self.ready(i)).await;
        assert!(up, "gateway {i} does not start again: {}", self.log(i));
    }

    /// From its next connection on, a gateway finds another server.
    pub(crate) fn lead(&self, i: usize, to: &Redis) {
        let (path, new) = (self.way(i), self.way(i).with_extension("new"));
        symlink(to.socket(), &new).unwrap();
        fs::rename(&new, &path).unwrap();
    }

    /// The replica follows the primary, and has all of it.
    pub(crate) async fn replicate(&self) {
        let (primary, replica) = (self.primary(), self.replica());
        block_in_place(|| {
            // Somebody else may be quicker to take a port that is free.
            let mut ports = (0..20).map(|_| free_port().to_string());
            let listens = |port: &String| primary.cli(&["CONFIG", "SET", "port", port]) == "OK";
            let port = ports.find(listens).expect("a free port");
            replica.cli(&["REPLICAOF", "127.0.0.1", &port]);
        });
        let linked = || async {
            block_in_place(|| {
                replica.cli(&["INFO", "replication"]).contains("master_link_status:up")
            })
        };
        assert!(eventually(Duration::from_secs(20), linked).await, "the replica does not follow");
    }

    /// The replica takes the place of the primary, which is gone for good.
    pub(crate) fn promote(&self) {
        let replica = self.replica();
        replica.cli(&["REPLICAOF", "NO", "ONE"]);
        for i in 0..GATEWAYS {
            self.lead(i, &replica);
        }
        *self.primary.write().unwrap() = replica;
    }

    fn way(&self, i: usize) -> PathBuf {
        self.base.dir.path().join(format!("to-{i}.sock"))
    }

    fn log(&self, i: usize) -> String {
        fs::read_to_string(self.base.dir.path().join(format!("{i}.log"))).unwrap_or_default()
    }

    async fn spawn(&self, i: usize, life: usize) -> Gateway {
        let mut settings = self.settings.clone();
        settings.push(format!("redis.url=redis+unix://{}", self.way(i).display()));
        let args: Vec<&str> =
            settings.iter().flat_map(|setting| ["--set", setting.as_str()]).collect();
        let offset = APART_MS[i].to_string();
        let environment = [
            ("GATEHOUSE_MUTATION", self.mutation.as_str()),
            ("GATEHOUSE_CLOCK_OFFSET_MS", offset.as_str()),
        ];
        let dir: &Path = self.base.dir.path();
        let log = dir.join(format!("{i}.log"));
        if life > 0 {
            let _ = fs::rename(&log, dir.join(format!("{i}.log.{life}")));
        }
        spawn_in(&environment, &dir.join("gatehouse.toml"), &args, &log).await
    }
}
