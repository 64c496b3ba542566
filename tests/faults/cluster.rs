//! A Redis Cluster: whole, one that loses a server, and one whose slots move.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use reqwest::Method;
use serde_json::json;

use super::servers::{Cluster, cli};
use super::{Lab, watch};
use crate::harness::{Gateway, eventually, spawn};

/// Logs one user of each bucket in, again and again, and tells for each how long the longest time
/// without a success was.
async fn log_in_everywhere(
    gateway: &Gateway,
    users: &[String],
    done: &AtomicBool,
) -> Vec<Duration> {
    join_all(users.iter().map(|user| async move {
        let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
        while !done.load(Ordering::Relaxed) {
            let answer = gateway.create(json!({ "user_id": user })).await;
            assert!(matches!(answer.status, 201 | 503), "{answer:?}");
            if answer.status == 201 {
                longest = longest.max(last.elapsed());
                last = Instant::now();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        longest.max(last.elapsed())
    }))
    .await
}

/// A user of every bucket.
async fn one_of_each(gateway: &Gateway, cluster: &Cluster) -> Vec<(String, String)> {
    let mut found = std::collections::BTreeMap::new();
    for i in 0.. {
        let user = format!("user-{i}");
        gateway.login(&user).await;
        for port in &cluster.primaries() {
            for key in cli(*port, &["--scan", "--pattern", "gh:*:user:*"]).lines() {
                let (bucket, user) =
                    key.strip_prefix("gh:{").unwrap().split_once("}:user:").unwrap();
                found.insert(bucket.to_owned(), user.to_owned());
            }
        }
        if found.len() == 16 {
            return found.into_iter().collect();
        }
    }
    unreachable!()
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_live_and_end_wherever_their_bucket_is() {
    let cluster = Cluster::start(3, 0).await;
    let lab = Lab::over(cluster.url(), 2, &[]).await;
    let [one, other] = &lab.gateways[..] else { unreachable!() };
    let mut all = Vec::new();
    for i in 0..48 {
        let first = one.login(&format!("user-{i}")).await;
        let tokens = other.refresh(&first.refresh).await.tokens();
        assert_eq!(other.check(&tokens.access).await, 200);
        all.push(tokens);
    }
    let spread = cluster.primaries().iter().all(|port| cli(*port, &["DBSIZE"]) != "0");
    assert!(spread, "every server has some");
    for tokens in &all[..32] {
        assert_eq!(one.call(Method::POST, "/api/v1/logout", tokens).await.status, 204);
        let refused = || async { other.check(&tokens.access).await == 401 };
        assert!(eventually(Duration::from_millis(250), refused).await);
        assert_eq!(other.refresh(&tokens.refresh).await.code(), "session_revoked");
    }
    let newcomer = lab.gateway().await;
    for tokens in &all[..32] {
        assert_eq!(newcomer.check(&tokens.access).await, 401);
    }
    assert_eq!(one.admin(Method::POST, "/api/v1/admin/revoke-everything").await.status, 204);
    for gateway in [one, other, &newcomer] {
        for tokens in &all[32..] {
            let refused = || async { gateway.check(&tokens.access).await == 401 };
            assert!(eventually(Duration::from_millis(250), refused).await);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_lost_stops_only_its_own_buckets_and_not_for_long() {
    let cluster = Cluster::start(3, 1).await;
    let lab = Lab::over(cluster.url(), 2, &["check.max_staleness=30s"]).await;
    let each = one_of_each(&lab.gateways[0], &cluster).await;
    let victim = cluster.primaries()[0];
    let mine: Vec<bool> = each.iter().map(|(bucket, _)| cluster.owner(bucket) == victim).collect();
    let users: Vec<String> = each.into_iter().map(|(_, user)| user).collect();
    let (live, dead) = (lab.gateways[0].login("ann").await, lab.gateways[0].login("ann").await);
    assert_eq!(lab.gateways[0].call(Method::POST, "/api/v1/logout", &dead).await.status, 204);
    lab.refused_everywhere(&dead.access).await;
    let done = AtomicBool::new(false);
    let failing = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        cluster.kill(victim);
        tokio::time::sleep(Duration::from_secs(8)).await;
        done.store(true, Ordering::Relaxed);
    };
    let ((), one, other, [shut_out, let_in, checks]) = tokio::join!(
        failing,
        log_in_everywhere(&lab.gateways[0], &users, &done),
        log_in_everywhere(&lab.gateways[1], &users, &done),
        watch(&lab.gateways, &live, &dead, &done),
    );
    assert_eq!((shut_out, let_in), (0, 0), "of {checks} checks");
    let (mut affected, mut spared) = (Duration::ZERO, Duration::ZERO);
    for (waited, mine) in one.iter().zip(&mine).chain(other.iter().zip(&mine)) {
        let longest = if *mine { &mut affected } else { &mut spared };
        *longest = (*longest).max(*waited);
    }
    println!(
        "longest without a login: {affected:?} in buckets of the lost server, {spared:?} in others"
    );
    assert!(affected < Duration::from_secs(6), "{affected:?}");
    assert!(spared < Duration::from_millis(1500), "{spared:?}");
    assert!(lab.all_ready(Duration::from_secs(5)).await);
    let ended = lab.gateways[1].call(Method::POST, "/api/v1/logout", &live).await;
    assert_eq!(ended.status, 204);
    lab.refused_everywhere(&live.access).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_that_move_under_load_cost_little() {
    let cluster = Cluster::start(3, 0).await;
    let lab = Lab::over(cluster.url(), 2, &["check.max_staleness=30s"]).await;
    let each = one_of_each(&lab.gateways[0], &cluster).await;
    let users: Vec<String> = each.into_iter().map(|(_, user)| user).collect();
    let (live, dead) = (lab.gateways[0].login("ann").await, lab.gateways[0].login("ann").await);
    assert_eq!(lab.gateways[0].call(Method::POST, "/api/v1/logout", &dead).await.status, 204);
    lab.refused_everywhere(&dead.access).await;
    let done = AtomicBool::new(false);
    let [from, to, ..] = cluster.primaries()[..] else { unreachable!() };
    let moving = async {
        let id = |port: u16| cli(port, &["CLUSTER", "MYID"]);
        let moved = Command::new("redis-cli")
            .args(["--cluster", "reshard", &format!("127.0.0.1:{from}")])
            .args(["--cluster-from", &id(from), "--cluster-to", &id(to)])
            .args(["--cluster-slots", "5462", "--cluster-yes", "--cluster-pipeline", "100"])
            .stdout(Stdio::null())
            .spawn();
        let mut moved = moved.unwrap();
        let over = || {
            let ended = moved.try_wait().unwrap();
            async move { ended.is_some_and(|status| status.success()) }
        };
        assert!(eventually(Duration::from_mins(2), over).await, "the slots do not move");
        tokio::time::sleep(Duration::from_secs(1)).await;
        done.store(true, Ordering::Relaxed);
    };
    let ((), waited, [shut_out, let_in, checks]) = tokio::join!(
        moving,
        log_in_everywhere(&lab.gateways[0], &users, &done),
        watch(&lab.gateways, &live, &dead, &done),
    );
    assert_eq!((shut_out, let_in), (0, 0), "of {checks} checks");
    let longest = waited.into_iter().max().unwrap();
    println!("longest without a login while slots moved: {longest:?}");
    assert!(longest < Duration::from_secs(5), "{longest:?}");
    assert!(lab.all_ready(Duration::from_secs(5)).await);
    for user in &users {
        let tokens = lab.gateways[0].login(user).await;
        assert_eq!(lab.gateways[1].call(Method::POST, "/api/v1/logout", &tokens).await.status, 204);
        lab.refused_everywhere(&tokens.access).await;
    }
}

/// While a bucket's keys are on two members, each sees half of them: neither may judge by that.
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_half_moved_is_not_judged_by_its_halves() {
    let cluster = Cluster::start(3, 0).await;
    let lab = Lab::over(cluster.url(), 1, &["check.max_staleness=30s", "sessions.limit=2"]).await;
    let gateway = &lab.gateways[0];
    let (one, two) = (gateway.login("ann").await, gateway.login("ann").await);
    let key = cluster.key(&format!("gh:*session:{}", one.session));
    let tag = key.split('}').next().unwrap().to_owned();
    let from = cluster.owner(tag.strip_prefix("gh:{").unwrap());
    let to = cluster.primaries().into_iter().find(|port| *port != from).unwrap();
    let slot = cli(from, &["CLUSTER", "KEYSLOT", &key]);
    let (id_from, id_to) = (cli(from, &["CLUSTER", "MYID"]), cli(to, &["CLUSTER", "MYID"]));
    assert_eq!(cli(to, &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &id_from]), "OK");
    assert_eq!(cli(from, &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &id_to]), "OK");
    let migrate =
        |key: &str| cli(from, &["MIGRATE", "127.0.0.1", &to.to_string(), key, "0", "2000"]);
    assert_eq!(migrate(&key), "OK");
    let before = cli(from, &["CLUSTER", "COUNTKEYSINSLOT", &slot]);
    for tokens in [&one, &two] {
        assert_eq!(gateway.refresh(&tokens.refresh).await.status, 503, "not refused");
        assert_eq!(gateway.check(&tokens.access).await, 200);
        let ended = gateway.call(Method::POST, "/api/v1/logout", tokens).await;
        assert_eq!(ended.status, 503, "not acknowledged");
    }
    assert_eq!(gateway.create(json!({ "user_id": "ann" })).await.status, 503);
    assert_eq!(cli(from, &["CLUSTER", "COUNTKEYSINSLOT", &slot]), before, "nothing was half done");
    for key in cli(from, &["CLUSTER", "GETKEYSINSLOT", &slot, "1000"]).lines() {
        assert_eq!(migrate(key), "OK");
    }
    for port in cluster.primaries() {
        assert_eq!(cli(port, &["CLUSTER", "SETSLOT", &slot, "NODE", &id_to]), "OK");
    }
    let works = || async { gateway.refresh(&one.refresh).await.status == 200 };
    assert!(eventually(Duration::from_secs(3), works).await);
    assert_eq!(gateway.call(Method::POST, "/api/v1/logout", &two).await.status, 204);
    lab.refused_everywhere(&two.access).await;
}

/// One member that would throw sessions away is one too many.
#[tokio::test(flavor = "multi_thread")]
async fn every_member_has_to_be_fit() {
    let cluster = Cluster::start(3, 0).await;
    let lab = Lab::over(cluster.url(), 1, &[]).await;
    cli(cluster.primaries()[2], &["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    let (config, log) =
        (lab.house.dir.path().join("gatehouse.toml"), lab.house.dir.path().join("unfit"));
    let url = format!("redis.url={}", cluster.url());
    let mut unfit = spawn(&config, &["--set", &url], &log).await;
    let ended = || {
        let ended = unfit.process.0.try_wait().unwrap();
        async move { ended.is_some_and(|status| !status.success()) }
    };
    assert!(eventually(Duration::from_secs(10), ended).await, "it starts all the same");
    let said = std::fs::read_to_string(&log).unwrap();
    assert!(said.contains("maxmemory-policy is allkeys-lru"), "{said}");
}
