//! What changes a session in Redis: how much of it one core can do.

use std::slice;

use anyhow::Result;
use compare::processes::Redis;
use compare::results::thousands;

use crate::measure::Cost;
use crate::sessions::{CONNECTIONS, evict, refresh};
use crate::{Bench, step};

pub(crate) fn part(bench: &Bench) -> Result<String> {
    let dir = bench.dir("writes")?;
    let redis = Redis::start(&dir, 0, &[])?;
    let gateway = bench.gateway(&redis, &dir, "gateway.log")?;
    let redis = slice::from_ref(&redis);
    let refresh = step("writes: refresh", || refresh(&gateway, redis, bench.seconds))?;
    let evict = step("writes: create at the limit", || evict(&gateway, redis, bench.seconds))?;
    Ok(format!(
        "### Refreshing and creating\n\n\
         {CONNECTIONS} connections, each with a chain of refreshes of its own, or creating sessions \
         of a user who has the 15 that are allowed, so that each ends the oldest. What one core of \
         Redis can do is a second divided by its CPU time.\n\n\
         | | each second | CPU µs each: gateway | Redis | each second and core of Redis |\n\
         |---|--:|--:|--:|--:|\n{}{}",
        row("refresh", refresh),
        row("create, at the limit", evict),
    ))
}

fn row(name: &str, cost: Cost) -> String {
    format!(
        "| {name} | {} | {:.1} | {:.1} | {} |\n",
        thousands(cost.rate),
        cost.gateway,
        cost.redis,
        thousands(1e6 / cost.redis),
    )
}
