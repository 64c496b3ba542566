//! What a gateway and its Redis use, and what checks cost and wait.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use compare::api;
use compare::load::{self, Open};
use compare::processes::{Redis, Server};
use compare::results::{Spread, thousands};

use crate::sessions::CONNECTIONS;

/// Of the checks whose latency counts, a second.
const RATE: u32 = 2000;

/// What one operation takes: microseconds of processors, and how many there were a second.
#[derive(Clone, Copy)]
pub(crate) struct Cost {
    pub(crate) rate: f64,
    pub(crate) gateway: f64,
    pub(crate) redis: f64,
}

/// Looks at the clocks of a gateway and of its Redis.
pub(crate) struct Meter<'a> {
    gateway: &'a Server,
    redis: &'a [Redis],
    start: Instant,
    before: [Duration; 2],
}

impl<'a> Meter<'a> {
    pub(crate) fn start(gateway: &'a Server, redis: &'a [Redis]) -> Result<Self> {
        Ok(Self { gateway, redis, start: Instant::now(), before: cpu(gateway, redis)? })
    }

    /// After so many operations.
    pub(crate) fn stop(self, operations: u64) -> Result<Cost> {
        ensure!(operations > 0, "nothing was done");
        let elapsed = self.start.elapsed().as_secs_f64();
        let after = cpu(self.gateway, self.redis)?;
        let operations = operations as f64;
        let micros = |place: usize| {
            after[place].saturating_sub(self.before[place]).as_secs_f64() * 1e6 / operations
        };
        Ok(Cost { rate: operations / elapsed, gateway: micros(0), redis: micros(1) })
    }
}

fn cpu(gateway: &Server, redis: &[Redis]) -> Result<[Duration; 2]> {
    let redis = redis.iter().map(Redis::cpu).sum::<Result<Duration>>()?;
    Ok([gateway.cpu()?, redis])
}

/// Checks at full speed and at a fixed rate, a measurement a round.
pub(crate) struct Checks {
    costs: Vec<Cost>,
    paces: Vec<Open>,
}

/// How tables of checks begin and what they tell.
pub(crate) const COLUMNS: &str = "checks/s | CPU µs/check | p50 ms | p99 ms | p99.9 ms |";
pub(crate) const ALIGNMENT: &str = "--:|--:|--:|--:|--:|";

impl Checks {
    pub(crate) fn measure(
        gateway: &Server,
        redis: &[Redis],
        tokens: &[String],
        [rounds, seconds]: [u32; 2],
        dir: &Path,
    ) -> Result<Self> {
        let requests: Vec<String> =
            tokens.iter().map(|token| api::check("", token, None)).collect();
        first(gateway, &requests)?;
        let mut checks = Self { costs: Vec::new(), paces: Vec::new() };
        for _ in 0..rounds {
            let meter = Meter::start(gateway, redis)?;
            let load = load::closed(gateway.address, &requests, seconds, dir)?;
            checks.costs.push(Cost { rate: load.rate(), ..meter.stop(load.answers)? });
            checks.paces.push(load::open(gateway.address, &requests, RATE, 2 * seconds)?);
        }
        Ok(checks)
    }

    /// Cells of `COLUMNS`.
    pub(crate) fn row(&self) -> String {
        let cost = |value: fn(&Cost) -> f64| Spread::of(self.costs.iter().map(value));
        let latency = |place: usize| self.latency(place).show(2);
        let reached = Spread::of(self.paces.iter().map(|pace| pace.rate));
        let paces = if reached.low < 0.99 * f64::from(RATE) {
            format!("not sustained: {}/s | |", reached.thousands())
        } else {
            format!("{} | {} | {}", latency(0), latency(1), latency(2))
        };
        let (rate, gateway) = (cost(|cost| cost.rate), cost(|cost| cost.gateway));
        format!("{} | {} | {paces} |", rate.thousands(), gateway.show(2))
    }

    /// Against other ones: processor time, and latency at the median and at 99 %.
    pub(crate) fn ratios(&self, base: &Self) -> String {
        let cpu = |checks: &Self| Spread::of(checks.costs.iter().map(|cost| cost.gateway)).median;
        let ratios = [
            cpu(self) / cpu(base),
            self.latency(0).median / base.latency(0).median,
            self.latency(1).median / base.latency(1).median,
        ];
        format!("{:.2} | {:.2} | {:.2} |", ratios[0], ratios[1], ratios[2])
    }

    fn latency(&self, place: usize) -> Spread {
        Spread::of(self.paces.iter().map(|pace| pace.latency[place]))
    }
}

/// Each once: the first check of a token verifies its signature, the others find it remembered.
pub(crate) fn first(gateway: &Server, requests: &[String]) -> Result<()> {
    load::lanes(gateway.address, 0..CONNECTIONS, |lane, mut connection| {
        let own = requests.iter().skip(usize::try_from(lane)?);
        for request in own.step_by(usize::try_from(CONNECTIONS)?) {
            let answer = connection.ask(request.as_bytes())?;
            ensure!(answer.status == 200, "a live session is answered {}", answer.head);
        }
        Ok(())
    })?;
    Ok(())
}

/// Bytes as MiB.
pub(crate) fn mib(bytes: u64) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib < 100.0 { format!("{mib:.1}") } else { thousands(mib) }
}
