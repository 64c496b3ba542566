//! Sessions as an application has them, made and refreshed over many connections.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use compare::api;
use compare::load::{self, Answer, Connection};
use compare::processes::{Redis, SERVICE_KEY, Server};
use serde_json::{Value, json};

use crate::measure::{Cost, Meter};

pub(crate) const CONNECTIONS: u32 = 64;
/// What is asked for, where there is as much.
pub(crate) const ASKED: u64 = 10_000;
const A_USER: u64 = 4;
/// Sessions that a user may have: the default of `sessions.limit`.
const LIMIT: u64 = 15;
const PAUSE: Duration = Duration::from_millis(100);

pub(crate) struct Created {
    pub(crate) tokens: Vec<String>,
    pub(crate) cost: Cost,
    /// How often Redis could not be asked in time, and a request was sent again.
    pub(crate) refused: u64,
}

/// Creates the sessions with these numbers, and keeps the access tokens of some of them, spread
/// over all.
pub(crate) fn create(
    gateway: &Server,
    redis: &[Redis],
    numbers: Range<u64>,
    kept: u64,
) -> Result<Created> {
    let total = numbers.end - numbers.start;
    let every = (total / kept.max(1)).max(1);
    let (next, refused) = (AtomicU64::new(numbers.start), AtomicU64::new(0));
    let meter = Meter::start(gateway, redis)?;
    let lanes = load::lanes(gateway.address, 0..CONNECTIONS, |_, mut connection| {
        let mut tokens = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= numbers.end {
                return Ok(tokens);
            }
            let user = format!("user-{}", number / A_USER);
            let (answer, again) = persist(&mut connection, &user, number)?;
            refused.fetch_add(again, Ordering::Relaxed);
            if (number - numbers.start).is_multiple_of(every) {
                tokens.push(Tokens::of(&answer)?.access);
            }
        }
    })?;
    let cost = meter.stop(total)?;
    let tokens = lanes.into_iter().flatten().take(usize::try_from(kept)?).collect();
    Ok(Created { tokens, cost, refused: refused.into_inner() })
}

/// Creates a session, if need be by more than one request.
fn persist(connection: &mut Connection, user: &str, number: u64) -> Result<(Answer, u64)> {
    let request = login(user, number);
    for refused in 0..100 {
        let answer = connection.ask(request.as_bytes())?;
        if answer.status != 503 {
            ensure!(answer.status == 201, "no session: {}{}", answer.head, answer.body);
            return Ok((answer, refused));
        }
        thread::sleep(PAUSE);
    }
    bail!("no session: Redis cannot be asked")
}

/// What a client holds.
pub(crate) struct Tokens {
    pub(crate) access: String,
    pub(crate) refresh: String,
    pub(crate) session: String,
}

impl Tokens {
    fn of(answer: &Answer) -> Result<Self> {
        let body: Value = serde_json::from_str(&answer.body)?;
        let text = |value: &Value| value.as_str().map(str::to_owned).context("no token");
        Ok(Self {
            access: text(&body["access_token"])?,
            refresh: text(&body["refresh_token"])?,
            session: text(&body["session"]["id"])?,
        })
    }
}

/// A session of a user.
pub(crate) fn begin(connection: &mut Connection, user: &str, number: u64) -> Result<Tokens> {
    Tokens::of(&persist(connection, user, number)?.0)
}

/// Every connection refreshes a session of its own, again and again.
pub(crate) fn refresh(gateway: &Server, redis: &[Redis], seconds: u32) -> Result<Cost> {
    let chains = load::lanes(gateway.address, 0..CONNECTIONS, |lane, mut connection| {
        let number = u64::from(lane);
        let tokens = begin(&mut connection, &format!("refreshed-{lane}"), number)?;
        Ok((agent(number), tokens.refresh))
    })?;
    repeat(gateway, redis, seconds, chains, |(agent, token), connection| {
        let answer = connection.ask(api::refresh(agent, token).as_bytes())?;
        ensure!(answer.status == 200, "not refreshed: {}{}", answer.head, answer.body);
        *token = Tokens::of(&answer)?.refresh;
        Ok(())
    })
}

/// Every connection creates sessions of a user who has as many as may be, so that each ends one.
pub(crate) fn evict(gateway: &Server, redis: &[Redis], seconds: u32) -> Result<Cost> {
    let users = load::lanes(gateway.address, 0..CONNECTIONS, |lane, mut connection| {
        let user = format!("evicted-{lane}");
        for number in 0..LIMIT {
            persist(&mut connection, &user, number)?;
        }
        Ok(user)
    })?;
    repeat(gateway, redis, seconds, users, |user, connection| {
        persist(connection, user, LIMIT).map(drop)
    })
}

/// The same on every connection, one after the other, for so long.
fn repeat<S: Send>(
    gateway: &Server,
    redis: &[Redis],
    seconds: u32,
    lanes: Vec<S>,
    operation: impl Fn(&mut S, &mut Connection) -> Result<()> + Sync,
) -> Result<Cost> {
    let meter = Meter::start(gateway, redis)?;
    let end = Instant::now() + Duration::from_secs(u64::from(seconds));
    let counts = load::lanes(gateway.address, lanes, |mut lane, mut connection| {
        let mut count = 0;
        while Instant::now() < end {
            operation(&mut lane, &mut connection)?;
            count += 1;
        }
        Ok(count)
    })?;
    meter.stop(counts.iter().sum())
}

/// What a backend sends when somebody has authenticated.
fn login(user: &str, number: u64) -> String {
    let mut body = json!({
        "user_id": user,
        "user_agent": agent(number),
        "ip": format!("198.51.100.{}", number % 256),
        "roles": ["staff"],
        "claims": { "email": format!("{user}@example.com"), "name": "Ann Example" },
    });
    if number.is_multiple_of(3) {
        body["remember"] = true.into();
    }
    api::post("/api/v1/sessions", SERVICE_KEY, &body)
}

/// One of eight.
fn agent(number: u64) -> String {
    format!(
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) \
         Chrome/{}.0.0.0 Safari/537.36",
        120 + number % 8,
    )
}
