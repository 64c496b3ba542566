//! More and more live sessions: what a check costs and waits, and what Redis holds.

use std::fmt::Write as _;
use std::slice;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use compare::processes::Redis;
use compare::results::thousands;

use crate::measure::{ALIGNMENT, COLUMNS, Checks, mib};
use crate::sessions::{self, ASKED};
use crate::{Bench, step};

pub(crate) fn part(bench: &Bench, levels: &[u64]) -> Result<String> {
    let dir = bench.dir("live")?;
    let redis = Redis::start(&dir, 0, &[])?;
    let gateway = bench.gateway(&redis, &dir, "gateway.log")?;
    let redis = slice::from_ref(&redis);
    let empty = redis[0].info("used_memory")?;
    let mut measured: Vec<Checks> = Vec::new();
    let (mut checked, mut held) = (String::new(), String::new());
    let (mut there, mut refused) = (0, 0);
    for &level in levels {
        let name = thousands(level as f64);
        let created = step(&format!("sessions, {name}: create"), || {
            sessions::create(&gateway, redis, there..level, ASKED)
        })?;
        refused += created.refused;
        there = level;
        step(&format!("sessions, {name}: until Redis is at rest"), || rest(&redis[0]))?;
        let used = redis[0].info("used_memory")?.saturating_sub(empty);
        let checks = step(&format!("sessions, {name}: check"), || {
            let effort = [bench.rounds, bench.seconds];
            Checks::measure(&gateway, redis, &created.tokens, effort, &dir)
        })?;
        let base = measured.first().unwrap_or(&checks);
        writeln!(checked, "| {name} | {} {}", checks.row(), checks.ratios(base))?;
        writeln!(
            held,
            "| {name} | {} | {:.1} | {:.1} | {:.0} | {} | {} |",
            thousands(created.cost.rate),
            created.cost.gateway,
            created.cost.redis,
            used as f64 / level as f64,
            mib(redis[0].info("used_memory_rss")?),
            mib(gateway.rss()?),
        )?;
        measured.push(checks);
    }
    let again = match refused {
        0 => String::new(),
        _ => format!("\n{refused} creations were answered 503 and sent again.\n"),
    };
    Ok(format!(
        "### Live sessions\n\n\
         Four a user, with a user agent (one of eight), an address, a role and two claims. Checked \
         are those created last.\n\n\
         | live sessions | {COLUMNS} CPU, × first | p50, × first | p99, × first |\n\
         |--:|{ALIGNMENT}--:|--:|--:|\n{checked}\n\
         Creating them, and what they occupy:\n\n\
         | live sessions | created/s | CPU µs each: gateway | Redis | Redis `used_memory`, \
         bytes/session | Redis `used_memory_rss`, MiB | gateway RSS, MiB |\n\
         |--:|--:|--:|--:|--:|--:|--:|\n{held}{again}",
    ))
}

/// Until Redis no longer rewrites its file, which would be measured too.
fn rest(redis: &Redis) -> Result<()> {
    while redis.info("aof_rewrite_in_progress")? + redis.info("aof_rewrite_scheduled")? > 0 {
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
