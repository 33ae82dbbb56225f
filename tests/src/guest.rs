//! What guest scenarios share: leave to run, one guest at a time; a daemon with a store of its own; how a
//! scenario ends.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use qemu_harness::daemon::Daemon;
use qemu_harness::{Machine, MachineConfig, Scratch, Tools};

/// What a short job in a guest may take; generous, the guest may be emulated on a busy machine.
pub const MINUTE: Duration = Duration::from_secs(60);

/// Completions are shuffled with this seed, so that no scenario passes because they came in order.
const REORDER_SEED: &str = "20260";

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

/// A running daemon on a new store, and leave to boot guests.
pub struct Stage {
    /// The daemon. Dropped, so killed, before its files go.
    pub daemon: Daemon,
    /// Sockets, logs, store and log.
    pub scratch: Scratch,
    /// Leave, and the tools.
    pub leave: Leave,
    _run: Scratch,
}

/// Format a store of 8 GiB and start a daemon that completes requests out of order. `None`, counted as
/// a skip of `test`, where guests cannot run.
///
/// # Panics
/// When the daemon does not come up.
#[must_use]
pub fn stage(test: &str) -> Option<Stage> {
    stage_with(test, &[])
}

/// As [`stage`], with further options for the daemon.
#[must_use]
pub fn stage_with(test: &str, options: &[&str]) -> Option<Stage> {
    let leave = leave(test)?;
    let scratch = Scratch::new("guest").expect("a scratch directory");
    let run = Scratch::in_memory("run").expect("a directory in memory");
    let daemon = Daemon::format(scratch.path(), run.path(), "8G", "256M").expect("a store");
    let all = [&["--test-reorder-completions", REORDER_SEED], options].concat();
    let mut daemon = daemon.with_options(&all);
    daemon.start().expect("the daemon starts");
    Some(Stage { daemon, scratch, leave, _run: run })
}

impl Stage {
    /// Boot `config`.
    ///
    /// # Panics
    /// When the guest does not come up.
    #[must_use]
    pub fn boot(&self, config: MachineConfig) -> Machine {
        let machine = Machine::boot(&self.leave.tools, config, self.scratch.path()).expect("the guest boots");
        println!("booted in {:.1} s", machine.boot_time().as_secs_f64());
        machine
    }

    /// The end of every scenario: the guest saw no I/O error, the daemon did not die by itself, the store
    /// is clean.
    ///
    /// # Panics
    /// When any of that is not so.
    pub fn finish(mut self, mut machine: Machine) {
        assert_eq!(machine.io_complaints().expect("dmesg"), "", "the guest saw I/O errors");
        machine.power_off().expect("the guest powers off");
        self.daemon.check_alive().expect("the daemon is well");
        self.daemon.stop_and_check().expect("a clean store");
    }
}
