//! The slice of the simulation that runs with every test run; `make sim` runs more.

use super::*;

fn jobs() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

#[test]
fn two_thousand_worlds_keep_every_promise_and_meet_every_fault_verb_and_point() {
    let series =
        Series { seed: 1, from: 0, worlds: 2_000, cycles: u64::MAX, jobs: jobs(), failures: 1, bug: None };
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
