//! What goes wrong in a run, by the dice of its seed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fastrand::Rng;
use tokio::task::block_in_place;

use super::history::{Outage, Span, Time, micros};
use super::house::GATEWAYS;
use super::workload::{ENDING, HUSHED, World};
use crate::harness::eventually;

/// How long things may take to be as usual again after a fault.
pub(crate) const RECOVERY: Duration = Duration::from_millis(1500);

/// How long what a failover lost of the revocations may be gone.
pub(crate) const REASSERTED: Duration = Duration::from_secs(2);

/// How bad a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weather {
    /// Nothing but clients that hang up.
    Calm,
    /// Processes die, stop and lose their connections.
    Rough,
    /// The same, but the gateways live.
    Steady,
    /// Rough, with sessions that expire meanwhile.
    ShortLived,
    /// A gateway is left with a server that history has passed by.
    Isolated,
    /// A replica that lacks the last writes takes over.
    Failover,
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    /// Redis is killed and started again from its file.
    RestartRedis { down: Duration },
    /// Redis stands still.
    FreezeRedis { still: Duration },
    /// Every connection to Redis is cut.
    CutConnections,
    /// Redis forgets the scripts.
    FlushScripts,
    /// A gateway is killed and started again.
    RestartGateway(usize),
    /// A gateway stands still while the stream loses what it has not read.
    Deafen { gateway: usize, still: Duration },
    /// A gateway is connected to a replica that no longer follows.
    Isolate { gateway: usize, length: Duration },
    /// The replica is cut off, a while later the primary dies, and the replica takes over.
    /// Later a gateway begins anew, which knows nothing of before.
    Failover { lost: Duration, newcomer: usize },
}

impl Fault {
    fn roll(dice: &mut Rng) -> Self {
        let mut millis = |range: std::ops::Range<u64>| Duration::from_millis(dice.u64(range));
        let (down, still, deaf) = (millis(50..400), millis(100..2200), millis(200..700));
        let gateway = dice.usize(..GATEWAYS);
        match dice.u8(..8) {
            0 | 1 => Self::RestartRedis { down },
            2 => Self::FreezeRedis { still },
            3 => Self::CutConnections,
            4 => Self::FlushScripts,
            5 => Self::RestartGateway(gateway),
            _ => Self::Deafen { gateway, still: deaf },
        }
    }
}

/// The faults of a run, each with the moment at which it is made.
fn plan(weather: Weather, dice: &mut Rng, length: Time) -> Vec<(Time, Fault)> {
    let gateway = dice.usize(..GATEWAYS);
    match weather {
        Weather::Calm => Vec::new(),
        Weather::Rough | Weather::ShortLived | Weather::Steady => {
            let count = dice.usize(1..4);
            let mut times: Vec<Time> = (0..count).map(|_| dice.u64(length / 8..length)).collect();
            times.sort_unstable();
            let lives = |fault: &Fault| {
                weather != Weather::Steady || !matches!(fault, Fault::RestartGateway(_))
            };
            let faults = times.into_iter().map(|at| (at, Fault::roll(dice)));
            faults.filter(|(_, fault)| lives(fault)).collect()
        }
        Weather::Isolated => {
            let length_of_it = Duration::from_millis(dice.u64(1800..2500));
            vec![(length / 4, Fault::Isolate { gateway, length: length_of_it })]
        }
        Weather::Failover => {
            let lost = Duration::from_millis(dice.u64(300..900));
            vec![(length / 6, Fault::Failover { lost, newcomer: gateway })]
        }
    }
}

/// Makes the faults of a run, one after the other, and says when each of them was.
pub(crate) async fn make(
    world: &Arc<World>,
    weather: Weather,
    mut dice: Rng,
    length: Time,
) -> Vec<Span> {
    let mut spans = Vec::new();
    for (life, (at, fault)) in plan(weather, &mut dice, length).into_iter().enumerate() {
        let wait = at.saturating_sub(world.now());
        tokio::time::sleep(Duration::from_micros(wait)).await;
        if world.now() < length {
            one(world, fault, life + 1, &mut spans).await;
        }
    }
    spans
}

