//! The slice of the simulation that runs with every test run; `make sim` runs more.

use super::*;
use crate::device::simulated::Fault;

fn jobs() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

#[test]
fn two_thousand_worlds_keep_every_promise() {
    let series = Series { seed: 1, from: 0, worlds: 2_000, cycles: u64::MAX, jobs: jobs(), failures: 1 };
    let progress = run_series(series, |_| {});
    if let Some(failure) = progress.failures.first() {
        panic!("{failure}");
    }
    let report = progress.report;
    println!("{report:#?}");
    for verb in VERBS {
        assert!(report.operations.get(verb).is_some_and(|n| *n > 0), "no world did a {verb}");
    }
    assert!(report.cycles_in_recovery > 0);
    let menu = [
        Fault::ReadError,
        Fault::WriteError,
        Fault::FlushError,
        Fault::NoSpace,
        Fault::FlippedRead,
        Fault::Slow,
        Fault::PowerLoss,
        Fault::Kill,
        Fault::TornWrite,
        Fault::VanishedWrite,
    ];
    for fault in menu {
        assert!(report.faults.get(fault) > 0, "no world saw a {fault:?}");
    }
}

const VERBS: [&str; 15] = [
    "write",
    "read",
    "discard",
    "write zeroes",
    "flush",
    "snapshot",
    "label",
    "remove snapshot",
    "clone",
    "roll back",
    "create",
    "delete",
    "resize",
    "checkpoint",
    "collect",
];

#[test]
fn the_same_seed_gives_the_same_world() {
    for seed in [3, 17, 4711] {
        let (one, two) = (run_world(seed).unwrap(), run_world(seed).unwrap());
        assert_eq!(one.trace, two.trace);
        assert_eq!(one.report.operations, two.report.operations);
    }
    assert_ne!(run_world(3).unwrap().trace, run_world(4).unwrap().trace);
}
