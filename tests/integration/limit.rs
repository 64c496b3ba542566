//! The limit of sessions per user.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;
use serde_json::json;

use crate::harness::{Answer, Gatehouse, Tokens, eventually};

async fn live(gatehouse: &Gatehouse, user: &str) -> BTreeSet<String> {
    let path = format!("/api/v1/admin/users/{user}/sessions");
    let answer = gatehouse.gateway().admin(reqwest::Method::GET, &path).await;
    let sessions = answer.body["sessions"].as_array().unwrap();
    sessions.iter().map(|session| session["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_logins_at_once_leave_exactly_fifteen_sessions() {
    let gatehouse = Gatehouse::with(2, &[]).await;
    let logins = (0..100).map(|i| gatehouse.gateways[i % 2].login("ann"));
    let all: Vec<Tokens> = join_all(logins).await;
    let live = live(&gatehouse, "ann").await;
    assert_eq!(live.len(), 15);
    // Every gateway refuses what was evicted within 250 ms, and nothing else.
    for gateway in &gatehouse.gateways {
        let settled = eventually(Duration::from_millis(250), || async {
            let statuses = join_all(all.iter().map(|tokens| gateway.check(&tokens.access))).await;
            let wrong = all
                .iter()
                .zip(statuses)
                .filter(|(tokens, status)| (*status == 200) != live.contains(&tokens.session));
            wrong.count() == 0
        });
        assert!(settled.await);
    }
    assert_eq!(gatehouse.redis.cli(&["ZCARD", "gh:{08}:user:ann"]), "15");
}

#[tokio::test]
async fn the_oldest_gives_way() {
    let gatehouse = Gatehouse::with(1, &["sessions.limit=2"]).await;
    let gateway = gatehouse.gateway();
    let (first, second) = (gateway.login("ann").await, gateway.login("ann").await);
    let third = gateway.login("ann").await;
    assert_eq!(gateway.check(&first.access).await, 401);
    assert_eq!(gateway.refresh(&first.refresh).await.code(), "session_revoked");
    assert_eq!(live(&gatehouse, "ann").await, BTreeSet::from([second.session, third.session]));
}

#[tokio::test]
async fn the_idle_gives_way() {
    let settings =
        ["sessions.limit=2", "sessions.on_limit_service=evict_idle", "check.activity_flush=100ms"];
    let gatehouse = Gatehouse::with(1, &settings).await;
    let gateway = gatehouse.gateway();
    let (first, second) = (gateway.login("ann").await, gateway.login("ann").await);
    gateway.check(&first.access).await;
    let key = format!("gh:{{08}}:session:{}", first.session);
    let noted = || async { !gatehouse.redis.cli(&["HGET", &key, "a"]).is_empty() };
    assert!(eventually(Duration::from_secs(5), noted).await);
    let third = gateway.login("ann").await;
    assert_eq!(live(&gatehouse, "ann").await, BTreeSet::from([first.session, third.session]));
    assert_eq!(gateway.check(&second.access).await, 401);
}

#[tokio::test]
async fn one_too_many_is_refused_and_shown_the_others() {
    let settings = ["sessions.limit=2", "sessions.on_limit_service=reject"];
    let gatehouse = Gatehouse::with(1, &settings).await;
    let gateway = gatehouse.gateway();
    let mut ids = BTreeSet::from([gateway.login("ann").await.session]);
    ids.insert(gateway.login("ann").await.session);
    let refused = gateway.create(json!({ "user_id": "ann" })).await;
    assert_eq!((refused.status, refused.code()), (409, "session_limit_reached"));
    let shown = refused.body["sessions"].as_array().unwrap();
    let shown: BTreeSet<_> =
        shown.iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(shown, ids);
    assert_eq!(live(&gatehouse, "ann").await, ids, "nothing was evicted");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_sent_again_is_the_same_session() {
    let gatehouse = Gatehouse::with(2, &[]).await;
    let body = json!({ "user_id": "ann", "request_id": "login-1" });
    let again = (0..20).map(|i| gatehouse.gateways[i % 2].create(body.clone()));
    let tokens: Vec<Tokens> = join_all(again).await.into_iter().map(Answer::tokens).collect();
    assert!(tokens.iter().all(|one| one.refresh == tokens[0].refresh));
    assert_eq!(live(&gatehouse, "ann").await.len(), 1);
    // Another user or another service is another request.
    let other =
        gatehouse.gateway().create(json!({ "user_id": "bob", "request_id": "login-1" })).await;
    assert_ne!(other.tokens().session, tokens[0].session);
    // Once its tokens are in use, or it ended, the id cannot begin a second session.
    gatehouse.gateway().refresh(&tokens[0].refresh).await.tokens();
    let used = gatehouse.gateway().create(body.clone()).await;
    assert_eq!((used.status, used.code()), (409, "conflict"));
    let logout = gatehouse.gateway().post("/api/v1/logout").bearer_auth(&tokens[0].access);
    assert_eq!(logout.send().await.unwrap().status(), 204);
    assert_eq!(gatehouse.gateway().create(body).await.code(), "conflict");
}
