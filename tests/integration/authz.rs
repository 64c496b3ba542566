//! What proxies ask, and what they are told.

use reqwest::{Method, RequestBuilder, redirect};
use serde_json::json;

use crate::harness::{Answer, Gatehouse, Gateway};

const FORWARDED: [(&str, &str); 4] = [
    ("x-forwarded-method", "GET"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-host", "app.example"),
    ("x-forwarded-uri", "/inbox?page=2"),
];

fn forward_auth(gateway: &Gateway, query: &str, headers: &[(&str, &str)]) -> RequestBuilder {
    let client = reqwest::Client::builder().redirect(redirect::Policy::none()).build().unwrap();
    let request = client.get(format!("{}/authz/forward-auth{query}", gateway.url));
    headers.iter().fold(request, |request, (name, value)| request.header(*name, *value))
}

#[tokio::test]
async fn a_live_session_is_let_in_with_its_identity() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let body = json!({ "user_id": "ann", "roles": ["staff", "ops"],
                       "claims": { "email": "ann@example.com", "name": "Änn" } });
    let tokens = gateway.create(body).await.tokens();
    for request in [
        gateway.get("/authz/auth-request"),
        gateway.request(Method::HEAD, "/authz/auth-request"),
        gateway.post("/authz/auth-request"),
        forward_auth(gateway, "", &FORWARDED),
    ] {
        let response = request.bearer_auth(&tokens.access).send().await.unwrap();
        assert_eq!(response.status(), 200);
        let headers = response.headers().clone();
        assert_eq!(headers["remote-user"], "ann");
        assert_eq!(headers["remote-groups"], "staff,ops");
        assert_eq!(headers["remote-email"], "ann@example.com");
        assert_eq!(headers["remote-name"].as_bytes(), "Änn".as_bytes());
        assert_eq!(headers["remote-session"], tokens.session.as_str());
        assert_eq!(headers["cache-control"], "no-store");
        assert!(response.bytes().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn nobody_is_refused_and_an_optional_check_names_nobody() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let refused = Answer::of(gateway.get("/authz/auth-request")).await;
    assert_eq!(refused.status, 401);
    assert_eq!(refused.headers["www-authenticate"], "Bearer");
    assert!(!refused.headers.contains_key("remote-user"));
    let optional = Answer::of(gateway.get("/authz/auth-request?optional=1")).await;
    assert_eq!(optional.status, 200);
    for name in ["remote-user", "remote-groups", "remote-email", "remote-name", "remote-session"] {
        assert_eq!(optional.headers[name], "", "{name} overwrites what the client sent");
    }
    let bad = gateway.get("/authz/auth-request?optional=1").bearer_auth("nonsense");
    assert_eq!(Answer::of(bad).await.status, 401, "a bad credential is not nobody");
}

#[tokio::test]
async fn requirements_are_enforced_and_cannot_be_mistyped() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let tokens = gateway.create(json!({ "user_id": "ann", "roles": ["staff"] })).await.tokens();
    let check = |query: &str| {
        let request = gateway.get(&format!("/authz/auth-request?{query}"));
        let request = request.bearer_auth(&tokens.access);
        async move { Answer::of(request).await.status }
    };
    assert_eq!(check("role=staff").await, 200);
    assert_eq!(check("role=admin&role=staff").await, 200, "any of them");
    assert_eq!(check("role=admin").await, 403);
    assert_eq!(check("max_age=600").await, 200);
    assert_eq!(check("strict=1").await, 200);
    assert_eq!(check("rol=admin").await, 403, "nginx knows no 400");
    let forward = forward_auth(gateway, "?rol=admin", &FORWARDED).bearer_auth(&tokens.access);
    assert_eq!(Answer::of(forward).await.status, 400);
}

#[tokio::test]
async fn strict_asks_redis() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let tokens = gateway.login("ann").await;
    // Gone without a word: memory cannot know.
    gatehouse.redis.cli(&["DEL", &format!("gh:{{08}}:session:{}", tokens.session)]);
    assert_eq!(gateway.check(&tokens.access).await, 200);
    let strict = gateway.get("/authz/auth-request?strict=1").bearer_auth(&tokens.access);
    assert_eq!(Answer::of(strict).await.status, 401);
}

#[tokio::test]
async fn what_no_honest_proxy_sends_is_refused() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let tokens = gateway.login("ann").await;
    for (name, value) in [
        ("Remote_User", "admin"),
        ("Remote.User", "admin"),
        ("remote_groups", "admin"),
        ("Connection", "close, Remote-User"),
    ] {
        let nginx =
            gateway.get("/authz/auth-request").bearer_auth(&tokens.access).header(name, value);
        assert_eq!(Answer::of(nginx).await.status, 403, "{name}");
        let other = forward_auth(gateway, "", &FORWARDED).bearer_auth(&tokens.access);
        assert_eq!(Answer::of(other.header(name, value)).await.status, 400, "{name}");
    }
    let twice =
        gateway.get("/authz/auth-request").bearer_auth(&tokens.access).bearer_auth(&tokens.access);
    assert_eq!(Answer::of(twice).await.status, 401, "two credentials");
    for (missing, _) in FORWARDED {
        let mut headers = FORWARDED.to_vec();
        headers.retain(|(name, _)| *name != missing);
        let request = forward_auth(gateway, "", &headers).bearer_auth(&tokens.access);
        assert_eq!(Answer::of(request).await.status, 400, "without {missing}");
    }
    for (name, value) in [
        ("x-forwarded-proto", "javascript"),
        ("x-forwarded-uri", "//evil"),
        ("x-forwarded-host", "a@b"),
    ] {
        let mut headers: Vec<_> =
            FORWARDED.iter().copied().filter(|(other, _)| *other != name).collect();
        headers.push((name, value));
        let status = Answer::of(forward_auth(gateway, "", &headers)).await.status;
        assert!([400, 401].contains(&status), "{name}: {value}: {status}");
    }
    let broken = gateway.get("/authz/auth-request").bearer_auth(&tokens.access);
    let broken = broken.header("x-original-url", "http://%zz");
    assert_eq!(Answer::of(broken).await.status, 403);
}

