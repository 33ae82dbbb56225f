//! A sequence number that only grows, and the tasks that wait for it to reach theirs.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use slab::Slab;

use crate::units::SegmentSeq;

/// Those who wait for one sequence number; a waker once they have been polled.
struct Waiting {
    seq: SegmentSeq,
    wakers: Slab<Option<Waker>>,
}

/// Bounded by its waiters: each has one entry, gone when its future is.
pub(super) struct Watch {
    reached: Cell<SegmentSeq>,
    /// In order of sequence, none without waiters: as many as there are segments on their way.
    waiting: RefCell<VecDeque<Waiting>>,
}

impl Watch {
    pub fn at(reached: SegmentSeq) -> Watch {
        Watch { reached: Cell::new(reached), waiting: RefCell::default() }
    }
    pub fn reached(&self) -> SegmentSeq {
        self.reached.get()
    }
    /// The lowest sequence that someone waits for.
    pub fn lowest_wanted(&self) -> Option<SegmentSeq> {
        self.waiting.borrow().front().map(|w| w.seq)
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
        let through = {
            let mut waiting = self.waiting.borrow_mut();
            let count = waiting.partition_point(|w| w.seq <= seq);
            let rest = waiting.split_off(count);
            std::mem::replace(&mut *waiting, rest)
        };
        for waker in through.into_iter().flat_map(|w| w.wakers).filter_map(|(_, waker)| waker) {
            waker.wake();
        }
    }
    /// Resolves when `seq` is reached or `failed` says so. Counts as wanted from this call on, not from
    /// its first poll.
    pub fn wait<F: Fn() -> bool>(&self, seq: SegmentSeq, failed: F) -> Wait<'_, F> {
        let key = (seq > self.reached.get()).then(|| {
            let mut waiting = self.waiting.borrow_mut();
            let at = waiting.partition_point(|w| w.seq < seq);
            if waiting.get(at).is_none_or(|w| w.seq != seq) {
                waiting.insert(at, Waiting { seq, wakers: Slab::new() });
            }
            waiting[at].wakers.insert(None)
        });
        Wait { watch: self, seq, key, failed }
    }
    /// Do something with those who wait for `seq`, if someone does.
    fn with<T>(&self, seq: SegmentSeq, act: impl FnOnce(&mut Waiting) -> T) -> Option<T> {
        let mut waiting = self.waiting.borrow_mut();
        let at = waiting.binary_search_by_key(&seq, |w| w.seq).ok()?;
        let done = act(&mut waiting[at]);
        if waiting[at].wakers.is_empty() {
            waiting.remove(at);
        }
        Some(done)
    }
}

pub(super) struct Wait<'a, F> {
    watch: &'a Watch,
    seq: SegmentSeq,
    /// Where this waits; none when there is nothing to wait for.
    key: Option<usize>,
    failed: F,
}

impl<F: Fn() -> bool + Unpin> Future for Wait<'_, F> {
    type Output = ();
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.seq <= self.watch.reached.get() || (self.failed)() {
            return Poll::Ready(());
        }
        let key = self.key.expect("it waits for what was not reached when it began");
        self.watch
            .with(self.seq, |w| w.wakers[key] = Some(cx.waker().clone()))
            .expect("only what was reached, or a failure, takes waiters out");
        Poll::Pending
    }
}

impl<F> Drop for Wait<'_, F> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.watch.with(self.seq, |w| w.wakers.try_remove(key));
        }
    }
}
