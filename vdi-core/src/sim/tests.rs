//! The slice of the simulation that runs with every test run; `make sim` runs more.

use super::*;
use crate::sabotage::Bug;

fn jobs() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Crashes in the slice; fewer where many mutants of the engine wait for their turn.
fn cycles() -> u64 {
    let asked = std::env::var("PARALLAX_SIM_CYCLES").ok();
    asked.map_or(20_000, |n| n.parse().expect("PARALLAX_SIM_CYCLES is a number"))
}

#[test]
fn twenty_thousand_crashes_break_no_promise_and_meet_every_fault_verb_and_point() {
    let series =
        Series { seed: 1, from: 0, worlds: u64::MAX, cycles: cycles(), jobs: jobs(), failures: 1, bug: None };
    let progress = run_series(series, |_| {});
    if let Some(failure) = progress.failures.first() {
        panic!("{failure}");
    }
    println!("{}", progress.report);
    assert_eq!(progress.report.missing(), Vec::<String>::new());
}

#[test]
fn the_same_seed_gives_the_same_world() {
    for seed in (1..40).chain([4711]) {
        let (one, two) = (run_world(seed).unwrap(), run_world(seed).unwrap());
        assert_eq!(one.trace, two.trace);
        assert_eq!(one.report.operations, two.report.operations);
    }
    assert_ne!(run_world(3).unwrap().trace, run_world(4).unwrap().trace);
}

/// Bugs that a few worlds find; `make seeded-bugs` shows all of them (`docs/seeded-bugs.md`).
const QUICK: [Bug; 24] = [
    Bug::SkipFlushAfterRecord,
    Bug::SkipHostRecord,
    Bug::SkipBitmaps,
    Bug::TrimTooSoon,
    Bug::AcknowledgeBeforeLog,
    Bug::FlushAtOnce,
    Bug::FlushForgetsOpenSegment,
    Bug::FlushCoversTooMuch,
    Bug::FlushForgetsOutOfLine,
    Bug::SnapshotNotFlushed,
    Bug::DropOverlayVersion,
    Bug::ForgetNewerVersion,
    Bug::ZeroIsAHole,
    Bug::DiscardNotApplied,
    Bug::PartialLocksEdges,
    Bug::BirthTooLate,
    Bug::ThresholdNotRaised,
    Bug::CloneOwnsParent,
    Bug::SnapshotOfTheEnd,
    Bug::ShrinkKeepsData,
    Bug::OldSlotWins,
    Bug::TornTailCounts,
    Bug::DurableTooHigh,
    Bug::DataUnchecked,
];

#[test]
fn quick_seeded_bugs_are_found() {
    for bug in QUICK {
        let series = Series {
            seed: 1,
            from: 0,
            worlds: 400,
            cycles: u64::MAX,
            jobs: jobs(),
            failures: 1,
            bug: Some(bug),
        };
        let progress = run_series(series, |_| {});
        println!("{bug:?}: after {} worlds", progress.worlds);
        assert!(!progress.failures.is_empty(), "{bug:?} hides from {} worlds", progress.worlds);
    }
}
