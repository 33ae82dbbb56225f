//! Freed blocks as bits by region: adding one costs no memory of its own, giving back a region costs one
//! step however many of its blocks are freed.

use std::collections::BTreeMap;

use super::Run;
use crate::format::extent::{RegionBits, bit_runs};
use crate::limits::REGION_BLOCKS;
use crate::units::BlockAddr;

/// A set of freed blocks. Takes about 0.2 bytes per block when whole regions are freed, at most 80 bytes for a
/// region of which one block is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Freed {
    /// By address of the region divided by its size: extents begin with a region.
    regions: BTreeMap<u64, RegionBits>,
    len: u64,
    /// The first block that was added twice.
    twice: Option<BlockAddr>,
}

impl Freed {
    /// Add a block. That it was there already is remembered ([`Freed::twice`]): on a damaged store two trees, or two
    /// places of one, may have it.
    pub fn insert(&mut self, addr: BlockAddr) {
        let bit = addr.0 % u64::from(REGION_BLOCKS);
        let mut bits = RegionBits::default();
        bits[(bit / 64) as usize] = 1 << (bit % 64);
        self.insert_region(BlockAddr(addr.0 - bit), &bits);
    }
    /// Add every block of `run`.
    pub fn insert_run(&mut self, run: Run) {
        let region = u64::from(REGION_BLOCKS);
        let (mut at, end) = (run.start.0, run.start.0 + u64::from(run.blocks));
        while at < end {
            let start = at / region * region;
            let stop = end.min(start + region);
            let mut bits = RegionBits::default();
            for (first, word) in (start..).step_by(64).zip(&mut bits) {
                let (from, to) = (at.clamp(first, first + 64) - first, stop.clamp(first, first + 64) - first);
                let below = |n: u64| if n == 64 { u64::MAX } else { (1 << n) - 1 };
                *word = below(to) & !below(from);
            }
            self.insert_region(BlockAddr(start), &bits);
            at = stop;
        }
    }
    /// Add the blocks of `bits` in the region at `start`.
    pub(super) fn insert_region(&mut self, start: BlockAddr, bits: &RegionBits) {
        let region = self.regions.entry(start.0 / u64::from(REGION_BLOCKS)).or_default();
        for (word, (all, new)) in (0..).zip(region.iter_mut().zip(bits)) {
            let again = *all & new;
            if again != 0 {
                let bit = word * 64 + u64::from(again.trailing_zeros());
                self.twice.get_or_insert(start.plus(bit));
            }
            self.len += u64::from((new & !*all).count_ones());
            *all |= new;
        }
    }
    /// Add all of `other`.
    pub fn merge(&mut self, other: Freed) {
        self.twice = self.twice.or(other.twice);
        if self.regions.is_empty() {
            (self.regions, self.len) = (other.regions, other.len);
            return;
        }
        for (start, bits) in other.regions() {
            self.insert_region(start, bits);
        }
    }
    /// The first block that was added when it was there already.
    #[must_use]
    pub fn twice(&self) -> Option<BlockAddr> {
        self.twice
    }
    /// Remove all of `other`, whether they are there or not.
    pub(super) fn remove(&mut self, other: &Freed) {
        for (start, bits) in other.regions() {
            let number = start.0 / u64::from(REGION_BLOCKS);
            let Some(mine) = self.regions.get_mut(&number) else { continue };
            for (mine, gone) in mine.iter_mut().zip(bits) {
                self.len -= u64::from((*mine & gone).count_ones());
                *mine &= !gone;
            }
            if mine.iter().all(|word| *word == 0) {
                self.regions.remove(&number);
            }
        }
    }
    /// Take out the blocks that `which` picks of a region's.
    pub(super) fn take_out(&mut self, which: impl Fn(BlockAddr, &RegionBits) -> RegionBits) -> Freed {
        let mut out = Freed::default();
        self.regions.retain(|number, bits| {
            let start = BlockAddr(number * u64::from(REGION_BLOCKS));
            let mut taken = which(start, bits);
            for (t, b) in taken.iter_mut().zip(&mut *bits) {
                *t &= *b;
                *b &= !*t;
            }
            if taken.iter().any(|w| *w != 0) {
                out.insert_region(start, &taken);
            }
            bits.iter().any(|w| *w != 0)
        });
        self.len -= out.len;
        out
    }
    /// The blocks it has of the region at `start`.
    pub(super) fn of_region(&self, start: BlockAddr) -> RegionBits {
        self.regions.get(&(start.0 / u64::from(REGION_BLOCKS))).copied().unwrap_or_default()
    }
    /// How many blocks there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }
    /// True when there is no block.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// The first block of each region that has some, with the region's bits, in order.
    pub(super) fn regions(&self) -> impl Iterator<Item = (BlockAddr, &RegionBits)> {
        self.regions.iter().map(|(number, bits)| (BlockAddr(number * u64::from(REGION_BLOCKS)), bits))
    }
    /// The blocks as runs that end with their region, in order.
    pub fn runs(&self) -> impl Iterator<Item = Run> + '_ {
        self.regions().flat_map(|(start, bits)| {
            let run = move |(first, blocks)| Run { start: start.plus(u64::from(first)), blocks };
            bit_runs(std::slice::from_ref(bits)).map(run)
        })
    }
}

