//! Blocks of a store as bits, by extent: what walks have come to.

use std::collections::BTreeMap;

use crate::format::extent::{RegionBits, regions};
use crate::limits::REGION_BLOCKS;
use crate::units::{BlockAddr, ExtentNumber, Geometry};

/// A set of blocks. Takes one bit of memory for each block of the extents it has blocks in.
#[derive(Clone)]
pub struct BlockSet {
    geometry: Geometry,
    extents: u32,
    bits: BTreeMap<ExtentNumber, Box<[RegionBits]>>,
    len: u64,
}

fn position(block: u32) -> (usize, usize, u64) {
    let bit = block % REGION_BLOCKS;
    ((block / REGION_BLOCKS) as usize, (bit / 64) as usize, 1 << (bit % 64))
}

impl BlockSet {
    /// No blocks, of a store with `extents` extents.
    #[must_use]
    pub fn new(geometry: Geometry, extents: u32) -> BlockSet {
        BlockSet { geometry, extents, bits: BTreeMap::new(), len: 0 }
    }
    /// Add a block; true when it was not there yet, None when the store has no such block.
    pub fn insert(&mut self, addr: BlockAddr) -> Option<bool> {
        if addr.0 >> self.geometry.extent_bits >= u64::from(self.extents) {
            return None;
        }
        let count = regions(self.geometry) as usize;
        let number = self.geometry.extent(addr);
        let bits = self.bits.entry(number).or_insert_with(|| vec![[0; 8]; count].into_boxed_slice());
        let (region, word, mask) = position(self.geometry.block(addr));
        let new = bits[region][word] & mask == 0;
        bits[region][word] |= mask;
        self.len += u64::from(new);
        Some(new)
    }
    /// Whether the block is in the set.
    #[must_use]
    pub fn contains(&self, addr: BlockAddr) -> bool {
        if addr.0 >> self.geometry.extent_bits >= u64::from(self.extents) {
            return false;
        }
        let (region, word, mask) = position(self.geometry.block(addr));
        self.bits.get(&self.geometry.extent(addr)).is_some_and(|bits| bits[region][word] & mask != 0)
    }
    /// The bits of an extent by region; None when none of its blocks is in the set.
    #[must_use]
    pub fn extent(&self, number: ExtentNumber) -> Option<&[RegionBits]> {
        self.bits.get(&number).map(|b| &b[..])
    }
    /// The extents that have blocks in the set, in order.
    pub fn extents(&self) -> impl Iterator<Item = ExtentNumber> + '_ {
        self.bits.keys().copied()
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::extent::bit_runs;

    #[test]
    fn a_set_holds_what_was_inserted_and_runs_cover_it() {
        let geometry = Geometry { extent_bits: 10 };
        let mut set = BlockSet::new(geometry, 3);
        for block in [3, 63, 64, 65, 511, 512, 1023, 1024] {
            assert_eq!(set.insert(BlockAddr(block)), Some(true));
            assert_eq!(set.insert(BlockAddr(block)), Some(false));
        }
        assert_eq!(set.insert(BlockAddr(3 << 10)), None);
        assert!(
            !set.contains(BlockAddr(u64::MAX)) && !set.contains(BlockAddr(4)) && set.contains(BlockAddr(64))
        );
        assert_eq!((set.len(), set.extents().count()), (8, 2));
        let runs: Vec<_> = bit_runs(set.extent(ExtentNumber(0)).unwrap()).collect();
        assert_eq!(runs, [(3, 1), (63, 3), (511, 2), (1023, 1)]);
    }
}
