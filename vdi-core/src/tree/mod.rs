//! The map of one virtual disk: a copy-on-write radix tree of 4 KiB nodes, from virtual blocks to
//! block addresses with their checksums.
//!
//! A tree is named by its [`Root`] alone. [`lookup`](lookup::lookup) reads it, [`apply`](apply::apply)
//! makes a new one that shares everything unchanged with the old, [`Walk`] visits every block of one.
//! Snapshots are old roots; their list is [`SnapshotLog`](snapshots::SnapshotLog).
//!
//! Invariants:
//! - a node is never written in place: a change writes new nodes from the leaf up to the root;
//! - no child is born after its node, so a subtree whose entry was born at or below a threshold holds
//!   nothing younger: sharing is decided without reading below;
//! - every node is checked against its parent's entry (checksum, births) when it is read;
//! - levels are counted down from the depth, so that no arrangement of blocks on disk makes a loop.

pub mod apply;
pub mod cache;
pub mod lookup;
pub mod snapshots;
pub mod walk;
mod writer;

#[cfg(test)]
mod tests;

use smallvec::SmallVec;

use crate::store::{Freed, Run};
use crate::units::{BlockAddr, Epoch, VirtualBlock};

pub use crate::format::node::{Entry, Node, Root};
pub use apply::{apply, grow};
pub use cache::NodeCache;
use cache::PastCache;
pub use lookup::lookup;
pub use snapshots::SnapshotLog;
pub use walk::{NodeSource, Place, Step, Walk};

/// CRC-32C of consecutive blocks, in order.
pub type Crcs = SmallVec<[u32; 4]>;

/// Part of a looked-up range whose blocks lie next to each other in the store, or are all absent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// First virtual block.
    pub at: VirtualBlock,
    /// Number of blocks.
    pub blocks: u32,
    /// Address of the first block and the checksum of each; None reads as zeros.
    pub target: Option<(BlockAddr, Crcs)>,
}

/// What a range of virtual blocks becomes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum To {
    /// Reads as zeros.
    Absent,
    /// Neighbours in the store.
    Blocks {
        /// Address of the first block.
        start: BlockAddr,
        /// Checksum of each.
        crcs: Crcs,
    },
}

/// One change of a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// First virtual block.
    pub at: VirtualBlock,
    /// Number of blocks, at least one.
    pub blocks: u64,
    /// What they become.
    pub to: To,
}

impl Change {
    fn end(&self) -> u64 {
        self.at.0 + self.blocks
    }
    fn maps(&self) -> bool {
        matches!(self.to, To::Blocks { .. })
    }
    /// The entry of virtual block `block`, which the change covers, when born in `birth`.
    fn entry(&self, block: u64, birth: Epoch) -> Option<Entry> {
        let To::Blocks { start, crcs } = &self.to else { return None };
        let nth = block - self.at.0;
        Some(Entry { addr: start.plus(nth), birth, crc: crcs[nth as usize] })
    }
}

/// A new tree, and what it no longer needs.
#[derive(Debug)]
pub struct Applied {
    /// The new tree.
    pub root: Root,
    /// Data blocks and nodes that only the old tree used: born after the threshold, each named once. They
    /// may be reused under the reuse rule, not before the new root is durable.
    pub freed: Freed,
    /// Nodes allocated and written.
    pub nodes_written: u64,
    /// Where they are.
    pub allocated: Vec<Run>,
    /// Data blocks the new tree has gained, minus data blocks in `freed`: the change in what is held by
    /// this VDI together with its snapshots.
    pub data_blocks_delta: i64,
}
