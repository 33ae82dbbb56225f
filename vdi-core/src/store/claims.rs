//! Allocation: runs from claimed regions, claims from bitmaps, extents from the catalogue.
//!
//! A claim is made durable in two steps, host record first and bitmap after, each with its flush: a
//! crash in between leaves blocks that the host record calls claimed and unused, so nothing leaks.

use smallvec::smallvec;

use super::bitmap::test;
use super::{ActiveClaim, ExtentKind, HOST_SLOT, Run, Store};
use crate::buffer::{AlignedBuf, IoBuf};
use crate::error::Result;
use crate::format::catalogue::{self, ENTRIES_PER_SECTOR};
use crate::format::extent::{self, ExtentHeader, RegionBits};
use crate::format::host::{CLAIMS_MAX, Claim};
use crate::limits::REGION_BLOCKS;
use crate::sabotage::{Bug, Point, crash_point, seeded_bug};
use crate::units::{BLOCK_SIZE, ExtentNumber, Generation};

/// Regions claimed at once: 16 MiB of data, 2 MiB of metadata when regions are empty.
const DATA_REGIONS: usize = 8;
const METADATA_REGIONS: usize = 1;
/// Claims of one kind held at most; both kinds fit the host record.
const DATA_CLAIMS_MAX: usize = 34;
const METADATA_CLAIMS_MAX: usize = 12;
const _: () = assert!(DATA_CLAIMS_MAX + METADATA_CLAIMS_MAX <= CLAIMS_MAX);

impl Store {
    /// A run of 1 to `blocks_max` blocks, claimed durably: it may be referenced at once.
    pub async fn allocate(&self, kind: ExtentKind, blocks_max: u32) -> Result<Run> {
        assert!(blocks_max > 0);
        loop {
            if let Some(run) = self.take_claimed(kind, blocks_max) {
                return Ok(run);
            }
            let _turn = self.0.claiming.lock().await;
            if !self.has_claimed(kind) {
                self.claim_more(kind).await?;
            }
        }
    }
    fn has_claimed(&self, kind: ExtentKind) -> bool {
        self.0.claims.borrow().iter().any(|c| c.usable && c.claim.kind == kind)
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
    async fn claim_more(&self, kind: ExtentKind) -> Result<()> {
        let g = self.geometry();
        let (regions, most) = match kind {
            ExtentKind::Data => (DATA_REGIONS, DATA_CLAIMS_MAX),
            _ => (METADATA_REGIONS, METADATA_CLAIMS_MAX),
        };
        // Those of an attempt that failed come first: nobody else can claim their regions.
        let unusable = |c: &&ActiveClaim| !c.usable && c.claim.kind == kind;
        let left: Vec<Claim> = self.0.claims.borrow().iter().filter(unusable).map(|c| c.claim).collect();
        let again = !left.is_empty() && !seeded_bug(Bug::FailedClaimLost);
        let mut new = if again { left } else { Vec::new() };
        while !again && new.len() < regions {
            let held = self.0.claims.borrow().iter().filter(|c| c.claim.kind == kind).count();
            if held + new.len() >= most {
                break;
            }
            let next = self.0.bitmaps.borrow_mut().claim_emptiest(g, kind);
            match next {
                Some((start, mask)) => new.push(Claim { start, used_through: 0, kind, mask }),
                None if new.is_empty() => self.lease_extent(kind).await?,
                None => break,
            }
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
    /// Take a free extent: its header and bitmap first, then the catalogue that makes it ours.
    async fn lease_extent(&self, kind: ExtentKind) -> Result<()> {
        let number = {
            let catalogue = self.0.catalogue.borrow();
            let free = catalogue.entries.iter().position(|e| e.kind == ExtentKind::Free);
            ExtentNumber(free.ok_or_else(|| self.no_space())? as u32)
        };
        let (g, owner) = (self.geometry(), self.uuid());
        let mut entry = self.0.catalogue.borrow().entries[number.0 as usize];
        entry.kind = kind;
        entry.host = HOST_SLOT;
        entry.shard = 0;
        entry.lease_generation += 1;
        let header = ExtentHeader {
            number,
            kind,
            host: HOST_SLOT,
            shard: 0,
            lease_generation: entry.lease_generation,
        };
        let regions = empty_regions(extent::regions(g), extent::overhead_blocks(g));
        let mut head = AlignedBuf::zeroed(extent::overhead_blocks(g) as usize * BLOCK_SIZE);
        head[..extent::SECTOR_SIZE].copy_from_slice(&header.encode(owner));
        // Bitmap generations go on from the lease's, so that a sector of an earlier lease is never newer.
        let generation = Generation(entry.lease_generation << 32);
        for (i, chunk) in regions.chunks(extent::REGIONS_PER_SECTOR as usize).enumerate() {
            let at = extent::sector_offset(i as u32) as usize;
            let bytes = extent::encode_sector(number, i as u32, chunk, owner, generation);
            head[at..at + extent::SECTOR_SIZE].copy_from_slice(&bytes);
        }
        let offset = entry.start_block * crate::units::BLOCK_BYTES;
        self.0.device.write_bufs(offset, smallvec![IoBuf::Owned(head)]).await?;
        self.flush().await?;
        crash_point(Point::ExtentHeaded);
        self.write_catalogue_entry(number, entry).await?;
        crash_point(Point::ExtentLeased);
        self.flush().await?;
        let generations = vec![generation; extent::bitmap_sectors(g) as usize];
        let free = self.0.bitmaps.borrow_mut().insert(g, number, kind, regions, generations);
        self.0.space.borrow_mut().add_extent(kind, free, true);
        Ok(())
    }
    async fn write_catalogue_entry(
        &self,
        number: ExtentNumber,
        entry: catalogue::CatalogueEntry,
    ) -> Result<()> {
        let sector = number.0 as usize / ENTRIES_PER_SECTOR;
        let bytes = {
            let mut c = self.0.catalogue.borrow_mut();
            c.entries[number.0 as usize] = entry;
            c.generations[sector].0 += 1;
            let end = c.entries.len().min((sector + 1) * ENTRIES_PER_SECTOR);
            let entries = &c.entries[sector * ENTRIES_PER_SECTOR..end];
            catalogue::encode(sector as u32, entries, self.uuid(), c.generations[sector])
        };
        let start = u64::from(self.superblock().catalogue_start);
        self.write_system_sector(start, sector as u32, &bytes).await
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

/// Regions of a fresh extent: all free but the blocks of header and bitmap.
fn empty_regions(count: u32, overhead: u32) -> Vec<RegionBits> {
    assert!(overhead < REGION_BLOCKS, "header and bitmap fit the first region");
    let mut regions = vec![[0u64; 8]; count as usize];
    for b in 0..overhead {
        regions[0][(b / 64) as usize] |= 1 << (b % 64);
    }
    regions
}

fn next_set(mask: &RegionBits, from: u32) -> Option<u32> {
    (from..REGION_BLOCKS).find(|b| test(mask, *b))
}
