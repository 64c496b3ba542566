//! Ending sessions: here at once, elsewhere within 250 ms, and for good.

use std::time::Duration;

use reqwest::Method;

use crate::harness::{Gatehouse, Gateway, Tokens, eventually};

async fn refuses(gateway: &Gateway, tokens: &Tokens) -> bool {
    eventually(Duration::from_millis(250), || async { gateway.check(&tokens.access).await == 401 })
        .await
}

#[tokio::test]
async fn a_logout_is_obeyed_by_every_gateway() {
    let gatehouse = Gatehouse::with(2, &[]).await;
    let [gateway, other] = &gatehouse.gateways[..] else { unreachable!() };
    let tokens = gateway.login("ann").await;
    assert_eq!(
        (gateway.check(&tokens.access).await, other.check(&tokens.access).await),
        (200, 200)
    );
    assert_eq!(gateway.call(Method::POST, "/api/v1/logout", &tokens).await.status, 204);
    assert_eq!(gateway.check(&tokens.access).await, 401, "here at once");
    assert!(refuses(other, &tokens).await);
    assert_eq!(other.refresh(&tokens.refresh).await.code(), "session_revoked");
    for part in ["session:*", "user:*", "expiry", "agents*"] {
        assert!(gatehouse.redis.keys(&format!("gh:*:{part}")).is_empty(), "no trace of it");
    }
}

#[tokio::test]
async fn a_gateway_that_starts_later_knows_what_was_revoked() {
    let mut gatehouse = Gatehouse::start().await;
    let (gone, kept) =
        (gatehouse.gateway().login("ann").await, gatehouse.gateway().login("bob").await);
    gatehouse.gateway().call(Method::POST, "/api/v1/logout", &gone).await;
    let carol = gatehouse.gateway().login("carol").await;
    let all = "/api/v1/users/sessions/revoke-all";
    let request = gatehouse.gateway().post(all).bearer_auth(&carol.access);
    let request = request.json(&serde_json::json!({ "include_current": true }));
    assert_eq!(request.send().await.unwrap().status(), 200);
    let newcomer = gatehouse.add_gateway().await;
    assert_eq!(newcomer.check(&gone.access).await, 401);
    assert_eq!(newcomer.check(&carol.access).await, 401);
    assert_eq!(newcomer.check(&kept.access).await, 200);
}

#[tokio::test]
async fn everything_is_revoked_at_once_and_what_comes_after_lives() {
    let mut gatehouse = Gatehouse::with(2, &["sweep.interval=100ms"]).await;
    let mut all = Vec::new();
    for i in 0..40 {
        all.push(gatehouse.gateway().login(&format!("user-{i}")).await);
    }
    let answer = gatehouse.gateway().admin(Method::POST, "/api/v1/admin/revoke-everything").await;
    assert_eq!(answer.status, 204);
    let after = gatehouse.gateway().login("user-1").await;
    for gateway in &gatehouse.gateways {
        for tokens in &all {
            assert!(refuses(gateway, tokens).await);
        }
        assert_eq!(gateway.check(&after.access).await, 200);
    }
    for tokens in &all {
        assert_eq!(gatehouse.gateway().refresh(&tokens.refresh).await.code(), "session_revoked");
    }
    let cleared = || async { gatehouse.redis.keys("gh:*:session:*").len() == 1 };
    assert!(eventually(Duration::from_secs(5), cleared).await, "the records are cleared away");
    let newcomer = gatehouse.add_gateway().await;
    assert_eq!(newcomer.check(&all[7].access).await, 401);
    assert_eq!(newcomer.check(&after.access).await, 200);
}

#[tokio::test]
async fn a_feed_that_lost_entries_is_read_anew() {
    let gatehouse = Gatehouse::with(2, &[]).await;
    let [gateway, other] = &gatehouse.gateways[..] else { unreachable!() };
    let (one, two) = (gateway.login("ann").await, gateway.login("ann").await);
    // The other gateway is not looking while more is revoked than the stream keeps.
    other.process.signal("STOP");
    gatehouse.redis.cut_feed_readers();
    gateway.call(Method::POST, "/api/v1/logout", &one).await;
    gatehouse.redis.cli(&["XTRIM", "gh:{08}:revoked", "MAXLEN", "0"]);
    gateway.call(Method::POST, "/api/v1/logout", &two).await;
    other.process.signal("CONT");
    assert!(
        eventually(Duration::from_secs(2), || async { other.check(&one.access).await == 401 })
            .await
    );
    assert!(refuses(other, &two).await);
    assert!(other.metric("gatehouse_feed_resyncs_total").await >= 1);
}

#[tokio::test]
async fn a_stream_that_vanished_is_noticed_by_the_heartbeat() {
    let gatehouse = Gatehouse::with(2, &[]).await;
    let [gateway, other] = &gatehouse.gateways[..] else { unreachable!() };
    let tokens = gateway.login("ann").await;
    other.process.signal("STOP");
    gatehouse.redis.cut_feed_readers();
    gateway.call(Method::POST, "/api/v1/logout", &tokens).await;
    gatehouse.redis.cli(&["DEL", "gh:{08}:revoked"]);
    other.process.signal("CONT");
    assert!(
        eventually(Duration::from_secs(6), || async { other.check(&tokens.access).await == 401 })
            .await
    );
}

#[tokio::test]
async fn more_revocations_than_can_be_held_let_nobody_in() {
    let gatehouse = Gatehouse::with(2, &["check.max_revocations=100"]).await;
    let gateway = gatehouse.gateway();
    let innocent = gateway.login("innocent").await;
    let mut gone = Vec::new();
    for i in 0..150 {
        let tokens = gateway.login(&format!("user-{i}")).await;
        assert_eq!(gateway.call(Method::POST, "/api/v1/logout", &tokens).await.status, 204);
        gone.push(tokens);
    }
    let fresh = gateway.refresh(&innocent.refresh).await.tokens();
    for gateway in &gatehouse.gateways {
        for tokens in &gone {
            assert!(refuses(gateway, tokens).await);
        }
        assert!(gateway.metric("gatehouse_revocations_coarsened_total").await >= 1);
        let held =
            || async { (1..=100).contains(&gateway.metric("gatehouse_revocations_held").await) };
        assert!(eventually(Duration::from_secs(2), held).await);
        assert_eq!(
            gateway.check(&fresh.access).await,
            200,
            "a refresh is all that it costs others"
        );
    }
}

/// A session that has ended cannot keep itself alive by ending all the others.
#[tokio::test]
async fn a_session_that_has_ended_does_not_keep_itself() {
    let gatehouse = Gatehouse::with(2, &[]).await;
    let [one, other] = &gatehouse.gateways[..] else { unreachable!() };
    let gone = one.login("ann").await;
    // The other gateway hears of nothing.
    gatehouse.redis.cli(&["ACL", "SETUSER", "default", "-xread"]);
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let path = "/api/v1/admin/users/ann/sessions/revoke-all";
    assert_eq!(one.admin(Method::POST, path).await.status, 200);
    assert_eq!(other.check(&gone.access).await, 200, "not heard of yet");
    let all = "/api/v1/users/sessions/revoke-all";
    assert_eq!(other.call(Method::POST, all, &gone).await.status, 200);
    gatehouse.redis.cli(&["ACL", "SETUSER", "default", "+xread"]);
    let refused = || async { other.check(&gone.access).await == 401 };
    assert!(eventually(Duration::from_secs(5), refused).await);
    assert_eq!(one.check(&gone.access).await, 401);
}
