//! Whether a test would find a deliberate bug.

use std::panic::{UnwindSafe, catch_unwind};

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseResult, TestRng, TestRunner};

use super::{Bug, switch_on};

/// Cases, the same in every run, after which a bug hides.
const CASES: u32 = 2000;

/// [`Bug::test`] names the test that looks for it here.
fn must_be_named(bug: Bug) {
    assert!(bug.test().is_some(), "{bug:?} is found by this test: let Bug::test say so");
}

/// Run `law` with `bug` on until it breaks; false when it never does.
pub fn finds<S: Strategy>(bug: Bug, cases: &S, law: impl Fn(S::Value) -> TestCaseResult) -> bool {
    must_be_named(bug);
    let config = Config { cases: CASES, max_shrink_iters: 0, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    switch_on(Some(bug));
    let outcome = runner.run(cases, law);
    switch_on(None);
    outcome.is_err()
}

/// Whether `law` is broken with `bug` on.
pub fn breaks(bug: Bug, law: impl FnOnce() + UnwindSafe) -> bool {
    must_be_named(bug);
    switch_on(Some(bug));
    let broken = catch_unwind(law).is_err();
    switch_on(None);
    broken
}
