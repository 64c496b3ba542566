//! What a gateway holds in memory.

use std::slice;
use std::thread;

use anyhow::Result;
use compare::api;
use compare::processes::Redis;
use compare::results::thousands;

use crate::measure::{first, mib};
use crate::revocations::SETTLED;
use crate::{Bench, sessions, step};

/// The default of `check.remembered_tokens`.
const REMEMBERED: u64 = 100_000;

pub(crate) fn part(bench: &Bench) -> Result<String> {
    let dir = bench.dir("memory")?;
    let redis = Redis::start(&dir, 0, &[])?;
    let gateway = bench.gateway(&redis, &dir, "gateway.log")?;
    // Creates the sessions, so that the other one only checks.
    let second = bench.gateway(&redis, &dir, "second.log")?;
    thread::sleep(SETTLED);
    let idle = gateway.rss()?;
    let count = REMEMBERED.min(bench.most);
    let created = step(&format!("memory: create {count}"), || {
        sessions::create(&second, slice::from_ref(&redis), 0..count, count)
    })?;
    step(&format!("memory: check {count}"), || {
        let check = |token: &String| api::check("", token, None);
        first(&gateway, &created.tokens.iter().map(check).collect::<Vec<_>>())
    })?;
    Ok(format!(
        "### Memory of a gateway\n\n\
         | | RSS, MiB |\n|---|--:|\n\
         | {} s after it was ready, over an empty Redis | {} |\n\
         | after checking {} distinct tokens (`check.remembered_tokens` is {}) | {} |\n",
        SETTLED.as_secs(),
        mib(idle),
        thousands(count as f64),
        thousands(REMEMBERED as f64),
        mib(gateway.rss()?),
    ))
}
