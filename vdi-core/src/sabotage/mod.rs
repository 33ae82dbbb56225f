//! What a simulated world may do to the engine from within: stop it at a named point, or break it on purpose.
//!
//! A [`Point`] is a moment between two steps of a protocol; the simulator counts how often each is passed and
//! now and then stops the machine there. A [`Bug`] is a mistake somebody could make; `make seeded-bugs` shows
//! that the simulator finds each. Without the feature `sim` both are nothing: [`crash_point`] is empty and
//! [`seeded_bug`] is `false`, so no code of either is left.

#[cfg(any(test, feature = "sim"))]
mod armed;
mod bugs;
mod points;
#[cfg(test)]
pub mod property;

#[cfg(any(test, feature = "sim"))]
pub use armed::{Passes, arm, disarm, stopped, switch_on, take_passes};
pub use bugs::Bug;
pub use points::Point;

/// A simulated world may stop here.
#[inline(always)]
pub fn crash_point(point: Point) {
    #[cfg(any(test, feature = "sim"))]
    armed::pass(point);
    #[cfg(not(any(test, feature = "sim")))]
    let _ = point;
}

/// Whether this world has stopped: what the daemon's code still does is not done any more.
#[inline(always)]
#[must_use]
pub fn is_stopped() -> bool {
    #[cfg(any(test, feature = "sim"))]
    let stopped = armed::stopped();
    #[cfg(not(any(test, feature = "sim")))]
    let stopped = false;
    stopped
}

/// Whether this world runs with this deliberate bug.
#[inline(always)]
#[must_use]
pub fn seeded_bug(bug: Bug) -> bool {
    #[cfg(any(test, feature = "sim"))]
    let on = armed::is_on(bug);
    #[cfg(not(any(test, feature = "sim")))]
    let on = bug as usize == usize::MAX;
    on
}
