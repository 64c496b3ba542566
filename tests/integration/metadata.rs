//! Where a session is used from, and on what.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;

use crate::harness::{Gatehouse, eventually};

const DATABASE: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/geoip/GeoIP2-City-Test.mmdb");

#[tokio::test]
async fn a_location_database_says_where() {
    let gatehouse = Gatehouse::with(1, &[&format!("geoip.database={DATABASE}")]).await;
    let gateway = gatehouse.gateway();
    for (ip, location) in [
        ("81.2.69.142", json!("London, GB")),
        ("2001:218::1", json!("JP")),
        ("127.0.0.1", json!(null)),
    ] {
        let answer = gateway.create(json!({ "user_id": "ann", "ip": ip })).await;
        assert_eq!(answer.body["session"]["location"], location, "{ip}");
        assert_eq!(answer.body["session"]["ip_address"], ip);
    }
}

#[tokio::test]
async fn a_check_tells_where_a_session_is_used_from() {
    let settings = [&format!("geoip.database={DATABASE}"), "check.activity_flush=100ms"];
    let gatehouse = Gatehouse::with(1, &settings).await;
    let gateway = gatehouse.gateway();
    let tokens = gateway.create(json!({ "user_id": "ann" })).await.tokens();
    let check = gateway.get("/authz/auth-request").bearer_auth(&tokens.access);
    let forged = "2.125.160.216, 81.2.69.142";
    assert_eq!(check.header("x-forwarded-for", forged).send().await.unwrap().status(), 200);
    let moved = || async {
        let list = gateway.call(Method::GET, "/api/v1/users/sessions", &tokens).await;
        let session = &list.body["sessions"][0];
        session["ip_address"] == "81.2.69.142" && session["location"] == "London, GB"
    };
    assert!(eventually(Duration::from_secs(5), moved).await);
}

#[tokio::test]
async fn a_session_costs_at_most_640_bytes() {
    const SESSIONS: u32 = 300;
    let gatehouse = Gatehouse::with(1, &[&format!("geoip.database={DATABASE}")]).await;
    let gateway = gatehouse.gateway();
    let used = || -> f64 {
        let keys = gatehouse.redis.keys("gh:*");
        let counted = keys.iter().filter(|key| {
            ["session:", "user:", "expiry", "agents"].iter().any(|part| key.contains(part))
        });
        counted
            .map(|key| {
                gatehouse
                    .redis
                    .cli(&["MEMORY", "USAGE", key, "SAMPLES", "0"])
                    .parse::<f64>()
                    .unwrap()
            })
            .sum()
    };
    for i in 0..SESSIONS {
        let body = json!({
            "user_id": format!("user-{:04}@example.com", i / 3),
            "ip": "81.2.69.142",
            "user_agent": crate::harness::CHROME,
            "roles": ["staff"],
        });
        assert_eq!(gateway.create(body).await.status, 201);
    }
    let each = used() / f64::from(SESSIONS);
    println!("{each:.0} bytes a session");
    assert!(each <= 640.0, "{each:.0} bytes");
}
