//! Many worlds, one after the other on each of several threads. A world itself never leaves its thread.

use std::sync::Mutex;

use super::guard::{Front, guarded};
use super::model::Report;
use super::run::{Failure, Survivor, run_world};
use crate::device::simulated::Random;
use crate::sabotage::Bug;

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
    front: Front,
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
    let front = Front::at(series.from);
    let progress = Mutex::new(Progress { next: series.from, front, ..Progress::default() });
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
    let over = p.front.started() - series.from >= series.worlds
        || p.report.cycles >= series.cycles
        || p.failures.len() >= series.failures;
    (!over).then(|| p.front.start())
}

impl Progress {
    fn end(&mut self, index: u64, seed: u64, outcome: Result<Survivor, Failure>) {
        self.worlds += 1;
        self.next = self.front.end(index);
        match outcome {
            Ok(survivor) => {
                self.report.merge(&survivor.report);
                self.trace = self.trace.wrapping_add(Random::new(survivor.trace ^ seed).bits());
            }
            Err(failure) => self.failures.push(failure),
        }
    }
}

fn run_guarded(seed: u64, bug: Option<Bug>) -> Result<Survivor, Failure> {
    let outcome = guarded(format!("the world of SEED={seed}"), bug, || run_world(seed));
    outcome.unwrap_or_else(|what| Err(Failure { seed, what }))
}
