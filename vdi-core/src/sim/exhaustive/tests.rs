//! The slice that runs with every test run; `make exhaustive` runs the whole plan.

use super::*;
use crate::sabotage::Bug;

#[test]
fn no_crash_within_two_operations_or_three_of_the_core_breaks_a_promise() {
    let plan = Plan::slice();
    let run_all = Run { from: 0, count: u64::MAX, jobs: jobs(), failures: 1, bug: None };
    let progress = run(&plan, run_all, |_| {});
    if let Some(broken) = progress.broken.first() {
        panic!("{broken}");
    }
    println!("{}", progress.tally);
    assert_eq!(progress.next, plan.len());
}

fn jobs() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Bugs that the first sequences find; `make seeded-bugs` shows all of them.
const QUICK: [Bug; 20] = [
    Bug::SkipHostRecord,
    Bug::SkipBitmaps,
    Bug::AcknowledgeBeforeLog,
    Bug::ZeroIsAHole,
    Bug::BirthTooLate,
    Bug::ThresholdNotRaised,
    Bug::CloneOwnsParent,
    Bug::RollBackLowersThreshold,
    Bug::RollBackReusesEpoch,
    Bug::SnapshotOfTheEnd,
    Bug::OldSlotWins,
    Bug::MarkMissesSnapshots,
    Bug::TrimTooSoon,
    Bug::SnapshotNotFlushed,
    Bug::TornTailCounts,
    Bug::TornDataCounts,
    Bug::SkipFlushBeforeRecord,
    Bug::SkipFlushAfterRecord,
    Bug::RegistryBeforeRecord,
    Bug::StagedNotAdopted,
];

#[test]
fn short_sequences_find_seeded_bugs() {
    let plan = Plan::slice();
    for bug in QUICK {
        let until_found = Run { from: 0, count: u64::MAX, jobs: jobs(), failures: 1, bug: Some(bug) };
        let progress = run(&plan, until_found, |_| {});
        let broken = progress.broken.first().unwrap_or_else(|| panic!("{bug:?} hides"));
        println!("{bug:?}: {}", broken.what);
    }
}
