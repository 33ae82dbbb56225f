//! Blocks locked while a partial write reads, merges and appends them. Whoever touches such a block
//! meanwhile waits. The bound is two blocks per partial write in flight.

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
    /// Lock the first and last block of `range`, which nobody else may be writing.
    pub async fn lock_edges(&self, range: &Range<u64>) -> BlockGuard {
        loop {
            let changed = self.changed();
            if self.is_free(range) {
                let blocks = [range.start, range.end - 1];
                self.0.held.borrow_mut().extend(blocks);
                return BlockGuard { locks: self.clone(), blocks };
            }
            changed.await;
        }
    }
}

pub(super) struct BlockGuard {
    locks: BlockLocks,
    blocks: [u64; 2],
}

impl Drop for BlockGuard {
    fn drop(&mut self) {
        let shared = &self.locks.0;
        for b in self.blocks {
            shared.held.borrow_mut().remove(&b);
        }
        shared.freed.notify();
    }
}
