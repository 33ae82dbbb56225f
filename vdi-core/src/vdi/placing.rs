//! Out-of-line writes between allocation and record: blocks in use that nothing names yet. A collection
//! pauses them, because it would call such blocks dead.

use std::cell::Cell;
use std::rc::Rc;

use crate::executor::Signal;

/// Counts out-of-line writes on their way, and lets a collection keep new ones from starting.
#[derive(Clone, Default)]
pub struct Placing(Rc<Inner>);

#[derive(Default)]
struct Inner {
    active: Cell<usize>,
    paused: Cell<usize>,
    ended: Signal,
}

impl Placing {
    /// Start one; None while paused, and then the write goes through the log.
    pub(super) fn start(&self) -> Option<PlacingGuard> {
        (self.0.paused.get() == 0).then(|| {
            self.0.active.set(self.0.active.get() + 1);
            PlacingGuard(self.clone())
        })
    }
    /// Keep new ones from starting until the guard is dropped, and wait for those on their way.
    pub async fn pause(&self) -> PauseGuard {
        self.0.paused.set(self.0.paused.get() + 1);
        let guard = PauseGuard(self.clone());
        while self.0.active.get() > 0 {
            self.0.ended.wait().await;
        }
        guard
    }
}

/// One out-of-line write, from allocation until its record is in the overlay.
pub(super) struct PlacingGuard(Placing);

impl Drop for PlacingGuard {
    fn drop(&mut self) {
        let inner = &self.0.0;
        inner.active.set(inner.active.get() - 1);
        inner.ended.notify();
    }
}

/// While it lives no out-of-line write starts.
pub struct PauseGuard(Placing);

impl Drop for PauseGuard {
    fn drop(&mut self) {
        let inner = &self.0.0;
        inner.paused.set(inner.paused.get() - 1);
    }
}
