//! What Redis and the network do to a gateway when they fail, one fault at a time.
//!
//! Real servers are killed, stopped, replaced and cut off. Each test says what the fault may cost;
//! a revoked session that is let in again is never a part of that.

mod failover;
mod history;
mod network;
mod proxy;
mod sentinel;
mod servers;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;

use crate::harness::{Answer, Gatehouse, Gateway, Tokens, eventually, spawn};

/// Gateways that share their keys, over servers that are not the harness's.
struct Lab {
    house: Gatehouse,
    url: String,
    settings: Vec<String>,
    gateways: Vec<Gateway>,
}

impl Lab {
    async fn over(url: String, gateways: usize, settings: &[&str]) -> Self {
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let house = Gatehouse::with(0, &[]).await;
        let mut lab = Self { house, url, settings, gateways: Vec::new() };
        for _ in 0..gateways {
            let gateway = lab.gateway().await;
            lab.gateways.push(gateway);
        }
        lab
    }

    /// Another gateway, ready to answer.
    async fn gateway(&self) -> Gateway {
        self.gateway_by(&self.url).await
    }

    /// Another gateway that goes another way to the same servers.
    async fn gateway_by(&self, url: &str) -> Gateway {
        static NUMBER: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let log = self.house.dir.path().join(format!("lab-{number}.log"));
        let url = format!("redis.url={url}");
        let mut args = vec!["--set", &url, "--set", "redis.timeout=250ms"];
        args.extend(self.settings.iter().flat_map(|setting| ["--set", setting]));
        let gateway = spawn(&self.house.dir.path().join("gatehouse.toml"), &args, &log).await;
        let up = eventually(Duration::from_secs(20), || gateway.ready()).await;
        assert!(up, "not ready: {}", std::fs::read_to_string(&log).unwrap());
        gateway
    }

    /// Every gateway refuses a token within the time promised.
    async fn refused_everywhere(&self, token: &str) {
        for gateway in &self.gateways {
            let refused = || async { gateway.check(token).await == 401 };
            let refused = eventually(Duration::from_millis(250), refused).await;
            assert!(refused, "still let in");
        }
    }

    async fn all_ready(&self, limit: Duration) -> bool {
        let ready = self.gateways.iter().map(|gateway| eventually(limit, || gateway.ready()));
        join_all(ready).await.into_iter().all(|ready| ready)
    }
}

/// How long it takes until something is answered so.
async fn until<F: Future<Output = Answer>>(status: u16, mut ask: impl FnMut() -> F) -> Duration {
    let start = Instant::now();
    let answered = || {
        let answer = ask();
        async { answer.await.status == status }
    };
    assert!(eventually(Duration::from_secs(30), answered).await, "never {status}");
    start.elapsed()
}

/// Checks a live and a dead token at every gateway until told to stop, and counts the wrong answers:
/// (live ones not let in, dead ones let in, checks).
async fn watch(gateways: &[Gateway], live: &Tokens, dead: &Tokens, done: &AtomicBool) -> [u64; 3] {
    let watching = gateways.iter().map(|gateway| async move {
        let mut wrong = [0; 3];
        while !done.load(Ordering::Relaxed) {
            wrong[0] += u64::from(gateway.check(&live.access).await != 200);
            wrong[1] += u64::from(gateway.check(&dead.access).await == 200);
            wrong[2] += 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        wrong
    });
    join_all(watching).await.into_iter().fold([0; 3], |sum, one| [0, 1, 2].map(|i| sum[i] + one[i]))
}
