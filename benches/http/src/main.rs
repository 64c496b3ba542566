//! A check over HTTP, next to what else would answer it: `compare`.
//!
//! Gatehouse, two servers that answer without looking, and two applications that keep their
//! sessions in Redis are asked the same by the same load generators, in turn.

#![deny(unsafe_code)]

mod report;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser as _;
use compare::load::{Connection, Open, header};
use compare::processes::{Redis, RedisUsage, SERVICE_KEY, Server};
use compare::{api, load, processes};
use serde_json::{Value, json};

use crate::report::{BASE, Effort, Entry, GATEHOUSE, Report};

const SESSIONS: usize = 1000;
/// How many of the sessions are asked for.
const ASKED: usize = 64;
const OPEN_ROUNDS: usize = 3;
/// Several times what a gateway does at intervals (5 s).
const IDLE: Duration = Duration::from_secs(20);

/// Compare Gatehouse's check with what else would answer it.
#[derive(clap::Parser)]
struct Args {
    /// The gateway.
    #[arg(long, default_value = "target/release/gatehouse")]
    gateway: PathBuf,
    /// Where the rivals' programs are, if not beside this one.
    #[arg(long)]
    rivals: Option<PathBuf>,
    /// Measurements of each contender at full speed.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How long each lasts; those at a fixed rate last twice as long.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// The fixed rate, in requests a second.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// The report; the picture is written beside it.
    #[arg(long, default_value = "benches/RESULTS.md")]
    out: PathBuf,
}

/// Who is asked, and what.
struct Contender<'a> {
    name: &'static str,
    server: &'a Server,
    requests: Vec<String>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let own = std::env::current_exe()?;
    let rivals = args.rivals.as_deref().or(own.parent()).context("--rivals is needed")?;
    let work = tempfile::tempdir()?;
    let dir = work.path();

    let redis = Redis::start(dir, 0, &[])?;
    let gateway = Server::gateway(&args.gateway, &redis.url(), dir, "gateway.log")?;
    // It is not asked. Its feed and its heartbeats are what a second one costs.
    let _second = Server::gateway(&args.gateway, &redis.url(), dir, "second.log")?;
    let rival = |name: &str| {
        let mut command = Command::new(rivals.join(name));
        Server::rival(&mut command, &redis, dir.join(format!("{name}.log")))
    };
    let hyper = rival("rival-hyper")?;
    let axum = rival("rival-axum")?;
    let tower_sessions = rival("rival-tower-sessions")?;
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("rivals/express.js");
    let mut node = processes::node(&program)?;
    let express = Server::rival(&mut node, &redis, dir.join("express.log"))?;

    let tokens = sessions(gateway.address)?;
    let plain = requests("", &tokens, None);
    let contender = |name, server, requests| Contender { name, server, requests };
    let contenders = [
        contender("hyper, empty", &hyper, plain.clone()),
        contender(BASE, &axum, plain.clone()),
        contender(GATEHOUSE, &gateway, plain),
        contender("Gatehouse, strict=1", &gateway, requests("?strict=1", &tokens, None)),
        contender(
            "axum + tower-sessions",
            &tower_sessions,
            requests("", &tokens, Some(&logins(tower_sessions.address)?)),
        ),
        contender(
            "Express + express-session",
            &express,
            requests("", &tokens, Some(&logins(express.address)?)),
        ),
    ];
    let mut entries = contenders.each_ref().map(|one| Entry {
        name: one.name,
        efforts: Vec::new(),
        paces: Vec::new(),
    });

    for contender in &contenders {
        eprintln!("warming up: {}", contender.name);
        effort(contender, &redis, Idle::default(), args.seconds, dir)?;
    }
    eprintln!("idle");
    let idle = Idle::measure(&redis)?;
    for round in 1..=args.rounds {
        for (contender, entry) in contenders.iter().zip(&mut entries) {
            let effort = effort(contender, &redis, idle, args.seconds, dir)?;
            eprintln!("round {round}: {}: {:.0}/s", entry.name, effort.rate);
            entry.efforts.push(effort);
        }
    }
    for round in 1..=OPEN_ROUNDS {
        for (contender, entry) in contenders.iter().zip(&mut entries) {
            let pace = pace(contender, args.rate, 2 * args.seconds)?;
            eprintln!("latency {round}: {}: {:.2} ms", entry.name, pace.latency[0]);
            entry.paces.push(pace);
        }
    }

    let command = format!(
        "cargo build --release --locked\n\
         cargo build --release --locked --manifest-path benches/http/Cargo.toml --target-dir target/http\n\
         target/http/release/compare --rounds {} --seconds {} --rate {}",
        args.rounds, args.seconds, args.rate,
    );
    Report { entries: &entries, rate: args.rate, command }.write(&args.out)
}

