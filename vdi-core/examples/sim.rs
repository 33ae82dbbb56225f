//! `make sim SEED=… CYCLES=… [FROM=…] [JOBS=…] [BUG=name]`: worlds from SEED on until CYCLES crash-and-recover cycles are done.
//! Interrupted, it goes on with the FROM it printed last. Ends with 1 at the first broken promise.

mod asked;
mod ledger;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use asked::{bug, number};
use ledger::Row;
use vdi_core::sim::{Progress, Series, WORLDS_FOR_ALL, run_series};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let cycles = number("CYCLES", 10_000);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    let series = Series {
        seed: number("SEED", 1),
        from: number("FROM", 0),
        worlds: u64::MAX,
        cycles,
        // One cycle means: this world and no other.
        jobs: if cycles == 1 { 1 } else { number("JOBS", cores) as usize },
        failures: number("FAILURES", 1) as usize,
        bug: bug("BUG"),
    };
    let started = Instant::now();
    let said = AtomicU64::new(0);
    let say = |p: &Progress| {
        let seconds = started.elapsed().as_secs_f64();
        eprintln!(
            "{} worlds, {} cycles ({:.0}/s), {} in recovery; go on with FROM={}",
            p.worlds,
            p.report.cycles,
            p.report.cycles as f64 / seconds,
            p.report.cycles_in_recovery.iter().sum::<u64>(),
            p.next
        );
    };
    let progress = run_series(series, |p| {
        let now = started.elapsed().as_secs() / 2;
        if said.swap(now, Ordering::Relaxed) != now {
            say(p);
        }
    });
    say(&progress);
    for failure in &progress.failures {
        println!("{failure}");
    }
    print!("{}", progress.report);
    println!("trace of these {} worlds: {:016x}", progress.worlds, progress.trace);
    let stops = progress.report.cycles_in_recovery.iter().sum::<u64>();
    let row = Row {
        family: "sim",
        log: "1M-32M",
        cases: progress.report.cycles + stops,
        faults: progress.report.faults.total(),
        took: started.elapsed(),
        failures: progress.failures.len() as u64,
    };
    if bug("BUG").is_none() {
        row.note();
    }
    let missing = progress.report.missing();
    let enough = progress.worlds >= WORLDS_FOR_ALL && progress.failures.is_empty();
    if enough && !missing.is_empty() {
        println!("never met in {} worlds: {}", progress.worlds, missing.join(", "));
    }
    std::process::exit(i32::from(!progress.failures.is_empty() || enough && !missing.is_empty()));
}
