//! One seed: a house, clients, faults, and what came of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use futures::future::join_all;
use tokio::task::block_in_place;

use super::LEEWAY;
use super::faults::{self, Weather};
use super::history::{
    Action, Event, History, NEVER, Op, Outcome, Promise, Rest, Sid, Span, Time, micros,
};
use super::house::{APART_MS, GATEWAYS, House};
use super::invariants::{self, Violation};
use super::linear::{self, Verdict};
use super::workload::{CLIENTS, Client, Token, USERS, World, check_all};
use crate::harness::{Redis, eventually};

/// How a run is set up.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) weather: Weather,
    /// How long clients are at it.
    pub(crate) length: Duration,
    /// What is broken on purpose; empty: nothing.
    pub(crate) mutation: String,
}

impl Plan {
    /// The weather comes with the seed.
    pub(crate) fn of(seed: u64, mutation: &str) -> Self {
        let weather = match seed % 6 {
            0 => Weather::Calm,
            1 | 4 => Weather::Rough,
            2 => Weather::Failover,
            3 => Weather::Isolated,
            _ => Weather::ShortLived,
        };
        let length = Duration::from_secs(match weather {
            Weather::ShortLived => 8,
            Weather::Failover => 7,
            _ => 5,
        });
        Self { seed, weather, length, mutation: mutation.to_owned() }
    }

    pub(crate) fn settings(&self) -> Vec<String> {
        let mut settings = vec![
            "log.level=info",
            "redis.timeout=250ms",
            "check.max_staleness=1s",
            "check.activity_flush=100ms",
            "sweep.interval=500ms",
            "sessions.limit=3",
            "tokens.grace=1s",
            "tokens.access_ttl=5s",
        ];
        if self.weather == Weather::ShortLived {
            settings.pop();
            settings.extend([
                "tokens.access_ttl=1s",
                "sessions.idle=2s",
                "sessions.absolute=4s",
                "sessions.remembered_idle=2s",
                "sessions.remembered_absolute=4s",
            ]);
        }
        settings.into_iter().map(str::to_owned).collect()
    }

    fn promise(&self) -> Promise {
        let apart = APART_MS.iter().map(|apart| apart.unsigned_abs()).max().unwrap_or(0);
        let short = self.weather == Weather::ShortLived;
        let absolute = if short { Duration::from_secs(4) } else { Duration::from_hours(7 * 24) };
        let failover = self.weather == Weather::Failover;
        Promise {
            limit: 3,
            healthy: micros(Duration::from_millis(250)),
            staleness: micros(Duration::from_secs(1)),
            grace: micros(Duration::from_secs(1)),
            leeway: LEEWAY + apart * 1000,
            absolute: micros(absolute),
            recovery: micros(faults::RECOVERY),
            long_lived: !short,
            reasserted: failover.then(|| micros(faults::REASSERTED)),
        }
    }
}

/// What came of a run.
pub(crate) struct Report {
    pub(crate) plan: Plan,
    pub(crate) history: History,
    pub(crate) violations: Vec<Violation>,
    /// Users for whom nobody knows whether their history is one of some order.
    pub(crate) undecided: Vec<usize>,
}

/// Runs a seed in a house of its own.
pub(crate) async fn run(plan: &Plan) -> Report {
    let replica = matches!(plan.weather, Weather::Isolated | Weather::Failover);
    let house = House::start(&plan.settings(), replica, &plan.mutation).await;
    let world = Arc::new(World::new(Arc::new(house), "u"));
    round(plan, &world).await
}

