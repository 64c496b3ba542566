//! Counts the instructions of checks, of a refresh and of a create, and fails when they grow: `make
//! bench-guard`. Unlike time, that is the same on a busy machine.
//!
//! Run without arguments it runs itself under valgrind, which counts while it is in [`counted`]:
//! starting and stopping do not count. Only the gateway's side does, over a real Redis. `guard
//! --update` writes down what was counted as what is allowed.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark prints, and fails by panicking"
)]

mod redis;

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{Request, StatusCode};
use gatehouse::config;
use gatehouse::http::{self, Routes};
use gatehouse::sessions::location::Locations;
use gatehouse::state::{Gateway, retention};
use gatehouse::store::Store;
use gatehouse::token::KeyRing;
use http_body_util::BodyExt as _;
use redis::Redis;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

/// What was counted when it was last found good.
const ALLOWED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/guard.json");
/// Processors differ in what they are told to do.
const ARCH: &str = std::env::consts::ARCH;
const ATTEMPTS: usize = 3;
/// Parts, how often each runs, and for how many runs the figure stands.
const PARTS: [(&str, u64, u64); 3] =
    [("checks", 20_000, 100_000), ("rotate", 500, 1), ("create", 500, 1)];
const SERVICE_KEY: &str = "ghk_guard";
const PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9);
const AGENT: &str = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like \
                     Gecko) Chrome/126.0.0.0 Safari/537.36";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["run", part, times] => {
            run(part, times.parse().unwrap());
            ExitCode::SUCCESS
        }
        _ => guard(arguments.iter().any(|argument| argument == "--update")),
    }
}

