//! Whose extents are whose: the home shard leases free ones to itself and to the other shards, every shard learns
//! of it, and a shard that is no more hands all of its own back.

use smallvec::smallvec;

use super::{ExtentKind, HOME_SLOT, Store};
use crate::buffer::{AlignedBuf, IoBuf};
use crate::error::Result;
use crate::format::catalogue::{self, CatalogueEntry, ENTRIES_PER_SECTOR};
use crate::format::extent::{self, ExtentHeader, RegionBits, log_stretch};
use crate::format::log_head::RING_OFFSET_BYTES;
use crate::limits::REGION_BLOCKS;
use crate::sabotage::{Point, crash_point};
use crate::units::{BLOCK_BYTES, BLOCK_SIZE, ExtentNumber, Generation};

impl Store {
    /// One free extent more for this shard, from wherever they come.
    pub(super) async fn take_extent(&self, kind: ExtentKind) -> Result<()> {
        while !self.0.space.borrow_mut().begin_lease() {
            if !self.ask_for_room().await {
                return Err(self.no_space());
            }
        }
        let leased = match &self.0.home {
            Some(home) if self.slot() != HOME_SLOT => home.lease(kind).await,
            _ => self.lease_extent(kind, HOME_SLOT).await,
        };
        self.0.space.borrow_mut().end_lease(leased.is_ok());
        let (number, entry) = leased?;
        self.learn_extent(number, entry);
        let g = self.geometry();
        let regions = empty_regions(extent::regions(g), extent::overhead_blocks(g));
        let generations =
            vec![extent::first_generation(entry.lease_generation); extent::bitmap_sectors(g) as usize];
        let free = self.0.bitmaps.borrow_mut().insert(g, number, kind, regions, generations);
        self.0.space.borrow_mut().add_extent(kind, free);
        Ok(())
    }
    /// For the home shard: make a free extent that of the shard in `slot`, durably. Its header and bitmap first,
    /// then the catalogue that names the owner.
    pub async fn lease_extent(&self, kind: ExtentKind, slot: u16) -> Result<(ExtentNumber, CatalogueEntry)> {
        assert_eq!(self.slot(), HOME_SLOT, "extents are leased by the home shard");
        let _turn = self.0.leasing.lock().await;
        let (number, was) = {
            let catalogue = self.0.catalogue.borrow();
            let number = catalogue.free().next().ok_or_else(|| self.no_space())?;
            (ExtentNumber(number as u32), catalogue.entries[number])
        };
        if self.0.doubtful.borrow().contains(&number) {
            // Whose it was to be the device may still say, when its header is another's.
            self.write_catalogue_entry(number, was).await?;
            self.flush().await?;
            self.0.doubtful.borrow_mut().remove(&number);
        }
        let lease_generation = was.lease_generation + 1;
        let entry = CatalogueEntry { kind, host: slot, shard: slot, lease_generation, ..was };
        let (g, owner) = (self.geometry(), self.uuid());
        let regions = empty_regions(extent::regions(g), extent::overhead_blocks(g));
        let mut head = AlignedBuf::zeroed(extent::overhead_blocks(g) as usize * BLOCK_SIZE);
        head[..extent::SECTOR_SIZE].copy_from_slice(&header(number, &entry).encode(owner));
        for (i, chunk) in regions.chunks(extent::REGIONS_PER_SECTOR as usize).enumerate() {
            let at = extent::sector_offset(i as u32) as usize;
            let bytes = extent::encode_sector(
                number,
                i as u32,
                chunk,
                owner,
                extent::first_generation(entry.lease_generation),
            );
            head[at..at + extent::SECTOR_SIZE].copy_from_slice(&bytes);
        }
        self.0.device.write_bufs(entry.start_block * BLOCK_BYTES, smallvec![IoBuf::Owned(head)]).await?;
        if kind == ExtentKind::Log {
            // Whatever lay there is no head of a log.
            let none = AlignedBuf::zeroed(RING_OFFSET_BYTES as usize);
            self.0.device.write(log_stretch(&entry, g).start, none).await?;
        }
        self.flush().await?;
        crash_point(Point::ExtentHeaded);
        if let Err(e) = self.write_catalogue_entry(number, entry).await {
            // The device may have it all the same.
            self.learn_extent(number, CatalogueEntry { lease_generation, ..was });
            self.0.doubtful.borrow_mut().insert(number);
            return Err(e);
        }
        crash_point(Point::ExtentLeased);
        self.flush().await?;
        if let Some(home) = &self.0.home {
            home.publish(number, entry);
        }
        Ok((number, entry))
    }
    /// The home shard has changed an extent's entry.
    pub fn learn_extent(&self, number: ExtentNumber, entry: CatalogueEntry) {
        self.0.catalogue.borrow_mut().entries[number.0 as usize] = entry;
    }
    /// For the home shard: take over the extents of the shard in `slot`, which runs no more and holds no claim.
    /// Header first, then catalogue: [`Store::open`] knows an extent that is between the two.
    pub async fn inherit_extents(&self, slot: u16) -> Result<()> {
        assert_eq!(self.slot(), HOME_SLOT, "extents go to the home shard");
        let _turn = self.0.leasing.lock().await;
        for (number, mut entry) in self.extents_of(slot) {
            let (regions, generations) = self.load_extent(number, &entry).await?;
            (entry.host, entry.shard) = (HOME_SLOT, HOME_SLOT);
            entry.lease_generation += 1;
            self.write_sector(entry.start_block * BLOCK_BYTES, &header(number, &entry).encode(self.uuid()))
                .await?;
            self.flush().await?;
            self.write_catalogue_entry(number, entry).await?;
            self.flush().await?;
            if let Some(home) = &self.0.home {
                // One that is not open yet has perhaps still to hear that the shard leased it.
                home.publish(number, entry);
            }
            self.take_over(number, entry.kind, regions, generations);
        }
        Ok(())
    }
    /// For the home shard: an extent that nothing needs is free again. First the catalogue says so, then its header.
    pub(super) async fn return_extent(&self, number: ExtentNumber, was: CatalogueEntry) -> Result<()> {
        let _turn = self.0.leasing.lock().await;
        let entry = CatalogueEntry { kind: ExtentKind::Free, ..was };
        if let Err(e) = self.write_catalogue_entry(number, entry).await {
            self.learn_extent(number, was);
            return Err(e);
        }
        self.flush().await?;
        if let Some(home) = &self.0.home {
            home.publish(number, entry);
        }
        let header = header(number, &entry).encode(self.uuid());
        self.write_sector(entry.start_block * BLOCK_BYTES, &header).await
    }
    /// The data and metadata extents of the shard in `slot`.
    pub(super) fn extents_of(&self, slot: u16) -> Vec<(ExtentNumber, CatalogueEntry)> {
        self.extents_where(|e| matches!(e.kind, ExtentKind::Data | ExtentKind::Metadata) && e.host == slot)
    }
    pub(super) fn extents_where(
        &self,
        is_meant: impl Fn(&CatalogueEntry) -> bool,
    ) -> Vec<(ExtentNumber, CatalogueEntry)> {
        let catalogue = self.0.catalogue.borrow();
        let numbered = catalogue.entries.iter().enumerate().map(|(n, e)| (ExtentNumber(n as u32), *e));
        numbered.filter(|(_, e)| is_meant(e)).collect()
    }
    /// An extent of this shard that holds something already.
    pub(super) fn take_over(
        &self,
        number: ExtentNumber,
        kind: ExtentKind,
        regions: Vec<RegionBits>,
        generations: Vec<Generation>,
    ) {
        let free = self.0.bitmaps.borrow_mut().insert(self.geometry(), number, kind, regions, generations);
        self.0.space.borrow_mut().add_extent(kind, free);
    }
    async fn write_catalogue_entry(&self, number: ExtentNumber, entry: CatalogueEntry) -> Result<()> {
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
}

/// The header of an extent as the catalogue describes it.
pub(super) fn header(number: ExtentNumber, entry: &CatalogueEntry) -> ExtentHeader {
    ExtentHeader {
        number,
        kind: entry.kind,
        host: entry.host,
        shard: entry.shard,
        lease_generation: entry.lease_generation,
    }
}

/// The first `count` blocks of a region.
pub(super) fn first_bits(count: u32) -> RegionBits {
    let mut bits = RegionBits::default();
    (0..count).for_each(|b| bits[(b / 64) as usize] |= 1 << (b % 64));
    bits
}

/// Regions of a fresh extent: all free but the blocks of header and bitmap.
fn empty_regions(count: u32, overhead: u32) -> Vec<RegionBits> {
    assert!(overhead < REGION_BLOCKS, "header and bitmap fit the first region");
    let mut regions = vec![RegionBits::default(); count as usize];
    regions[0] = first_bits(overhead);
    regions
}
