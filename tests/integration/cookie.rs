//! Browsers keep a session by a cookie.

use std::time::Duration;

use futures::future::join_all;
use futures::{StreamExt as _, stream};
use reqwest::Method;
use serde_json::json;

use crate::harness::{Answer, Gatehouse, Gateway, PASSWORD, eventually};

const SOON: Duration = Duration::from_millis(250);

#[tokio::test]
async fn a_cookie_is_a_session() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let body = json!({ "username": "ann", "password": PASSWORD, "mode": "cookie" });
    let answer = Answer::of(gateway.post("/api/v1/login").json(&body)).await;
    assert_eq!(answer.status, 200);
    assert!(answer.body.get("access_token").is_none(), "no token reaches a page's script");
    let set = answer.headers["set-cookie"].to_str().unwrap();
    assert!(set.starts_with("gatehouse=ghs_") && set.len() < 200, "{set}");
    assert!(set.ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{set}");
    let cookie = answer.cookie();
    let check = gateway.get("/authz/auth-request?role=staff&max_age=60").header("cookie", &cookie);
    let check = Answer::of(check).await;
    assert_eq!((check.status, &check.headers["remote-user"]), (200, &"ann".parse().unwrap()));
    assert_eq!(check.headers["remote-session"], answer.body["session"]["id"].as_str().unwrap());
    assert!(!check.headers.contains_key("set-cookie"));
    let strict = gateway.get("/authz/auth-request?strict=1").header("cookie", &cookie);
    assert_eq!(Answer::of(strict).await.status, 200);
    let admin = gateway.get("/authz/auth-request?role=admin").header("cookie", &cookie);
    assert_eq!(Answer::of(admin).await.status, 403);
}

#[tokio::test]
async fn a_remembered_cookie_outlives_the_browser() {
    let settings = ["server.public_url=https://login.example.com", "cookie.domain=example.com"];
    let gatehouse = Gatehouse::with(1, &settings).await;
    let body =
        json!({ "username": "ann", "password": PASSWORD, "mode": "cookie", "remember": true });
    let answer = Answer::of(gatehouse.gateway().post("/api/v1/login").json(&body)).await;
    let mut all = answer.headers.get_all("set-cookie").iter().map(|set| set.to_str().unwrap());
    let device = all.next().unwrap();
    assert!(
        device.starts_with("__Host-gatehouse-device=") && !device.contains("Domain"),
        "{device}"
    );
    let set = all.next().unwrap();
    assert!(set.starts_with("__Secure-gatehouse=ghs_"), "{set}");
    let attributes =
        "; Path=/; HttpOnly; SameSite=Lax; Secure; Domain=example.com; Max-Age=2592000";
    assert!(set.ends_with(attributes), "{set}");
    assert_eq!(gatehouse.gateway().check_cookie(&answer.cookie()).await, 200);
}

