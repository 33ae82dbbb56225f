//! `make storm`: eight queues under snapshots, checkpoints and collections, one daemon after the other.

use std::time::{Duration, Instant};

use parallax_benches::settings::number;
use parallax_tests::daemon::LOG_SIZE;
use parallax_tests::ledger::note;
use parallax_tests::storm::run;

/// One storm.
const EACH: Duration = Duration::from_secs(60);

fn main() {
    let (storms, first) = (number("STORMS", 10), number("SEED", 1));
    let started = Instant::now();
    let (mut requests, mut orders, mut failures) = (0, 0, 0);
    for seed in first..first + storms {
        let shards = 1 + (seed % 3) as u16;
        match std::panic::catch_unwind(|| run(seed, shards, EACH)) {
            Ok(told) => (requests, orders) = (requests + told.requests, orders + told.orders),
            Err(_) => {
                failures += 1;
                println!("FAILED: seed {seed}, {shards} shards; again with: make storm SEED={seed} STORMS=1");
            }
        }
        println!(
            "{requests} requests, {orders} snapshots and the like, {failures} failures; go on with SEED={}",
            seed + 1
        );
    }
    note("queues", LOG_SIZE, requests, orders, started, failures);
}
