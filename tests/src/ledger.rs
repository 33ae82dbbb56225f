//! A row in `tests/ledger.csv` for a run that has ended.

use std::process::Command;
use std::time::Instant;

/// Note a run of `family` with logs of size `log` that began at `started`: what was tried, how often something was
/// disturbed on purpose, promises broken. Panics when a long run cannot be noted, and when a promise was broken.
pub fn note(family: &str, log: &str, cases: u64, faults: u64, started: Instant, failures: u64) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../setup/ledger.sh");
    let numbers = [cases, faults, started.elapsed().as_secs(), failures].map(|n| n.to_string());
    let told = Command::new(script).args([family, log]).args(numbers).status();
    assert!(told.is_ok_and(|status| status.success()), "the ledger was not written");
    assert_eq!(failures, 0);
}
