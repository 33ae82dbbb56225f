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

pub mod cache;
pub mod lookup;
mod stand_in;
pub mod walk;

use std::future::Future;

use smallvec::SmallVec;

use crate::error::Result;
use crate::units::{BlockAddr, VirtualBlock};

pub use crate::format::node::{Entry, Node, Root, depth_for_blocks};
pub use cache::NodeCache;
pub use lookup::lookup;
use stand_in::Store;
pub use walk::{Place, Step, Walk};

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

/// Where nodes come from: the cache for the engine, its own reader for the checker.
pub trait NodeSource {
    /// The node that `link` names, verified against it; `level` 0 is a leaf.
    fn node(&self, link: Entry, level: u8) -> impl Future<Output = Result<Node>>;
}
