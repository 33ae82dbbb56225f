//! Allocation: runs from claimed regions, claims from bitmaps, extents from the home shard (`extents`).
//!
//! A claim is made durable in two steps, host record first and bitmap after, each with its flush: a
//! crash in between leaves blocks that the host record calls claimed and unused, so nothing leaks.

use std::ops::Range;

use super::{ActiveClaim, ExtentKind, Run, Store};
use crate::error::Result;
use crate::format::extent::{self, RegionBits};
use crate::format::host::{CLAIMS_MAX, Claim};
use crate::limits::REGION_BLOCKS;
use crate::sabotage::{Bug, Point, crash_point, seeded_bug};

/// Regions claimed at once: 32 MiB of data, 2 MiB of metadata when regions are empty.
const DATA_REGIONS: usize = 16;
const METADATA_REGIONS: usize = 1;
/// Claims of one kind held at most; both kinds fit the host record.
const DATA_CLAIMS_MAX: usize = 34;
const METADATA_CLAIMS_MAX: usize = 12;
const _: () = assert!(DATA_CLAIMS_MAX + METADATA_CLAIMS_MAX <= CLAIMS_MAX);

/// Empty regions of data that a shard should have for large writes: a share of its own, 64 MiB at most.
const EMPTY_SHARE: u64 = 16;
const EMPTY_REGIONS_MIN: u64 = 2;
const EMPTY_REGIONS_MAX: u64 = 32;
/// Free blocks of a region of which so little is used that it pays to empty it: half of it.
const SPARSE_FREE_MIN: u32 = REGION_BLOCKS / 2;

/// When blocks are claimed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    /// There are none left.
    Now,
    /// Some are left. An extent that nobody needs yet may be promised to others.
    Ahead,
    /// Those that are left are in pieces.
    Longer,
}

/// Regions claimed at once, and held at most.
fn regions_at_once(kind: ExtentKind) -> (usize, usize) {
    match kind {
        ExtentKind::Data => (DATA_REGIONS, DATA_CLAIMS_MAX),
        _ => (METADATA_REGIONS, METADATA_CLAIMS_MAX),
    }
}

