//! Rotation: one successor, whoever asks; theft ends the session; nothing brings one back.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;
use reqwest::Method;

use crate::harness::{FIREFOX, Gatehouse, Tokens, eventually};

/// Waits until the store knows that a session's newest generation is in use.
async fn confirmed(gatehouse: &Gatehouse, tokens: &Tokens, generation: u32) {
    assert_eq!(gatehouse.gateway().check(&tokens.access).await, 200);
    let key = format!("gh:{{08}}:session:{}", tokens.session);
    let seen = || async { gatehouse.redis.cli(&["HGET", &key, "v"]) == generation.to_string() };
    assert!(eventually(Duration::from_secs(5), seen).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_at_once_get_one_and_the_same_successor() {
    let gatehouse = Gatehouse::with(2, &[]).await;
    let tokens = gatehouse.gateway().login("ann").await;
    let refreshes = (0..64).map(|i| gatehouse.gateways[i % 2].refresh(&tokens.refresh));
    let answers = join_all(refreshes).await;
    let successors: BTreeSet<String> =
        answers.into_iter().map(|answer| answer.tokens().refresh).collect();
    assert_eq!(successors.len(), 1);
    let next = gatehouse.gateway().refresh(successors.first().unwrap()).await;
    assert_eq!(next.status, 200, "and it works");
    assert_eq!(
        gatehouse.redis.cli(&["HGET", &format!("gh:{{08}}:session:{}", tokens.session), "g"]),
        "3"
    );
}

#[tokio::test]
async fn a_token_two_generations_old_ends_the_session_everywhere() {
    let gatehouse = Gatehouse::with(2, &[]).await;
    let [gateway, other] = &gatehouse.gateways[..] else { unreachable!() };
    let first = gateway.login("ann").await;
    let second = gateway.refresh(&first.refresh).await.tokens();
    let third = gateway.refresh(&second.refresh).await.tokens();
    let stolen = other.refresh(&first.refresh).await;
    assert_eq!((stolen.status, stolen.code()), (401, "refresh_token_reused"));
    for gateway in &gatehouse.gateways {
        let refused = || async { gateway.check(&third.access).await == 401 };
        assert!(eventually(Duration::from_millis(250), refused).await);
    }
    assert_eq!(gateway.refresh(&third.refresh).await.code(), "refresh_token_reused");
    assert!(other.metric(r#"gatehouse_refresh_total{result="stale"}"#).await >= 1);
    let events = gatehouse.redis.cli(&["XRANGE", "gh:{08}:events", "-", "+"]);
    assert_eq!(events.matches("refresh_token_reused").count(), 1, "told once");
}

#[tokio::test]
async fn a_lost_reply_is_given_again_within_the_grace_window() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let first = gateway.login("ann").await;
    let lost = gateway.refresh(&first.refresh).await.tokens();
    let again = gateway.refresh(&first.refresh).await.tokens();
    assert_eq!(lost.refresh, again.refresh);
    // Even after the successor was used: two tabs.
    confirmed(&gatehouse, &again, 2).await;
    assert_eq!(gateway.refresh(&first.refresh).await.tokens().refresh, lost.refresh);
    assert_eq!(gateway.metric(r#"gatehouse_refresh_total{result="concurrent"}"#).await, 2);
}

#[tokio::test]
async fn a_lost_reply_is_given_again_later_while_nobody_has_used_the_successor() {
    // Without a grace window every moment is later.
    let gatehouse = Gatehouse::with(1, &["tokens.grace=0s", "check.activity_flush=100ms"]).await;
    let gateway = gatehouse.gateway();
    let first = gateway.login("ann").await;
    let lost = gateway.refresh(&first.refresh).await.tokens();
    let hours_later = || async {
        let key = format!("gh:{{08}}:session:{}", first.session);
        // 23 hours before now, as the store counts.
        let rotated: u64 = gatehouse.redis.cli(&["HGET", &key, "r"]).parse().unwrap();
        gatehouse.redis.cli(&["HSET", &key, "r", &(rotated - 23 * 3_600_000).to_string()]);
    };
    hours_later().await;
    let again = gateway.refresh(&first.refresh).await.tokens();
    assert_eq!(lost.refresh, again.refresh);
    assert_eq!(gateway.metric(r#"gatehouse_refresh_total{result="lost_reply"}"#).await, 1);
    // From the moment the successor is seen, the old token is a stolen one.
    confirmed(&gatehouse, &again, 2).await;
    assert_eq!(gateway.refresh(&first.refresh).await.code(), "refresh_token_reused");
    assert_eq!(gateway.refresh(&again.refresh).await.code(), "refresh_token_reused");
}

#[tokio::test]
async fn a_day_later_the_old_token_is_a_stolen_one() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let first = gateway.login("ann").await;
    gateway.refresh(&first.refresh).await.tokens();
    let key = format!("gh:{{08}}:session:{}", first.session);
    let rotated: u64 = gatehouse.redis.cli(&["HGET", &key, "r"]).parse().unwrap();
    gatehouse.redis.cli(&["HSET", &key, "r", &(rotated - 25 * 3_600_000).to_string()]);
    assert_eq!(gateway.refresh(&first.refresh).await.code(), "refresh_token_reused");
}

#[tokio::test]
async fn another_client_is_not_given_the_successor_and_ends_nothing() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let first = gateway.login("ann").await;
    let second = gateway.refresh(&first.refresh).await.tokens();
    let foreign = gateway.refresh_from(&first.refresh, FIREFOX).await;
    assert_eq!((foreign.status, foreign.code()), (401, "invalid_refresh_token"));
    assert_eq!(gateway.metric(r#"gatehouse_refresh_total{result="foreign_device"}"#).await, 1);
    assert_eq!(gateway.check(&second.access).await, 200, "the session lives");
    assert_eq!(gateway.refresh(&second.refresh).await.status, 200);
}

#[tokio::test]
async fn a_generation_that_the_store_lost_is_rolled_forward() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let first = gateway.login("ann").await;
    let second = gateway.refresh(&first.refresh).await.tokens();
    let third = gateway.refresh(&second.refresh).await.tokens();
    // A failover to a replica that had not heard of the last two rotations.
    gatehouse.redis.cli(&[
        "HSET",
        &format!("gh:{{08}}:session:{}", first.session),
        "g",
        "1",
        "v",
        "0",
    ]);
    let fourth = gateway.refresh(&third.refresh).await.tokens();
    assert_eq!(gateway.metric(r#"gatehouse_refresh_total{result="rolled_forward"}"#).await, 1);
    assert_eq!(gateway.refresh(&fourth.refresh).await.status, 200);
}

#[tokio::test]
async fn a_refresh_moves_neither_the_idle_nor_the_absolute_limit() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let first = gateway.login("ann").await;
    let expiry = || gatehouse.redis.cli(&["ZSCORE", "gh:{08}:expiry", &first.session]);
    let before = expiry();
    gateway.refresh(&first.refresh).await.tokens();
    assert_eq!(expiry(), before);

    let gatehouse = Gatehouse::with(1, &["sessions.refresh_extends_idle=true"]).await;
    let gateway = gatehouse.gateway();
    let first = gateway.login("ann").await;
    let expiry = || gatehouse.redis.cli(&["ZSCORE", "gh:{08}:expiry", &first.session]);
    let before: f64 = expiry().parse().unwrap();
    gateway.refresh(&first.refresh).await.tokens();
    assert!(expiry().parse::<f64>().unwrap() > before, "unless it is told to");
}

/// The first of the four races of better-auth issue 11073.
#[tokio::test(flavor = "multi_thread")]
async fn race_concurrent_login() {
    let gatehouse = Gatehouse::with(2, &["sessions.limit=100"]).await;
    for round in 0..20 {
        let user = format!("user-{round}");
        let all = join_all((0..8).map(|i| gatehouse.gateways[i % 2].login(&user))).await;
        let gateway = gatehouse.gateway();
        let list = gateway.call(Method::GET, "/api/v1/users/sessions", &all[0]).await;
        assert_eq!(list.body["sessions"].as_array().unwrap().len(), 8, "none is missing");
        let revoked =
            gateway.call(Method::POST, "/api/v1/users/sessions/revoke-all", &all[0]).await;
        assert_eq!(revoked.body["revoked"], 7);
        for tokens in &all[1..] {
            assert_eq!(gateway.refresh(&tokens.refresh).await.code(), "session_revoked");
            assert_eq!(gateway.check(&tokens.access).await, 401);
        }
        assert_eq!(gateway.check(&all[0].access).await, 200);
    }
}

/// The second: a user whose set of sessions is gone.
#[tokio::test]
async fn race_missing_index() {
    let gatehouse = Gatehouse::with(2, &[]).await;
    let gateway = gatehouse.gateway();
    let (mine, other) = (gateway.login("ann").await, gateway.login("ann").await);
    gatehouse.redis.cli(&["DEL", "gh:{08}:user:ann"]);
    let answer = gateway.call(Method::POST, "/api/v1/users/sessions/revoke-all", &mine).await;
    assert_eq!(answer.status, 200);
    for gateway in &gatehouse.gateways {
        let refused = || async { gateway.check(&other.access).await == 401 };
        assert!(eventually(Duration::from_millis(250), refused).await, "revoked all the same");
    }
    assert_eq!(gateway.refresh(&other.refresh).await.code(), "session_revoked");
}

/// The third: a refresh under way while the session is revoked, in every order.
#[tokio::test(flavor = "multi_thread")]
async fn race_refresh_after_revoke() {
    const ROUNDS: usize = 10_000;
    const AT_ONCE: usize = 50;
    let gatehouse = Gatehouse::with(2, &["sessions.limit=100"]).await;
    let [one, two] = &gatehouse.gateways[..] else { unreachable!() };
    let mut granted_first = 0;
    for batch in 0..ROUNDS / AT_ONCE {
        let rounds = (0..AT_ONCE).map(|i| async move {
            let user = format!("user-{i}");
            let tokens = one.login(&user).await;
            let path = format!("/api/v1/admin/users/{user}/sessions/{}", tokens.session);
            let refresh = two.refresh(&tokens.refresh);
            let revoke = one.admin(Method::DELETE, &path);
            let (refreshed, revoked) = if (batch + i) % 2 == 0 {
                tokio::join!(refresh, revoke)
            } else {
                let (revoked, refreshed) = tokio::join!(revoke, refresh);
                (refreshed, revoked)
            };
            assert_eq!(revoked.status, 204, "{revoked:?}");
            let mut held = vec![tokens];
            if refreshed.status == 200 {
                held.push(refreshed.tokens());
            } else {
                assert_eq!(refreshed.code(), "session_revoked", "{refreshed:?}");
            }
            for tokens in &held {
                let again = two.refresh(&tokens.refresh).await;
                assert_eq!(again.code(), "session_revoked", "no session lives on");
                assert_eq!(one.check(&tokens.access).await, 401);
            }
            held.len() - 1
        });
        granted_first += join_all(rounds).await.into_iter().sum::<usize>();
    }
    assert!((1..ROUNDS).contains(&granted_first), "both orders happened: {granted_first}");
    assert!(gatehouse.redis.keys("gh:*:session:*").is_empty());
}

/// The fourth: a login that comes after everything was revoked stays.
#[tokio::test(flavor = "multi_thread")]
async fn race_login_after_revoke_all() {
    let gatehouse = Gatehouse::with(2, &["sessions.limit=100"]).await;
    let [one, two] = &gatehouse.gateways[..] else { unreachable!() };
    for round in 0..200 {
        let user = format!("user-{round}");
        let before = one.login(&user).await;
        let path = format!("/api/v1/admin/users/{user}/sessions/revoke-all");
        let (racing, revoked) = tokio::join!(two.login(&user), one.admin(Method::POST, &path));
        let after = two.login(&user).await;
        let revoked = revoked.body["revoked"].as_u64().unwrap();
        for gateway in [one, two] {
            let settled = || async {
                gateway.check(&before.access).await == 401
                    && (gateway.check(&racing.access).await == 401) == (revoked == 2)
                    && gateway.check(&after.access).await == 200
            };
            assert!(eventually(Duration::from_millis(250), settled).await, "round {round}");
        }
        let lives = if revoked == 2 { "session_revoked" } else { "" };
        assert_eq!(two.refresh(&racing.refresh).await.code(), lives);
        assert_eq!(one.refresh(&after.refresh).await.status, 200);
    }
}
