//! Gatehouse at size: `scale`.
//!
//! With up to a million sessions, and a million revocations, what does a check cost, and what does
//! it wait? What do a gateway and Redis hold in memory, what does a change of a session cost, and
//! how long does another gateway still let in who was thrown out?

#![deny(unsafe_code)]

mod cluster;
mod live;
mod measure;
mod memory;
mod propagation;
mod revocations;
mod sessions;
mod writes;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::Parser as _;
use compare::processes::{Redis, Server};
use compare::results::{self, machine};
use tempfile::TempDir;

/// Measure Gatehouse at size.
#[derive(clap::Parser)]
struct Args {
    /// The gateway.
    #[arg(long, default_value = "target/release/gatehouse")]
    gateway: PathBuf,
    /// The report.
    #[arg(long, default_value = "benches/RESULTS.md")]
    out: PathBuf,
    /// How many sessions there are, in turn.
    #[arg(long, value_delimiter = ',', default_value = "10000,100000,1000000")]
    sessions: Vec<u64>,
    /// How many revocations a gateway has to know, in turn.
    #[arg(long, value_delimiter = ',', default_value = "0,100000,1000000")]
    revocations: Vec<u64>,
    /// How long a measurement at full speed lasts; one at a fixed rate lasts twice as long.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Measurements of the same.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

/// What every part needs.
struct Bench {
    gateway: PathBuf,
    seconds: u32,
    rounds: u32,
    /// The most sessions that this run is to have.
    most: u64,
    work: TempDir,
}

impl Bench {
    /// A directory of its own for everything that is started in it.
    fn dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.work.path().join(name);
        fs::create_dir(&dir)?;
        Ok(dir)
    }

    fn gateway(&self, redis: &Redis, dir: &Path, name: &str) -> Result<Server> {
        Server::gateway(&self.gateway, &redis.url(), dir, name)
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    for levels in [&args.sessions, &args.revocations] {
        ensure!(!levels.is_empty() && levels.is_sorted(), "levels have to grow: {levels:?}");
    }
    let bench = Bench {
        gateway: args.gateway,
        seconds: args.seconds,
        rounds: args.rounds,
        most: args.sessions.last().copied().unwrap_or_default(),
        work: tempfile::tempdir()?,
    };
    let mut text = format!(
        "## At size\n\n{}.\n\n```sh\n{}\n```\n{METHOD}",
        machine()?,
        command(&args.sessions, &args.revocations, args.seconds, args.rounds),
    );
    for part in [
        live::part(&bench, &args.sessions),
        revocations::part(&bench, &args.revocations),
        memory::part(&bench),
        writes::part(&bench),
        propagation::part(&bench),
        cluster::part(&bench),
    ] {
        text = text + "\n" + &part?;
    }
    results::write(&args.out, "scale", &text)
}

fn command(sessions: &[u64], revocations: &[u64], seconds: u32, rounds: u32) -> String {
    let list = |levels: &[u64]| levels.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
    format!(
        "cargo build --release --locked\n\
         cargo build --release --locked --manifest-path benches/http/Cargo.toml --target-dir target/http\n\
         target/http/release/scale --sessions {} --revocations {} --seconds {seconds} \
         --rounds {rounds}",
        list(sessions),
        list(revocations),
    )
}

/// Says what runs, and how long it took.
fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    eprint!("{what} … ");
    let start = Instant::now();
    let done = work().with_context(|| what.to_owned())?;
    eprintln!("{:.1} s", start.elapsed().as_secs_f64());
    Ok(done)
}

/// What has to be known to read the figures.
const METHOD: &str = "
Everything runs on this one machine, load generators included, so a rate says what was left over for \
Gatehouse, and CPU time is what to compare: `utime` and `stime` of a gateway and of Redis around each \
measurement. Redis has a unix socket, an append-only file and no limit to its memory; access tokens \
live for an hour instead of 15 minutes, so that they outlast the run. Checks at full speed are 64 \
connections of wrk that ask for up to 10,000 sessions in turn. For latency 32 connections send 2,000 \
checks a second at fixed times, and an answer counts from when its request was due. Figures with \
brackets are medians, and the brackets hold the lowest and the highest round.
";
