//! Two histories of the same bucket: what only one of them says holds in the end.

use std::time::Duration;

use reqwest::Method;

use super::Lab;
use super::proxy::Proxy;
use super::servers::Server;
use crate::harness::{Tokens, eventually};

/// A feed of the same length that says something else is not taken for the one that was read.
#[tokio::test(flavor = "multi_thread")]
async fn a_feed_that_parted_from_the_one_that_was_read_is_noticed() {
    let old = Server::start(&[]).await;
    let new = Server::replica_of(&old, &[]).await;
    let (to_old, to_new) = (Proxy::to(old.port).await, Proxy::to(new.port).await);
    let url = |proxy: &Proxy| format!("redis://127.0.0.1:{}", proxy.port);
    let lab = Lab::over(url(&to_old), 2, &["redis.buckets=1"]).await;
    let gateway = &lab.gateways[0];
    let mut logins: Vec<Tokens> = Vec::new();
    for i in 0..6 {
        logins.push(gateway.login(&format!("user-{i}")).await);
    }
    assert_eq!(gateway.call(Method::POST, "/api/v1/logout", &logins[0]).await.status, 204);
    new.cli(&["WAIT", "0", "0"]);
    let caught_up = || async {
        let offset = |server: &Server| {
            let info = server.cli(&["XLEN", "gh:{00}:revoked"]);
            info.parse::<u64>().unwrap_or(0)
        };
        offset(&old) == offset(&new)
    };
    assert!(eventually(Duration::from_secs(5), caught_up).await);
    new.cli(&["REPLICAOF", "NO", "ONE"]);
    let elsewhere = lab.gateway_by(&url(&to_new)).await;
    // One and two only in the old history, three and four only in the new one, as long as it.
    for (tokens, at) in [(1, gateway), (2, gateway), (3, &elsewhere), (4, &elsewhere)] {
        let answer = at.call(Method::POST, "/api/v1/logout", &logins[tokens]).await;
        assert_eq!(answer.status, 204);
    }
    lab.refused_everywhere(&logins[2].access).await;
    assert_eq!(gateway.check(&logins[3].access).await, 200, "not heard of yet");
    to_old.turn_to(new.port);
    for gateway in lab.gateways.iter().chain([&elsewhere]) {
        for tokens in &logins[..5] {
            let refused = || async { gateway.check(&tokens.access).await == 401 };
            assert!(eventually(Duration::from_secs(3), refused).await);
        }
        assert_eq!(gateway.check(&logins[5].access).await, 200);
    }
    assert!(lab.all_ready(Duration::from_secs(5)).await);
    let newcomer = lab.gateway().await;
    for tokens in &logins[..5] {
        assert_eq!(newcomer.check(&tokens.access).await, 401);
        assert_eq!(newcomer.refresh(&tokens.refresh).await.status, 401);
    }
}

/// A gateway that slept while the stream was cut short never answers from what it had.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_slept_through_more_than_the_feed_keeps_lets_nobody_in() {
    let server = Server::start(&[]).await;
    let url = format!("redis://127.0.0.1:{}", server.port);
    let lab = Lab::over(url, 2, &["check.max_staleness=1s"]).await;
    let [awake, asleep] = &lab.gateways[..] else { unreachable!() };
    let mut logins = Vec::new();
    for i in 0..40 {
        logins.push(awake.login(&format!("user-{i}")).await);
        assert_eq!(asleep.check(&logins[i].access).await, 200);
    }
    asleep.process.signal("STOP");
    for tokens in &logins[..39] {
        assert_eq!(awake.call(Method::POST, "/api/v1/logout", tokens).await.status, 204);
    }
    for bucket in 0..16 {
        server.cli(&["XTRIM", &format!("gh:{{{bucket:02x}}}:revoked"), "MAXLEN", "0"]);
    }
    tokio::time::sleep(Duration::from_millis(1500)).await;
    asleep.process.signal("CONT");
    for _ in 0..20 {
        for tokens in &logins[..39] {
            assert_ne!(asleep.check(&tokens.access).await, 200);
        }
    }
    let recovered =
        || async { asleep.ready().await && asleep.check(&logins[39].access).await == 200 };
    assert!(eventually(Duration::from_secs(5), recovered).await);
    for tokens in &logins[..39] {
        assert_eq!(asleep.check(&tokens.access).await, 401);
    }
}

/// A store that comes back empty is told what was revoked; everybody else logs in again.
#[tokio::test(flavor = "multi_thread")]
async fn an_empty_store_learns_what_was_revoked() {
    let server = Server::start(&[]).await;
    let lab = Lab::over(format!("redis://127.0.0.1:{}", server.port), 2, &[]).await;
    let gateway = &lab.gateways[0];
    let (dead, live) = (gateway.login("ann").await, gateway.login("bob").await);
    assert_eq!(gateway.call(Method::POST, "/api/v1/logout", &dead).await.status, 204);
    lab.refused_everywhere(&dead.access).await;
    server.cli(&["FLUSHALL"]);
    let told = || async {
        let index = |bucket: u8| {
            server.cli(&["ZRANGE", &format!("gh:{{{bucket:02x}}}:revoked:index"), "0", "-1"])
        };
        (0..16).map(index).any(|found| found.contains(&dead.session))
    };
    assert!(eventually(Duration::from_secs(2), told).await);
    let newcomer = lab.gateway().await;
    assert_eq!(newcomer.check(&dead.access).await, 401);
    assert_eq!(gateway.refresh(&live.refresh).await.code(), "invalid_refresh_token");
    assert_eq!(gateway.metric(r#"gatehouse_refresh_total{result="stale"}"#).await, 0);
}

/// The same when everything was revoked at once.
#[tokio::test(flavor = "multi_thread")]
async fn an_empty_store_learns_that_everything_was_revoked() {
    let server = Server::start(&[]).await;
    let lab = Lab::over(format!("redis://127.0.0.1:{}", server.port), 2, &[]).await;
    let old = lab.gateways[0].login("ann").await;
    let answer = lab.gateways[0].admin(Method::POST, "/api/v1/admin/revoke-everything").await;
    assert_eq!(answer.status, 204);
    let new = lab.gateways[0].login("ann").await;
    lab.refused_everywhere(&old.access).await;
    server.cli(&["FLUSHALL"]);
    let newcomer = lab.gateway().await;
    let refused = || async { newcomer.check(&old.access).await == 401 };
    assert!(eventually(Duration::from_secs(2), refused).await);
    assert_eq!(newcomer.check(&new.access).await, 200, "what came after it is good");
}
