//! Which guest request a change comes from, and which of its records an earlier daemon logged before it died:
//! those are not made again when the request is.

use std::cell::Cell;
use std::collections::VecDeque;

use super::Vdi;
use crate::format::record::Origin;
use crate::limits::LOGGED_REQUESTS_MAX;

/// A guest request being executed; it numbers the records made for it. A request offered again makes the same
/// records in the same order.
#[derive(Debug, Default)]
pub struct Parts {
    request: u64,
    next: Cell<u16>,
    /// How many of them are in the log already.
    logged: u16,
}

impl Parts {
    /// True when the next record is in the log already: there is nothing to do for it.
    pub(super) fn skip(&self) -> bool {
        let skip = self.next.get() < self.logged;
        if skip {
            self.next.set(self.next.get() + 1);
        }
        skip
    }
    /// Of the record that is appended now.
    pub(super) fn next(&self) -> Origin {
        let part = self.next.get();
        // No request of a guest makes as many (`GUEST_REQUEST_BYTES_MAX`); one that did would end with equal numbers, and
        // have the last of them executed again.
        self.next.set(part.saturating_add(1));
        Origin { request: self.request, part }
    }
}

/// The requests of the records that a replay met, newest last. Bounded by what can be in flight.
#[derive(Debug, Default)]
pub struct Logged(VecDeque<Origin>);

impl Logged {
    pub(super) fn note(&mut self, origin: Origin) {
        if origin.request == 0 {
            return;
        }
        if self.0.len() == LOGGED_REQUESTS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(origin);
    }
    fn parts_of(&self, request: u64) -> u16 {
        let newest = self.0.iter().rev().find(|o| o.request == request);
        newest.map_or(0, |o| o.part.saturating_add(1))
    }
}

impl Vdi {
    /// Which requests an earlier daemon had logged, taken out: the VDI goes to another shard's engine.
    pub fn take_logged(&self) -> Logged {
        self.0.logged.take()
    }
    /// What [`Vdi::take_logged`] gave.
    pub fn give_logged(&self, logged: Logged) {
        *self.0.logged.borrow_mut() = logged;
    }
    /// The request `request` (not 0, and no other's for as long as the log may hold its records) before it is
    /// executed; `again` when an earlier daemon may have begun with it.
    #[must_use]
    pub fn parts(&self, request: u64, again: bool) -> Parts {
        let logged = if again { self.0.logged.borrow().parts_of(request) } else { 0 };
        Parts { request, next: Cell::new(0), logged }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_logged_is_skipped_and_the_rest_goes_on_with_its_number() {
        let mut logged = Logged::default();
        for (request, part) in [(7, 0), (8, 0), (7, 1), (0, 0)] {
            logged.note(Origin { request, part });
        }
        assert_eq!((logged.parts_of(7), logged.parts_of(8), logged.parts_of(9)), (2, 1, 0));
        let parts = Parts { request: 7, next: Cell::new(0), logged: 2 };
        assert!(parts.skip() && parts.skip() && !parts.skip());
        assert_eq!(parts.next(), Origin { request: 7, part: 2 });
        assert!(!parts.skip());
    }

    #[test]
    fn the_largest_number_of_a_record_is_followed_by_itself() {
        let mut logged = Logged::default();
        // As a record on a disk may say.
        logged.note(Origin { request: 7, part: u16::MAX });
        assert_eq!(logged.parts_of(7), u16::MAX);
        let parts = Parts { request: 7, next: Cell::new(u16::MAX - 1), logged: u16::MAX };
        assert!(parts.skip() && !parts.skip());
        for _ in 0..2 {
            assert_eq!(parts.next(), Origin { request: 7, part: u16::MAX });
        }
    }

    #[test]
    fn no_more_is_remembered_than_can_be_in_flight() {
        let mut logged = Logged::default();
        for request in 1..=LOGGED_REQUESTS_MAX as u64 + 1 {
            logged.note(Origin { request, part: 0 });
        }
        assert_eq!((logged.parts_of(1), logged.parts_of(2)), (0, 1));
    }
}
