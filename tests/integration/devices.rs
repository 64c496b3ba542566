//! "Remember this device".

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Answer, FIREFOX, Gatehouse, Gateway, PASSWORD};

async fn log_in(gateway: &Gateway, more: Value, cookie: &str) -> Answer {
    let mut body = json!({ "username": "ann", "password": PASSWORD });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let request = gateway.post("/api/v1/login").header("user-agent", FIREFOX);
    let request = request.header("cookie", cookie).header("sec-fetch-site", "same-origin");
    Answer::of(request.json(&body)).await
}

fn devices(gatehouse: &Gatehouse) -> Vec<String> {
    let lines = gatehouse.redis.cli(&["HVALS", "gh:{08}:device:ann"]);
    lines.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[tokio::test]
async fn a_device_is_recognised_by_what_it_was_given() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let nothing = log_in(gateway, json!({}), "").await;
    assert!(nothing.body.get("device").is_none() && devices(&gatehouse).is_empty());
    let chosen = json!({ "remember": true, "device_name": "Ann's laptop" });
    let first = log_in(gateway, chosen, "").await;
    assert_eq!(first.body["session"]["is_remembered"], true);
    let device = first.body["device"].clone();
    assert!(device.as_str().unwrap().starts_with("ghd_"));
    let again = log_in(gateway, json!({ "device": device }), "").await;
    assert_eq!(again.body["session"]["device_name"], "Ann's laptop");
    assert_eq!(again.body["device"], device, "the same one");
    assert_eq!(devices(&gatehouse).len(), 1);
    assert!(!format!("{:?}", devices(&gatehouse)).contains("ghd_"));
}

#[tokio::test]
async fn a_browser_keeps_it_in_a_cookie_of_its_own() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let body = json!({ "mode": "cookie", "remember": true, "device_name": "Ann's laptop" });
    let first = log_in(gateway, body, "").await;
    let set = first.headers.get_all("set-cookie").iter().map(|value| value.to_str().unwrap());
    let set: Vec<&str> = set.collect();
    let device = set.iter().find(|set| set.starts_with("gatehouse-device=ghd_")).unwrap();
    assert!(device.contains("; HttpOnly; SameSite=Lax; Max-Age=34560000"), "{device}");
    assert!(set.iter().any(|set| set.starts_with("gatehouse=ghs_")), "{set:?}");
    let device = device.split(';').next().unwrap();
    let again = log_in(gateway, json!({ "mode": "cookie" }), device).await;
    assert_eq!(again.body["session"]["device_name"], "Ann's laptop");
}

#[tokio::test]
async fn a_device_is_renamed_with_its_session_and_forgotten_on_request() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let first = log_in(gateway, json!({ "remember": true }), "").await;
    let device = first.body["device"].clone();
    let tokens = first.tokens();
    let path = format!("/api/v1/users/sessions/{}", tokens.session);
    let change = |body: Value| {
        let request = gateway.request(Method::PATCH, &path).bearer_auth(&tokens.access);
        Answer::of(request.json(&body))
    };
    assert_eq!(change(json!({ "device_name": "Blue one" })).await.status, 200);
    let again = log_in(gateway, json!({ "device": device }), "").await;
    assert_eq!(again.body["session"]["device_name"], "Blue one");
    assert_eq!(change(json!({ "is_remembered": false })).await.status, 200);
    assert!(devices(&gatehouse).is_empty());
    let stranger = log_in(gateway, json!({ "device": device }), "").await;
    assert_eq!(stranger.body["session"]["device_name"], "Firefox on Linux");
    assert!(stranger.body.get("device").is_none());
}

#[tokio::test]
async fn no_more_than_twenty_are_remembered() {
    let settings = ["sessions.on_limit=evict_oldest"];
    let gatehouse = Gatehouse::with(1, &settings).await;
    let gateway = gatehouse.gateway();
    let mut first = Value::Null;
    for i in 0..21 {
        let body = json!({ "remember": true, "device_name": format!("device {i}") });
        let answer = log_in(gateway, body, "").await;
        if i == 0 {
            first = answer.body["device"].clone();
        }
    }
    assert_eq!(devices(&gatehouse).len(), 20);
    let gone = log_in(gateway, json!({ "device": first }), "").await;
    assert_eq!(
        gone.body["session"]["device_name"], "Firefox on Linux",
        "the one unused for longest"
    );
}
