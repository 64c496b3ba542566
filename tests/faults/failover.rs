//! A primary dies with writes that its replica never got, and the replica takes over.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use reqwest::Method;

use super::proxy::{Fault, Proxy};
use super::servers::Server;
use super::{Lab, until, watch};
use crate::harness::{Gateway, Tokens, eventually};

/// A primary and its replica behind one address, as a hosted Redis has it.
struct Pair {
    servers: [Server; 2],
    primary: usize,
    address: Proxy,
    /// What the replica hears of the primary.
    link: Proxy,
}

impl Pair {
    async fn start() -> Self {
        let primary = Server::start(&[]).await;
        let (address, link) = (Proxy::to(primary.port).await, Proxy::to(primary.port).await);
        let replica = Server::start(&[]).await;
        replica.follow(link.port).await;
        Self { servers: [primary, replica], primary: 0, address, link }
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.address.port)
    }

    fn replica(&self) -> &Server {
        &self.servers[1 - self.primary]
    }

    /// From now on the replica misses what is written.
    fn cut(&self) {
        self.link.set(Fault::BlackHole);
    }

    /// The primary is gone, and the replica takes its place with what it has.
    fn fail_over(&mut self) {
        self.servers[self.primary].kill();
        self.primary = 1 - self.primary;
        let new = &self.servers[self.primary];
        assert_eq!(new.cli(&["REPLICAOF", "NO", "ONE"]), "OK");
        self.address.turn_to(new.port);
    }

    /// The one that died is the replica now.
    async fn repair(&self) {
        self.link.turn_to(self.servers[self.primary].port);
        self.link.set(Fault::None);
        self.replica().spawn();
        self.replica().wait().await;
        self.replica().follow(self.link.port).await;
    }
}

/// Logs out, and sees every gateway refuse it, while the replica hears of nothing.
async fn end(lab: &Lab, pair: &Pair, tokens: &Tokens, expected: u16) {
    pair.cut();
    let answer = lab.gateways[0].call(Method::POST, "/api/v1/logout", tokens).await;
    assert_eq!(answer.status, expected, "{answer:?}");
    lab.refused_everywhere(&tokens.access).await;
}

