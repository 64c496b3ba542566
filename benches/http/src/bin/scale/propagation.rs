//! How long another gateway still lets in whose session was ended here.

use std::fmt::Write as _;
use std::path::Path;
use std::slice;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use compare::api;
use compare::load::{Connection, Wrk};
use compare::processes::{Redis, SERVICE_KEY, Server};
use compare::results::thousands;
use hdrhistogram::Histogram;

use crate::sessions::{self, begin};
use crate::{Bench, step};

const LOADED: usize = 1000;
pub(crate) const UNLOADED: usize = 300;
const CUT: usize = 100;
const WRK_CONNECTIONS: u32 = 16;
/// wrk is stopped long before.
const WRK_SECONDS: u32 = 3600;
/// Beyond what is promised by far: a revocation that takes this long is lost, and when many take too
/// long there are fewer.
const GIVE_UP: Duration = Duration::from_mins(1);

pub(crate) fn part(bench: &Bench) -> Result<String> {
    let dir = bench.dir("propagation")?;
    let redis = Redis::start(&dir, 0, &[])?;
    let gateways =
        [bench.gateway(&redis, &dir, "first.log")?, bench.gateway(&redis, &dir, "second.log")?];
    let mut pair = Pair::open(gateways.each_ref())?;
    let (loaded, rates) = step("propagation: under load", || {
        let load = load(&redis, &gateways, &dir)?;
        let times = pair.times(LOADED, None)?;
        let rates = load.into_iter().map(|wrk| Ok(thousands(wrk.stop()?.rate())));
        Ok((times, rates.collect::<Result<Vec<_>>>()?.join(" and ")))
    })?;
    let unloaded = step("propagation: without load", || pair.times(UNLOADED, None))?;
    let cut = step("propagation: connections cut", || pair.times(CUT, Some(&redis)))?;
    let mut rows = String::new();
    for (name, times) in [
        (format!("under load: {rates} checks/s"), loaded),
        ("without load".to_owned(), unloaded),
        ("without load, connection cut and restored".to_owned(), cut),
    ] {
        writeln!(rows, "| {name} | {}", row(&times))?;
    }
    Ok(format!(
        "### Revocation at another gateway\n\n\
         From reading the 204 of one gateway to reading the first 401 of another, which \
         is asked over and over on one connection. Load is a wrk with {WRK_CONNECTIONS} connections at \
         each of the two, as fast as they answer. \"Cut\" is that Redis closes the connections on \
         which the gateways follow revocations, just before the session is revoked.\n\n\
         | | {COLUMNS}\n|---|{ALIGNMENT}\n{rows}",
    ))
}

/// How tables of revocations begin.
pub(crate) const COLUMNS: &str = "revocations | p50 ms | p99 ms | max ms |";
pub(crate) const ALIGNMENT: &str = "--:|--:|--:|--:|";

/// Cells of `COLUMNS`.
pub(crate) fn row(times: &Histogram<u64>) -> String {
    let at = |quantile: f64| times.value_at_quantile(quantile) as f64 / 1e6;
    format!("{} | {:.2} | {:.2} | {:.2} |", times.len(), at(0.5), at(0.99), at(1.0))
}

/// Full speed at both gateways, until it is stopped.
fn load(redis: &Redis, gateways: &[Server; 2], dir: &Path) -> Result<Vec<Wrk>> {
    let created = sessions::create(&gateways[0], slice::from_ref(redis), 0..1000, 1000)?;
    let requests: Vec<String> =
        created.tokens.iter().map(|token| api::check("", token, None)).collect();
    gateways
        .iter()
        .map(|one| Wrk::start(one.address, &requests, WRK_CONNECTIONS, WRK_SECONDS, dir))
        .collect()
}

/// The gateway that revokes, and the one that is asked.
pub(crate) struct Pair {
    here: Connection,
    there: Connection,
    next: u64,
}

impl Pair {
    pub(crate) fn open(gateways: [&Server; 2]) -> Result<Self> {
        let (here, there) =
            (Connection::open(gateways[0].address)?, Connection::open(gateways[1].address)?);
        Ok(Self { here, there, next: 0 })
    }

    /// So many, in nanoseconds, perhaps with the connections to this Redis cut before each.
    pub(crate) fn times(&mut self, count: usize, cut: Option<&Redis>) -> Result<Histogram<u64>> {
        let start = Instant::now();
        let mut times = Histogram::new(3)?;
        for _ in 0..count {
            times.record(u64::try_from(self.time(cut)?.as_nanos())?)?;
            if start.elapsed() > GIVE_UP {
                break;
            }
        }
        Ok(times)
    }

    fn time(&mut self, cut: Option<&Redis>) -> Result<Duration> {
        self.next += 1;
        let user = format!("revoked-{}", self.next);
        let tokens = begin(&mut self.here, &user, self.next)?;
        let check = api::check("", &tokens.access, None);
        let before = self.there.ask(check.as_bytes())?;
        ensure!(before.status == 200, "not let in: {}", before.head);
        if let Some(redis) = cut {
            cut_readers(redis)?;
        }
        let revoke = api::revoke(SERVICE_KEY, &user, &tokens.session);
        let answer = self.here.ask(revoke.as_bytes())?;
        ensure!(answer.status == 204, "not revoked: {}{}", answer.head, answer.body);
        let start = Instant::now();
        loop {
            match self.there.ask(check.as_bytes())?.status {
                401 => return Ok(start.elapsed()),
                200 | 503 if start.elapsed() < GIVE_UP => {}
                status => bail!("{status}, {:?} after the revocation", start.elapsed()),
            }
        }
    }
}

/// Closes the connections on which both gateways wait for news.
fn cut_readers(redis: &Redis) -> Result<()> {
    let deadline = Instant::now() + GIVE_UP;
    loop {
        let clients = redis.ask("CLIENT LIST")?;
        let readers: Vec<&str> = clients
            .lines()
            .filter(|line| line.contains("cmd=xread"))
            .filter_map(|line| line.strip_prefix("id=")?.split(' ').next())
            .collect();
        // One that is being restored cannot be cut.
        if readers.len() >= 2 {
            for id in readers {
                redis.ask(&format!("CLIENT KILL ID {id}"))?;
            }
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "the gateways do not follow: {clients}");
        thread::sleep(Duration::from_millis(2));
    }
}
