//! A row in `tests/ledger.csv` for a run that has ended.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// What a run was.
pub struct Row<'a> {
    /// Which machinery ran.
    pub family: &'a str,
    /// Size of the logs it ran with.
    pub log: &'a str,
    /// What was tried.
    pub cases: u64,
    /// How often something failed, stopped or was lost on purpose in them.
    pub faults: u64,
    /// How long it took.
    pub took: Duration,
    /// Promises broken.
    pub failures: u64,
}

impl Row<'_> {
    /// Note it, if it was long; panics when that fails.
    pub fn note(&self) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../setup/ledger.sh");
        let numbers = [self.cases, self.faults, self.took.as_secs(), self.failures].map(|n| n.to_string());
        let told = Command::new(script).args([self.family, self.log]).args(numbers).status();
        assert!(told.is_ok_and(|status| status.success()), "the ledger was not written");
    }
}
