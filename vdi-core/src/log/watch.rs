//! A sequence number that only grows, and the tasks that wait for it to reach theirs.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use crate::units::SegmentSeq;

/// Bounded by its waiters: each has one entry, gone when its future is.
pub(super) struct Watch {
    reached: Cell<SegmentSeq>,
    waiting: RefCell<BTreeMap<(SegmentSeq, u64), Option<Waker>>>,
    ids: Cell<u64>,
}

impl Watch {
    pub fn at(reached: SegmentSeq) -> Watch {
        Watch { reached: Cell::new(reached), waiting: RefCell::default(), ids: Cell::new(0) }
    }
    pub fn reached(&self) -> SegmentSeq {
        self.reached.get()
    }
    /// The lowest sequence that someone waits for.
    pub fn lowest_wanted(&self) -> Option<SegmentSeq> {
        self.waiting.borrow().first_key_value().map(|(key, _)| key.0)
    }
    /// `seq` is reached: wake whoever waits for it or less.
    pub fn advance(&self, seq: SegmentSeq) {
        assert!(seq >= self.reached.get(), "what was reached stays reached");
        self.reached.set(seq);
        self.wake_through(seq);
    }
    /// Wake everyone, to look at the log's failure.
    pub fn wake_all(&self) {
        self.wake_through(SegmentSeq(u64::MAX));
    }
    fn wake_through(&self, seq: SegmentSeq) {
        let wakers: Vec<Waker> = {
            let mut waiting = self.waiting.borrow_mut();
            waiting.range_mut(..=(seq, u64::MAX)).filter_map(|(_, waker)| waker.take()).collect()
        };
        for waker in wakers {
            waker.wake();
        }
    }
    /// Resolves when `seq` is reached or `failed` says so. Counts as wanted from this call on, not from
    /// its first poll.
    pub fn wait<F: Fn() -> bool>(&self, seq: SegmentSeq, failed: F) -> Wait<'_, F> {
        self.ids.set(self.ids.get() + 1);
        let key = (seq, self.ids.get());
        if seq > self.reached.get() {
            self.waiting.borrow_mut().insert(key, None);
        }
        Wait { watch: self, key, failed }
    }
}

pub(super) struct Wait<'a, F> {
    watch: &'a Watch,
    key: (SegmentSeq, u64),
    failed: F,
}

impl<F: Fn() -> bool + Unpin> Future for Wait<'_, F> {
    type Output = ();
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.key.0 <= self.watch.reached.get() || (self.failed)() {
            return Poll::Ready(());
        }
        self.watch.waiting.borrow_mut().insert(self.key, Some(cx.waker().clone()));
        Poll::Pending
    }
}

impl<F> Drop for Wait<'_, F> {
    fn drop(&mut self) {
        self.watch.waiting.borrow_mut().remove(&self.key);
    }
}
