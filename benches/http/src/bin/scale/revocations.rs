//! More and more revocations: how a gateway starts over them, and whether checks notice.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::process::Command;
use std::slice;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use compare::processes::Redis;
use compare::results::{Spread, thousands};

use crate::measure::{ALIGNMENT, COLUMNS, Checks, mib};
use crate::sessions::{self, ASKED};
use crate::{Bench, step};

const BUCKETS: u64 = 16;
const STARTS: usize = 5;
/// What a gateway does after it is ready is over then.
pub(crate) const SETTLED: Duration = Duration::from_secs(3);

pub(crate) fn part(bench: &Bench, levels: &[u64]) -> Result<String> {
    let dir = bench.dir("revocations")?;
    let redis = Redis::start(&dir, 0, &[])?;
    let mut rows = String::new();
    let mut there = 0;
    let mut sessions = 0;
    for &level in levels {
        let name = thousands(level as f64);
        step(&format!("revocations, {name}: fill"), || fill(&redis, level - there, &dir))?;
        there = level;
        let starts = step(&format!("revocations, {name}: start {STARTS} times"), || {
            let start = |_| Ok(bench.gateway(&redis, &dir, "start.log")?.started);
            (0..STARTS).map(start).collect::<Result<Vec<_>>>()
        })?;
        let gateway = bench.gateway(&redis, &dir, "gateway.log")?;
        thread::sleep(SETTLED);
        let rss = gateway.rss()?;
        let checks = step(&format!("revocations, {name}: create and check"), || {
            let redis = slice::from_ref(&redis);
            let created = sessions::create(&gateway, redis, sessions..sessions + ASKED, ASKED)?;
            let effort = [bench.rounds.div_ceil(2), bench.seconds];
            Checks::measure(&gateway, redis, &created.tokens, effort, &dir)
        })?;
        sessions += ASKED;
        writeln!(
            rows,
            "| {name} | {} | {} | {}",
            Spread::of(starts.iter().map(|start| start.as_secs_f64() * 1e3)).show(0),
            mib(rss),
            checks.row(),
        )?;
    }
    Ok(format!(
        "### Revocations\n\n\
         The tombstones were written directly into Redis, as if that many sessions had been revoked \
         just before, and gateways were started over them. Start is the time from the process to the \
         first 200 of `/readyz`, of {STARTS} starts; RSS is of {} s later.\n\n\
         | revocations | start, ms | gateway RSS, MiB | {COLUMNS}\n\
         |--:|--:|--:|{ALIGNMENT}\n{rows}",
        SETTLED.as_secs(),
    ))
}

/// As many more tombstones of sessions that never were, the same number in every bucket.
fn fill(redis: &Redis, more: u64, dir: &Path) -> Result<()> {
    let now = redis.info("server_time_usec")? / 1000;
    let path = dir.join("tombstones");
    let mut file = BufWriter::new(File::create(&path)?);
    for bucket in 0..BUCKETS {
        let share = more / BUCKETS + u64::from(bucket < more % BUCKETS);
        for _ in 0..share {
            let sid = URL_SAFE_NO_PAD.encode(fastrand::u128(..).to_be_bytes());
            write!(file, "ZADD gh:{{{bucket:02x}}}:revoked:index {now} s:{sid}\r\n")?;
        }
        write!(file, "HINCRBY gh:{{{bucket:02x}}}:feed seq {share}\r\n")?;
    }
    file.into_inner()?.sync_data()?;
    let output = Command::new("redis-cli")
        .arg("-s")
        .arg(redis.socket())
        .arg("--pipe")
        .stdin(File::open(&path)?)
        .output()
        .context("redis-cli does not start")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success() && text.contains("errors: 0"), "redis-cli says {text}");
    Ok(fs::remove_file(path)?)
}
