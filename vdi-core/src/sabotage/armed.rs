//! Which point stops the world, how often each was passed, and which bug is on. Per thread, as worlds are.

use std::cell::{Cell, RefCell};

use super::{Bug, Point};

/// How often each point was passed, and how often a world stopped there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passes([(u64, u64); Point::ALL.len()]);

impl Default for Passes {
    fn default() -> Self {
        Passes([(0, 0); Point::ALL.len()])
    }
}

impl Passes {
    /// Each point with how often it was passed and how often it stopped a world.
    pub fn iter(&self) -> impl Iterator<Item = (Point, u64, u64)> + '_ {
        Point::ALL.into_iter().map(|p| (p, self.0[p as usize].0, self.0[p as usize].1))
    }
    /// Add another count to this one.
    pub fn merge(&mut self, other: &Passes) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine = (mine.0 + theirs.0, mine.1 + theirs.1);
        }
    }
}

thread_local! {
    static ARMED: Cell<Option<(Point, u64)>> = const { Cell::new(None) };
    static STOPPED: Cell<bool> = const { Cell::new(false) };
    static BUG: Cell<Option<Bug>> = const { Cell::new(None) };
    static PASSES: RefCell<Passes> = RefCell::default();
}

/// Stop the world when `point` is passed for the `nth` time from now, the first being 1.
pub fn arm(point: Point, nth: u64) {
    ARMED.set(Some((point, nth.max(1))));
    STOPPED.set(false);
}

/// Stop nowhere, and forget that the world stopped.
pub fn disarm() {
    ARMED.set(None);
    STOPPED.set(false);
}

/// Whether the armed point was reached.
#[must_use]
pub fn stopped() -> bool {
    STOPPED.get()
}

/// Run the worlds of this thread with this bug, or without any.
pub fn switch_on(bug: Option<Bug>) {
    BUG.set(bug);
}

/// The counts since the last call.
#[must_use]
pub fn take_passes() -> Passes {
    PASSES.take()
}

pub(super) fn is_on(bug: Bug) -> bool {
    BUG.get() == Some(bug)
}

pub(super) fn pass(point: Point) {
    if stopped() {
        return;
    }
    let stops = ARMED.get().is_some_and(|(armed, left)| {
        let here = armed == point;
        ARMED.set(Some((armed, left - u64::from(here && left > 1))));
        here && left == 1
    });
    STOPPED.set(stops);
    PASSES.with_borrow_mut(|passes| {
        let count = &mut passes.0[point as usize];
        *count = (count.0 + 1, count.1 + u64::from(stops));
    });
}
