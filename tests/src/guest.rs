//! What guest scenarios share: leave to run, one guest at a time.

use std::sync::{Mutex, MutexGuard, PoisonError};

use qemu_harness::Tools;

/// An emulated guest wants a core for itself; two at once would only time each other out.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Leave to boot guests, for as long as it lives.
pub struct Leave {
    /// What to boot them with.
    pub tools: Tools,
    _turn: MutexGuard<'static, ()>,
}

/// Wait for this test's turn. `None`, counted as a skip of `test`, where guests cannot run.
#[must_use]
pub fn leave(test: &str) -> Option<Leave> {
    match Tools::find() {
        Ok(tools) => {
            // Another test's failure while it had its turn does not concern this one.
            let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
            Some(Leave { tools, _turn: turn })
        }
        Err(missing) => {
            crate::skipped(test, &missing.0);
            None
        }
    }
}
