//! Commands, settings, start and stop.

use std::io::Write as _;
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{Answer, Gatehouse, Redis, eventually};

fn gatehouse(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gatehouse"));
    command.args(args).stdin(Stdio::null()).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_wrong_setting_is_named_with_an_example() {
    let output = gatehouse(&["check-config", "--set", "sessions.limit=200"]);
    assert!(!output.status.success());
    let said = stderr(&output);
    assert!(
        said.contains("sessions.limit") && said.contains("1 to 100") && said.contains("limit = 15"),
        "{said}"
    );
    let output = gatehouse(&["check-config", "--set", "server.lisen=x"]);
    assert!(stderr(&output).contains("did you mean `listen`"), "{}", stderr(&output));
}

#[test]
fn the_effective_settings_are_shown_without_secrets() {
    let output = gatehouse(&["check-config", "--set", "redis.url=redis://:hunter2@127.0.0.1"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("[redacted]") && !shown.contains("hunter2"), "{shown}");
}

#[test]
fn the_example_configuration_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("gatehouse.toml");
    std::fs::write(&file, gatehouse(&["example-config"]).stdout).unwrap();
    let output = gatehouse(&["check-config", "--config", file.to_str().unwrap()]);
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn keys_are_made_and_listed() {
    let dir = tempfile::tempdir().unwrap();
    let keys = format!("tokens.keys_dir={}", dir.path().display());
    let list = || String::from_utf8(gatehouse(&["keys", "list", "--set", &keys]).stdout).unwrap();
    let before = list();
    assert_eq!(before.lines().count(), 1);
    assert!(gatehouse(&["keys", "generate", "--set", &keys]).status.success());
    let after = list();
    assert_eq!(after.lines().count(), 2, "{after}");
    assert_eq!(after.matches("* EdDSA").count(), 1, "one signs");
    assert!(
        after.contains(before.trim_start_matches(['*', ' ']).trim()),
        "the old one still verifies"
    );
}

#[tokio::test]
async fn a_redis_that_would_lose_sessions_is_refused() {
    let redis = Redis::start();
    redis.cli(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    let dir = tempfile::tempdir().unwrap();
    let url = format!("redis.url=redis+unix://{}", redis.socket().display());
    let keys = format!("tokens.keys_dir={}", dir.path().display());
    let serve = [
        "serve",
        "--set",
        &url,
        "--set",
        &keys,
        "--set",
        "server.listen=127.0.0.1:0",
        "--set",
        "server.ops_listen=127.0.0.1:0",
    ];
    let refused = gatehouse(&serve);
    assert!(!refused.status.success());
    assert!(stderr(&refused).contains("maxmemory-policy is allkeys-lru"), "{}", stderr(&refused));
    redis.cli(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    redis.cli(&["HSET", "gh:meta", "schema", "1", "buckets", "16"]);
    let refused = gatehouse(&serve);
    assert!(stderr(&refused).contains("laid out by schema 1"), "{}", stderr(&refused));
    redis.cli(&["HSET", "gh:meta", "schema", "2", "buckets", "32"]);
    let refused = gatehouse(&serve);
    assert!(
        stderr(&refused).contains("set redis.buckets to what it was set up with"),
        "{}",
        stderr(&refused)
    );
}

#[tokio::test]
async fn a_gateway_waits_for_a_redis_that_is_not_there_yet() {
    let mut house = Gatehouse::start().await;
    house.redis.kill();
    let newcomer = {
        // It listens at once, so that a probe can see it wait.
        let log = house.dir.path().join("newcomer.log");
        let url = format!("redis.url=redis+unix://{}", house.redis.socket().display());
        crate::harness::spawn(&house.dir.path().join("gatehouse.toml"), &["--set", &url], &log)
            .await
    };
    assert!(!newcomer.ready().await);
    let live = reqwest::get(format!("{}/livez", newcomer.ops)).await.unwrap();
    assert_eq!(live.status(), 200);
    assert_eq!(newcomer.check("nonsense").await, 401);
    assert_eq!(newcomer.create(serde_json::json!({ "user_id": "ann" })).await.status, 503);
    house.redis.spawn();
    assert!(eventually(Duration::from_secs(10), || async { newcomer.ready().await }).await);
    assert_eq!(newcomer.create(serde_json::json!({ "user_id": "ann" })).await.status, 201);
    house.gateways.clear();
}

#[tokio::test]
async fn stopping_is_announced_and_ends_in_time() {
    let mut house = Gatehouse::with(1, &["check.activity_flush=60s", "server.drain=1s"]).await;
    let mut gateway = house.gateways.remove(0);
    let tokens = gateway.login("ann").await;
    gateway.check(&tokens.access).await;
    let key = format!("gh:{{08}}:session:{}", tokens.session);
    assert_eq!(house.redis.cli(&["HGET", &key, "a"]), "", "not yet");
    // A request that never ends must not keep the process.
    let mut stuck = TcpStream::connect(gateway.url.strip_prefix("http://").unwrap()).unwrap();
    stuck
        .write_all(b"POST /api/v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
        .unwrap();
    gateway.process.signal("TERM");
    let start = Instant::now();
    assert!(gateway.process.0.wait().unwrap().success());
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_ne!(house.redis.cli(&["HGET", &key, "a"]), "", "activity was written at last");
}

#[tokio::test]
async fn operators_see_what_goes_on() {
    let house = Gatehouse::start().await;
    let gateway = house.gateway();
    let tokens = gateway.login("ann").await;
    gateway.check(&tokens.access).await;
    gateway.check("nonsense").await;
    let metrics = gateway.metrics().await;
    for line in [
        r#"gatehouse_checks_total{result="allowed",source="memory"} 1"#,
        r#"gatehouse_checks_total{result="invalid",source="memory"} 1"#,
        r#"gatehouse_sessions_created_total{method="service"} 1"#,
        "# TYPE gatehouse_check_duration_seconds histogram",
        r#"gatehouse_http_requests_total{route="/api/v1/sessions",method="POST",status="201"} 1"#,
        "gatehouse_redis_up 1",
        "process_resident_memory_bytes",
    ] {
        assert!(metrics.contains(line), "no {line} in\n{metrics}");
    }
    assert!(!metrics.contains("ann") && !metrics.contains(&tokens.session));
    let ready = reqwest::get(format!("{}/readyz?verbose", gateway.ops)).await.unwrap();
    assert_eq!(ready.text().await.unwrap(), "redis: ok\nfeed: ok\nprocess: ok\n");
}

#[tokio::test]
async fn a_header_that_never_ends_is_not_waited_for() {
    use std::io::Read as _;
    let house = Gatehouse::start().await;
    let address = house.gateway().url.strip_prefix("http://").unwrap().to_owned();
    let slow = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(b"GET /authz/auth-request HTTP/1.1\r\nHost: x\r\nX-").unwrap();
        let start = Instant::now();
        let _ = stream.read(&mut [0; 512]).unwrap();
        start.elapsed()
    });
    assert!(slow.await.unwrap() < Duration::from_secs(10));
    assert_eq!(Answer::of(house.gateway().get("/authz/auth-request")).await.status, 401);
}

#[tokio::test]
async fn a_connection_may_be_idle_but_not_slow() {
    use std::io::Read as _;
    let house = Gatehouse::start().await;
    let address = house.gateway().url.strip_prefix("http://").unwrap().to_owned();
    let connections = tokio::task::spawn_blocking(move || {
        let request = b"GET /authz/auth-request HTTP/1.1\r\nHost: x\r\n\r\n";
        let ask = |stream: &mut TcpStream| {
            stream.write_all(request).unwrap();
            let mut answer = [0; 512];
            let length = stream.read(&mut answer).unwrap();
            String::from_utf8_lossy(&answer[..length]).contains("401 Unauthorized")
        };
        let [mut idle, mut slow] = [(); 2].map(|()| {
            let mut stream = TcpStream::connect(&address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            assert!(ask(&mut stream));
            stream
        });
        slow.write_all(&request[..30]).unwrap();
        let start = Instant::now();
        assert_eq!(slow.read(&mut [0; 512]).unwrap(), 0, "closed");
        assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
        assert!(ask(&mut idle), "a proxy keeps its connections");
    });
    connections.await.unwrap();
}

#[tokio::test]
async fn a_body_that_never_ends_is_not_waited_for() {
    use std::io::Read as _;
    let house = Gatehouse::with(1, &["limits.requests_at_once=1"]).await;
    let address = house.gateway().url.strip_prefix("http://").unwrap().to_owned();
    let slow = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let head = b"POST /api/v1/sessions/refresh HTTP/1.1\r\nHost: x\r\n\
                     Content-Type: application/json\r\nContent-Length: 99\r\n\r\n{";
        stream.write_all(head).unwrap();
        let mut answer = [0; 1024];
        let length = stream.read(&mut answer).unwrap();
        String::from_utf8_lossy(&answer[..length]).into_owned()
    });
    let answer = slow.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("has to arrive within 10 s"), "{answer}");
    assert_eq!(house.gateway().create(serde_json::json!({ "user_id": "ann" })).await.status, 201);
}