impl FromIterator<BlockAddr> for Freed {
    fn from_iter<I: IntoIterator<Item = BlockAddr>>(addrs: I) -> Freed {
        let mut freed = Freed::default();
        addrs.into_iter().for_each(|addr| freed.insert(addr));
        freed
    }
}

impl FromIterator<Run> for Freed {
    fn from_iter<I: IntoIterator<Item = Run>>(runs: I) -> Freed {
        let mut freed = Freed::default();
        runs.into_iter().for_each(|run| freed.insert_run(run));
        freed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_what_was_inserted_cut_where_a_region_ends() {
        let mut freed: Freed = [7, 5, 6, 600, 511].into_iter().map(BlockAddr).collect();
        freed.merge([Run { start: BlockAddr(512), blocks: 2 }].into_iter().collect());
        let runs: Vec<(u64, u32)> = freed.runs().map(|r| (r.start.0, r.blocks)).collect();
        assert_eq!(runs, [(5, 3), (511, 1), (512, 2), (600, 1)]);
        assert_eq!(freed.len(), 7);
    }

    #[test]
    fn a_run_is_each_of_its_blocks() {
        for (start, blocks) in
            [(0, 1), (0, 64), (63, 2), (5, 512), (511, 1), (510, 1030), (512, 512), (1, 63)]
        {
            let mut one_by_one = Freed::default();
            (start..start + u64::from(blocks)).for_each(|block| one_by_one.insert(BlockAddr(block)));
            let mut at_once: Freed = std::iter::once(Run { start: BlockAddr(start), blocks }).collect();
            assert_eq!(at_once, one_by_one, "{start}, {blocks}");
            assert_eq!(at_once.len(), u64::from(blocks));
            let half = Run { start: BlockAddr(start + 1), blocks: blocks + 600 };
            at_once.remove(&std::iter::once(half).collect());
            assert_eq!(at_once, std::iter::once(BlockAddr(start)).collect());
        }
    }

    #[test]
    fn what_is_taken_out_is_what_both_have() {
        let run = |start, blocks| Run { start: BlockAddr(start), blocks };
        let mut freed: Freed = [run(5, 3), run(600, 1)].into_iter().collect();
        let wanted: Freed = [run(6, 1), run(0, 6), run(2000, 5)].into_iter().collect();
        let taken = freed.take_out(|start, _| wanted.of_region(start));
        assert_eq!(taken.runs().collect::<Vec<_>>(), [run(5, 2)]);
        assert_eq!(freed.runs().collect::<Vec<_>>(), [run(7, 1), run(600, 1)]);
        assert_eq!((taken.len(), freed.len()), (2, 2));
    }

    #[test]
    fn a_block_that_is_freed_twice_is_remembered_and_counts_once() {
        let mut freed: Freed = [Run { start: BlockAddr(65), blocks: 3 }].into_iter().collect();
        assert_eq!(freed.twice(), None);
        freed.merge([BlockAddr(3), BlockAddr(67)].into_iter().collect());
        assert_eq!((freed.twice(), freed.len()), (Some(BlockAddr(67)), 4));
        let mut other = Freed::default();
        other.merge(freed);
        assert_eq!(other.twice(), Some(BlockAddr(67)));
    }
}
