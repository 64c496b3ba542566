//! People see, change and end their own sessions, and nobody else's.

use reqwest::Method;
use serde_json::json;

use crate::harness::{Answer, CHROME, FIREFOX, Gatehouse};

#[tokio::test]
async fn a_person_sees_all_sessions_and_which_one_this_is() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let old = gateway
        .create(json!({ "user_id": "ann", "user_agent": CHROME, "ip": "203.0.113.9" }))
        .await
        .tokens();
    let new = gateway
        .create(json!({ "user_id": "ann", "user_agent": FIREFOX, "remember": true }))
        .await
        .tokens();
    gateway.login("bob").await;
    let answer = gateway.call(Method::GET, "/api/v1/users/sessions", &old).await;
    assert_eq!(answer.headers["cache-control"], "no-store");
    assert_eq!(answer.body["limit"], 15);
    let sessions = answer.body["sessions"].as_array().unwrap();
    let ids: Vec<_> = sessions.iter().map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!(ids, [new.session.as_str(), old.session.as_str()], "the last active first");
    assert_eq!(sessions[1]["is_current"], true);
    assert_eq!(sessions[1]["device_name"], "Chrome on Windows");
    assert_eq!(sessions[1]["device_class"], "desktop");
    assert_eq!(sessions[1]["ip_address"], "203.0.113.9");
    assert_eq!(sessions[1]["user_agent"], CHROME);
    assert_eq!(sessions[1]["location"], json!(null));
    assert_eq!(sessions[0]["is_current"], false);
    assert_eq!(sessions[0]["is_remembered"], true);
    assert_eq!(sessions[0]["device_name"], "Firefox on Linux");
    let time = |field: &str| {
        chrono::DateTime::parse_from_rfc3339(sessions[0][field].as_str().unwrap()).unwrap()
    };
    assert_eq!((time("expires_at") - time("created_at")).num_days(), 14, "remembered");
}

#[tokio::test]
async fn a_person_ends_one_session_or_all_others() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let mut all = Vec::new();
    for _ in 0..4 {
        all.push(gateway.login("ann").await);
    }
    let path = format!("/api/v1/users/sessions/{}", all[1].session);
    assert_eq!(gateway.call(Method::DELETE, &path, &all[0]).await.status, 204);
    assert_eq!(gateway.check(&all[1].access).await, 401);
    assert_eq!(
        gateway.call(Method::DELETE, &path, &all[0]).await.status,
        204,
        "the same answer again"
    );
    let others = gateway.call(Method::POST, "/api/v1/users/sessions/revoke-all", &all[0]).await;
    assert_eq!((others.status, &others.body["revoked"]), (200, &json!(2)));
    assert_eq!(gateway.check(&all[0].access).await, 200);
    assert_eq!(gateway.check(&all[2].access).await, 401);
    let request = gateway.post("/api/v1/users/sessions/revoke-all").bearer_auth(&all[0].access);
    let everything = Answer::of(request.json(&json!({ "include_current": true }))).await;
    assert_eq!(everything.body["revoked"], 1);
    assert_eq!(gateway.check(&all[0].access).await, 401);
}

#[tokio::test]
async fn nobody_touches_the_session_of_somebody_else() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let (ann, bob) = (gateway.login("ann").await, gateway.login("bob").await);
    let path = format!("/api/v1/users/sessions/{}", bob.session);
    for path in
        [path.as_str(), "/api/v1/users/sessions/AAAAAAAAAAAAAAAAAAAAAA", "/api/v1/users/sessions/x"]
    {
        let answer = gateway.call(Method::DELETE, path, &ann).await;
        assert_eq!((answer.status, answer.code()), (404, "not_found"), "{path}");
        let rename = gateway.request(Method::PATCH, path).bearer_auth(&ann.access);
        assert_eq!(Answer::of(rename.json(&json!({ "device_name": "mine" }))).await.status, 404);
    }
    // Also not of one that has just ended.
    gateway.call(Method::POST, "/api/v1/logout", &bob).await;
    assert_eq!(gateway.call(Method::DELETE, &path, &ann).await.status, 404);
}

#[tokio::test]
async fn a_person_names_a_session_and_remembers_its_device() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let tokens = gateway.login("ann").await;
    let path = format!("/api/v1/users/sessions/{}", tokens.session);
    let change = |body: serde_json::Value| {
        Answer::of(gateway.request(Method::PATCH, &path).bearer_auth(&tokens.access).json(&body))
    };
    let renamed = change(json!({ "device_name": "Küchen-Tablet", "is_remembered": true })).await;
    assert_eq!(renamed.status, 200);
    assert_eq!(renamed.body["device_name"], "Küchen-Tablet");
    assert_eq!(renamed.body["is_remembered"], true);
    let time = |field: &str| {
        chrono::DateTime::parse_from_rfc3339(renamed.body[field].as_str().unwrap()).unwrap()
    };
    assert_eq!((time("expires_at") - time("created_at")).num_days(), 7, "the absolute limit stays");
    assert_eq!(change(json!({ "is_remembered": false })).await.body["is_remembered"], false);
    for bad in ["", " ", "a\u{0}b", "a\u{202e}b", &"x".repeat(65)] {
        let refused = change(json!({ "device_name": bad })).await;
        assert_eq!(refused.status, 400, "{bad:?}");
        assert!(refused.fields().contains("device_name"));
    }
}
