//! Blocks locked while a partial write reads, merges and appends, or while they are written again elsewhere. Whoever writes such a block meanwhile
//! waits. All blocks of the write are locked, not just the partial ones at its edges: a smaller partial write
//! inside it would else merge with what this one is about to replace. The bound is a request's blocks per
//! partial write in flight.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Range;
use std::rc::Rc;

use crate::executor::Signal;

#[derive(Clone, Default)]
pub(super) struct BlockLocks(Rc<Shared>);

#[derive(Default)]
struct Shared {
    held: RefCell<BTreeSet<u64>>,
    freed: Signal,
}

impl BlockLocks {
    /// True when no block of `range` is locked.
    pub fn is_free(&self, range: &Range<u64>) -> bool {
        self.0.held.borrow().range(range.clone()).next().is_none()
    }
    /// Resolves when some lock was released: look again.
    pub fn changed(&self) -> impl Future<Output = ()> + use<> {
        self.0.freed.wait()
    }
    /// Lock the blocks of `range`, of which nobody else may be writing any.
    pub async fn lock(&self, range: &Range<u64>) -> BlockGuard {
        loop {
            let changed = self.changed();
            if self.is_free(range) {
                self.0.held.borrow_mut().extend(range.clone());
                return BlockGuard { locks: self.clone(), range: range.clone() };
            }
            changed.await;
        }
    }
}

pub(super) struct BlockGuard {
    locks: BlockLocks,
    range: Range<u64>,
}

impl Drop for BlockGuard {
    fn drop(&mut self) {
        let shared = &self.locks.0;
        let mut held = shared.held.borrow_mut();
        for block in self.range.clone() {
            held.remove(&block);
        }
        drop(held);
        shared.freed.notify();
    }
}
