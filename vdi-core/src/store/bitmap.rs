//! Bitmaps of the extents this host owns, in memory: what is used or claimed, and which region is
//! emptiest. The bound is the store's size: one bit and a little per block of owned extents.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::{ExtentKind, Run};
use crate::format::extent::{self, REGIONS_PER_SECTOR, RegionBits, overhead_blocks};
use crate::limits::REGION_BLOCKS;
use crate::units::{BlockAddr, ExtentNumber, Generation, Geometry};

pub(super) struct OwnedExtent {
    pub kind: ExtentKind,
    regions: Vec<RegionBits>,
    generations: Vec<Generation>,
}

/// Emptiest first; among equals the lowest address.
type ByFree = BTreeSet<(u32, Reverse<u64>)>;

#[derive(Default)]
pub(super) struct Bitmaps {
    extents: BTreeMap<ExtentNumber, OwnedExtent>,
    data: ByFree,
    metadata: ByFree,
    /// Bitmap sectors whose memory and disk differ.
    dirty: BTreeSet<(ExtentNumber, u32)>,
}

pub(super) fn free_in(bits: &RegionBits) -> u32 {
    bits.iter().map(|w| w.count_zeros()).sum()
}

impl Bitmaps {
    /// Take over an extent; returns its free blocks. `regions` are whole, used beyond the extent's end.
    pub fn insert(
        &mut self,
        g: Geometry,
        number: ExtentNumber,
        kind: ExtentKind,
        regions: Vec<RegionBits>,
        generations: Vec<Generation>,
    ) -> u64 {
        assert_eq!(regions.len(), extent::regions(g) as usize);
        let mut free = 0;
        for (i, bits) in regions.iter().enumerate() {
            let n = free_in(bits);
            free += u64::from(n);
            if n > 0 {
                self.index(kind).insert((n, Reverse(region_start(g, number, i as u32).0)));
            }
        }
        let old = self.extents.insert(number, OwnedExtent { kind, regions, generations });
        assert!(old.is_none(), "extent {} taken over twice", number.0);
        free
    }
    fn index(&mut self, kind: ExtentKind) -> &mut ByFree {
        match kind {
            ExtentKind::Data => &mut self.data,
            ExtentKind::Metadata => &mut self.metadata,
            _ => panic!("{kind:?} extents are not allocated from"),
        }
    }
    pub fn owns(&self, number: ExtentNumber) -> bool {
        self.extents.contains_key(&number)
    }
    /// A copy of all bitmaps.
    pub fn all(&self) -> Vec<(ExtentNumber, Vec<RegionBits>)> {
        self.extents.iter().map(|(n, e)| (*n, e.regions.clone())).collect()
    }
    pub fn used_bits(&self, number: ExtentNumber) -> Option<&[RegionBits]> {
        self.extents.get(&number).map(|e| e.regions.as_slice())
    }
    fn change(&mut self, g: Geometry, number: ExtentNumber, region: u32, new: RegionBits) {
        let e = self.extents.get_mut(&number).expect("the extent is ours");
        let kind = e.kind;
        let old = std::mem::replace(&mut e.regions[region as usize], new);
        let start = Reverse(region_start(g, number, region).0);
        self.dirty.insert((number, region / REGIONS_PER_SECTOR));
        let (was, is) = (free_in(&old), free_in(&new));
        let index = self.index(kind);
        if was > 0 {
            index.remove(&(was, start));
        }
        if is > 0 {
            index.insert((is, start));
        }
    }
    /// Free blocks of the emptiest region of this kind.
    pub fn most_free(&mut self, kind: ExtentKind) -> u32 {
        self.index(kind).last().map_or(0, |(free, _)| *free)
    }
    /// Regions of this kind with nothing in them; `most` when there are more.
    pub fn empty_regions(&mut self, g: Geometry, kind: ExtentKind, most: usize) -> usize {
        // In the first one lie header and bitmap.
        let least = REGION_BLOCKS - overhead_blocks(g);
        let emptiest = self.index(kind).iter().rev().take_while(|(free, _)| *free >= least);
        let empty = emptiest.filter(|(free, Reverse(start))| {
            let is_first = g.block(BlockAddr(*start)) == 0;
            *free == if is_first { least } else { REGION_BLOCKS }
        });
        empty.take(most).count()
    }
    /// Free blocks of the region that `addr` lies in; none where it is claimed, or the extent not ours.
    pub fn free_around(&self, g: Geometry, addr: BlockAddr) -> u32 {
        let region = (g.block(addr) / REGION_BLOCKS) as usize;
        self.extents.get(&g.extent(addr)).map_or(0, |e| free_in(&e.regions[region]))
    }
    /// Claim every free block of the emptiest region of this kind: its start and mask.
    pub fn claim_emptiest(&mut self, g: Geometry, kind: ExtentKind) -> Option<(BlockAddr, RegionBits)> {
        let (_, Reverse(start)) = self.index(kind).last().copied()?;
        let start = BlockAddr(start);
        let (number, region) = (g.extent(start), g.block(start) / REGION_BLOCKS);
        let mask =
            self.extents.get(&number).expect("indexed extents are ours").regions[region as usize].map(|w| !w);
        self.change(g, number, region, [u64::MAX; 8]);
        Some((start, mask))
    }
    /// Clear the bits of `mask` in the region at `start` (what a claim did not use).
    pub fn unclaim(&mut self, g: Geometry, start: BlockAddr, mask: &RegionBits) {
        let (number, region) = (g.extent(start), g.block(start) / REGION_BLOCKS);
        let Some(e) = self.extents.get(&number) else { return };
        let mut bits = e.regions[region as usize];
        for (w, m) in bits.iter_mut().zip(mask) {
            *w &= !m;
        }
        self.change(g, number, region, bits);
    }
    /// Free the blocks of `mask`, all used, in the region at `start`; returns the kind of its extent and how
    /// many blocks that were.
    pub fn set_free(&mut self, g: Geometry, start: BlockAddr, mask: &RegionBits) -> (ExtentKind, u64) {
        let (number, region) = (g.extent(start), g.block(start) / REGION_BLOCKS);
        let e = self.extents.get(&number).expect("only blocks of our own extents are freed here");
        let (kind, mut bits) = (e.kind, e.regions[region as usize]);
        for (word, freed) in bits.iter_mut().zip(mask) {
            assert_eq!(
                *word & freed,
                *freed,
                "a block of {start} on, in extent {}, is free already",
                number.0
            );
            *word &= !freed;
        }
        self.change(g, number, region, bits);
        (kind, mask.iter().map(|w| u64::from(w.count_ones())).sum())
    }
    /// Mark a run used; returns how many of its blocks were free.
    pub fn set_used(&mut self, g: Geometry, run: Run) -> u32 {
        let mut was_free = 0;
        for i in 0..run.blocks {
            let addr = run.start.plus(u64::from(i));
            let (number, block) = (g.extent(addr), g.block(addr));
            let (region, bit) = (block / REGION_BLOCKS, block % REGION_BLOCKS);
            let mut bits = self.extents[&number].regions[region as usize];
            if !test(&bits, bit) {
                bits[(bit / 64) as usize] |= 1 << (bit % 64);
                self.change(g, number, region, bits);
                was_free += 1;
            }
        }
        was_free
    }
    /// Blocks of the region at `start` that are free; none where the extent is not ours.
    pub fn free_in_region(&self, g: Geometry, start: BlockAddr) -> RegionBits {
        let region = (g.block(start) / REGION_BLOCKS) as usize;
        self.extents.get(&g.extent(start)).map_or_else(RegionBits::default, |e| e.regions[region].map(|w| !w))
    }
    /// True when the block is used or claimed.
    pub fn is_used(&self, g: Geometry, addr: BlockAddr) -> bool {
        let b = g.block(addr);
        self.extents
            .get(&g.extent(addr))
            .is_none_or(|e| test(&e.regions[(b / REGION_BLOCKS) as usize], b % REGION_BLOCKS))
    }
    /// Sectors to write so that the disk agrees with memory, with their bytes; they count as clean from now on.
    pub fn take_dirty(&mut self, owner: crate::units::Uuid) -> Vec<(ExtentNumber, u32, Vec<u8>)> {
        let mut out = Vec::new();
        for (number, index) in std::mem::take(&mut self.dirty) {
            let e = self.extents.get_mut(&number).expect("dirty extents are ours");
            let first = (index * REGIONS_PER_SECTOR) as usize;
            let last = e.regions.len().min(first + REGIONS_PER_SECTOR as usize);
            let generation = &mut e.generations[index as usize];
            generation.0 += 1;
            let bytes = extent::encode_sector(number, index, &e.regions[first..last], owner, *generation);
            out.push((number, index, bytes));
        }
        out
    }
    /// A failed write: the sector is dirty again.
    pub fn mark_dirty(&mut self, number: ExtentNumber, index: u32) {
        self.dirty.insert((number, index));
    }
}

pub(super) fn test(bits: &RegionBits, bit: u32) -> bool {
    bits[(bit / 64) as usize] >> (bit % 64) & 1 == 1
}

fn region_start(g: Geometry, number: ExtentNumber, region: u32) -> BlockAddr {
    g.addr(number, region * REGION_BLOCKS)
}
