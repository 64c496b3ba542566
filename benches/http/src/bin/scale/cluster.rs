//! The same over a cluster of three.

use std::fs;
use std::net::TcpListener;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use compare::processes::{Redis, Server};
use compare::results::thousands;

use crate::measure::{ALIGNMENT, COLUMNS, Checks, Cost};
use crate::propagation::{self, Pair};
use crate::sessions::{self, ASKED};
use crate::{Bench, step};

const PRIMARIES: usize = 3;
const SESSIONS: u64 = 100_000;
/// A node's port for the others is so far above that for clients.
const BUS: u16 = 10_000;
const FORMING: Duration = Duration::from_secs(20);

pub(crate) fn part(bench: &Bench) -> Result<String> {
    let dir = bench.dir("cluster")?;
    let ports = ports()?;
    let nodes = step("cluster: form", || {
        let mut nodes = Vec::new();
        for port in &ports {
            let dir = dir.join(port.to_string());
            fs::create_dir(&dir)?;
            nodes.push(Redis::start(&dir, *port, &["--cluster-enabled", "yes"])?);
        }
        form(&nodes, &ports)?;
        Ok(nodes)
    })?;
    let title = "### A cluster of three primaries\n\n";
    let url = format!("redis-cluster://127.0.0.1:{}", ports[0]);
    let gateway = match Server::gateway(&bench.gateway, &url, &dir, "gateway.log") {
        Ok(gateway) => gateway,
        Err(error) => {
            eprintln!("cluster: {error:#}");
            return Ok(format!("{title}not measured: the gateway was not ready in time.\n"));
        }
    };
    let used = || nodes.iter().map(|node| node.info("used_memory")).sum::<Result<u64>>();
    let empty = used()?;
    let count = SESSIONS.min(bench.most);
    let created = step(&format!("cluster: create {count}"), || {
        sessions::create(&gateway, &nodes, 0..count, ASKED)
    })?;
    let held = used()?.saturating_sub(empty);
    let refresh = step("cluster: refresh", || sessions::refresh(&gateway, &nodes, bench.seconds))?;
    let checks = step("cluster: check", || {
        let effort = [bench.rounds, bench.seconds];
        Checks::measure(&gateway, &nodes, &created.tokens, effort, &dir)
    })?;
    // Only now, so that what it asks of Redis is not counted.
    let second = Server::gateway(&bench.gateway, &url, &dir, "second.log")?;
    let times = step("cluster: revoke", || {
        Pair::open([&gateway, &second])?.times(propagation::UNLOADED, None)
    });
    let revoked = match times {
        Ok(times) => {
            let (columns, alignment) = (propagation::COLUMNS, propagation::ALIGNMENT);
            format!("| {columns}\n|{alignment}\n| {}\n", propagation::row(&times))
        }
        Err(error) => {
            eprintln!("{error:#}");
            "not measured: it was not noticed, or a request failed.\n".to_owned()
        }
    };
    let cost =
        |cost: Cost| format!("{} | {:.1} | {:.1}", thousands(cost.rate), cost.gateway, cost.redis);
    Ok(format!(
        "{title}{} sessions occupy {:.0} bytes each, in all three together.\n\n\
         | | each second | CPU µs each: gateway | all of Redis |\n|---|--:|--:|--:|\n\
         | create | {} |\n| refresh | {} |\n\n\
         | {COLUMNS}\n|{ALIGNMENT}\n| {}\n\n\
         A revocation at another gateway, without load:\n\n{revoked}",
        thousands(count as f64),
        held as f64 / count as f64,
        cost(created.cost),
        cost(refresh),
        checks.row(),
    ))
}

/// Free ports whose ports for the cluster are free too.
fn ports() -> Result<Vec<u16>> {
    // Held until all are found, so that they differ.
    let mut held = Vec::new();
    let mut ports = Vec::new();
    for _ in 0..1000 {
        let free = TcpListener::bind("127.0.0.1:0")?;
        let port = free.local_addr()?.port();
        let bus = port.checked_add(BUS).and_then(|bus| TcpListener::bind(("127.0.0.1", bus)).ok());
        if bus.is_some() {
            ports.push(port);
        }
        if ports.len() == PRIMARIES {
            return Ok(ports);
        }
        held.push((free, bus));
    }
    bail!("no free ports")
}

/// Waits until every node knows that all slots are served.
fn form(nodes: &[Redis], ports: &[u16]) -> Result<()> {
    let output = Command::new("redis-cli")
        .args(["--cluster", "create"])
        .args(ports.iter().map(|port| format!("127.0.0.1:{port}")))
        .arg("--cluster-yes")
        .output()
        .context("redis-cli does not start")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "no cluster: {text}");
    let deadline = Instant::now() + FORMING;
    for node in nodes {
        while !node.ask("CLUSTER INFO")?.contains("cluster_state:ok") {
            ensure!(Instant::now() < deadline, "no cluster: {text}");
            thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}
