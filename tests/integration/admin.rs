//! Administrators and backends see and end the sessions of others.

use reqwest::Method;
use serde_json::json;

use crate::harness::{Answer, Gatehouse};

#[tokio::test]
async fn an_administrator_sees_and_ends_a_users_sessions() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let admin = gateway.create(json!({ "user_id": "root", "roles": ["admin"] })).await.tokens();
    let (one, two) = (gateway.login("ann").await, gateway.login("ann").await);
    let list = gateway.call(Method::GET, "/api/v1/admin/users/ann/sessions", &admin).await;
    assert_eq!(list.body["sessions"].as_array().unwrap().len(), 2);
    let path = format!("/api/v1/admin/users/ann/sessions/{}", one.session);
    assert_eq!(gateway.call(Method::DELETE, &path, &admin).await.status, 204);
    assert_eq!((gateway.check(&one.access).await, gateway.check(&two.access).await), (401, 200));
    let all =
        gateway.call(Method::POST, "/api/v1/admin/users/ann/sessions/revoke-all", &admin).await;
    assert_eq!(all.body["revoked"], 1);
    assert_eq!(gateway.check(&two.access).await, 401);
    assert_eq!(gateway.check(&admin.access).await, 200);
}

#[tokio::test]
async fn whoever_is_not_an_administrator_is_told_so() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let ann = gateway.login("ann").await;
    for (method, path) in [
        (Method::GET, "/api/v1/admin/users/bob/sessions"),
        (Method::POST, "/api/v1/admin/users/bob/sessions/revoke-all"),
        (Method::POST, "/api/v1/admin/revoke-everything"),
    ] {
        let user = gateway.call(method.clone(), path, &ann).await;
        assert_eq!((user.status, user.code()), (403, "forbidden"));
        let narrow =
            Answer::of(gateway.request(method.clone(), path).bearer_auth("ghk_narrow")).await;
        assert_eq!(narrow.status, 403);
        assert!(narrow.body["detail"].as_str().unwrap().contains("scope"), "{narrow:?}");
        let nobody = Answer::of(gateway.request(method, path)).await;
        assert_eq!((nobody.status, nobody.code()), (401, "authentication_required"));
        assert_eq!(nobody.headers["www-authenticate"], "Bearer");
    }
}

#[tokio::test]
async fn a_change_needs_a_recent_login() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let admin = gateway.create(json!({ "user_id": "ann", "roles": ["admin"] })).await.tokens();
    // The login was 16 minutes ago, as the store tells the next token.
    let key = format!("gh:{{08}}:session:{}", admin.session);
    let then: u64 = gatehouse.redis.cli(&["HGET", &key, "c"]).parse().unwrap();
    gatehouse.redis.cli(&["HSET", &key, "t", &(then - 16 * 60_000).to_string()]);
    let admin = gateway.refresh_from(&admin.refresh, "").await.tokens();
    assert_eq!(
        gateway.call(Method::GET, "/api/v1/admin/users/bob/sessions", &admin).await.status,
        200
    );
    let change = gateway.call(Method::POST, "/api/v1/admin/revoke-everything", &admin).await;
    assert_eq!((change.status, change.code()), (401, "step_up_required"));
    assert!(
        change.headers["www-authenticate"]
            .to_str()
            .unwrap()
            .contains("insufficient_user_authentication")
    );
    let max_age = gateway.get("/authz/auth-request?max_age=900").bearer_auth(&admin.access);
    assert_eq!(Answer::of(max_age).await.status, 401);
    let older = gateway.get("/authz/auth-request?max_age=1000").bearer_auth(&admin.access);
    assert_eq!(Answer::of(older).await.status, 200);
}

#[tokio::test]
async fn a_service_key_that_is_not_known_begins_nothing() {
    let gatehouse = Gatehouse::with(1, &["limits.failures_per_minute=3"]).await;
    let gateway = gatehouse.gateway();
    let attempt = |key: &'static str| {
        let request = gateway.post("/api/v1/sessions").bearer_auth(key);
        Answer::of(request.json(&json!({ "user_id": "ann" })))
    };
    for _ in 0..3 {
        assert_eq!(attempt("ghk_wrong").await.status, 401);
    }
    let limited = attempt("ghk_wrong").await;
    assert_eq!((limited.status, limited.code()), (429, "rate_limited"));
    assert!(limited.headers.contains_key("retry-after"));
    assert_eq!(attempt("ghk_narrow").await.status, 201, "a good one is never refused for bad ones");
}
