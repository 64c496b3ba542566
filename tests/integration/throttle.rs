//! Guessing is slow, and keeps nobody out who has a device that is known.

use std::time::{Duration, Instant};

use futures::{StreamExt as _, stream};
use reqwest::RequestBuilder;
use serde_json::json;

use crate::harness::{Answer, Gatehouse, Gateway, PASSWORD};

/// A login from an address, as a trusted proxy tells it.
fn from(gateway: &Gateway, address: &str, username: &str, password: &str) -> RequestBuilder {
    gateway.password(username, password).header("x-forwarded-for", address)
}

/// How many of these were not limited, that is, were tried.
async fn tried(requests: impl Iterator<Item = RequestBuilder>) -> usize {
    let statuses = stream::iter(requests)
        .map(|request| async { request.send().await.unwrap().status().as_u16() })
        .buffer_unordered(16)
        .collect::<Vec<_>>()
        .await;
    assert!(statuses.iter().all(|status| [401, 429, 503].contains(status)), "{statuses:?}");
    statuses.iter().filter(|status| **status != 429).count()
}

fn address(i: usize) -> String {
    format!("10.{}.{}.{}", i >> 16 & 255, i >> 8 & 255, i & 255)
}

#[tokio::test(flavor = "multi_thread")]
async fn many_passwords_for_one_account_are_limited_from_one_address_and_from_many() {
    let settings = ["limits.logins_per_account=10", "limits.logins_per_address=30"];
    let gatehouse = Gatehouse::with(2, &settings).await;
    let gateway = |i: usize| &gatehouse.gateways[i % 2];
    // The victim chose once that their device be remembered.
    let body = json!({ "username": "ann", "password": PASSWORD, "remember": true });
    let first = Answer::of(gateway(0).post("/api/v1/login").json(&body)).await;
    let device = first.body["device"].as_str().unwrap().to_owned();
    let victim = |i: usize| {
        let body = json!({ "username": "ann", "password": PASSWORD, "device": device });
        Answer::of(
            gateway(i).post("/api/v1/login").header("x-forwarded-for", "10.0.0.1").json(&body),
        )
    };
    let start = Instant::now();
    let one = tried((0..1000).map(|i| from(gateway(i), "10.0.0.1", "ann", &format!("guess {i}"))));
    let one = one.await;
    assert!((5..=11).contains(&one), "{one} from one address, of which a failure counts thrice");
    assert_eq!(victim(0).await.status, 200, "in the middle of it, from the same address");
    let many =
        tried((0..10_000).map(|i| from(gateway(i), &address(i + 2), "ann", &format!("guess {i}"))));
    let many = many.await;
    // Ten at once, and then with growing delays: 6 s, 12 s, 24 s, …
    let most = 10 + 2 + usize::try_from(start.elapsed().as_secs()).unwrap() / 6;
    assert!(many <= most, "{many} from ten thousand addresses, {most} allowed");
    assert_eq!(victim(1).await.status, 200);
    // From an unknown device she has to wait like everybody.
    let unknown = Answer::of(from(gateway(0), "10.99.0.1", "ann", PASSWORD)).await;
    assert_eq!((unknown.status, unknown.code()), (429, "rate_limited"));
    let wait = unknown.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap();
    assert!((1..=900).contains(&wait), "never a lock: {wait} s");
    assert_eq!(unknown.headers["ratelimit-policy"], r#""account";q=10;w=60"#);
    assert!(unknown.headers["ratelimit"].to_str().unwrap().starts_with(r#""account";r=0;t="#));
    // Others are not concerned.
    assert_eq!(Answer::of(from(gateway(0), "10.99.0.2", "bob", PASSWORD)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_password_for_many_accounts_is_limited_by_address_and_in_all() {
    let settings = ["limits.logins_per_address=30", "limits.logins_in_all=200"];
    let gatehouse = Gatehouse::with(2, &settings).await;
    let gateway = |i: usize| &gatehouse.gateways[i % 2];
    let start = Instant::now();
    let one = tried((0..1000).map(|i| from(gateway(i), "10.0.0.1", &format!("user-{i}"), "guess")));
    let one = one.await;
    let most = 11 + usize::try_from(start.elapsed().as_secs()).unwrap() / 6;
    assert!((8..=most).contains(&one), "{one} from one address");
    // One subscriber of IPv6 is one address.
    let six = tried(
        (0..1000)
            .map(|i| from(gateway(i), &format!("2001:db8::{i:x}"), &format!("user-{i}"), "guess")),
    );
    let six = six.await;
    assert!((8..=most + 2).contains(&six), "{six} from one /64");
    let many = tried(
        (0..10_000).map(|i| from(gateway(i), &address(i + 2), &format!("user-{i}"), "guess")),
    );
    let many = many.await;
    let seconds = usize::try_from(start.elapsed().as_secs()).unwrap() + 1;
    let most = 200 + seconds * 200 / 60;
    assert!(many <= most, "{many} from ten thousand addresses, {most} allowed in all");
}

#[tokio::test]
async fn success_costs_less_and_ends_the_row() {
    let settings = ["limits.logins_per_account=4", "limits.logins_per_address=12"];
    let gatehouse = Gatehouse::with(1, &settings).await;
    let gateway = gatehouse.gateway();
    for i in 0..8 {
        let answer = Answer::of(from(gateway, "10.0.0.1", "ann", PASSWORD)).await;
        assert_eq!(answer.status, 200, "{i}");
        assert_eq!(answer.headers["ratelimit-policy"], r#""account";q=4;w=60"#);
    }
    for _ in 0..2 {
        assert_eq!(Answer::of(from(gateway, "10.0.0.1", "ann", "guess")).await.status, 401);
    }
    assert_eq!(Answer::of(from(gateway, "10.0.0.1", "ann", PASSWORD)).await.status, 429);
}

#[tokio::test]
async fn a_known_device_is_no_way_to_guess_either() {
    let gatehouse = Gatehouse::with(1, &["limits.logins_per_account=5"]).await;
    let gateway = gatehouse.gateway();
    let body = json!({ "username": "ann", "password": PASSWORD, "remember": true });
    let first = Answer::of(gateway.post("/api/v1/login").json(&body)).await;
    let device = first.body["device"].as_str().unwrap();
    let guess = |device: &str, username: &str| {
        let body = json!({ "username": username, "password": "guess", "device": device });
        Answer::of(gateway.post("/api/v1/login").json(&body))
    };
    let mut limited = 0;
    for _ in 0..10 {
        limited += u32::from(guess(device, "ann").await.status == 429);
    }
    assert!(limited >= 4, "{limited}");
    // It is hers alone, and a forged one is nobody's.
    for (device, username) in [(device, "bob"), ("ghd_AAAA", "ann"), ("", "ann")] {
        let answer = guess(device, username).await;
        assert_eq!(answer.status, 401, "{answer:?}");
        let policy = answer.headers["ratelimit-policy"].to_str().unwrap();
        assert!(policy.starts_with(r#""account""#), "{policy}");
    }
}

#[tokio::test]
async fn the_page_says_how_long_to_wait() {
    let gatehouse = Gatehouse::with(1, &["limits.logins_per_account=1"]).await;
    let gateway = gatehouse.gateway();
    let post = || {
        let request = gateway.post("/login").header("sec-fetch-site", "same-origin");
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        request.body("username=ann&password=guess").send()
    };
    assert_eq!(post().await.unwrap().status(), 401);
    let limited = post().await.unwrap();
    assert_eq!(limited.status(), 429);
    assert!(limited.headers().contains_key("retry-after"));
    assert!(limited.text().await.unwrap().contains("before you try again"));
}

#[tokio::test]
async fn the_store_keeps_no_names_and_forgets() {
    let gatehouse = Gatehouse::with(1, &["limits.logins_per_address=60000"]).await;
    let gateway = gatehouse.gateway();
    Answer::of(from(gateway, "10.0.0.1", "s3cret typed here", "guess")).await;
    let keys = gatehouse.redis.keys("*limit:*");
    assert!(keys.iter().all(|key| !key.contains("s3cret")), "{keys:?}");
    for key in keys {
        let left: i64 = gatehouse.redis.cli(&["PTTL", &key]).parse().unwrap();
        assert!((-2..=3_600_000).contains(&left) && left != -1, "{key}: {left}");
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(gatehouse.redis.keys("*limit:address*").is_empty());
}