fn rounds() -> usize {
    std::env::var("GATEHOUSE_ROUNDS").map_or(8, |rounds| rounds.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_outlives_the_server_that_acknowledged_it() {
    let mut pair = Pair::start().await;
    let lab = Lab::over(pair.url(), 3, &[]).await;
    let mut slowest = Duration::ZERO;
    for round in 0..rounds() {
        let users: Vec<String> = (0..4).map(|i| format!("user-{round}-{i}")).collect();
        let dead = join_all(users.iter().map(|user| lab.gateways[1].login(user))).await;
        let live = lab.gateways[2].login("somebody-else").await;
        replicated(&lab.gateways[0], &pair).await;
        pair.cut();
        join_all(dead.iter().zip(&lab.gateways).map(|(tokens, gateway)| async {
            let answer = gateway.call(Method::POST, "/api/v1/logout", tokens).await;
            assert_eq!(answer.status, 204);
        }))
        .await;
        // The fourth is ended with all of its user's.
        let path = format!("/api/v1/admin/users/{}/sessions/revoke-all", users[3]);
        assert_eq!(lab.gateways[0].admin(Method::POST, &path).await.status, 200);
        for tokens in &dead {
            lab.refused_everywhere(&tokens.access).await;
        }
        let done = AtomicBool::new(false);
        let watching = watch(&lab.gateways, &live, &dead[round % 4], &done);
        let failing = async {
            pair.fail_over();
            let start = Instant::now();
            // The new primary has never heard of it; the gateways tell it.
            let told = || async { knows(&pair, &dead) };
            assert!(eventually(Duration::from_secs(10), told).await, "round {round}");
            slowest = slowest.max(start.elapsed());
            for tokens in &dead {
                for gateway in &lab.gateways {
                    let refused = gateway.refresh(&tokens.refresh).await;
                    assert_eq!(refused.status, 401, "round {round}: {refused:?}");
                }
            }
            done.store(true, Ordering::Relaxed);
        };
        let ([shut_out, let_in, checks], ()) = tokio::join!(watching, failing);
        assert!(checks > 0);
        assert_eq!((shut_out, let_in), (0, 0), "round {round}, of {checks} checks");
        if round == 0 {
            let newcomer = lab.gateway().await;
            for tokens in &dead {
                assert_eq!(newcomer.check(&tokens.access).await, 401);
                assert_eq!(newcomer.refresh(&tokens.refresh).await.status, 401);
            }
        }
        assert!(lab.all_ready(Duration::from_secs(10)).await);
        pair.repair().await;
    }
    println!("told again within {slowest:?}");
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    let told = lab.gateways[0].metric("gatehouse_revocations_reasserted_total").await
        + lab.gateways[1].metric("gatehouse_revocations_reasserted_total").await
        + lab.gateways[2].metric("gatehouse_revocations_reasserted_total").await;
    assert!(told >= 4, "each once, whoever was first: {told}");
}

/// Whether the primary of this moment has the tombstones of these.
fn knows(pair: &Pair, dead: &[Tokens]) -> bool {
    let primary = &pair.servers[pair.primary];
    let index = |bucket: u8| {
        primary.cli(&["ZRANGE", &format!("gh:{{{bucket:02x}}}:revoked:index"), "0", "-1"])
    };
    let tombstones: String = (0..16).map(index).collect();
    dead[..3].iter().all(|tokens| tombstones.contains(&format!("s:{}", tokens.session)))
        && tombstones.contains("u:")
}

/// The replica has all that was written until now.
async fn replicated(gateway: &Gateway, pair: &Pair) {
    let marker = gateway.login("marker").await;
    let key = format!("gh:*session:{}", marker.session);
    let there = || async { !pair.replica().cli(&["--scan", "--pattern", &key]).is_empty() };
    assert!(eventually(Duration::from_secs(10), there).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_that_was_lost_rolls_forward_and_a_thief_is_still_found() {
    let mut pair = Pair::start().await;
    let lab = Lab::over(pair.url(), 2, &["tokens.grace=0s"]).await;
    let gateway = &lab.gateways[0];
    let first = gateway.login("ann").await;
    replicated(gateway, &pair).await;
    pair.cut();
    let second = gateway.refresh(&first.refresh).await.tokens();
    let third = gateway.refresh(&second.refresh).await.tokens();
    pair.fail_over();
    until(201, || lab.gateways[1].create(serde_json::json!({ "user_id": "bob" }))).await;
    // The store is at the first generation again, its client at the third.
    let answer = lab.gateways[1].refresh(&third.refresh).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(lab.gateways[1].check(&answer.tokens().access).await, 200);
    let stolen = lab.gateways[1].refresh(&first.refresh).await;
    assert_eq!(stolen.code(), "refresh_token_reused", "{stolen:?}");
    assert_eq!(gateway.refresh(&third.refresh).await.code(), "refresh_token_reused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_was_lost_is_no_theft() {
    let mut pair = Pair::start().await;
    let lab = Lab::over(pair.url(), 1, &[]).await;
    let gateway = &lab.gateways[0];
    replicated(gateway, &pair).await;
    pair.cut();
    let lost = gateway.login("ann").await;
    pair.fail_over();
    until(201, || gateway.create(serde_json::json!({ "user_id": "bob" }))).await;
    assert_eq!(gateway.refresh(&lost.refresh).await.code(), "invalid_refresh_token");
    assert_eq!(gateway.metric(r#"gatehouse_refresh_total{result="stale"}"#).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_else_saw_is_insisted_on_by_who_was_told() {
    let mut pair = Pair::start().await;
    let lab = Lab::over(pair.url(), 2, &[]).await;
    let tokens = lab.gateways[1].login("ann").await;
    replicated(&lab.gateways[0], &pair).await;
    // The feed brings nothing: the gateway that ended it is the only one that knows.
    lab.gateways[1].process.signal("STOP");
    end_alone(&lab.gateways[0], &pair, &tokens).await;
    pair.fail_over();
    lab.gateways[1].process.signal("CONT");
    let told = || async { lab.gateways[1].check(&tokens.access).await == 401 };
    assert!(eventually(Duration::from_secs(5), told).await);
    assert_eq!(lab.gateways[0].check(&tokens.access).await, 401);
    let refused = || async { lab.gateways[1].refresh(&tokens.refresh).await.status == 401 };
    assert!(eventually(Duration::from_secs(5), refused).await);
}

async fn end_alone(gateway: &Gateway, pair: &Pair, tokens: &Tokens) {
    pair.cut();
    assert_eq!(gateway.call(Method::POST, "/api/v1/logout", tokens).await.status, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_is_confirmed_by_replicas_or_says_that_it_is_not() {
    let mut pair = Pair::start().await;
    let lab = Lab::over(pair.url(), 2, &["redis.durability=wait"]).await;
    let (one, other) = (lab.gateways[0].login("ann").await, lab.gateways[0].login("ann").await);
    assert_eq!(lab.gateways[0].call(Method::POST, "/api/v1/logout", &one).await.status, 204);
    replicated(&lab.gateways[0], &pair).await;
    end(&lab, &pair, &other, 202).await;
    let gone = lab.gateways[1].login("bob").await;
    let all = lab.gateways[1].call(Method::POST, "/api/v1/users/sessions/revoke-all", &gone);
    assert_eq!(all.await.status, 202);
    pair.fail_over();
    until(201, || lab.gateways[0].create(serde_json::json!({ "user_id": "carol" }))).await;
    assert_eq!(lab.gateways[0].check(&other.access).await, 401);
    assert_eq!(lab.gateways[1].check(&other.access).await, 401);
    // Without a replica nothing can be confirmed.
    let last = lab.gateways[0].login("dan").await;
    assert_eq!(lab.gateways[0].call(Method::POST, "/api/v1/logout", &last).await.status, 202);
}