/// The question that nginx asks, for each of the sessions that are asked for.
fn requests(query: &str, tokens: &[String], cookies: Option<&[String]>) -> Vec<String> {
    let request = |number: usize| {
        api::check(query, &tokens[number], cookies.map(|cookies| cookies[number].as_str()))
    };
    (0..ASKED).map(request).collect()
}

/// Access tokens of new sessions at the gateway, each of a user of its own.
fn sessions(gateway: SocketAddr) -> Result<Vec<String>> {
    let mut connection = Connection::open(gateway)?;
    let create = |number: usize| {
        let body = json!({
            "user_id": format!("user-{number}"),
            "roles": ["staff"],
            "claims": { "email": format!("user-{number}@example.com"), "name": "Ann" },
        });
        let answer =
            connection.ask(api::post("/api/v1/sessions", SERVICE_KEY, &body).as_bytes())?;
        ensure!(answer.status == 201, "no session: {}{}", answer.head, answer.body);
        let body: Value = serde_json::from_str(&answer.body)?;
        Ok(body["access_token"].as_str().context("no access token")?.to_owned())
    };
    (0..SESSIONS).map(create).collect()
}

/// Cookies of new sessions at a rival, of the same users.
fn logins(rival: SocketAddr) -> Result<Vec<String>> {
    let mut connection = Connection::open(rival)?;
    let login = |number: usize| {
        let body = json!({
            "user": format!("user-{number}"),
            "roles": ["staff"],
            "email": format!("user-{number}@example.com"),
            "name": "Ann",
        });
        let answer = connection.ask(api::post("/login", "", &body).as_bytes())?;
        let cookie = header(&answer.head, "set-cookie").context("no cookie")?;
        Ok(cookie.split(';').next().unwrap_or_default().to_owned())
    };
    (0..SESSIONS).map(login).collect()
}

/// Everybody says who it is, to every question that will be asked.
fn probe(contender: &Contender) -> Result<()> {
    let mut connection = Connection::open(contender.server.address)?;
    for request in &contender.requests {
        let answer = connection.ask(request.as_bytes())?;
        let complete = ["user", "groups", "email", "name", "session"].iter().all(|field| {
            header(&answer.head, &format!("remote-{field}")).is_some_and(|value| !value.is_empty())
        });
        let right = answer.status == 200 && answer.body.is_empty() && complete;
        ensure!(right, "{} answers {}", contender.name, answer.head);
    }
    Ok(())
}

/// What Redis does in a second while nobody is asked.
#[derive(Clone, Copy, Default)]
struct Idle {
    micros: f64,
    commands: f64,
    scripts: f64,
}

impl Idle {
    fn measure(redis: &Redis) -> Result<Self> {
        let (before, start) = (redis.usage()?, Instant::now());
        thread::sleep(IDLE);
        let elapsed = start.elapsed().as_secs_f64();
        let [micros, commands, scripts] = since(before, redis.usage()?).map(|sum| sum / elapsed);
        Ok(Self { micros, commands, scripts })
    }
}

/// Microseconds, commands and scripts between two looks at Redis.
fn since(before: RedisUsage, after: RedisUsage) -> [f64; 3] {
    [
        after.cpu.saturating_sub(before.cpu).as_secs_f64() * 1e6,
        (after.commands - before.commands) as f64,
        (after.scripts - before.scripts) as f64,
    ]
}

/// At full speed.
fn effort(
    contender: &Contender,
    redis: &Redis,
    idle: Idle,
    seconds: u32,
    dir: &Path,
) -> Result<Effort> {
    probe(contender)?;
    let (before, server, start) = (redis.usage()?, contender.server.cpu()?, Instant::now());
    let load = load::closed(contender.server.address, &contender.requests, seconds, dir)
        .context(contender.name)?;
    let server = contender.server.cpu()?.saturating_sub(server);
    let after = redis.usage()?;
    let elapsed = start.elapsed().as_secs_f64();
    let [micros, commands, scripts] = since(before, after);
    // What Redis does for gateways that nobody asks is a cost of theirs.
    let others = if contender.server.is_gateway { 0.0 } else { elapsed };
    let answers = load.answers as f64;
    Ok(Effort {
        rate: load.rate(),
        server: server.as_secs_f64() * 1e6 / answers,
        redis: (micros - idle.micros * others).max(0.0) / answers,
        commands: (commands - idle.commands * others).max(0.0) / answers,
        scripts: (scripts - idle.scripts * elapsed) * 10_000.0 / answers,
    })
}

/// At a fixed rate.
fn pace(contender: &Contender, rate: u32, seconds: u32) -> Result<Open> {
    probe(contender)?;
    load::open(contender.server.address, &contender.requests, rate, seconds).context(contender.name)
}
