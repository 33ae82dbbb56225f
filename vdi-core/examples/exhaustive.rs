//! `make exhaustive [FROM=…] [COUNT=…] [JOBS=…] [BUG=name]`: every sequence of three operations or fewer, crashed everywhere.
//! Interrupted, it goes on with the FROM it printed last. Ends with 1 at the first broken promise.

mod asked;
mod ledger;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use asked::{bug, number};
use ledger::Row;
use vdi_core::sim::exhaustive::{Plan, Progress, Run, run};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let plan = Plan::whole();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    let wanted = Run {
        from: number("FROM", 0),
        count: number("COUNT", u64::MAX),
        jobs: number("JOBS", cores) as usize,
        failures: number("FAILURES", 1) as usize,
        bug: bug("BUG"),
    };
    let started = Instant::now();
    let said = AtomicU64::new(0);
    let say = |p: &Progress| {
        let (states, next) = (p.tally.states, p.next);
        let rate = states as f64 / started.elapsed().as_secs_f64();
        eprintln!(
            "{next} of {} sequences, {states} crash states ({rate:.0}/s); go on with FROM={next}",
            plan.len()
        );
    };
    let progress = run(&plan, wanted, |p| {
        let now = started.elapsed().as_secs() / 5;
        if said.swap(now, Ordering::Relaxed) != now {
            say(p);
        }
    });
    say(&progress);
    for broken in &progress.broken {
        println!("{broken}");
    }
    print!("{}", progress.tally);
    if wanted.bug.is_none() {
        let row = Row {
            family: "exhaustive",
            log: "1M",
            cases: progress.tally.sequences,
            faults: progress.tally.states,
            took: started.elapsed(),
            failures: progress.broken.len() as u64,
        };
        row.note();
    }
    std::process::exit(i32::from(!progress.broken.is_empty()));
}
