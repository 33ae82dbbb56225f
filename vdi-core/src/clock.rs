//! The injected clock. Boot time decides, wall time is only for people.

use std::cell::Cell;
use std::rc::Rc;

/// Source of time; the simulator supplies its own.
pub trait Clock {
    /// Nanoseconds since boot, suspend included (`CLOCK_BOOTTIME`). Never goes back.
    fn now_ns(&self) -> u64;
    /// Nanoseconds since 1970 for people to read; may jump.
    fn wall_ns(&self) -> u64;
}

/// The host's clocks.
#[derive(Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ns(&self) -> u64 {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
    }
    fn wall_ns(&self) -> u64 {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
    }
}

/// A clock that moves only when told, for simulation and tests.
#[derive(Clone, Debug, Default)]
pub struct ManualClock(Rc<Cell<u64>>);

impl ManualClock {
    /// Move time forward by `ns`.
    pub fn advance_ns(&self, ns: u64) {
        self.0.set(self.0.get() + ns);
    }
}

impl Clock for ManualClock {
    fn now_ns(&self) -> u64 {
        self.0.get()
    }
    fn wall_ns(&self) -> u64 {
        1_700_000_000_000_000_000 + self.0.get()
    }
}
