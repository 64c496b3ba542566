//! What Envoy asks over HTTP: the client's request itself, below a prefix.

use reqwest::{Client, Method, RequestBuilder, redirect};
use serde_json::json;

use crate::harness::{Answer, Gatehouse, Gateway};

fn ask(gateway: &Gateway, method: Method, path: &str) -> RequestBuilder {
    let client = Client::builder().redirect(redirect::Policy::none()).build().unwrap();
    client
        .request(method, format!("{}/authz/ext-authz{path}", gateway.url))
        .header("host", "app.example")
        .header("x-forwarded-proto", "https")
}

#[tokio::test]
async fn every_method_and_path_is_answered() {
    let gatehouse = Gatehouse::with(1, &["login.url=https://login.example/"]).await;
    let gateway = gatehouse.gateway();
    let tokens = gateway.login("ann").await;
    for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PROPFIND"] {
        for path in ["/", "/inbox?page=2", "//x", "/a%2f..%2fb", "/authz/ext-authz/"] {
            let request = ask(gateway, method.parse().unwrap(), path);
            let response = request.bearer_auth(&tokens.access).send().await.unwrap();
            assert_eq!(response.status(), 200, "{method} {path}");
            assert_eq!(response.headers()["remote-user"], "ann");
            assert!(response.bytes().await.unwrap().is_empty());
            let refused = Answer::of(ask(gateway, method.parse().unwrap(), path)).await;
            assert_eq!(refused.status, 401, "{method} {path}");
        }
    }
    let page = ask(gateway, Method::GET, "/inbox?page=2").header("sec-fetch-mode", "navigate");
    let answer = Answer::of(page).await;
    let back = "https://login.example/?return_to=https%3A%2F%2Fapp%2Eexample%2Finbox%3Fpage%3D2";
    assert_eq!((answer.status, answer.headers["location"].to_str().unwrap()), (302, back));
    assert_eq!(Answer::of(gateway.get("/authz/ext-authz")).await.status, 404, "no path");
    assert_eq!(Answer::of(gateway.get("/authz/ext-authzx/")).await.status, 404);
}

#[tokio::test]
async fn the_clients_query_requires_and_relaxes_nothing() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let tokens = gateway.create(json!({ "user_id": "ann", "roles": ["staff"] })).await.tokens();
    let anonymous = |path| Answer::of(ask(gateway, Method::GET, path));
    assert_eq!(anonymous("/?optional=1&preflight=allow").await.status, 401);
    let known = ask(gateway, Method::GET, "/?role=admin&x").bearer_auth(&tokens.access);
    assert_eq!(Answer::of(known).await.status, 200, "the query is the application's");
    let preflight = ask(gateway, Method::OPTIONS, "/?preflight=allow")
        .header("origin", "https://app.example")
        .header("access-control-request-method", "PUT");
    assert_eq!(Answer::of(preflight).await.status, 401);
}

#[tokio::test]
async fn a_proxy_requires_by_header_what_it_cannot_by_query() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let tokens = gateway.create(json!({ "user_id": "ann", "roles": ["staff"] })).await.tokens();
    let require = |requirements: &str| {
        let request = ask(gateway, Method::GET, "/").bearer_auth(&tokens.access);
        let request = request.header("x-gatehouse-require", requirements);
        async move { Answer::of(request).await.status }
    };
    assert_eq!(require("role=staff&max_age=600&strict=1").await, 200);
    assert_eq!(require("role=admin").await, 403);
    for relaxing in ["optional=1", "preflight=allow", "rol=admin"] {
        assert_eq!(require(relaxing).await, 400, "{relaxing}");
    }
    // Beside a query it adds to that: neither takes anything from the other.
    let nginx = |query: &str, header: &str| {
        let request = gateway.get(&format!("/authz/auth-request{query}"));
        let request = request.bearer_auth(&tokens.access).header("x-gatehouse-require", header);
        async move { Answer::of(request).await.status }
    };
    assert_eq!(nginx("?role=staff", "role=admin").await, 403);
    assert_eq!(nginx("?role=admin", "role=staff").await, 403);
    assert_eq!(nginx("?role=staff", "role=staff").await, 200);
    let anonymous =
        gateway.get("/authz/auth-request?optional=1").header("x-gatehouse-require", "max_age=600");
    assert_eq!(Answer::of(anonymous).await.status, 401);
}

#[tokio::test]
async fn a_stranger_is_not_answered_and_its_headers_count_for_nothing() {
    let gatehouse = Gatehouse::with(1, &["server.trusted_proxies=10.0.0.0/8"]).await;
    let gateway = gatehouse.gateway();
    let tokens = gateway.login("ann").await;
    let asked = ask(gateway, Method::GET, "/").bearer_auth(&tokens.access);
    assert_eq!(Answer::of(asked).await.status, 400);
    let nginx = gateway.get("/authz/auth-request").bearer_auth(&tokens.access);
    let nginx = nginx.header("x-gatehouse-require", "role=admin").header("x-original-url", "x");
    assert_eq!(Answer::of(nginx).await.status, 200);
}

#[tokio::test]
async fn what_no_honest_proxy_sends_is_refused() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let tokens = gateway.login("ann").await;
    let hops = ["1.1.1.1"; 1000].join(", ");
    for (name, value) in [
        ("remote_user", "admin"),
        ("Remote.User", "admin"),
        ("connection", "remote-user"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-for", hops.as_str()),
        ("host", "b.example"),
    ] {
        let request = ask(gateway, Method::GET, "/").bearer_auth(&tokens.access);
        assert_eq!(Answer::of(request.header(name, value)).await.status, 400, "{name}");
    }
    for name in ["x-original-url", "x-original-method"] {
        let request = gateway.get("/authz/auth-request").bearer_auth(&tokens.access);
        let bytes = reqwest::header::HeaderValue::from_bytes(b"http://a/\xff").unwrap();
        assert_eq!(Answer::of(request.header(name, bytes)).await.status, 403, "{name}");
    }
}
