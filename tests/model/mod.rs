//! The model check: three gateways, many clients and few users, faults by the dice of a seed, and
//! every promise checked against what the clients saw. `docs/testing.md` says what is modelled.
//!
//! - [`history`]: what happened, on one clock.
//! - [`house`]: the processes. [`workload`]: the clients. [`faults`]: what goes wrong.
//! - [`invariants`]: what must be true of each history, as sweeps; [`linear`]: as a search.
//! - [`run`]: from a seed to a verdict that can be read.

mod checker;
mod faults;
mod history;
mod house;
mod invariants;
mod linear;
#[cfg(feature = "mutations")]
mod mutants;
mod run;
mod soak;
mod workload;

use std::env;
use std::time::Instant;

use futures::{StreamExt as _, stream};

use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

use history::Time;
use run::{Plan, Report};

/// For how long an expired token is accepted: the gateway's leeway.
const LEEWAY: Time = 5_000_000;

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

/// Runs seeds, a few at a time, and says how far it is.
async fn seeds(seeds: Vec<u64>, mutation: &str) -> Vec<Report> {
    let (start, all) = (Instant::now(), seeds.len());
    let at_once = number("GATEHOUSE_MODEL_AT_ONCE").unwrap_or(3);
    let plans = stream::iter(seeds.into_iter().map(|seed| Plan::of(seed, mutation)));
    let mut reports = plans
        .map(|plan| spawn_blocking(move || Handle::current().block_on(run::run(&plan))))
        .buffer_unordered(usize::try_from(at_once).unwrap_or(1))
        .enumerate();
    let mut failed = Vec::new();
    while let Some((i, report)) = reports.next().await {
        let report = report.unwrap();
        eprintln!(
            "model {:>3}/{all} {:>4} s  seed {:<5} {:<10} {:>5} operations, {} faults: {}",
            i + 1,
            start.elapsed().as_secs(),
            report.plan.seed,
            format!("{:?}", report.plan.weather),
            report.history.ops.len(),
            report.history.faults.len(),
            report.verdict(),
        );
        if !report.violations.is_empty() {
            eprintln!("{}", report.explain());
            failed.push(report);
        }
    }
    failed
}

#[tokio::test(flavor = "multi_thread")]
async fn every_promise_holds_for_every_seed() {
    let first = number("GATEHOUSE_MODEL_FIRST").unwrap_or(0);
    let all = match number("GATEHOUSE_MODEL_SEED") {
        Some(seed) => vec![seed],
        None => (first..first + number("GATEHOUSE_MODEL_SEEDS").unwrap_or(20)).collect(),
    };
    let failed = seeds(all, "").await;
    let numbers: Vec<u64> = failed.iter().map(|report| report.plan.seed).collect();
    assert!(failed.is_empty(), "seeds that broke a promise: {numbers:?}");
}
