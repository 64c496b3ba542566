//! Redis forgets its scripts, restarts, or does not answer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use reqwest::Method;

use crate::harness::{Gatehouse, Tokens, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn scripts_that_were_flushed_are_sent_again() {
    let gatehouse = Gatehouse::with(2, &[]).await;
    let (done, gateways) = (AtomicBool::new(false), &gatehouse.gateways);
    let flush = async {
        while !done.load(Ordering::Relaxed) {
            gatehouse.redis.cli(&["SCRIPT", "FLUSH"]);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let work = async {
        for round in 0..10 {
            let logins = (0..20).map(|i| async move {
                let gateway = &gateways[i % 2];
                let tokens = gateway.login(&format!("user-{round}-{i}")).await;
                let tokens = gateway.refresh(&tokens.refresh).await.tokens();
                assert_eq!(gateway.call(Method::POST, "/api/v1/logout", &tokens).await.status, 204);
            });
            join_all(logins).await;
        }
        done.store(true, Ordering::Relaxed);
    };
    tokio::join!(flush, work);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_loses_nothing_that_was_acknowledged() {
    let gatehouse = Gatehouse::with(2, &["redis.timeout=250ms", "check.max_staleness=30s"]).await;
    let done = AtomicBool::new(false);
    let client = |i: usize| {
        let (gatehouse, done) = (&gatehouse, &done);
        async move {
            let gateway = &gatehouse.gateways[i % 2];
            let mut acknowledged: Vec<Tokens> = Vec::new();
            let mut unavailable = 0;
            while !done.load(Ordering::Relaxed) {
                let user = format!("user-{i}-{}", acknowledged.len());
                let answer = gateway.create(serde_json::json!({ "user_id": user })).await;
                match answer.status {
                    201 => acknowledged.push(answer.tokens()),
                    503 => {
                        assert_eq!(answer.code(), "store_unavailable");
                        assert!(answer.headers.contains_key("retry-after"));
                        unavailable += 1;
                    }
                    _ => panic!("{answer:?}"),
                }
                if let Some(tokens) = acknowledged.last() {
                    assert_eq!(gateway.check(&tokens.access).await, 200, "checks go on");
                }
            }
            (acknowledged, unavailable)
        }
    };
    let restart = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        gatehouse.redis.kill();
        tokio::time::sleep(Duration::from_millis(700)).await;
        gatehouse.redis.spawn();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        done.store(true, Ordering::Relaxed);
    };
    let (clients, ()) = tokio::join!(join_all((0..8).map(client)), restart);
    assert!(clients.iter().map(|(_, unavailable)| unavailable).sum::<i32>() > 0, "it was down");
    for (tokens, _) in clients {
        for tokens in tokens {
            let answer = gatehouse.gateway().refresh_from(&tokens.refresh, "").await;
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    }
}

#[tokio::test]
async fn without_redis_the_known_is_answered_for_a_while_and_then_nothing() {
    let gatehouse = Gatehouse::with(1, &["redis.timeout=250ms", "check.max_staleness=2s"]).await;
    let gateway = gatehouse.gateway();
    let (tokens, gone) = (gateway.login("ann").await, gateway.login("ann").await);
    gateway.call(Method::POST, "/api/v1/logout", &gone).await;
    gatehouse.redis.kill();
    assert_eq!(gateway.check(&tokens.access).await, 200);
    assert_eq!(gateway.check(&gone.access).await, 401, "what was revoked stays revoked");
    let start = Instant::now();
    let refused = gateway.refresh(&tokens.refresh).await;
    assert_eq!((refused.status, refused.code()), (503, "store_unavailable"));
    assert!(start.elapsed() < Duration::from_millis(600), "{:?}", start.elapsed());
    let unknown = || async { gateway.check(&tokens.access).await == 503 };
    assert!(eventually(Duration::from_secs(6), unknown).await);
    assert_eq!(gateway.check(&gone.access).await, 401);
    assert!(!gateway.ready().await);
    gatehouse.redis.spawn();
    let back = || async { gateway.check(&tokens.access).await == 200 && gateway.ready().await };
    assert!(eventually(Duration::from_secs(10), back).await);
    assert_eq!(gateway.check(&gone.access).await, 401);
}

#[tokio::test]
async fn a_redis_that_hangs_costs_no_more_than_the_time_limit() {
    let gatehouse = Gatehouse::with(1, &["redis.timeout=250ms"]).await;
    let gateway = gatehouse.gateway();
    let tokens = gateway.login("ann").await;
    gatehouse.redis.signal("STOP");
    let start = Instant::now();
    assert_eq!(gateway.refresh(&tokens.refresh).await.status, 503);
    assert!(start.elapsed() < Duration::from_millis(600), "{:?}", start.elapsed());
    assert_eq!(gateway.check(&tokens.access).await, 200);
    gatehouse.redis.signal("CONT");
    let back = || async { gateway.refresh(&tokens.refresh).await.status == 200 };
    assert!(eventually(Duration::from_secs(10), back).await);
}

#[tokio::test]
async fn a_full_redis_refuses_logins_and_still_revokes() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let tokens = gateway.login("ann").await;
    gatehouse.redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let refused = gateway.create(serde_json::json!({ "user_id": "bob" })).await;
    assert_eq!((refused.status, refused.code()), (503, "store_unavailable"));
    assert!(gatehouse.redis.keys("gh:*:user:bob").is_empty(), "nothing was half done");
    assert_eq!(gateway.check(&tokens.access).await, 200);
    assert_eq!(gateway.call(Method::POST, "/api/v1/logout", &tokens).await.status, 204);
    assert_eq!(gateway.check(&tokens.access).await, 401);
}

#[tokio::test]
async fn an_empty_redis_is_a_clean_start_and_no_theft() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let (tokens, gone) = (gateway.login("ann").await, gateway.login("ann").await);
    gateway.call(Method::POST, "/api/v1/logout", &gone).await;
    gatehouse.redis.cli(&["FLUSHALL"]);
    assert_eq!(gateway.refresh(&tokens.refresh).await.code(), "invalid_refresh_token");
    assert_eq!(gateway.check(&gone.access).await, 401);
    assert_eq!(gateway.metric(r#"gatehouse_refresh_total{result="stale"}"#).await, 0);
    let again = gateway.login("ann").await;
    let fresh = || async { gateway.check(&again.access).await == 200 && gateway.ready().await };
    assert!(eventually(Duration::from_secs(5), fresh).await);
}

#[tokio::test]
async fn more_requests_than_can_be_answered_are_told_so_and_checks_go_on() {
    let gatehouse = Gatehouse::with(1, &["limits.requests_at_once=2"]).await;
    let gateway = gatehouse.gateway();
    let tokens = gateway.login("ann").await;
    gatehouse.redis.signal("STOP");
    let answers = join_all((0..6).map(|_| gateway.refresh(&tokens.refresh))).await;
    let refused: Vec<_> = answers.iter().filter(|answer| answer.code() == "overloaded").collect();
    assert_eq!(refused.len(), 4, "{answers:?}");
    assert!(refused.iter().all(|answer| answer.status == 503));
    assert!(refused.iter().all(|answer| answer.headers.contains_key("retry-after")));
    assert_eq!(gateway.check(&tokens.access).await, 200);
    gatehouse.redis.signal("CONT");
    let back = || async { gateway.refresh(&tokens.refresh).await.status == 200 };
    assert!(eventually(Duration::from_secs(10), back).await);
}

#[tokio::test]
async fn under_load_lists_go_first_then_logins_and_refreshes_last() {
    let gatehouse = Gatehouse::with(1, &["limits.requests_at_once=8"]).await;
    let gateway = gatehouse.gateway();
    let tokens = gateway.login("ann").await;
    let look = || gateway.admin(Method::GET, "/api/v1/admin/users/ann/sessions");
    let login = || gateway.create(serde_json::json!({ "user_id": "bob" }));
    let held = async |held: usize| {
        gatehouse.redis.signal("STOP");
        let waiting = join_all((0..held).map(|_| gateway.refresh(&tokens.refresh)));
        let others = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let answers = tokio::join!(look(), login(), gateway.refresh(&tokens.refresh));
            let overloaded = |answer: &crate::harness::Answer| answer.code() == "overloaded";
            [overloaded(&answers.0), overloaded(&answers.1), overloaded(&answers.2)]
        };
        let (_, refused) = tokio::join!(waiting, others);
        gatehouse.redis.signal("CONT");
        let back = || async { gateway.refresh(&tokens.refresh).await.status == 200 };
        assert!(eventually(Duration::from_secs(10), back).await);
        refused
    };
    assert_eq!(held(1).await, [false, false, false]);
    assert_eq!(held(4).await, [true, false, false]);
    assert_eq!(held(6).await, [true, true, false]);
    assert_eq!(held(8).await, [true, true, true]);
}
