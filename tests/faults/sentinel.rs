//! Sentinels replace a primary.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;

use super::servers::{Sentinels, Server};
use super::{Lab, watch};
use crate::harness::{Gateway, eventually};

struct Watched {
    servers: [Server; 2],
    sentinels: Sentinels,
    lab: Lab,
}

impl Watched {
    async fn new(settings: &[&str], args: &[&str]) -> Self {
        let primary = Server::start(args).await;
        let replica = Server::replica_of(&primary, args).await;
        let sentinels = Sentinels::watch(&primary, 1).await;
        let lab = Lab::over(sentinels.url(), 2, settings).await;
        Self { servers: [primary, replica], sentinels, lab }
    }
}

/// Until a login works again, and how often it was tried.
async fn login_again(gateway: &Gateway) -> Duration {
    let start = Instant::now();
    let works = || async { gateway.create(json!({ "user_id": "bob" })).await.status == 201 };
    assert!(eventually(Duration::from_secs(20), works).await, "no login for 20 s");
    start.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_costs_no_check_and_few_seconds_of_logins() {
    let watched = Watched::new(&[], &[]).await;
    let lab = &watched.lab;
    let (live, dead) = (lab.gateways[0].login("ann").await, lab.gateways[0].login("ann").await);
    assert_eq!(lab.gateways[0].call(Method::POST, "/api/v1/logout", &dead).await.status, 204);
    lab.refused_everywhere(&dead.access).await;
    for signal in ["KILL", "STOP"] {
        let primary = watched.sentinels.primary();
        let server = watched.servers.iter().find(|server| server.port == primary).unwrap();
        let done = AtomicBool::new(false);
        let failing = async {
            if signal == "KILL" {
                server.kill();
            } else {
                server.signal("STOP");
            }
            let back = login_again(&lab.gateways[1]).await.max(login_again(&lab.gateways[0]).await);
            done.store(true, Ordering::Relaxed);
            back
        };
        let watching = watch(&lab.gateways, &live, &dead, &done);
        let (back, [shut_out, let_in, checks]) = tokio::join!(failing, watching);
        println!("SIG{signal}: logins back after {back:?}, {checks} checks meanwhile");
        assert_eq!((shut_out, let_in), (0, 0), "of {checks} checks");
        assert!(back < Duration::from_secs(6), "{back:?}");
        assert_ne!(watched.sentinels.primary(), primary);
        assert!(lab.all_ready(Duration::from_secs(5)).await);
        if signal == "KILL" {
            server.spawn();
            let known = || async {
                let replica = server.cli(&["INFO", "replication"]);
                replica.contains("role:slave") && replica.contains("master_link_status:up")
            };
            assert!(eventually(Duration::from_secs(30), known).await, "the old one comes back");
        } else {
            server.signal("CONT");
        }
    }
}

/// A primary that was cut off from its replica and was replaced is found out, also by gateways that
/// still reach it.
#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_lost_its_replica_is_not_believed() {
    let careful = ["--min-replicas-to-write", "1", "--min-replicas-max-lag", "2"];
    let watched = Watched::new(&["check.max_staleness=3s"], &careful).await;
    let lab = &watched.lab;
    let tokens = lab.gateways[0].login("ann").await;
    assert_eq!(lab.gateways[1].check(&tokens.access).await, 200);
    // The replica is gone for good: what the primary acknowledges would be lost with it.
    watched.servers[1].kill();
    let start = Instant::now();
    let noticed = || async { lab.gateways[0].check(&tokens.access).await == 503 };
    assert!(eventually(Duration::from_secs(12), noticed).await, "it goes on as if nothing was");
    println!("not believed any more after {:?}", start.elapsed());
    let refused = lab.gateways[0].call(Method::POST, "/api/v1/logout", &tokens).await;
    assert_eq!(refused.status, 503, "nothing is acknowledged that could be lost");
    watched.servers[1].spawn();
    watched.servers[1].wait().await;
    watched.servers[1].follow(watched.servers[0].port).await;
    let back = || async { lab.gateways[0].check(&tokens.access).await == 200 };
    assert!(eventually(Duration::from_secs(15), back).await);
    assert_eq!(lab.gateways[0].call(Method::POST, "/api/v1/logout", &tokens).await.status, 204);
    lab.refused_everywhere(&tokens.access).await;
}
