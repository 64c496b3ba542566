//! Bad input is answered with a 4xx that names the field: never a 500, never a panic.

use serde_json::{Value, json};

use crate::harness::{Answer, Gatehouse, Gateway, SERVICE_KEY};

async fn refused(gateway: &Gateway, body: Value, field: &str) {
    let answer = gateway.create(body.clone()).await;
    let shown: String = body.to_string().chars().take(120).collect();
    assert_eq!((answer.status, answer.code()), (400, "validation_failed"), "{shown}");
    assert!(answer.fields().iter().any(|named| named.starts_with(field)), "{shown}: {answer:?}");
    assert_eq!(answer.headers["content-type"], "application/problem+json");
}

#[tokio::test]
async fn every_field_of_a_new_session_is_looked_at() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let deep = (0..100).fold(json!(1), |inner, _| json!([inner]));
    let texts = ["user_id", "ip", "user_agent", "device_name", "auth_method", "request_id"];
    for field in texts {
        for wrong in [
            json!(1),
            json!(true),
            json!([]),
            json!({}),
            json!("a\u{0}b"),
            json!("\r\n"),
            json!("x".repeat(2000)),
            deep.clone(),
        ] {
            let mut body = json!({ "user_id": "ann" });
            body[field] = wrong;
            refused(gateway, body, field).await;
        }
        if !["user_agent"].contains(&field) {
            let mut body = json!({ "user_id": "ann" });
            body[field] = json!("");
            refused(gateway, body, field).await;
        }
    }
    for wrong in [json!("yes"), json!(1), json!([]), json!(null)] {
        refused(gateway, json!({ "user_id": "ann", "remember": wrong }), "remember").await;
    }
    for wrong in [
        json!("admin"),
        json!([1]),
        json!(["a b"]),
        json!(["a,b"]),
        json!([""]),
        json!(vec!["r"; 33]),
        json!({}),
    ] {
        refused(gateway, json!({ "user_id": "ann", "roles": wrong }), "roles").await;
    }
    for wrong in [
        json!([]),
        json!("x"),
        json!({ "sub": "root" }),
        json!({ "gen": 7 }),
        json!({ "email": 1 }),
        json!({ "email": "a\r\nSet-Cookie: x" }),
        json!({ "name": "\u{7f}" }),
        json!({ "big": "x".repeat(1100) }),
        json!({ "a\u{0}": 1 }),
    ] {
        refused(gateway, json!({ "user_id": "ann", "claims": wrong }), "claims").await;
    }
    for user in
        ["a{b", "a}b", "{07}", "a:b", "*", "a\u{0}", "a b", "ä", "\u{1f600}", &"x".repeat(129)]
    {
        refused(gateway, json!({ "user_id": user }), "user_id").await;
    }
    refused(gateway, json!({}), "user_id").await;
    refused(gateway, json!({ "user_id": "ann", "admin": true }), "admin").await;
    assert!(gatehouse.redis.keys("gh:*:session:*").is_empty(), "nothing was begun");
}

#[tokio::test]
async fn what_is_not_json_is_refused_and_named() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let tokens = gateway.login("ann").await;
    let session = format!("/api/v1/users/sessions/{}", tokens.session);
    for (method, path, credential) in [
        ("POST", "/api/v1/sessions", SERVICE_KEY),
        ("POST", "/api/v1/sessions/refresh", ""),
        ("POST", "/api/v1/users/sessions/revoke-all", tokens.access.as_str()),
        ("PATCH", session.as_str(), tokens.access.as_str()),
    ] {
        let deep = "[".repeat(2000);
        for body in
            [b"{".as_slice(), b"[]", b"1", b"{\"a\":\xff\xfe}", b"{} {}", b"null", deep.as_bytes()]
        {
            let request = gateway.request(method.parse().unwrap(), path).bearer_auth(credential);
            let request = request.header("content-type", "application/json").body(body.to_vec());
            let answer = Answer::of(request).await;
            assert_eq!(
                (answer.status, answer.code()),
                (400, "validation_failed"),
                "{path} {answer:?}"
            );
            assert!(!answer.fields().is_empty());
        }
        let request = gateway.request(method.parse().unwrap(), path).bearer_auth(credential);
        let form = Answer::of(request.header("content-type", "text/plain").body("{}")).await;
        assert_eq!((form.status, form.code()), (415, "validation_failed"), "{path}");
        let request = gateway.request(method.parse().unwrap(), path).bearer_auth(credential);
        let large = request.header("content-type", "application/json").body(vec![b' '; 5000]);
        let large = Answer::of(large).await;
        assert_eq!((large.status, large.fields().contains("body")), (413, true), "{path}");
    }
}

#[tokio::test]
async fn every_field_of_the_other_requests_is_looked_at() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let tokens = gateway.login("ann").await;
    let session = format!("/api/v1/users/sessions/{}", tokens.session);
    for (method, path, body, field) in [
        ("POST", "/api/v1/sessions/refresh", json!({}), "refresh_token"),
        ("POST", "/api/v1/sessions/refresh", json!({ "refresh_token": 1 }), "refresh_token"),
        ("POST", "/api/v1/sessions/refresh", json!({ "refresh_token": "" }), "refresh_token"),
        ("POST", "/api/v1/sessions/refresh", json!({ "refresh_token": "x", "y": 1 }), "y"),
        (
            "POST",
            "/api/v1/users/sessions/revoke-all",
            json!({ "include_current": "yes" }),
            "include_current",
        ),
        ("POST", "/api/v1/users/sessions/revoke-all", json!({ "keep": 1 }), "keep"),
        ("PATCH", session.as_str(), json!({ "is_remembered": "yes" }), "is_remembered"),
        ("PATCH", session.as_str(), json!({ "device_name": 7 }), "device_name"),
        ("PATCH", session.as_str(), json!({ "user": "bob" }), "user"),
    ] {
        let request = gateway.request(method.parse().unwrap(), path).bearer_auth(&tokens.access);
        let answer = Answer::of(request.json(&body)).await;
        assert_eq!((answer.status, answer.code()), (400, "validation_failed"), "{path} {body}");
        assert!(answer.fields().contains(field), "{path} {body}: {answer:?}");
    }
    for user in ["a%7Bb", "a%3Ab", "%00", "a%0D%0Ab", &"x".repeat(200)] {
        let path = format!("/api/v1/admin/users/{user}/sessions");
        let answer = gateway.admin(reqwest::Method::GET, &path).await;
        assert_eq!(answer.status, 400, "{path}");
        assert!(answer.fields().contains("user_id"));
    }
    let utf8 = gateway.admin(reqwest::Method::GET, "/api/v1/admin/users/%ff/sessions").await;
    assert!((400..500).contains(&utf8.status), "{utf8:?}");
}

#[tokio::test]
async fn other_pages_and_methods_are_named() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let lost = Answer::of(gateway.get("/nowhere")).await;
    assert_eq!((lost.status, lost.code()), (404, "not_found"));
    let wrong = Answer::of(gateway.get("/api/v1/sessions")).await;
    assert_eq!((wrong.status, &wrong.headers["allow"]), (405, &"POST".parse().unwrap()));
    for path in ["/metrics", "/readyz", "/livez"] {
        assert_eq!(Answer::of(gateway.get(path)).await.status, 404, "{path} is for operators");
    }
}
