//! Allocation: runs from claimed regions, claims from bitmaps, extents from the home shard (`extents`).
//!
//! A claim is made durable in two steps, host record first and bitmap after, each with its flush: a
//! crash in between leaves blocks that the host record calls claimed and unused, so nothing leaks.

use super::bitmap::test;
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

/// When blocks are claimed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    /// There are none left.
    Now,
    /// Some are left. An extent that nobody needs yet may be promised to others.
    Ahead,
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
    fn take_claimed(&self, kind: ExtentKind, blocks_max: u32) -> Option<Run> {
        let mut claims = self.0.claims.borrow_mut();
        let at = claims.iter().position(|c| c.usable && c.claim.kind == kind)?;
        let claim = &mut claims[at].claim;
        let first = next_set(&claim.mask, u32::from(claim.used_through))?;
        let mut end = first + 1;
        while end < REGION_BLOCKS && end - first < blocks_max && test(&claim.mask, end) {
            end += 1;
        }
        let run = Run { start: claim.start.plus(u64::from(first)), blocks: end - first };
        match next_set(&claim.mask, end) {
            Some(_) => claim.used_through = end as u16,
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
            match self.would_rather_have_an_extent(kind) {
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
        if new.is_empty() && when == When::Ahead {
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
    /// While most of the store is nobody's, an extent more costs less than writes into holes.
    fn would_rather_have_an_extent(&self, kind: ExtentKind) -> bool {
        let catalogue = self.0.catalogue.borrow();
        self.may_want_an_extent(kind) && catalogue.free().count() > catalogue.entries.len() / 2
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
    /// True when the block is used or claimed, as far as this host's extents go.
    #[must_use]
    pub fn is_used(&self, addr: crate::units::BlockAddr) -> bool {
        self.0.bitmaps.borrow().is_used(self.geometry(), addr)
    }
}

fn next_set(mask: &RegionBits, from: u32) -> Option<u32> {
    (from..REGION_BLOCKS).find(|b| test(mask, *b))
}
