//! Many sequences on several threads.

use std::fmt;
use std::sync::Mutex;

use super::plan::Plan;
use super::sequence::{Tally, exhaust};
use super::start::Starts;
use crate::sabotage::Bug;
use crate::sim::guard::{Front, guarded};

/// Which sequences of a plan to run.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Number of the first.
    pub from: u64,
    /// How many at most.
    pub count: u64,
    /// Threads.
    pub jobs: usize,
    /// Stop after so many failures.
    pub failures: usize,
    /// The bug that the engine runs with.
    pub bug: Option<Bug>,
}

/// A sequence that broke a promise.
#[derive(Clone, Debug)]
pub struct Broken {
    /// Its number.
    pub number: u64,
    /// Which operations, where it was crashed, and what went wrong.
    pub what: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "sequence {}: {}", self.number, self.what)?;
        write!(f, "again with: make exhaustive FROM={} COUNT=1", self.number)
    }
}

/// How far a run has come.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// What was tried.
    pub tally: Tally,
    /// Every sequence before this one has ended: where to go on.
    pub next: u64,
    /// Sequences that broke a promise.
    pub broken: Vec<Broken>,
    front: Front,
}

/// Run sequences of `plan`; `watch` hears of the progress after each.
pub fn run(plan: &Plan, run: Run, watch: impl Fn(&Progress) + Sync) -> Progress {
    let progress = Mutex::new(Progress { next: run.from, front: Front::at(run.from), ..Progress::default() });
    let last = plan.len().min(run.from.saturating_add(run.count));
    std::thread::scope(|scope| {
        for _ in 0..run.jobs {
            scope.spawn(|| {
                let mut starts = Starts::default();
                while let Some(number) = begin(&progress, last, run.failures) {
                    let outcome = one(plan, &mut starts, number, run.bug);
                    let mut p = progress.lock().expect("no thread panics with the lock held");
                    match outcome {
                        Ok(tally) => p.tally.add(&tally),
                        Err(what) => p.broken.push(Broken { number, what }),
                    }
                    p.next = p.front.end(number);
                    watch(&p);
                }
            });
        }
    });
    progress.into_inner().expect("no thread panicked with the lock held")
}

fn begin(progress: &Mutex<Progress>, last: u64, failures: usize) -> Option<u64> {
    let mut p = progress.lock().expect("no thread panics with the lock held");
    let over = p.front.started() >= last || p.broken.len() >= failures;
    (!over).then(|| p.front.start())
}

fn one(plan: &Plan, starts: &mut Starts, number: u64, bug: Option<Bug>) -> Result<Tally, String> {
    let (beginning, sequence) = plan.get(number);
    let name = format!("sequence {number}, {beginning:?} {sequence}");
    let outcome = guarded(name, bug, || exhaust(starts.get(*beginning)?, sequence));
    outcome.and_then(|result| result).map_err(|what| format!("{beginning:?} {sequence}: {what}"))
}
