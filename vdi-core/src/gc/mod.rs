//! The collector's two halves: mark everything that roots reach, then say what an extent may free.
//!
//! It takes roots and whatever else must live as values, and gives back runs; who may free them, and
//! when, is the engine's business.
//!
//! Invariants:
//! - a sweep is planned only from a finished mark: a node that cannot be read, or an address outside the
//!   store, ends the mark with an error, for below it anything might be alive;
//! - a subtree that several roots share is read once;
//! - a block is planned only if its bitmap calls it used: what is free, or was claimed and given back
//!   meanwhile, is never freed twice;
//! - memory is one bit for each block of the extents that hold something.

use crate::error::{Error, Result};
use crate::format::extent::{RegionBits, bit_runs, overhead_blocks};
use crate::format::node::Root;
use crate::limits::REGION_BLOCKS;
use crate::store::Run;
use crate::tree::walk::{BlockSet, NodeSource, Step, Walk};
use crate::units::{BlockAddr, ExtentNumber, Geometry};

/// A mark in progress, and what it has reached so far.
pub struct Mark {
    reached: BlockSet,
}

impl Mark {
    /// Nothing marked yet, in a store of `extents` extents.
    #[must_use]
    pub fn new(geometry: Geometry, extents: u32) -> Mark {
        Mark { reached: BlockSet::new(geometry, extents) }
    }
    /// Mark all nodes and data blocks that `root` reaches and that no root before it did.
    ///
    /// # Errors
    /// `Corrupt` or a device error when not everything could be read; the mark is then worthless.
    pub async fn root(&mut self, source: &impl NodeSource, root: &Root) -> Result<()> {
        root.verify()?;
        let mut outside = None;
        let reached = &mut self.reached;
        let mut mark = |addr: BlockAddr| {
            reached.insert(addr).unwrap_or_else(|| {
                outside = Some(addr);
                false
            })
        };
        let mut walk = Walk::new(root, |place| mark(place.link.addr));
        while let Some(step) = walk.next(source, |place| mark(place.link.addr)).await {
            match step {
                Step::Damaged(_, error) => return Err(error),
                Step::Leaf(_, leaf) => leaf.entries().for_each(|(_, entry)| {
                    mark(entry.addr);
                }),
            }
        }
        outside.map_or(Ok(()), |addr| Err(outside_store(addr)))
    }
    /// Mark blocks that live without a root: slots of records, snapshot logs, what untrimmed log records
    /// name, claims that are not used up.
    ///
    /// # Errors
    /// `Corrupt` when the store has no such block.
    pub fn keep(&mut self, run: Run) -> Result<()> {
        for nth in 0..u64::from(run.blocks) {
            let addr = run.start.plus(nth);
            self.reached.insert(addr).ok_or_else(|| outside_store(addr))?;
        }
        Ok(())
    }
    /// What has been marked.
    #[must_use]
    pub fn reached(&self) -> &BlockSet {
        &self.reached
    }
}

fn outside_store(addr: BlockAddr) -> Error {
    Error::corrupt("block address", addr, "the store has no such block")
}

/// What the sweep of extent `number` may free: used by its bitmap `used` (all regions, in order), and not
/// `reached`. Runs are in order and lie within a region.
#[must_use]
pub fn sweep(geometry: Geometry, number: ExtentNumber, used: &[RegionBits], reached: &BlockSet) -> Vec<Run> {
    let mut dead = used.to_vec();
    for block in 0..overhead_blocks(geometry) {
        dead[0][(block / 64) as usize] &= !(1 << (block % 64));
    }
    if let Some(alive) = reached.extent(number) {
        for (dead, alive) in dead.iter_mut().flatten().zip(alive.iter().flatten()) {
            *dead &= !alive;
        }
    }
    let mut runs = Vec::new();
    for (region, bits) in dead.chunks(1).enumerate() {
        let first = region as u32 * REGION_BLOCKS;
        let run = |(block, blocks)| Run { start: geometry.addr(number, first + block), blocks };
        runs.extend(bit_runs(bits).map(run));
    }
    runs
}

#[cfg(test)]
mod tests;
