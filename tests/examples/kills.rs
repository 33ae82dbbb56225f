//! `make kills`: daemons killed under load, one after the other, with 1 to 4 queues and 1 to 3 shards.

use std::time::Instant;

use parallax_benches::settings::number;
use parallax_tests::daemon::LOG_SIZE;
use parallax_tests::kills::{Plan, run};
use parallax_tests::ledger::note;

/// Kills of one daemon.
const KILLS_EACH: u64 = 20;

fn main() {
    let (kills, first) = (number("KILLS", 2000), number("SEED", 1));
    let started = Instant::now();
    let (mut done, mut in_flight, mut failures) = (0, 0, 0);
    for seed in first.. {
        if done >= kills {
            break;
        }
        let plan =
            Plan { seed, kills: KILLS_EACH, queues: 1 + (seed % 4) as u16, shards: 1 + (seed % 3) as u16 };
        match std::panic::catch_unwind(|| run(plan)) {
            Ok(told) => in_flight += told.in_flight,
            Err(_) => {
                failures += 1;
                println!("FAILED: {plan:?}; again with: make kills SEED={seed} KILLS=1");
            }
        }
        done += KILLS_EACH;
        println!(
            "{done} kills, {in_flight} requests in flight at them, {failures} failures; go on with SEED={}",
            seed + 1
        );
    }
    note("kill-socket", LOG_SIZE, done, in_flight, started, failures);
}