async fn one(world: &Arc<World>, fault: Fault, life: usize, spans: &mut Vec<Span>) {
    let house = &world.house;
    let primary = house.primary();
    let from = world.now();
    let mut span = |what: String, from: Time, to: Time, outage: Outage| {
        spans.push(Span { from, to, what, outage });
    };
    match fault {
        Fault::RestartRedis { down } => {
            block_in_place(|| primary.kill());
            let dead = world.now();
            tokio::time::sleep(down).await;
            let back = world.now();
            block_in_place(|| primary.spawn());
            span("redis killed".to_owned(), dead, back, Outage::Everybody);
            span("redis restarted".to_owned(), from, world.now(), Outage::Nobody);
        }
        Fault::FreezeRedis { still } => {
            primary.signal("STOP");
            // The signal is obeyed a moment after it was sent.
            let stopped = world.now() + 20_000;
            tokio::time::sleep(still).await;
            span("redis frozen".to_owned(), stopped, world.now().max(stopped), Outage::Everybody);
            primary.signal("CONT");
            span("redis stopped".to_owned(), from, world.now(), Outage::Nobody);
        }
        Fault::CutConnections => {
            block_in_place(|| primary.cli(&["CLIENT", "KILL", "TYPE", "normal"]));
            span("connections cut".to_owned(), from, world.now(), Outage::Nobody);
        }
        Fault::FlushScripts => {
            block_in_place(|| primary.cli(&["SCRIPT", "FLUSH"]));
            span("scripts flushed".to_owned(), from, world.now(), Outage::Nobody);
        }
        Fault::RestartGateway(gateway) => {
            house.kill_gateway(gateway);
            tokio::time::sleep(Duration::from_millis(50)).await;
            house.restart_gateway(gateway, life).await;
            span(format!("gateway {gateway} killed"), from, world.now(), Outage::Nobody);
        }
        Fault::Deafen { gateway, still } => {
            house.gateway(gateway).process.signal("STOP");
            block_in_place(|| primary.cut_feed_readers());
            tokio::time::sleep(still).await;
            block_in_place(|| {
                for stream in primary.keys("gh:*:revoked") {
                    primary.cli(&["XTRIM", &stream, "MAXLEN", "0"]);
                }
            });
            house.gateway(gateway).process.signal("CONT");
            span(format!("gateway {gateway} deaf"), from, world.now(), Outage::Nobody);
        }
        Fault::Isolate { gateway, length } => {
            let replica = house.replica();
            // It keeps what it has, and looks for its primary where there is none.
            block_in_place(|| replica.cli(&["REPLICAOF", "127.0.0.1", "1"]));
            house.lead(gateway, &replica);
            // The other two come back to where they were.
            block_in_place(|| primary.cli(&["CLIENT", "KILL", "TYPE", "normal"]));
            let alone = world.now();
            tokio::time::sleep(length).await;
            span("left with old history".to_owned(), alone, world.now(), Outage::Gateway(gateway));
            house.lead(gateway, &primary);
            block_in_place(|| replica.cli(&["CLIENT", "KILL", "TYPE", "normal"]));
            span(format!("gateway {gateway} isolated"), from, world.now(), Outage::Nobody);
        }
        Fault::Failover { lost, newcomer } => {
            let replica = house.replica();
            block_in_place(|| replica.cli(&["REPLICAOF", "127.0.0.1", "1"]));
            world.mood.store(ENDING, Ordering::Relaxed);
            tokio::time::sleep(lost).await;
            block_in_place(|| {
                primary.kill();
                world.mood.store(HUSHED, Ordering::Relaxed);
                house.promote();
            });
            let writes = || async {
                block_in_place(|| replica.cli(&["INFO", "replication"]).contains("role:master"))
            };
            assert!(eventually(Duration::from_secs(5), writes).await);
            let over = world.now();
            span("failover that lost writes".to_owned(), from, over, Outage::Nobody);
            tokio::time::sleep(REASSERTED).await;
            house.kill_gateway(newcomer);
            house.restart_gateway(newcomer, life).await;
            let from = over + micros(REASSERTED);
            span(format!("gateway {newcomer} begins anew"), from, world.now(), Outage::Nobody);
        }
    }
}