/// Lets clients and faults loose on a house that runs, and judges what they saw.
pub(crate) async fn round(plan: &Plan, world: &Arc<World>) -> Report {
    let length = micros(plan.length);
    let watch = Watch::start(world);
    let clients = (0..CLIENTS).map(|i| {
        let client = Client::new(world, i, plan.seed);
        tokio::spawn(client.run(length))
    });
    let clients: Vec<_> = clients.collect();
    let dice = Rng::with_seed(plan.seed);
    let first = (world.now(), sequences(&world.house.primary()));
    let faults = faults::make(world, plan.weather, dice, length).await;
    for client in join_all(clients).await {
        client.unwrap();
    }
    let mut rest = rest(world, &faults).await;
    rest.sequences.insert(0, first);
    let stalls = watch.stop();
    let mut ops = std::mem::take(&mut *world.ops.lock().unwrap());
    ops.sort_by_key(|op| op.call);
    let names = world.book().names.clone();
    let (promise, epoch) = (plan.promise(), world.epoch);
    let history = History { promise, ops, faults, stalls, epoch, names, rest };
    let surprises = std::mem::take(&mut *world.surprises.lock().unwrap());
    block_in_place(|| judge(plan, history, &surprises))
}

/// Applies every sweep and every search.
pub(crate) fn judge(plan: &Plan, history: History, surprises: &[String]) -> Report {
    let mut violations = invariants::violations(&history);
    violations.extend(surprises.iter().map(|what| Violation {
        invariant: "answers",
        what: what.clone(),
        user: None,
        session: None,
        at: NEVER,
    }));
    let mut undecided = Vec::new();
    // Time ends sessions of a short life, and a failover takes back what was answered.
    if history.promise.long_lived && history.promise.reasserted.is_none() {
        for (user, verdict) in linear::check_all(&history, USERS) {
            match verdict {
                Verdict::Linear => {}
                Verdict::TooLong => undecided.push(user),
                Verdict::Broken { ordered, stuck } => violations.push(Violation {
                    invariant: "linearizable",
                    what: format!("no order fits; {ordered} fit, then not: {stuck}"),
                    user: Some(user),
                    session: stuck.session(),
                    at: stuck.call,
                }),
            }
        }
    }
    Report { plan: plan.clone(), history, violations, undecided }
}

/// Waits until everything is quiet, then reads what the store holds and asks about every token.
async fn rest(world: &Arc<World>, faults: &[Span]) -> Rest {
    let mut rest = Rest::default();
    let over = faults.iter().map(|span| span.to).max().unwrap_or(0);
    let primary = world.house.primary();
    for i in 0..GATEWAYS {
        let started = Instant::now();
        let limit = Duration::from_micros((over + 2_000_000).saturating_sub(world.now()));
        // A machine that is busy with others is given more time, and a fault that was long ago less.
        let limit = limit.max(Duration::from_millis(1500));
        if !eventually(limit, || world.house.ready(i)).await {
            let waited = started.elapsed().as_millis();
            rest.not_ready.push(format!("gateway {i} is not ready after {waited} ms"));
        }
    }
    // What was sent and not answered may still be on its way.
    tokio::time::sleep(Duration::from_millis(300)).await;
    block_in_place(|| audit(world, &primary, &mut rest));
    let now = world.now();
    let tokens: Vec<Token> = {
        let book = world.book();
        book.tokens.iter().filter(|token| token.expires > now).cloned().collect()
    };
    rest.checks = check_all(world, &tokens).await;
    // Who cannot say is asked again, once.
    for op in rest.checks.iter_mut().filter(|op| op.outcome == Outcome::Unknown) {
        let Action::Check { session, generation, .. } = op.action else { continue };
        let same = |token: &&Token| (token.session, token.generation) == (session, generation);
        if let Some(token) = tokens.iter().find(same) {
            *op = world.check(CLIENTS, op.gateway, token, false, Duration::from_secs(3)).await;
        }
    }
    rest
}

fn sequences(redis: &Redis) -> BTreeMap<String, u64> {
    let mut sequences = BTreeMap::new();
    for key in block_in_place(|| redis.keys("gh:*:feed")) {
        let seq = block_in_place(|| redis.cli(&["HGET", &key, "seq"]));
        sequences.insert(key, seq.parse().unwrap_or(0));
    }
    sequences
}

