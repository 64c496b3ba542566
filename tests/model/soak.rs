//! Mixed load with faults for minutes: every promise holds, and nothing grows that should not.
//!
//! Rounds of the model check follow each other on the same processes, with users of their own.
//! After each, everything is revoked and the processes are looked at.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::Method;
use tokio::task::{JoinHandle, block_in_place};

use super::faults::Weather;
use super::house::{GATEWAYS, House};
use super::number;
use super::run::{Plan, round};
use super::workload::{USERS, World};

/// Keys of a bucket that stay: feed, stream, index, events, counters, devices and the like.
const KEYS_OF_A_BUCKET: usize = 8;
const BUCKETS: usize = 16;
/// Tombstone, index, entry in the feed and events of one session that ended; they are kept for
/// 20 minutes, so in less time they only become more.
const BYTES_OF_AN_END: u64 = 1536;

/// How big everything is at a quiet moment.
#[derive(Debug, Clone, Copy)]
struct Size {
    /// The largest of the gateways, in KiB.
    resident: u64,
    descriptors: u64,
    threads: u64,
    tasks: u64,
    /// All but the tombstones.
    keys: usize,
    tombstones: usize,
    /// Of Redis, in bytes.
    memory: u64,
}

fn status(pid: u32, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap().split_whitespace().next().unwrap().parse().unwrap()
}

fn resident(house: &House) -> u64 {
    let pids = (0..GATEWAYS).map(|i| house.gateway(i).process.0.id());
    pids.map(|pid| status(pid, "VmRSS")).max().unwrap()
}

async fn size(house: &House) -> Size {
    let (mut descriptors, mut threads, mut tasks) = (0, 0, 0);
    for i in 0..GATEWAYS {
        let gateway = house.gateway(i);
        let pid = gateway.process.0.id();
        let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        descriptors = descriptors.max(u64::try_from(open).unwrap());
        threads = threads.max(status(pid, "Threads"));
        tasks = tasks.max(gateway.metric("gatehouse_tasks").await);
    }
    let redis = house.primary();
    let (all, memory) = block_in_place(|| (redis.keys("*"), redis.cli(&["INFO", "memory"])));
    let tombstones = all.iter().filter(|key| key.contains(":ended:")).count();
    let memory = memory.lines().find_map(|line| line.strip_prefix("used_memory:"));
    Size {
        resident: resident(house),
        descriptors,
        threads,
        tasks,
        keys: all.len() - tombstones,
        tombstones,
        memory: memory.unwrap().trim().parse().unwrap(),
    }
}

/// Ends what a round has left, so that no key of it may stay.
async fn clear(world: &World) {
    for user in 0..USERS {
        let path = format!("/api/v1/admin/users/{}/sessions/revoke-all", world.user(user));
        let answer = world.house.gateway(0).admin(Method::POST, &path).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let redis = world.house.primary();
    for kind in ["session:*", "user:*", "expiry", "dying", "agents*"] {
        let left = block_in_place(|| redis.keys(&format!("gh:*:{kind}")));
        assert!(left.is_empty(), "left when every session has ended: {left:?}");
    }
}

/// Says every ten seconds that it is still at it.
fn progress(house: &Arc<House>, start: Instant, length: Duration) -> JoinHandle<()> {
    let house = Arc::clone(house);
    tokio::spawn(async move {
        let mut timer = tokio::time::interval(Duration::from_secs(10));
        loop {
            timer.tick().await;
            let (passed, all) = (start.elapsed().as_secs(), length.as_secs());
            eprintln!("soak {passed:>4}/{all} s: gateways {} MiB", resident(&house) / 1024);
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes ten minutes: make soak"]
async fn nothing_grows() {
    let length = Duration::from_secs(number("GATEHOUSE_SOAK_SECONDS").unwrap_or(600));
    let first_seed = number("GATEHOUSE_MODEL_SEED").unwrap_or(0);
    let plan = |round: u64| Plan {
        seed: first_seed + round,
        weather: Weather::Steady,
        length: Duration::from_secs(10),
        mutation: String::new(),
    };
    let mut settings = plan(0).settings();
    // Otherwise it takes hours until the memory for tokens is full.
    settings.push("check.remembered_tokens=1000".to_owned());
    let house = Arc::new(House::start(&settings, false, "").await);
    let start = Instant::now();
    let progress = progress(&house, start, length);
    let (mut sizes, mut operations, mut ended) = (Vec::new(), 0, 0);
    for number in 0.. {
        if start.elapsed() >= length {
            break;
        }
        let world = Arc::new(World::new(Arc::clone(&house), &format!("r{number}-u")));
        let report = round(&plan(number), &world).await;
        assert!(report.violations.is_empty(), "{}", report.explain());
        clear(&world).await;
        operations += report.history.ops.len();
        let ends = report.history.rest.events.iter().filter(|event| event.ended.is_some());
        ended += ends.count() + report.history.rest.live.values().flatten().count();
        let size = size(&house).await;
        let faults: Vec<&str> =
            report.history.faults.iter().map(|span| span.what.as_str()).collect();
        eprintln!("soak: {} operations, {faults:?}: {size:?}", report.history.ops.len());
        sizes.push(size);
    }
    progress.abort();
    flat(&sizes, ended);
    eprintln!("soak: {operations} operations, {ended} sessions ended, nothing grew");
}

/// Compares the last third of the time with the second.
fn flat(sizes: &[Size], ended: usize) {
    let third = sizes.len() / 3;
    assert!(third > 0, "too short: give it at least a minute");
    let (before, after) = (&sizes[third..third * 2], &sizes[third * 2..]);
    let most = |sizes: &[Size], of: fn(&Size) -> u64| sizes.iter().map(of).max().unwrap();
    let grows = |what: &str, of: fn(&Size) -> u64, spare: u64| {
        let (was, is) = (most(before, of), most(after, of));
        eprintln!("soak: {what:<14} {was:>8} → {is:>8}");
        assert!(is <= was + spare, "{what} grew from {was} to {is}");
    };
    grows("resident KiB", |size| size.resident, 4096);
    grows("descriptors", |size| size.descriptors, 8);
    grows("threads", |size| size.threads, 2);
    grows("tasks", |size| size.tasks, 8);
    let (first, last) = (sizes[0], sizes[sizes.len() - 1]);
    assert!(last.keys <= BUCKETS * KEYS_OF_A_BUCKET, "{} keys", last.keys);
    assert_eq!(last.tombstones, ended, "a tombstone for each session that ended");
    let ends = u64::try_from(last.tombstones - first.tombstones).unwrap();
    let each = last.memory.saturating_sub(first.memory) / ends.max(1);
    eprintln!("soak: {each} bytes of Redis for each session that ended");
    assert!(each <= BYTES_OF_AN_END, "{each} bytes for each session that ended");
}