impl Store {
    /// A run of 1 to `blocks_max` blocks, claimed durably: it may be referenced at once.
    pub async fn allocate(&self, kind: ExtentKind, blocks_max: u32) -> Result<Run> {
        assert!(blocks_max > 0);
        self.claim_ahead(kind).await;
        loop {
            if let Some(run) = self.take_claimed(kind, blocks_max) {
                return Ok(run);
            }
            let _turn = self.0.claiming.lock().await;
            if self.claimed(kind) == 0 {
                self.claim_more(kind, When::Now).await?;
            }
        }
    }
    /// As [`Store::allocate`], of `blocks_min` blocks or more if the store has so many in a row.
    pub async fn allocate_long(&self, kind: ExtentKind, blocks_max: u32, blocks_min: u32) -> Result<Run> {
        let is_long = || self.longest_claimed(kind, blocks_min) >= blocks_min;
        if !is_long() {
            let _turn = self.0.claiming.lock().await;
            if !is_long() {
                self.claim_more(kind, When::Longer).await?;
            }
        }
        self.allocate(kind, blocks_max).await
    }
    fn longest_claimed(&self, kind: ExtentKind, enough: u32) -> u32 {
        let claims = self.0.claims.borrow();
        let of_kind = claims.iter().filter(|c| c.usable && c.claim.kind == kind).map(|c| &c.claim);
        let runs = of_kind.filter_map(|c| next_run(&c.mask, u32::from(c.used_through), enough));
        runs.map(|run| run.len() as u32).max().unwrap_or(0)
    }
    /// Claims of this kind that blocks can be had from.
    fn claimed(&self, kind: ExtentKind) -> usize {
        self.0.claims.borrow().iter().filter(|c| c.usable && c.claim.kind == kind).count()
    }
    /// While half is left: one waits for the two flushes, and others have blocks meanwhile.
    async fn claim_ahead(&self, kind: ExtentKind) {
        let low = regions_at_once(kind).0.div_ceil(2);
        if (1..=low).contains(&self.claimed(kind))
            && let Some(_turn) = self.0.claiming.try_lock()
        {
            // Whoever finds nothing left hears why.
            let _ = self.claim_more(kind, When::Ahead).await;
        }
    }
    /// From the first claim that has so many in a row next, else from the one that has most.
    fn take_claimed(&self, kind: ExtentKind, blocks_max: u32) -> Option<Run> {
        let mut claims = self.0.claims.borrow_mut();
        let mut best: Option<(usize, Range<u32>)> = None;
        for (at, c) in claims.iter().enumerate().filter(|(_, c)| c.usable && c.claim.kind == kind) {
            let next = next_run(&c.claim.mask, u32::from(c.claim.used_through), blocks_max);
            let Some(run) = next else { continue };
            if best.as_ref().is_none_or(|(_, b)| b.len() < run.len()) {
                best = Some((at, run));
            }
            if best.as_ref().is_some_and(|(_, b)| b.len() as u32 == blocks_max) {
                break;
            }
        }
        let (at, found) = best?;
        let claim = &mut claims[at].claim;
        let run = Run { start: claim.start.plus(u64::from(found.start)), blocks: found.len() as u32 };
        match next_run(&claim.mask, found.end, 1) {
            Some(_) => claim.used_through = found.end as u16,
            None => drop(claims.remove(at)),
        }
        self.0.space.borrow_mut().take_free(kind, u64::from(run.blocks));
        Some(run)
    }
    async fn claim_more(&self, kind: ExtentKind, when: When) -> Result<()> {
        let g = self.geometry();
        let (regions, most) = regions_at_once(kind);
        // Those of an attempt that failed come first: nobody else can claim their regions.
        let unusable = |c: &&ActiveClaim| !c.usable && c.claim.kind == kind;
        let left: Vec<Claim> = self.0.claims.borrow().iter().filter(unusable).map(|c| c.claim).collect();
        let again = !left.is_empty() && !seeded_bug(Bug::FailedClaimLost);
        let mut new = if again { left } else { Vec::new() };
        while !again && new.len() < regions {
            let held = self.0.claims.borrow().iter().filter(|c| c.claim.kind == kind).count();
            if held + new.len() >= most || when == When::Ahead && self.may_want_an_extent(kind) {
                break;
            }
            match self.would_rather_have_an_extent(kind, when) {
                true if new.is_empty() => self.take_extent(kind).await?,
                true => break,
                false => {}
            }
            let next = self.0.bitmaps.borrow_mut().claim_emptiest(g, kind);
            match next {
                Some((start, mask)) => new.push(Claim { start, used_through: 0, kind, mask }),
                None if new.is_empty() && when == When::Now => {
                    // Promises count on every free block: each must be in reach of somebody who needs it.
                    let free = self.0.space.borrow().free(kind);
                    assert_eq!(free, 0, "free blocks of {kind:?} that no claim can have");
                    self.take_extent(kind).await?;
                }
                None => break,
            }
        }
        if new.is_empty() && when != When::Now {
            return Ok(());
        }
        if !again {
            let unusable = new.iter().map(|c| ActiveClaim { claim: *c, usable: false });
            self.0.claims.borrow_mut().extend(unusable);
        }
        self.write_host_record().await?;
        self.flush().await?;
        crash_point(Point::ClaimNamed);
        self.write_dirty_bitmaps().await?;
        crash_point(Point::ClaimWritten);
        self.flush().await?;
        for c in self.0.claims.borrow_mut().iter_mut() {
            c.usable |= new.iter().any(|n| n.start == c.claim.start && n.mask == c.claim.mask);
        }
        Ok(())
    }
    fn may_want_an_extent(&self, kind: ExtentKind) -> bool {
        let holes = self.0.bitmaps.borrow_mut().most_free(kind) < REGION_BLOCKS / 2;
        holes && self.0.space.borrow().has_spare_extent()
    }
    /// While enough of the store is nobody's, an extent more costs less than writes into holes. An extent is what it is for good: the
    /// last ones are for those who cannot do without, be it metadata.
    fn would_rather_have_an_extent(&self, kind: ExtentKind, when: When) -> bool {
        let catalogue = self.0.catalogue.borrow();
        let left = catalogue.entries.len() / if when == When::Longer { 4 } else { 2 };
        self.may_want_an_extent(kind) && catalogue.free().count() > left
    }
    /// Write what changed in the bitmaps; freed blocks become visible on disk, claims durable with the next flush.
    pub async fn write_dirty_bitmaps(&self) -> Result<()> {
        // One at a time: what an earlier caller took is on the device before a later one says that all is, and
        // never after a newer state of the same sector.
        let _turn = self.0.bitmap_writes.lock().await;
        let mut dirty = self.0.bitmaps.borrow_mut().take_dirty(self.uuid());
        if seeded_bug(Bug::SkipBitmaps) {
            dirty.clear();
        }
        let mut first_error = None;
        for (number, index, bytes) in dirty {
            let start_block = self.0.catalogue.borrow().entries[number.0 as usize].start_block;
            let offset = start_block * crate::units::BLOCK_BYTES + extent::sector_offset(index);
            if let Err(e) = self.write_sector(offset, &bytes).await {
                self.0.bitmaps.borrow_mut().mark_dirty(number, index);
                first_error.get_or_insert(e);
            }
        }
        first_error.map_or(Ok(()), Err)
    }
    /// At recovery: blocks that a live log record names are in use, whatever the claims say.
    pub fn mark_used(&self, run: Run) -> Result<()> {
        self.offset_bytes(run.start, run.blocks)?;
        let g = self.geometry();
        if !self.0.bitmaps.borrow().owns(g.extent(run.start)) {
            return Ok(());
        }
        let was_free = self.0.bitmaps.borrow_mut().set_used(g, run);
        let kind = self.0.catalogue.borrow().entries[g.extent(run.start).0 as usize].kind;
        self.0.space.borrow_mut().take_free(kind, u64::from(was_free));
        Ok(())
    }
    /// Blocks of this kind in extents of this shard, used or not.
    #[must_use]
    pub fn owned_blocks(&self, kind: ExtentKind) -> u64 {
        self.0.space.borrow().owned(kind)
    }
    /// Whether free space is there, but hardly any of it in one piece.
    #[must_use]
    pub fn lacks_empty_regions(&self) -> bool {
        let regions = self.owned_blocks(ExtentKind::Data) / u64::from(REGION_BLOCKS);
        let wanted = (regions / EMPTY_SHARE).clamp(EMPTY_REGIONS_MIN, EMPTY_REGIONS_MAX) as usize;
        let spare = self.0.space.borrow().has_spare_extent();
        !spare
            && self.0.bitmaps.borrow_mut().empty_regions(self.geometry(), ExtentKind::Data, wanted) < wanted
    }
    /// Whether little of the region of data that `addr` lies in is used, so that it costs little to empty it.
    #[must_use]
    pub fn is_sparse(&self, addr: crate::units::BlockAddr) -> bool {
        (SPARSE_FREE_MIN..REGION_BLOCKS).contains(&self.0.bitmaps.borrow().free_around(self.geometry(), addr))
    }
    /// True when the block is used or claimed, as far as this host's extents go.
    #[must_use]
    pub fn is_used(&self, addr: crate::units::BlockAddr) -> bool {
        self.0.bitmaps.borrow().is_used(self.geometry(), addr)
    }
}

