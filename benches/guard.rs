//! Counts the instructions of checks by token and by cookie, of a refresh and of a create, and fails when
//! they grow: `make bench-guard`. Unlike time, that is the same on a busy machine.
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

mod gateway;
mod redis;

use std::process::{Command, ExitCode};

use axum::http::{Request, StatusCode};
use gateway::{Gateway, Tokens};
use redis::Redis;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// What was counted when it was last found good.
const ALLOWED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/guard.json");
/// Processors differ in what they are told to do.
const ARCH: &str = std::env::consts::ARCH;
const ATTEMPTS: usize = 3;
/// Parts, how often each runs, and for how many runs the figure stands.
const PARTS: [(&str, u64, u64); 4] = [
    ("checks", 20_000, 100_000),
    ("cookies", 20_000, 100_000),
    ("rotate", 500, 1),
    ("create", 500, 1),
];

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
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let redis = Redis::start();
    let dir = tempfile::tempdir().unwrap();
    let (gateway, tokens, question) = runtime.block_on(async {
        let gateway = Gateway::start(&redis, dir.path()).await;
        let tokens = gateway.create("ann").await;
        // What is made once is made now.
        let tokens = gateway.refresh(&tokens).await;
        gateway.check(&tokens.question()).await;
        let mut question = None;
        if part == "cookies" {
            let cookie = gateway.cookie_question().await;
            gateway.check(&cookie).await;
            question = Some(cookie);
        }
        (gateway, tokens, question)
    });
    counted(&runtime, repeat(part, times, &gateway, tokens, question));
    runtime.block_on(gateway.stop());
}

#[inline(never)]
fn counted(runtime: &Runtime, work: impl Future<Output = ()>) {
    runtime.block_on(work);
}

async fn repeat(
    part: &str,
    times: u64,
    gateway: &Gateway,
    mut tokens: Tokens,
    question: Option<Request<()>>,
) {
    let question = question.unwrap_or_else(|| tokens.question());
    for i in 0..times {
        match part {
            "checks" | "cookies" => assert_eq!(gateway.check(&question).await, StatusCode::OK),
            "rotate" => tokens = gateway.refresh(&tokens).await,
            "create" => drop(gateway.create(&format!("user-{i}")).await),
            _ => panic!("{part} is no part"),
        }
    }
}