#[tokio::test]
async fn the_session_api_takes_the_cookie_from_its_own_pages_only() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let (cookie, other) = (gateway.cookie("ann").await, gateway.cookie("ann").await);
    let list = Answer::of(gateway.get("/api/v1/users/sessions").header("cookie", &cookie)).await;
    let sessions = list.body["sessions"].as_array().unwrap();
    assert_eq!(sessions.len(), 2);
    let theirs = sessions.iter().find(|one| one["is_current"] == false).unwrap();
    let path = format!("/api/v1/users/sessions/{}", theirs["id"].as_str().unwrap());
    for (name, value) in [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("x-nothing", ""),
    ] {
        for (method, path) in [
            (Method::DELETE, &*path),
            (Method::PATCH, &*path),
            (Method::POST, "/api/v1/users/sessions/revoke-all"),
            (Method::POST, "/api/v1/logout"),
            (Method::POST, "/api/v1/admin/revoke-everything"),
            (Method::POST, "/api/v1/login"),
        ] {
            let body = json!({ "username": "bob", "password": PASSWORD });
            let request = gateway.request(method.clone(), path).header("cookie", &cookie);
            let answer = Answer::of(request.header(name, value).json(&body)).await;
            assert_eq!(
                (answer.status, answer.code()),
                (403, "forbidden"),
                "{method} {path} {value}"
            );
            assert!(!answer.headers.keys().any(|name| name.as_str().starts_with("access-control")));
        }
    }
    assert_eq!(gateway.check_cookie(&other).await, 200, "nothing was changed");
    assert_eq!(gateway.page(Method::DELETE, &path, &cookie).await.status, 204);
    assert_eq!(gateway.check_cookie(&other).await, 401);
    let ours = gateway.post("/api/v1/users/sessions/revoke-all").header("cookie", &cookie);
    let ours = Answer::of(ours.header("origin", "http://127.0.0.1:8080")).await;
    assert_eq!((ours.status, &ours.body["revoked"]), (200, &json!(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn after_logout_the_cookie_is_dead_everywhere() {
    let gatehouse = Gatehouse::with(2, &[]).await;
    let [one, two] = &gatehouse.gateways[..] else { panic!() };
    let cookie = one.cookie("ann").await;
    assert_eq!((one.check_cookie(&cookie).await, two.check_cookie(&cookie).await), (200, 200));
    let answer = one.page(Method::POST, "/api/v1/logout", &cookie).await;
    assert_eq!(answer.status, 204);
    let set = answer.headers["set-cookie"].to_str().unwrap();
    assert_eq!(set, "gatehouse=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0");
    assert_eq!(one.check_cookie(&cookie).await, 401);
    assert!(eventually(SOON, || async { two.check_cookie(&cookie).await == 401 }).await);
    assert_eq!(two.page(Method::GET, "/api/v1/users/sessions", &cookie).await.status, 401);
    // A browser does not know; where anybody is let in it is nobody.
    let optional = one.get("/authz/auth-request?optional=1").header("cookie", &cookie);
    let optional = Answer::of(optional).await;
    assert_eq!((optional.status, &optional.headers["remote-user"]), (200, &"".parse().unwrap()));
}

#[tokio::test]
async fn what_was_planted_before_a_login_is_dead_after_it() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let planted = gateway.cookie("bob").await;
    let body = json!({ "username": "ann", "password": PASSWORD, "mode": "cookie" });
    let request = gateway.post("/api/v1/login").header("cookie", &planted);
    let answer = Answer::of(request.header("sec-fetch-site", "same-origin").json(&body)).await;
    let cookie = answer.cookie();
    assert_ne!(cookie, planted);
    assert_eq!(gateway.check_cookie(&planted).await, 401);
    assert_eq!(gateway.check_cookie(&cookie).await, 200);
}

#[tokio::test]
async fn what_is_no_cookie_of_ours_is_refused() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let cookie = gateway.cookie("ann").await;
    let value = cookie.split_once('=').unwrap().1;
    let tokens = gateway.login("ann").await;
    for bad in [
        format!("{cookie}; {cookie}"),
        format!("gatehouse=\"{value}\""),
        format!("{cookie}x"),
        format!("gatehouse={}", &value[..value.len() - 1]),
        format!("gatehouse={}", value.replacen("ghs_", "ghr_", 1)),
        format!("gatehouse={}", tokens.access),
        format!("gatehouse={}", tokens.refresh.replacen("ghr_", "ghs_", 1)),
        "gatehouse=".to_owned(),
        format!("gatehouse={}", "A".repeat(8000)),
        format!("\u{2000}{cookie}"),
        format!("={cookie}"),
        format!("$Version=1; __Host-{cookie}"),
    ] {
        let answer = Answer::of(gateway.get("/authz/auth-request").header("cookie", &*bad)).await;
        assert_eq!(answer.status, 401, "{bad}");
        let request = gateway.get("/api/v1/users/sessions").header("cookie", &*bad);
        assert_eq!(Answer::of(request).await.status, 401, "{bad}");
    }
    assert_eq!(gateway.check(value).await, 401, "no cookie is a bearer token");
    assert_eq!(gateway.refresh(value).await.code(), "invalid_refresh_token");
}

#[tokio::test]
async fn two_credentials_of_different_people_are_nobodys() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let (cookie, ann, bob) =
        (gateway.cookie("ann").await, gateway.login("ann").await, gateway.login("bob").await);
    let both = |access: &str| {
        let request = gateway.get("/authz/auth-request").header("cookie", &cookie);
        let request = request.bearer_auth(access);
        async move { Answer::of(request).await.status }
    };
    assert_eq!(both(&ann.access).await, 200);
    assert_eq!(both(&bob.access).await, 401);
    gateway.page(Method::POST, "/api/v1/logout", &cookie).await;
    assert_eq!(both(&bob.access).await, 200, "the cookie is nobody's any more");
}

