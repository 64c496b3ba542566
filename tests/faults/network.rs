//! The network between a gateway and its Redis.

use std::time::{Duration, Instant};

use futures::future::join_all;
use reqwest::Method;
use serde_json::json;

use super::proxy::{Fault, Proxy};
use super::servers::Server;
use super::{Lab, until};
use crate::harness::{Gateway, eventually};

/// A gateway's time limit of 250 ms, and the machine's own.
const AT_MOST: Duration = Duration::from_millis(300);

struct Wire {
    server: Server,
    proxy: Proxy,
    lab: Lab,
}

impl Wire {
    async fn new(settings: &[&str]) -> Self {
        let server = Server::start(&[]).await;
        let proxy = Proxy::to(server.port).await;
        let lab = Lab::over(format!("redis://127.0.0.1:{}", proxy.port), 1, settings).await;
        Self { server, proxy, lab }
    }

    fn gateway(&self) -> &Gateway {
        &self.lab.gateways[0]
    }
}

/// Writes are refused in time, again and again, and checks go on.
async fn costs_little(gateway: &Gateway, access: &str, refresh: &str) {
    for _ in 0..12 {
        let start = Instant::now();
        let answer = gateway.refresh(refresh).await;
        assert_eq!((answer.status, answer.code()), (503, "store_unavailable"));
        assert!(answer.headers.contains_key("retry-after"));
        assert!(start.elapsed() < AT_MOST, "{:?}", start.elapsed());
        assert_eq!(gateway.check(access).await, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_swallows_everything_costs_little_and_is_survived() {
    let wire = Wire::new(&["check.max_staleness=30s"]).await;
    let tokens = wire.gateway().login("ann").await;
    let handles = |gateway: &Gateway| {
        std::fs::read_dir(format!("/proc/{}/fd", gateway.process.0.id())).unwrap().count()
    };
    let before = handles(wire.gateway());
    wire.proxy.set(Fault::BlackHole);
    costs_little(wire.gateway(), &tokens.access, &tokens.refresh).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    costs_little(wire.gateway(), &tokens.access, &tokens.refresh).await;
    wire.proxy.set(Fault::None);
    let back = until(200, || wire.gateway().refresh(&tokens.refresh)).await;
    assert!(back < Duration::from_secs(2), "{back:?}");
    let calm = || async { handles(wire.gateway()) <= before + 4 && wire.gateway().ready().await };
    assert!(eventually(Duration::from_secs(10), calm).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_stopped_costs_little_and_is_survived() {
    let wire = Wire::new(&["check.max_staleness=30s"]).await;
    let tokens = wire.gateway().login("ann").await;
    wire.server.signal("STOP");
    costs_little(wire.gateway(), &tokens.access, &tokens.refresh).await;
    wire.server.signal("CONT");
    let back = until(200, || wire.gateway().refresh(&tokens.refresh)).await;
    assert!(back < Duration::from_secs(2), "{back:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_break_are_made_anew() {
    let wire = Wire::new(&["check.max_staleness=30s"]).await;
    let tokens = wire.gateway().login("ann").await;
    wire.proxy.set(Fault::Reset);
    costs_little(wire.gateway(), &tokens.access, &tokens.refresh).await;
    wire.proxy.set(Fault::None);
    let back = until(200, || wire.gateway().refresh(&tokens.refresh)).await;
    assert!(back < Duration::from_secs(2), "{back:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_is_lost_does_nothing_twice() {
    let wire = Wire::new(&["check.max_staleness=30s"]).await;
    let gateway = wire.gateway();
    let tokens = gateway.login("ann").await;
    let new = json!({ "user_id": "bob", "request_id": "the same" });
    wire.proxy.set(Fault::DropReplies);
    assert_eq!(gateway.create(new.clone()).await.status, 503);
    assert_eq!(gateway.refresh(&tokens.refresh).await.status, 503);
    wire.proxy.set(Fault::None);
    until(201, || gateway.create(new.clone())).await;
    let again = gateway.create(new).await.tokens();
    let sessions = gateway.admin(Method::GET, "/api/v1/admin/users/bob/sessions").await;
    assert_eq!(sessions.body["sessions"].as_array().unwrap().len(), 1, "{again:?}");
    let answer = gateway.refresh(&tokens.refresh).await;
    assert_eq!(answer.status, 200, "the successor that was lost: {answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_store_slows_no_check_and_gathers_no_queue() {
    let wire = Wire::new(&["limits.requests_at_once=8", "check.max_staleness=30s"]).await;
    let gateway = wire.gateway();
    let tokens = gateway.login("ann").await;
    wire.proxy.set(Fault::Delay(Duration::from_millis(100)));
    let start = Instant::now();
    let answers = join_all((0..64).map(|_| gateway.refresh(&tokens.refresh))).await;
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    let shed = answers.iter().filter(|answer| answer.code() == "overloaded").count();
    assert!(shed >= 32, "{shed} of 64 were told to come back");
    assert!(answers.iter().all(|answer| matches!(answer.status, 200 | 503)), "{answers:?}");
    let start = Instant::now();
    assert_eq!(gateway.check(&tokens.access).await, 200);
    assert!(start.elapsed() < Duration::from_millis(100), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_that_holds_the_server_up_is_not_waited_for() {
    let wire = Wire::new(&["check.max_staleness=30s"]).await;
    let tokens = wire.gateway().login("ann").await;
    let port = wire.server.port;
    let busy =
        tokio::task::spawn_blocking(move || super::servers::cli(port, &["DEBUG", "SLEEP", "3"]));
    tokio::time::sleep(Duration::from_millis(100)).await;
    costs_little(wire.gateway(), &tokens.access, &tokens.refresh).await;
    busy.await.unwrap();
    let back = until(200, || wire.gateway().refresh(&tokens.refresh)).await;
    assert!(back < Duration::from_secs(2), "{back:?}");
}

/// Requests that their callers give up are not answered to others.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_gives_up_gets_nobody_elses_answer() {
    let wire = Wire::new(&[]).await;
    let gateway = wire.gateway();
    let rounds: u64 = std::env::var("GATEHOUSE_ABORTS").map_or(40, |n| n.parse().unwrap());
    let people: Vec<String> = (0..50).map(|i| format!("user-{i}")).collect();
    let logins = join_all(people.iter().map(|user| gateway.login(user))).await;
    for round in 0..rounds {
        let asking =
            people.iter().zip(&logins).zip(0..).map(async |((user, tokens), i): (_, u64)| {
                let list = gateway.call(Method::GET, "/api/v1/users/sessions", tokens);
                // A third of them leave, after some tenths of a millisecond.
                let patience = Duration::from_micros((i * 7919 + round * 104_729) % 3000);
                if (i + round) % 3 == 0 {
                    let _ = tokio::time::timeout(patience, list).await;
                    return;
                }
                let answer = list.await;
                assert_eq!(answer.status, 200);
                for session in answer.body["sessions"].as_array().unwrap() {
                    assert_eq!(session["id"], tokens.session, "of {user}");
                }
            });
        join_all(asking).await;
    }
}
