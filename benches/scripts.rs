//! What the scripts cost inside Redis, and what a session weighs there: `cargo bench --bench scripts`.
//!
//! Microseconds a call are the server's own (`INFO commandstats`), under 256 calls at once, so that
//! what is measured is a server at work and not one that wakes up.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark prints, and fails by panicking"
)]

mod redis;

use std::process::Command;
use std::time::{Duration, Instant};

use futures::{StreamExt as _, stream};
use gatehouse::config::{self, OnLimit};
use gatehouse::model::{DeviceClass, Location, Session, SessionId, Timestamp};
use gatehouse::store::Store;
use gatehouse::store::sessions::{Activity, Limits, Origin};
use redis::Redis;
use serde_json::json;

const AT_ONCE: usize = 256;
const CALLS: usize = 50_000;
/// The figures of a session with all its metadata are taken at this many.
const SESSIONS: usize = 100_000;
const SEED: [u8; 16] = [9; 16];
const LIMITS: Limits = Limits {
    sessions: 15,
    on_limit: OnLimit::EvictOldest,
    idle: Duration::from_hours(24),
    absolute: Duration::from_hours(7 * 24),
};

fn cli(redis: &Redis, args: &[&str]) -> String {
    let output = Command::new("redis-cli").arg("-s").arg(redis.socket()).args(args).output();
    String::from_utf8(output.unwrap().stdout).unwrap()
}

fn info(redis: &Redis, section: &str, field: &str) -> f64 {
    let info = cli(redis, &["INFO", section]);
    let line = info.lines().find_map(|line| line.strip_prefix(field)).unwrap_or("0");
    line.trim().parse().unwrap()
}

/// Microseconds a call of one command since the last reset.
fn usec(redis: &Redis, command: &str) -> f64 {
    let stats = cli(redis, &["INFO", "commandstats"]);
    let prefix = format!("cmdstat_{command}:");
    let line = stats.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap();
    let value = line.split(',').find_map(|part| part.strip_prefix("usec_per_call=")).unwrap();
    value.parse().unwrap()
}

fn session(user: &str, id: u128) -> Session {
    let chrome = format!(
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) \
         Chrome/{}.0.0.0 Safari/537.36",
        120 + id % 8
    );
    Session {
        // A session id is random; this one only has to look so to the server.
        id: SessionId((id.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)).to_be_bytes()),
        user: user.parse().unwrap(),
        device_name: "Chrome on Windows".into(),
        device_class: DeviceClass::Desktop,
        ip: format!("203.0.113.{}", id % 256),
        user_agent: chrome,
        location: Some(Location { city: Some("London".into()), country: "GB".into() }),
        created: Timestamp::default(),
        last_active: Timestamp::default(),
        expires: Timestamp::default(),
        remembered: id.is_multiple_of(3),
        generation: 1,
        auth_time: Timestamp::default(),
        auth_method: "pwd".into(),
        roles: vec!["staff".into()],
        claims: serde_json::Map::from_iter([("email".into(), json!("ann@example.com"))]),
    }
}

/// Runs a call so many times, `AT_ONCE` at a time, and prints what it cost.
async fn measure<F: Future<Output = ()>>(redis: &Redis, name: &str, call: impl Fn(usize) -> F) {
    cli(redis, &["CONFIG", "RESETSTAT"]);
    let cpu = info(redis, "cpu", "used_cpu_user:") + info(redis, "cpu", "used_cpu_sys:");
    let start = Instant::now();
    stream::iter(0..CALLS).map(call).buffer_unordered(AT_ONCE).for_each(|()| async {}).await;
    let elapsed = start.elapsed();
    let cpu = info(redis, "cpu", "used_cpu_user:") + info(redis, "cpu", "used_cpu_sys:") - cpu;
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let calls = CALLS as f64;
    println!(
        "{name:<28} {:>6.1} us in the script, {:>6.1} us of CPU in the server, {:>7.0} calls/s",
        usec(redis, "evalsha"),
        cpu * 1e6 / calls,
        calls / elapsed.as_secs_f64(),
    );
}

#[tokio::main]
async fn main() {
    let redis = Redis::start();
    let config = config::load(None, std::iter::empty(), &[]).unwrap();
    let store = Store::connect(&config.redis, &redis.url(), Duration::from_mins(20)).unwrap();
    store.prepare().await.unwrap();
    // Every script once, so that none is measured while it is compiled.
    let create = |user: String, id: u128| {
        let store = &store;
        async move {
            drop(
                store
                    .session_create(session(&user, id), SEED, 1, LIMITS, false, &Origin::default())
                    .await
                    .unwrap(),
            );
        }
    };
    create("first".into(), u128::MAX).await;

    let before = info(&redis, "memory", "used_memory:");
    measure(&redis, "session_create, below 15", |i| create(format!("user-{}", i / 4), i as u128))
        .await;
    for i in CALLS..SESSIONS {
        create(format!("user-{}", i / 4), i as u128).await;
    }
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let weight = (info(&redis, "memory", "used_memory:") - before) / SESSIONS as f64;

    for i in 0..150 {
        create(format!("full-{}", i % 10), (SESSIONS + i) as u128).await;
    }
    measure(&redis, "session_create, at 15", |i| {
        create(format!("full-{}", i % 10), (2 * SESSIONS + i) as u128)
    })
    .await;

    let rotate = |i: usize| {
        let store = &store;
        async move {
            let user = format!("user-{}", i / 4);
            let session = session(&user, i as u128);
            let bucket = store.bucket_of(&session.user);
            let (grace, idle) = (Duration::from_secs(20), false);
            let answer = store.session_rotate(bucket, session.id, 1, SEED, grace, 1, idle).await;
            assert!(answer.unwrap().is_ok());
        }
    };
    measure(&redis, "session_rotate", rotate).await;
    measure(&redis, "session_rotate, repeated", rotate).await;
    measure(&redis, "session_live", |i| {
        let (store, session) = (&store, session(&format!("user-{}", i / 4), i as u128));
        let bucket = store.bucket_of(&session.user);
        async move { assert!(store.session_live(bucket, session.id).await.unwrap().is_some()) }
    })
    .await;
    measure(&redis, "session_touch, one session", |i| {
        let (store, session) = (&store, session(&format!("user-{}", i / 4), i as u128));
        let bucket = store.bucket_of(&session.user);
        let age = Duration::from_secs(1);
        let seen = Activity { session: session.id, age, generation: 2, place: None };
        async move { store.session_touch(bucket, &[seen]).await.unwrap() }
    })
    .await;
    measure(&redis, "feed_heartbeat", |i| {
        let store = &store;
        async move { assert!(store.feed_heartbeat(u8::try_from(i % 16).unwrap()).await.is_ok()) }
    })
    .await;
    measure(&redis, "session_revoke", |i| {
        let (store, session) = (&store, session(&format!("user-{}", i / 4), i as u128));
        let cause = gatehouse::model::EndCause::Logout;
        async move { assert!(store.session_revoke(&session.user, session.id, cause).await.unwrap()) }
    })
    .await;
    println!("{:<28} {weight:>6.0} B, index and its share of everything included", "a session");
}