/// The first bits of `mask` from `from` on that are set, `most` of them at most.
fn next_run(mask: &RegionBits, from: u32, most: u32) -> Option<Range<u32>> {
    let start = next(mask, from, true)?;
    let end = next(mask, start, false).unwrap_or(REGION_BLOCKS);
    Some(start..end.min(start.saturating_add(most)))
}

/// The first bit from `from` on that is set, or is not.
fn next(mask: &RegionBits, from: u32, set: bool) -> Option<u32> {
    let mut above = u64::MAX.checked_shl(from % 64).unwrap_or_default();
    for word in from / 64..REGION_BLOCKS / 64 {
        let bits = if set { mask[word as usize] } else { !mask[word as usize] } & above;
        if bits != 0 {
            return Some(word * 64 + bits.trailing_zeros());
        }
        above = u64::MAX;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_run_is_what_counting_bit_by_bit_finds() {
        let masks: [RegionBits; 5] = [
            [0; 8],
            [u64::MAX; 8],
            [0x8000_0000_0000_0001; 8],
            [0, 0, u64::MAX, 1, 0, 0xff00, 0, 1 << 63],
            [u64::MAX, 0x7, 0, 0, 0, 0, 0, u64::MAX],
        ];
        let is_set = |mask: &RegionBits, bit: u32| mask[(bit / 64) as usize] >> (bit % 64) & 1 == 1;
        for mask in masks {
            for from in 0..=REGION_BLOCKS {
                for most in [1, 3, 64, 70, 512] {
                    let start = (from..REGION_BLOCKS).find(|b| is_set(&mask, *b));
                    let expected = start.map(|s| {
                        let end = (s..REGION_BLOCKS).find(|b| !is_set(&mask, *b)).unwrap_or(REGION_BLOCKS);
                        s..end.min(s + most)
                    });
                    assert_eq!(next_run(&mask, from, most), expected, "{mask:x?} from {from}, {most}");
                }
            }
        }
    }
}