/// Counts every part and compares.
fn guard(update: bool) -> ExitCode {
    let file = std::fs::read_to_string(ALLOWED).unwrap_or_else(|_| "{}".to_owned());
    let mut allowed: Value = serde_json::from_str(&file).unwrap();
    let mut grown = false;
    for (part, times, per) in PARTS {
        let allowed = &mut allowed[ARCH][part];
        let most = match allowed.as_u64() {
            Some(before) if !update => before + before / 20,
            _ => 0,
        };
        let mut count = u64::MAX;
        // What waits for Redis wakes up more or less often: the fewest count.
        for _ in 0..ATTEMPTS {
            let (few, many) =
                (instructions(part, times / 4), instructions(part, times + times / 4));
            count = count.min((many - few) / times * per);
            if count <= most {
                break;
            }
        }
        if update {
            *allowed = json!(count);
        }
        println!("{part:<8} {count:>12} instructions; {allowed} are allowed, and 5 % more");
        grown |= !update && !allowed.is_null() && count > most;
    }
    if update {
        std::fs::write(ALLOWED, format!("{allowed:#}\n")).unwrap();
    } else if grown {
        println!("That is more than benches/guard.json allows. If it is the price of something:");
        println!("make bench-guard UPDATE=--update, and say in the commit what it buys.");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// What valgrind counts.
fn instructions(part: &str, times: u64) -> u64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg("--toggle-collect=*counted*")
        .arg(std::env::current_exe().unwrap())
        .args(["run", part, &times.to_string()])
        .output()
        .expect("valgrind is installed (make test does that)");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let line = said.lines().find_map(|line| line.split_once("Collected : ")).expect("a count");
    line.1.trim().parse().unwrap()
}

fn run(part: &str, times: u64) {
    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let redis = Redis::start();
    let dir = tempfile::tempdir().unwrap();
    let (store, routes, tokens) = runtime.block_on(async {
        let (store, routes) = gateway(&redis, dir.path()).await;
        let tokens = create(&routes, "ann").await;
        // What is made once is made now.
        let tokens = refresh(&routes, &tokens).await;
        let _ = routes.answer(PEER, check(&tokens).map(|()| Body::empty())).await;
        (store, routes, tokens)
    });
    counted(&runtime, repeat(part, times, &routes, tokens));
    runtime.block_on(store.close());
}

#[inline(never)]
fn counted(runtime: &Runtime, work: impl Future<Output = ()>) {
    runtime.block_on(work);
}

async fn repeat(part: &str, times: u64, routes: &Routes, mut tokens: Tokens) {
    let question = check(&tokens);
    for i in 0..times {
        match part {
            "checks" => {
                let asked = question.clone().map(|()| Body::empty());
                assert_eq!(routes.answer(PEER, asked).await.status(), StatusCode::OK);
            }
            "rotate" => tokens = refresh(routes, &tokens).await,
            "create" => drop(create(routes, &format!("user-{i}")).await),
            _ => panic!("{part} is no part"),
        }
    }
}

/// A gateway that has proved once that it is current, and is content with that.
async fn gateway(redis: &Redis, dir: &Path) -> (Store, Routes) {
    let overrides = [
        ("redis.buckets", "1"),
        ("redis.connections", "1"),
        ("redis.timeout", "2s"),
        ("check.max_staleness", "5m"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()));
    let mut config = config::load(None, std::iter::empty(), &overrides).unwrap();
    config.login.service_keys.push(config::ServiceKey {
        name: "guard".to_owned(),
        sha256: aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, SERVICE_KEY.as_bytes())
            .as_ref()
            .try_into()
            .unwrap(),
        scopes: vec![config::Scope::SessionsCreate],
    });
    config.server.trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
    let retention = retention(&config);
    let keys = Arc::new(KeyRing::open(dir, config.tokens.algorithm).unwrap());
    let store = Store::connect(&config.redis, &redis.url(), retention).unwrap();
    let locations = Arc::new(Locations::open(None).unwrap());
    let metrics = gatehouse::telemetry::metrics::install().unwrap();
    store.prepare().await.unwrap();
    let (gateway, _writer) = Gateway::new(config, store.clone(), keys, locations, metrics);
    let (check, stop) = (&gateway.check, CancellationToken::new());
    let following = gatehouse::check::follow(
        store.clone(),
        &check.revocations,
        &check.freshness,
        retention,
        stop.clone(),
    );
    let proved = async {
        while check.freshness.staleness(0, Instant::now()) == Duration::MAX {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        stop.cancel();
    };
    tokio::join!(following, proved);
    (store, http::public(Arc::clone(&gateway)))
}

/// What an app holds.
struct Tokens {
    access: String,
    refresh: String,
}

impl Tokens {
    async fn of(response: axum::response::Response) -> Self {
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap();
        let text = |name: &str| body[name].as_str().expect(name).to_owned();
        Self { access: text("access_token"), refresh: text("refresh_token") }
    }
}

/// As nginx asks.
fn check(tokens: &Tokens) -> Request<()> {
    Request::get("/authz/auth-request")
        .header("host", "gatehouse")
        .header("authorization", format!("Bearer {}", tokens.access))
        .header("x-original-method", "GET")
        .header("x-original-url", "https://app.example/inbox?page=2")
        .header("x-forwarded-for", "203.0.113.9")
        .body(())
        .unwrap()
}

async fn create(routes: &Routes, user: &str) -> Tokens {
    let body = json!({
        "user_id": user, "ip": "203.0.113.9", "user_agent": AGENT, "roles": ["staff"],
        "claims": { "email": "ann@example.com", "name": "Ann" },
    });
    let request = Request::post("/api/v1/sessions")
        .header("authorization", format!("Bearer {SERVICE_KEY}"))
        .header("content-type", "application/json")
        .body(Body::from(body.to_string()))
        .unwrap();
    Tokens::of(routes.answer(PEER, request).await).await
}

async fn refresh(routes: &Routes, tokens: &Tokens) -> Tokens {
    let request = Request::post("/api/v1/sessions/refresh")
        .header("user-agent", AGENT)
        .header("content-type", "application/json")
        .body(Body::from(json!({ "refresh_token": tokens.refresh }).to_string()))
        .unwrap();
    Tokens::of(routes.answer(PEER, request).await).await
}