async fn loads(gateway: &Gateway) -> u64 {
    let name = "gatehouse_redis_command_duration_seconds_count{command=\"session_load\"}";
    gateway.metric(name).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_is_loaded_once_and_then_remembered() {
    let gatehouse = Gatehouse::with(2, &[]).await;
    let [one, two] = &gatehouse.gateways[..] else { panic!() };
    let cookie = one.cookie("ann").await;
    let checks = join_all((0..100).map(|_| two.check_cookie(&cookie))).await;
    assert!(checks.iter().all(|status| *status == 200));
    assert_eq!(loads(two).await, 1, "one load for all who wait");
    let allowed = stream::iter(0..5_000)
        .map(|_| two.check_cookie(&cookie))
        .buffer_unordered(32)
        .filter(|status| std::future::ready(*status == 200));
    assert_eq!(allowed.count().await, 5_000);
    assert_eq!(loads(two).await, 1);
    let from_memory = r#"gatehouse_checks_total{result="allowed",source="memory"}"#;
    assert!(two.metric(from_memory).await >= 5_000);
    // What is dead is remembered for a while, too.
    one.page(Method::POST, "/api/v1/logout", &cookie).await;
    assert!(eventually(SOON, || async { two.check_cookie(&cookie).await == 401 }).await);
    for _ in 0..20 {
        assert_eq!(two.check_cookie(&cookie).await, 401);
    }
    assert_eq!(loads(two).await, 1);
}

#[tokio::test]
async fn activity_moves_the_idle_limit_and_never_the_absolute_one() {
    let settings = ["tokens.access_ttl=1s", "check.activity_flush=100ms", "sessions.idle=3s"];
    let gatehouse = Gatehouse::with(1, &settings).await;
    let gateway = gatehouse.gateway();
    let (used, unused) = (gateway.cookie("ann").await, gateway.cookie("bob").await);
    let start = std::time::Instant::now();
    while start.elapsed() < Duration::from_millis(4500) {
        assert_eq!(gateway.check_cookie(&used).await, 200, "{:?}", start.elapsed());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(gateway.check_cookie(&unused).await, 401);
    let settings = [&settings[..2], &["sessions.idle=2s", "sessions.absolute=2s"]].concat();
    let gatehouse = Gatehouse::with(1, &settings).await;
    let cookie = gatehouse.gateway().cookie("ann").await;
    let over = || async { gatehouse.gateway().check_cookie(&cookie).await == 401 };
    assert!(!eventually(Duration::from_millis(800), over).await);
    assert!(eventually(Duration::from_millis(1800), over).await);
}

#[tokio::test]
async fn without_a_store_a_cookie_that_is_not_remembered_is_unknown() {
    let gatehouse = Gatehouse::with(2, &["redis.timeout=250ms"]).await;
    let [one, two] = &gatehouse.gateways[..] else { panic!() };
    let cookie = one.cookie("ann").await;
    assert_eq!(one.check_cookie(&cookie).await, 200);
    gatehouse.redis.signal("STOP");
    let start = std::time::Instant::now();
    let (known, unknown) = tokio::join!(
        one.check_cookie(&cookie),
        join_all((0..50).map(|_| two.check_cookie(&cookie)))
    );
    let took = start.elapsed();
    gatehouse.redis.signal("CONT");
    assert_eq!(known, 200, "from memory");
    assert!(unknown.iter().all(|status| *status == 503), "{unknown:?}");
    assert!(took < Duration::from_millis(400), "{took:?}");
    assert!(eventually(SOON * 8, || async { two.check_cookie(&cookie).await == 200 }).await);
}

#[tokio::test]
async fn everything_revoked_covers_cookies() {
    let gatehouse = Gatehouse::start().await;
    let gateway = gatehouse.gateway();
    let cookie = gateway.cookie("ann").await;
    assert_eq!(gateway.check_cookie(&cookie).await, 200);
    gateway.admin(Method::POST, "/api/v1/admin/revoke-everything").await;
    assert!(eventually(SOON, || async { gateway.check_cookie(&cookie).await == 401 }).await);
    let again = gateway.cookie("ann").await;
    assert_eq!(gateway.check_cookie(&again).await, 200);
}
