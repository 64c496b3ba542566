//! Proof that the check finds what it looks for: Gatehouse, broken on purpose in nine ways, each of
//! which has to be found within a number of seeds. Only in builds that can be broken.

use super::number;
use super::run::{Plan, run};

const MUTANTS: [(&str, &str); 9] = [
    ("m1", "the limit is looked at before the script runs"),
    ("m2", "a rotation writes back what it read before"),
    ("m3", "a revocation does not enter the stream"),
    ("m4", "the cursor is not set back when the feed has a gap"),
    ("m5", "nothing is asserted again after a failover"),
    ("m6", "a store that does not answer is a yes"),
    ("m7", "the time is the gateway's"),
    ("m8", "each caller within the grace window gets a successor"),
    ("m9", "a heartbeat reads and does not write"),
];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make mutants"]
async fn each_mutant_is_caught() {
    let seeds = number("GATEHOUSE_MODEL_SEEDS").unwrap_or(20);
    let only = std::env::var("GATEHOUSE_MODEL_MUTANT").unwrap_or_default();
    let mut table = Vec::new();
    for (name, what) in MUTANTS.iter().filter(|(name, _)| only.is_empty() || *name == only) {
        let mut caught = None;
        for seed in 0..seeds {
            let report = run(&Plan::of(seed, name)).await;
            eprintln!("{name}, seed {seed} ({:?}): {}", report.plan.weather, report.verdict());
            if !report.violations.is_empty() {
                eprintln!("{}", report.explain());
                caught = Some((seed, report.verdict()));
                break;
            }
        }
        table.push((name, what, caught));
    }
    eprintln!("\n{:<7} {:<54} {:>4}  caught by", "mutant", "what is broken", "seed");
    for (name, what, caught) in &table {
        let (seed, by) = match caught {
            Some((seed, by)) => (seed.to_string(), by.as_str()),
            None => ("-".to_owned(), "nothing"),
        };
        eprintln!("{name:<7} {what:<54} {seed:>4}  {by}");
    }
    let missed: Vec<_> = table.iter().filter(|(.., caught)| caught.is_none()).collect();
    assert!(missed.is_empty(), "not caught within {seeds} seeds: {missed:?}");
}