#[tokio::test]
async fn forwarding_headers_are_believed_from_trusted_proxies_only() {
    let gatehouse = Gatehouse::with(1, &["server.trusted_proxies=10.0.0.0/8"]).await;
    let gateway = gatehouse.gateway();
    let tokens = gateway.login("ann").await;
    let forward = forward_auth(gateway, "", &FORWARDED).bearer_auth(&tokens.access);
    assert_eq!(Answer::of(forward).await.status, 400);
    assert_eq!(gateway.check(&tokens.access).await, 200, "which nginx's question does not need");
}

#[tokio::test]
async fn a_person_is_sent_to_the_login_page_and_a_program_is_not() {
    let gatehouse = Gatehouse::with(1, &["login.url=https://login.example/in?x=1"]).await;
    let gateway = gatehouse.gateway();
    let back =
        "https://login.example/in?x=1&return_to=https%3A%2F%2Fapp%2Eexample%2Finbox%3Fpage%3D2";
    let navigate = forward_auth(gateway, "", &FORWARDED).header("sec-fetch-mode", "navigate");
    let answer = Answer::of(navigate).await;
    assert_eq!((answer.status, answer.headers["location"].to_str().unwrap()), (302, back));
    let old_browser = forward_auth(gateway, "", &FORWARDED).header("accept", "text/html,*/*");
    assert_eq!(Answer::of(old_browser).await.status, 302);
    let mut posted = FORWARDED;
    posted[0].1 = "POST";
    let post = forward_auth(gateway, "", &posted).header("sec-fetch-mode", "navigate");
    assert_eq!(Answer::of(post).await.status, 303);
    for (name, value) in [("sec-fetch-mode", "cors"), ("accept", "application/json")] {
        assert_eq!(
            Answer::of(forward_auth(gateway, "", &FORWARDED).header(name, value)).await.status,
            401
        );
    }
    let xhr = forward_auth(gateway, "", &FORWARDED).header("accept", "text/html");
    assert_eq!(Answer::of(xhr.header("x-requested-with", "XMLHttpRequest")).await.status, 401);
    let nginx = gateway
        .get("/authz/auth-request")
        .header("x-original-url", "https://app.example/inbox?page=2");
    let answer = Answer::of(nginx).await;
    assert_eq!((answer.status, answer.headers["location"].to_str().unwrap()), (401, back));
}

#[tokio::test]
async fn a_preflight_passes_only_where_that_was_asked_for() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let preflight = |query: &str, method: &str| {
        let request = gateway.get(&format!("/authz/auth-request{query}"));
        request.header("x-original-method", method).header("origin", "https://app.example")
    };
    let real =
        |query: &str| preflight(query, "OPTIONS").header("access-control-request-method", "PUT");
    assert_eq!(Answer::of(real("")).await.status, 401);
    let allowed = Answer::of(real("?preflight=allow")).await;
    assert_eq!((allowed.status, &allowed.headers["remote-user"]), (200, &"".parse().unwrap()));
    assert_eq!(
        Answer::of(preflight("?preflight=allow", "OPTIONS")).await.status,
        401,
        "not a real one"
    );
    let get = preflight("?preflight=allow", "GET").header("access-control-request-method", "PUT");
    assert_eq!(Answer::of(get).await.status, 401);
}

#[tokio::test]
async fn an_assertion_is_for_the_origin_that_was_asked() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let tokens = gateway.login("ann").await;
    let nginx = |url: Option<&str>| {
        let request = gateway.get("/authz/auth-request?assert=1").bearer_auth(&tokens.access);
        Answer::of(url.into_iter().fold(request, |to, url| to.header("x-original-url", url)))
    };
    let said = nginx(Some("https://app.example/inbox")).await;
    assert_eq!(said.status, 200);
    let assertion = said.headers["x-gatehouse-assertion"].to_str().unwrap();
    assert_eq!(assertion.split('.').count(), 3);
    assert_eq!(nginx(None).await.status, 403, "for nobody");
    let optional = forward_auth(gateway, "?assert=1&optional=1", &FORWARDED);
    let optional = Answer::of(optional).await;
    assert_eq!(
        (optional.status, &optional.headers["x-gatehouse-assertion"]),
        (200, &"".parse().unwrap())
    );
    let refused = forward_auth(gateway, "?assert=1&role=admin", &FORWARDED);
    let refused = Answer::of(refused.bearer_auth(&tokens.access)).await;
    assert!(!refused.headers.contains_key("x-gatehouse-assertion"));
}
