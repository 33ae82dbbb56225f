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
}

impl Freed {
    /// Add a block. Panics when it is there already: freed twice, it would be handed out twice.
    pub fn insert(&mut self, addr: BlockAddr) {
        let region = self.regions.entry(addr.0 / u64::from(REGION_BLOCKS)).or_default();
        let bit = addr.0 % u64::from(REGION_BLOCKS);
        let (word, mask) = ((bit / 64) as usize, 1 << (bit % 64));
        assert!(region[word] & mask == 0, "{addr} freed twice");
        region[word] |= mask;
        self.len += 1;
    }
    /// Add every block of `run`. Panics as [`Freed::insert`].
    pub fn insert_run(&mut self, run: Run) {
        (0..u64::from(run.blocks)).for_each(|i| self.insert(run.start.plus(i)));
    }
    /// Add the blocks of `bits` in the region at `start`. Panics as [`Freed::insert`].
    pub(super) fn insert_region(&mut self, start: BlockAddr, bits: &RegionBits) {
        let region = self.regions.entry(start.0 / u64::from(REGION_BLOCKS)).or_default();
        for (all, new) in region.iter_mut().zip(bits) {
            assert!(*all & new == 0, "a block of the region at {start} freed twice");
            *all |= new;
            self.len += u64::from(new.count_ones());
        }
    }
    /// Add all of `other`. Panics as [`Freed::insert`].
    pub fn merge(&mut self, other: Freed) {
        if self.is_empty() {
            *self = other;
            return;
        }
        for (number, bits) in other.regions {
            let region = self.regions.entry(number).or_default();
            for (all, new) in region.iter_mut().zip(bits) {
                assert!(*all & new == 0, "a block of region {number} freed twice");
                *all |= new;
            }
        }
        self.len += other.len;
    }
    /// Take out the blocks that `masks` has.
    pub(super) fn take(&mut self, masks: &RegionMasks) -> Freed {
        let mut out = Freed::default();
        self.regions.retain(|number, bits| {
            let Some(mask) = masks.0.get(number) else { return true };
            let mut common = RegionBits::default();
            for ((c, b), m) in common.iter_mut().zip(&mut *bits).zip(mask) {
                *c = *b & m;
                *b &= !m;
            }
            let blocks: u32 = common.iter().map(|w| w.count_ones()).sum();
            if blocks > 0 {
                out.regions.insert(*number, common);
                out.len += u64::from(blocks);
            }
            bits.iter().any(|w| *w != 0)
        });
        self.len -= out.len;
        out
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

/// A set of blocks to look for.
pub(super) struct RegionMasks(BTreeMap<u64, RegionBits>);

impl RegionMasks {
    pub fn of(runs: &[Run]) -> RegionMasks {
        let mut masks: BTreeMap<u64, RegionBits> = BTreeMap::new();
        for run in runs {
            for addr in run.start.0..run.start.0 + u64::from(run.blocks) {
                let bit = addr % u64::from(REGION_BLOCKS);
                masks.entry(addr / u64::from(REGION_BLOCKS)).or_default()[(bit / 64) as usize] |=
                    1 << (bit % 64);
            }
        }
        RegionMasks(masks)
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
    fn what_is_taken_out_is_what_both_have() {
        let run = |start, blocks| Run { start: BlockAddr(start), blocks };
        let mut freed: Freed = [run(5, 3), run(600, 1)].into_iter().collect();
        let taken = freed.take(&RegionMasks::of(&[run(6, 1), run(0, 6), run(6, 1), run(2000, 5)]));
        assert_eq!(taken.runs().collect::<Vec<_>>(), [run(5, 2)]);
        assert_eq!(freed.runs().collect::<Vec<_>>(), [run(7, 1), run(600, 1)]);
        assert_eq!((taken.len(), freed.len()), (2, 2));
    }

    #[test]
    #[should_panic(expected = "freed twice")]
    fn a_block_is_freed_once() {
        let mut freed: Freed = [Run { start: BlockAddr(5), blocks: 3 }].into_iter().collect();
        freed.merge([BlockAddr(7)].into_iter().collect());
    }
}
