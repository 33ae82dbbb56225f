//! Many worlds, one after the other on each of several threads. A world itself never leaves its thread; this is the
//! only place of the crate that knows of threads, and it is not the engine's.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::Once;

use super::model::Report;
use super::run::{Failure, Survivor, run_world};
use crate::device::simulated::Random;
use crate::sabotage::{self, Bug};

thread_local! {
    static SEED: Cell<u64> = const { Cell::new(0) };
}

/// How far a series of worlds has come.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// What happened in the worlds that ended.
    pub report: Report,
    /// Worlds that ended.
    pub worlds: u64,
    /// Every world before this one, counted from the first seed, has ended: where to go on.
    pub next: u64,
    /// Worlds that broke a promise.
    pub failures: Vec<Failure>,
    /// A hash of the traces of all worlds that ended, whatever their order.
    pub trace: u64,
    started: u64,
    running: Vec<u64>,
}

/// Which worlds to run.
#[derive(Clone, Copy, Debug)]
pub struct Series {
    /// Seed of the first world.
    pub seed: u64,
    /// How many to leave out at the start (they ran before).
    pub from: u64,
    /// Stop once so many worlds were started.
    pub worlds: u64,
    /// Stop once so many crash-and-recover cycles are done.
    pub cycles: u64,
    /// Threads.
    pub jobs: usize,
    /// Stop after so many failures.
    pub failures: usize,
    /// The bug that the worlds run with.
    pub bug: Option<Bug>,
}

/// Run a series; `watch` hears of the progress after each world.
pub fn run_series(series: Series, watch: impl Fn(&Progress) + Sync) -> Progress {
    print_seed_of_panics();
    let progress = Mutex::new(Progress { next: series.from, started: series.from, ..Progress::default() });
    std::thread::scope(|scope| {
        for _ in 0..series.jobs {
            scope.spawn(|| {
                while let Some(index) = begin(&progress, series) {
                    let seed = series.seed.wrapping_add(index);
                    let outcome = run_guarded(seed, series.bug);
                    let mut p = progress.lock().expect("no thread panics with the lock held");
                    p.end(index, seed, outcome);
                    watch(&p);
                }
            });
        }
    });
    progress.into_inner().expect("no thread panicked with the lock held")
}

fn begin(progress: &Mutex<Progress>, series: Series) -> Option<u64> {
    let mut p = progress.lock().expect("no thread panics with the lock held");
    let over = p.started - series.from >= series.worlds
        || p.report.cycles >= series.cycles
        || p.failures.len() >= series.failures;
    if over {
        return None;
    }
    let index = p.started;
    p.started += 1;
    p.running.push(index);
    Some(index)
}

impl Progress {
    fn end(&mut self, index: u64, seed: u64, outcome: Result<Survivor, Failure>) {
        self.worlds += 1;
        self.running.retain(|i| *i != index);
        self.next = self.running.iter().copied().min().unwrap_or(self.started);
        match outcome {
            Ok(survivor) => {
                self.report.merge(&survivor.report);
                self.trace = self.trace.wrapping_add(Random::new(survivor.trace ^ seed).bits());
            }
            Err(failure) => self.failures.push(failure),
        }
    }
}

/// A panic is a broken promise like any other.
fn run_guarded(seed: u64, bug: Option<Bug>) -> Result<Survivor, Failure> {
    SEED.set(seed);
    sabotage::switch_on(bug);
    let outcome = catch_unwind(AssertUnwindSafe(|| run_world(seed)));
    sabotage::switch_on(None);
    match outcome {
        Ok(result) => result,
        Err(payload) => {
            let text = payload.downcast_ref::<String>().map(String::as_str);
            let text = text.or(payload.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Err(Failure { seed, what: format!("panic: {text}") })
        }
    }
}

/// A panic while another unwinds ends the process: the seed must be out before.
fn print_seed_of_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if SEED.get() != 0 {
                eprintln!("in the world of SEED={}:", SEED.get());
            }
            hook(info);
        }));
    });
}
