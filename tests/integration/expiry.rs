//! Sessions that run out are cleared away, and counted, once.

use std::time::Duration;

use futures::{StreamExt as _, stream};
use serde_json::json;

use crate::harness::{CHROME, FIREFOX, Gatehouse, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_sessions_expire_without_a_trace_and_are_counted_once() {
    const SESSIONS: usize = 10_000;
    let settings = ["tokens.access_ttl=1s", "sessions.idle=1s", "sweep.interval=500ms"];
    let gatehouse = Gatehouse::with(2, &settings).await;
    let logins = stream::iter(0..SESSIONS).map(|i| {
        let gateway = &gatehouse.gateways[i % 2];
        let agent = if i % 3 == 0 { FIREFOX } else { CHROME };
        gateway.create(json!({ "user_id": format!("user-{}", i / 4), "user_agent": agent }))
    });
    let began = logins.buffer_unordered(64).filter(|answer| {
        let began = answer.status == 201;
        async move { began }
    });
    assert_eq!(began.count().await, SESSIONS);
    let of_a_session = ["session:", "user:", "expiry", "agents", "ended:"];
    let left = || async {
        let keys = gatehouse.redis.keys("gh:*");
        !keys.iter().any(|key| of_a_session.iter().any(|part| key.contains(part)))
    };
    assert!(eventually(Duration::from_secs(30), left).await, "{:?}", gatehouse.redis.keys("gh:*"));
    let total = |counter: &str| -> usize {
        let days = gatehouse.redis.keys("gh:*:stats:*");
        let counted = |day: &String| -> usize {
            let fields = gatehouse.redis.cli(&["HGETALL", day]);
            let lines: Vec<&str> = fields.lines().collect();
            let of_counter = |pair: &&[&str]| pair[0].starts_with(counter);
            lines.chunks(2).filter(of_counter).map(|pair| pair[1].parse::<usize>().unwrap()).sum()
        };
        days.iter().map(counted).sum()
    };
    assert_eq!(total("created:"), SESSIONS);
    assert_eq!(total("country:"), SESSIONS);
    assert_eq!(total("ended:expired:1m"), SESSIONS);
    assert_eq!(total("ended:"), SESSIONS);
}

#[tokio::test]
async fn an_expired_session_is_refused_by_name_and_its_token_with_it() {
    let settings = ["tokens.access_ttl=1s", "sessions.idle=1s", "sweep.interval=10m"];
    let gatehouse = Gatehouse::with(1, &settings).await;
    let gateway = gatehouse.gateway();
    let tokens = gateway.login("ann").await;
    let expired = || async { gateway.refresh(&tokens.refresh).await.code() == "session_expired" };
    assert!(eventually(Duration::from_secs(5), expired).await);
    // The leeway for clocks that differ is 5 s.
    assert!(
        eventually(Duration::from_secs(8), || async { gateway.check(&tokens.access).await == 401 })
            .await
    );
    let list = gateway.admin(reqwest::Method::GET, "/api/v1/admin/users/ann/sessions").await;
    assert_eq!(list.body["sessions"], json!([]));
}

#[tokio::test]
async fn activity_moves_the_idle_limit() {
    let settings = ["tokens.access_ttl=1m", "sessions.idle=1h", "check.activity_flush=100ms"];
    let gatehouse = Gatehouse::with(1, &settings).await;
    let gateway = gatehouse.gateway();
    let tokens = gateway.login("ann").await;
    let expiry = || {
        gatehouse.redis.cli(&["ZSCORE", "gh:{08}:expiry", &tokens.session]).parse::<f64>().unwrap()
    };
    let before = expiry();
    assert_eq!(gateway.check(&tokens.access).await, 200);
    assert!(eventually(Duration::from_secs(5), || async { expiry() > before }).await);
}