/// Reads what is left in the store.
fn audit(world: &World, redis: &Redis, rest: &mut Rest) {
    rest.sequences.push((world.now(), sequences(redis)));
    for user in 0..USERS {
        let pattern = format!("gh:*:user:{}", world.user(user));
        for key in redis.keys(&pattern) {
            let members = redis.cli(&["ZRANGE", &key, "0", "-1"]);
            let ids = members.lines().map(|member| world.book().sid(&member[11..]));
            rest.live.insert(user, ids.collect());
        }
    }
    let mut known: Vec<Sid> = Vec::new();
    for key in redis.keys("gh:*:session:*") {
        let owner = redis.cli(&["HGET", &key, "u"]);
        if owner.is_empty() || world.user_of(&owner).is_some() {
            let (_, id) = key.split_once(":session:").unwrap_or_default();
            known.push(world.book().sid(id));
        }
    }
    rest.records = known;
    for key in redis.keys("gh:*:events") {
        let text = redis.cli(&["XRANGE", &key, "-", "+"]);
        let lines: Vec<&str> = text.lines().collect();
        // An id, and four fields with their values, of which the last may be empty.
        for entry in lines.chunks(9) {
            let [id, _, kind, _, user, _, session, _, cause @ ..] = entry else { continue };
            let Some(user) = world.user_of(user) else { continue };
            let millis: u64 = id.split('-').next().unwrap_or_default().parse().unwrap_or(0);
            let at: Time = millis.saturating_sub(world.epoch) * 1000;
            let session = world.book().sid(session);
            let ended = match *kind {
                "session_created" => None,
                "session_ended" => Some((*cause.first().unwrap_or(&"")).to_owned()),
                _ => continue,
            };
            rest.events.push(Event { user, session, at, ended });
        }
    }
}

/// Notices when the machine does not let this process run.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Vec<(Time, Time)>>,
}

impl Watch {
    fn start(world: &Arc<World>) -> Self {
        const TICK: Duration = Duration::from_millis(5);
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, world) = (Arc::clone(&stop), Arc::clone(world));
        let thread = std::thread::spawn(move || {
            let mut stalls = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let slept = Instant::now();
                std::thread::sleep(TICK);
                let late = slept.elapsed().saturating_sub(TICK);
                if late > Duration::from_millis(1) {
                    stalls.push((world.now(), micros(late)));
                }
            }
            stalls
        });
        Self { stop, thread }
    }

    fn stop(self) -> Vec<(Time, Time)> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

impl Report {
    /// In a few words.
    pub(crate) fn verdict(&self) -> String {
        let mut broken: Vec<&str> = self.violations.iter().map(|one| one.invariant).collect();
        broken.sort_unstable();
        broken.dedup();
        match (broken.is_empty(), self.undecided.len()) {
            (true, 0) => "fine".to_owned(),
            (true, users) => format!("fine, undecided for {users} users"),
            _ => broken.join(", "),
        }
    }

    /// What went wrong first, and the operations around it that explain it.
    pub(crate) fn explain(&self) -> String {
        const SHOWN: usize = 24;
        let mut text = String::new();
        let mut violations: Vec<&Violation> = self.violations.iter().collect();
        violations.sort_by_key(|violation| violation.at);
        let Some(first) = violations.first() else { return text };
        let count = violations.len();
        let Plan { seed, weather, .. } = &self.plan;
        let _ = writeln!(text, "seed {seed} ({weather:?}): {count} violations");
        for violation in violations.iter().take(4) {
            let _ = writeln!(text, "  {}: {}", violation.invariant, violation.what);
        }
        for span in &self.history.faults {
            let (from, to) = (span.from / 1000, span.to / 1000);
            let _ = writeln!(text, "  {from:>7} … {to:>7}    ms  {}", span.what);
        }
        if let Some(user) = first.user {
            let all: Vec<&Op> = self.history.about(user, first.session).collect();
            let end = all.partition_point(|op| op.call <= first.at);
            let from = end.saturating_sub(SHOWN * 3 / 4);
            let _ = writeln!(text, "  what user {user} did around it:");
            for op in all.iter().skip(from).take(SHOWN) {
                let _ = writeln!(text, "    {op}");
            }
        }
        let _ = writeln!(text, "  again: GATEHOUSE_MODEL_SEED={seed} make model");
        text
    }
}
