//! Proving again who one is.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, Gatehouse, Gateway, PASSWORD, Tokens, eventually};

const SOON: Duration = Duration::from_millis(250);

async fn again(gateway: &Gateway, tokens: &Tokens, username: &str) -> Answer {
    Answer::of(gateway.password(username, PASSWORD).bearer_auth(&tokens.access)).await
}

/// As if the session's user had last proved who they are ten minutes ago.
async fn aged(gatehouse: &Gatehouse, tokens: &Tokens) -> Tokens {
    let key = gatehouse.redis.keys(&format!("*:session:{}", tokens.session)).remove(0);
    let created: u64 = gatehouse.redis.cli(&["HGET", &key, "c"]).parse().unwrap();
    gatehouse.redis.cli(&["HSET", &key, "t", &(created - 600_000).to_string()]);
    gatehouse.gateway().refresh(&tokens.refresh).await.tokens()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_session_goes_on_with_new_credentials() {
    let gatehouse = Gatehouse::with(2, &["sessions.limit=1"]).await;
    let [one, two] = &gatehouse.gateways[..] else { panic!() };
    let first = Answer::of(one.password("ann", PASSWORD)).await.tokens();
    let old = aged(&gatehouse, &first).await;
    assert_eq!((one.check(&old.access).await, two.check(&old.access).await), (200, 200));
    let new = again(one, &old, "ann").await.tokens();
    assert_eq!(new.session, old.session, "also at the limit");
    for gateway in [one, two] {
        let dead = || async { gateway.check(&old.access).await == 401 };
        assert!(eventually(SOON, dead).await);
        assert_eq!(gateway.check(&new.access).await, 200);
        let fresh = gateway.get("/authz/auth-request?max_age=60").bearer_auth(&new.access);
        assert_eq!(Answer::of(fresh).await.status, 200);
        assert_eq!(gateway.refresh(&old.refresh).await.code(), "invalid_refresh_token");
    }
    assert_eq!(two.refresh(&new.refresh).await.status, 200, "which the old one did not harm");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_old_cookie_is_dead_everywhere() {
    let gatehouse = Gatehouse::with(2, &[]).await;
    let [one, two] = &gatehouse.gateways[..] else { panic!() };
    let old = one.cookie("ann").await;
    assert_eq!((one.check_cookie(&old).await, two.check_cookie(&old).await), (200, 200));
    let body = json!({ "username": "ann", "password": PASSWORD, "mode": "cookie" });
    let request = one.post("/api/v1/login").header("cookie", &old);
    let new =
        Answer::of(request.header("sec-fetch-site", "same-origin").json(&body)).await.cookie();
    for gateway in [one, two] {
        assert!(eventually(SOON, || async { gateway.check_cookie(&old).await == 401 }).await);
        assert_eq!(gateway.check_cookie(&new).await, 200);
    }
    assert_eq!(gatehouse.redis.cli(&["ZCARD", "gh:{08}:user:ann"]), "1");
}

#[tokio::test]
async fn only_ones_own_session_is_renewed() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let bob = gateway.login("bob").await;
    let ann = again(gateway, &bob, "ann").await.tokens();
    assert_ne!(ann.session, bob.session);
    assert_eq!(gateway.check(&bob.access).await, 200);
    let wrong = gateway.password("bob", "guess").bearer_auth(&bob.access);
    assert_eq!(Answer::of(wrong).await.status, 401);
    assert_eq!(gateway.check(&bob.access).await, 200, "a wrong password changes nothing");
    // What has ended does not come back.
    gateway.call(Method::POST, "/api/v1/logout", &bob).await;
    let new = again(gateway, &bob, "bob").await.tokens();
    assert_ne!(new.session, bob.session);
}

#[tokio::test]
async fn ending_other_sessions_wants_a_fresh_login() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let mine = Answer::of(gateway.password("ann", PASSWORD)).await.tokens();
    let other = Answer::of(gateway.password("ann", PASSWORD)).await.tokens();
    let mine = aged(&gatehouse, &mine).await;
    let path = |tokens: &Tokens| format!("/api/v1/users/sessions/{}", tokens.session);
    for (method, path) in
        [(Method::DELETE, path(&other)), (Method::POST, "/api/v1/users/sessions/revoke-all".into())]
    {
        let refused = gateway.call(method, &path, &mine).await;
        assert_eq!((refused.status, refused.code()), (401, "step_up_required"));
        let how = refused.headers["www-authenticate"].to_str().unwrap();
        assert!(how.contains("insufficient_user_authentication"));
    }
    assert_eq!(gateway.check(&other.access).await, 200);
    let fresh = again(gateway, &mine, "ann").await.tokens();
    assert_eq!(gateway.call(Method::DELETE, &path(&other), &fresh).await.status, 204);
    // Ending one's own does not, nor does what has no password here.
    let old = aged(&gatehouse, &fresh).await;
    assert_eq!(gateway.call(Method::DELETE, &path(&old), &old).await.status, 204);
    let (zoe, more) = (gateway.login("zoe").await, gateway.login("zoe").await);
    let zoe = aged(&gatehouse, &zoe).await;
    assert_eq!(gateway.call(Method::DELETE, &path(&more), &zoe).await.status, 204);
}

#[tokio::test]
async fn an_administrators_changes_want_one_too() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let tokens = Answer::of(gateway.password("root", PASSWORD)).await.tokens();
    let key = gatehouse.redis.keys(&format!("*:session:{}", tokens.session)).remove(0);
    gatehouse.redis.cli(&["HSET", &key, "t", "1000"]);
    let old = gateway.refresh(&tokens.refresh).await.tokens();
    let path = "/api/v1/admin/users/ann/sessions/revoke-all";
    assert_eq!(gateway.call(Method::POST, path, &old).await.code(), "step_up_required");
    let fresh = again(gateway, &old, "root").await.tokens();
    assert_eq!(gateway.call(Method::POST, path, &fresh).await.body["revoked"], Value::from(0));
}
