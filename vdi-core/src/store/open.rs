//! Opening a store: verify, then use. Reads the system area, the VDI records and the bitmaps of this shard's
//! extents, never the rest of the store.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

use super::bitmap::{Bitmaps, free_in};
use super::extents::header;
use super::home::{Home, SystemCopy};
use super::host::host_offset;
use super::registry::{Registry, Slot};
use super::reuse::Quarantine;
use super::space::Space;
use super::{Catalogue, ExtentKind, HOME_SLOT, Inner, Store, create, lease};
use crate::buffer::{AlignedBuf, is_zero};
use crate::device::DeviceHandle;
use crate::error::{Error, ErrorKind, Result};
use crate::executor::TaskLock;
use crate::format::catalogue::{self, CatalogueEntry, ENTRIES_PER_SECTOR};
use crate::format::extent::{self, RegionBits};
use crate::format::host::HostRecord;
use crate::format::registry;
use crate::format::superblock::{COPIES, Superblock};
use crate::limits::REGION_BLOCKS;
use crate::units::{BLOCK_BYTES, BLOCK_SIZE, ExtentNumber, Generation, Uuid};

const SECTOR: usize = 512;

impl Store {
    /// Make an empty store on `device`; see [`super::CreateOptions`].
    pub async fn create(
        device: &DeviceHandle,
        uuid: Uuid,
        host: Uuid,
        created_ns: u64,
        options: super::CreateOptions,
    ) -> Result<Superblock> {
        create::create(device, uuid, host, created_ns, options).await
    }
    /// Read and choose the superblock of whatever is on `device`.
    pub async fn read_superblock(device: &DeviceHandle) -> Result<Superblock> {
        let mut best: Option<Superblock> = None;
        let (mut problem, mut unread) = (None, None);
        for (copy, block) in COPIES.iter().enumerate() {
            if (block + 1) * BLOCK_BYTES > device.info().len_bytes {
                continue;
            }
            let bytes = match device.read(block * BLOCK_BYTES, BLOCK_SIZE).await {
                Ok(bytes) => bytes,
                Err(e) => {
                    unread = Some(e);
                    continue;
                }
            };
            match Superblock::verify(&bytes, copy) {
                Ok(sb) if best.is_none_or(|b| b.generation < sb.generation) => best = Some(sb),
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::Unsupported => return Err(e),
                Err(e) => problem = Some(e),
            }
        }
        if let (None, Some(e)) = (best, unread) {
            return Err(e);
        }
        best.ok_or_else(|| {
            let name = &device.info().name;
            let detail = problem.map_or_else(|| "it is too small".to_owned(), |e| e.message().to_owned());
            Error::new(
                ErrorKind::WrongStore,
                format!("{name} holds no Parallax store: {detail}"),
                "check the path; 'parallax format' makes a new store",
            )
        })
    }
    /// Open the store on `device` for reading and writing, as the only shard. The caller holds the device's lock.
    pub async fn open(device: DeviceHandle) -> Result<Store> {
        Store::open_home(device, None).await
    }
    /// As [`Store::open`] for the home shard of several; `home` knows the others.
    pub async fn open_home(device: DeviceHandle, home: Option<Rc<dyn Home>>) -> Result<Store> {
        let sb = usable_superblock(&device).await?;
        let mut warnings = Vec::new();
        let mut catalogue = read_catalogue(&device, &sb, &mut warnings).await?;
        write_what_was_made(&device, &sb, &mut catalogue).await?;
        let registry = read_registry(&device, &sb, &mut warnings).await?;
        let free_extents = catalogue.free().count() as u64;
        let system = System { catalogue, registry, free_extents, home, slot: HOME_SLOT };
        Store::open_slot(device, sb, system, warnings).await
    }
    /// Open the store for the shard in `slot`, with what the home shard says of the system area; extents come from
    /// `home`.
    pub async fn open_shard(
        device: DeviceHandle,
        slot: u16,
        copy: SystemCopy,
        home: Rc<dyn Home>,
    ) -> Result<Store> {
        let sb = usable_superblock(&device).await?;
        let catalogue = Catalogue { entries: copy.extents, generations: Vec::new() };
        let registry = Registry::of(copy.vdis, copy.misses_vdis);
        let system = System { catalogue, registry, free_extents: 0, home: Some(home), slot };
        Store::open_slot(device, sb, system, Vec::new()).await
    }
    async fn open_slot(
        device: DeviceHandle,
        sb: Superblock,
        system: System,
        mut warnings: Vec<Error>,
    ) -> Result<Store> {
        let System { catalogue, registry, free_extents, home, slot } = system;
        let (host, newest) = read_host(&device, &sb, slot, &mut warnings).await?;
        let usable = sb.geometry.extent_blocks() - u64::from(extent::overhead_blocks(sb.geometry));
        let host_generation = host.generation.0;
        let store = Store(Rc::new(Inner {
            device,
            superblock: sb,
            slot,
            home,
            leasing: TaskLock::default(),
            doubtful: RefCell::default(),
            catalogue: RefCell::new(catalogue),
            bitmaps: RefCell::default(),
            claims: RefCell::default(),
            claiming: TaskLock::default(),
            bitmap_writes: TaskLock::default(),
            host: RefCell::new(host),
            host_lock: TaskLock::default(),
            host_written: Cell::new(host_generation),
            host_flushed: Cell::new(host_generation),
            registry: RefCell::new(registry),
            lease: lease::StoreLease::default(),
            quarantine: RefCell::new(Quarantine::default()),
            space: RefCell::new(Space::new(free_extents, usable)),
            warnings: RefCell::new(warnings),
            failed: RefCell::default(),
            keeps_no_data: Cell::default(),
        }));
        for (number, entry) in store.extents_of(slot) {
            let (regions, generations) = store.load_extent(number, &entry).await?;
            store.take_over(number, entry.kind, regions, generations);
        }
        let relied_on = store.host_record_relied_on(newest).await;
        store.not_before(relied_on.generation);
        if (newest || relied_on.complete) && relied_on.generation.0 <= host_generation {
            store.return_unused_claims();
        }
        Ok(store)
    }
    pub(super) async fn load_extent(
        &self,
        number: ExtentNumber,
        entry: &CatalogueEntry,
    ) -> Result<(Vec<RegionBits>, Vec<Generation>)> {
        let g = self.geometry();
        let blocks = extent::overhead_blocks(g) as usize;
        let head = self.0.device.read_pieces(entry.start_block * BLOCK_BYTES, blocks * BLOCK_SIZE).await;
        let count = extent::regions(g) as usize;
        let mut generations =
            vec![extent::first_generation(entry.lease_generation); extent::bitmap_sectors(g) as usize];
        let own = head.get(0..SECTOR).and_then(|bytes| header(number, entry).verify(bytes, self.uuid()));
        if let Err(e) = own {
            // Nothing is allocated there any more; what lives there stays readable.
            self.0.warnings.borrow_mut().push(e);
            return Ok((vec![[u64::MAX; 8]; count], generations));
        }
        let mut regions = Vec::with_capacity(count);
        for (index, generation) in generations.iter_mut().enumerate() {
            let at = extent::sector_offset(index as u32) as usize;
            let sector = head.get(at..at + SECTOR);
            match sector.and_then(|s| extent::decode_sector(s, number, index as u32, self.uuid())) {
                Ok((bits, found)) => {
                    *generation = found;
                    regions.extend_from_slice(&bits);
                }
                Err(e) => {
                    self.0.warnings.borrow_mut().push(e);
                    regions.extend([[u64::MAX; 8]; extent::REGIONS_PER_SECTOR as usize]);
                }
            }
        }
        regions.truncate(count);
        Ok((regions, generations))
    }
    /// Blocks claimed and not used when the last host record was written are free again. Whatever the log
    /// still names among them is marked used by the replay before anything is allocated.
    fn return_unused_claims(&self) {
        let g = self.geometry();
        for claim in &self.0.host.borrow().claims {
            let kind =
                self.0.catalogue.borrow().entries.get(g.extent(claim.start).0 as usize).map(|e| e.kind);
            if !kind.is_some_and(|kind| claim.fits(kind, g)) {
                self.warn(Error::corrupt("host record", claim.start, "a claim is of what nobody can claim"));
                continue;
            }
            let mask = claim.unused();
            let mut bitmaps = self.0.bitmaps.borrow_mut();
            // Only what the bitmap calls used comes back: the bitmap write of a claim may not have happened.
            let freed = bitmaps.used_in(g, claim.start, &mask);
            bitmaps.unclaim(g, claim.start, &mask);
            self.0.space.borrow_mut().add_free(claim.kind, freed);
        }
    }
    pub(super) async fn write_system_sector(&self, start_block: u64, index: u32, bytes: &[u8]) -> Result<()> {
        self.write_sector(start_block * BLOCK_BYTES + u64::from(index) * SECTOR as u64, bytes).await
    }
    /// Write 512 bytes; on a device of larger sectors, the whole block around them.
    pub(super) async fn write_sector(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        assert_eq!(bytes.len(), SECTOR);
        if self.0.device.info().align_bytes as usize <= SECTOR {
            return self.0.device.write(offset, AlignedBuf::copy_of(bytes)).await;
        }
        let block = offset / BLOCK_BYTES * BLOCK_BYTES;
        let mut buf = self.0.device.read(block, BLOCK_SIZE).await?;
        let at = (offset - block) as usize;
        buf[at..at + SECTOR].copy_from_slice(bytes);
        self.0.device.write(block, buf).await
    }
}

impl Bitmaps {
    /// Blocks of `mask` in the region at `start` that are used.
    fn used_in(&self, g: crate::units::Geometry, start: crate::units::BlockAddr, mask: &RegionBits) -> u64 {
        let region = (g.block(start) / REGION_BLOCKS) as usize;
        let Some(regions) = self.used_bits(g.extent(start)) else { return 0 };
        let mut both = regions[region];
        for (w, m) in both.iter_mut().zip(mask) {
            *w &= m;
        }
        u64::from(REGION_BLOCKS - free_in(&both))
    }
}

/// What is known of the system area when a shard opens the store.
struct System {
    catalogue: Catalogue,
    registry: Registry,
    /// Free extents that this shard may promise.
    free_extents: u64,
    home: Option<Rc<dyn Home>>,
    slot: u16,
}

/// The superblock of a store that this program can write.
async fn usable_superblock(device: &DeviceHandle) -> Result<Superblock> {
    let sb = Store::read_superblock(device).await?;
    if sb.check_features()? {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "store {} can only be read by this program (unknown features {:#x})",
                sb.uuid, sb.features.read_only
            ),
            "use the Parallax release that made the store, or a later one",
        ));
    }
    if device.info().len_bytes < sb.store_bytes() {
        return Err(Error::new(
            ErrorKind::WrongStore,
            format!(
                "{} is truncated: it has {} bytes, its superblock says {}",
                device.info().name,
                device.info().len_bytes,
                sb.store_bytes()
            ),
            "restore the device to its full size; nothing was changed",
        ));
    }
    Ok(sb)
}

async fn read_catalogue(
    device: &DeviceHandle,
    sb: &Superblock,
    warnings: &mut Vec<Error>,
) -> Result<Catalogue> {
    let used = (sb.extents as usize).div_ceil(ENTRIES_PER_SECTOR);
    let bytes = device.read_pieces(u64::from(sb.catalogue_start) * BLOCK_BYTES, used * SECTOR).await;
    let mut out = Catalogue { entries: Vec::new(), generations: Vec::new() };
    for index in 0..used {
        let sector = bytes.get(index * SECTOR..(index + 1) * SECTOR);
        let count = ENTRIES_PER_SECTOR.min(sb.extents as usize - index * ENTRIES_PER_SECTOR);
        let decoded = sector.and_then(|s| catalogue::decode(s, index as u32, count, sb.uuid));
        let (entries, generation) = match decoded {
            Ok(decoded) => decoded,
            Err(e) => {
                let first = (index * ENTRIES_PER_SECTOR) as u32;
                let Some(entries) = entries_by_headers(device, sb, first..first + count as u32).await else {
                    return Err(e);
                };
                warnings.push(e);
                (entries, Generation(0))
            }
        };
        out.entries.extend(entries);
        out.generations.push(generation);
    }
    let device_blocks = device.info().len_bytes / BLOCK_BYTES;
    for (n, e) in out.entries.iter().enumerate() {
        let end = e.start_block.checked_add(sb.geometry.extent_blocks());
        let bad = |what: &str| Err(Error::corrupt("extent catalogue", format!("entry {n}"), what));
        if e.device != 0 || end.is_none_or(|end| end > device_blocks) {
            return bad("the extent lies outside the device");
        }
        let system = n < sb.system_extents as usize;
        if system != (e.kind == ExtentKind::System)
            || system && e.start_block != (n as u64) << sb.geometry.extent_bits
        {
            return bad("the system area does not lie there");
        }
    }
    Ok(out)
}

/// Write the sectors of the catalogue anew that were made from headers: a header is written before the catalogue, so a start that can
/// read the catalogue again might not know an extent that this one uses.
async fn write_what_was_made(
    device: &DeviceHandle,
    sb: &Superblock,
    catalogue: &mut Catalogue,
) -> Result<()> {
    let per_block = BLOCK_SIZE / SECTOR;
    let made: Vec<usize> =
        (0..catalogue.generations.len()).filter(|n| catalogue.generations[*n] == Generation(0)).collect();
    for index in &made {
        catalogue.generations[*index] = Generation(1);
    }
    let chunks: Vec<&[CatalogueEntry]> = catalogue.entries.chunks(ENTRIES_PER_SECTOR).collect();
    for block in made.iter().map(|index| index / per_block).collect::<BTreeSet<usize>>() {
        let mut buf = AlignedBuf::block();
        let first = block * per_block;
        for index in first..(first + per_block).min(sb.catalogue_sectors as usize) {
            // Behind the last extent there is room for those of a larger device.
            let entries = chunks.get(index).copied().unwrap_or_default();
            let generation = catalogue.generations.get(index).copied().unwrap_or(Generation(1));
            let bytes = catalogue::encode(index as u32, entries, sb.uuid, generation);
            buf[(index - first) * SECTOR..][..SECTOR].copy_from_slice(&bytes);
        }
        device.write((u64::from(sb.catalogue_start) + block as u64) * BLOCK_BYTES, buf).await?;
    }
    if made.is_empty() { Ok(()) } else { device.flush().await }
}

/// What the headers of `extents` say; None when one of them is damaged or cannot be read, or perhaps was being written: then its
/// bitmap is not whole either.
async fn entries_by_headers(
    device: &DeviceHandle,
    sb: &Superblock,
    extents: std::ops::Range<u32>,
) -> Option<Vec<CatalogueEntry>> {
    let mut entries = Vec::new();
    for number in extents.map(ExtentNumber) {
        let start_block = u64::from(number.0) << sb.geometry.extent_bits;
        let bytes = extent::overhead_blocks(sb.geometry) as usize * BLOCK_SIZE;
        let head = device.read_pieces(start_block * BLOCK_BYTES, bytes).await;
        let entry = extent::entry_by_head(head.prefix(), number, sb);
        entries.push(entry.filter(|e| !is_allocated_from(e.kind) || has_bitmap(head.prefix(), number, sb)));
    }
    entries.into_iter().collect()
}

fn is_allocated_from(kind: ExtentKind) -> bool {
    matches!(kind, ExtentKind::Data | ExtentKind::Metadata)
}

/// Whether all of its bitmap is in `head`, the first blocks of extent `number`.
fn has_bitmap(head: &[u8], number: ExtentNumber, sb: &Superblock) -> bool {
    (0..extent::bitmap_sectors(sb.geometry)).all(|index| {
        let at = extent::sector_offset(index) as usize;
        head.get(at..at + SECTOR)
            .is_some_and(|sector| extent::decode_sector(sector, number, index, sb.uuid).is_ok())
    })
}

async fn read_registry(
    device: &DeviceHandle,
    sb: &Superblock,
    warnings: &mut Vec<Error>,
) -> Result<Registry> {
    let all = sb.registry_entries as usize * SECTOR;
    let bytes = device.read_pieces(u64::from(sb.registry_start) * BLOCK_BYTES, all).await;
    // There is no second copy, and what cannot be read now may be there at the next start: a VDI that nobody knows
    // would lose what the log holds of it, and its blocks to a collection.
    let bytes = bytes.get(0..all)?;
    let mut out = Registry::default();
    let mut ids = BTreeSet::new();
    for (index, sector) in bytes.chunks_exact(SECTOR).enumerate() {
        let decoded = registry::decode(sector, index as u32, sb.uuid).and_then(|(entry, generation)| {
            match entry.as_ref().is_none_or(|e| ids.insert(e.id)) {
                true => Ok((entry, generation)),
                false => {
                    Err(Error::corrupt("VDI registry", format!("entry {index}"), "its VDI is there twice"))
                }
            }
        });
        out.slots.push(match decoded {
            Ok((entry, generation)) => Slot { entry, generation, damaged: false },
            Err(e) => {
                warnings.push(e);
                out.misses_some = true;
                Slot { entry: None, generation: Generation(0), damaged: true }
            }
        });
    }
    Ok(out)
}

/// The newest host record, and whether it is the newest as far as the two copies tell: when the other one is damaged,
/// cannot be read, or is empty although it was written once, that one may have been newer. Then the VDI records tell whether anything
/// relies on it; if so, everything claimed counts as used (a leak until the next collection). A shard that is new has
/// none yet.
async fn read_host(
    device: &DeviceHandle,
    sb: &Superblock,
    slot: u16,
    warnings: &mut Vec<Error>,
) -> Result<(HostRecord, bool)> {
    let mut best: Option<HostRecord> = None;
    let (mut damaged, mut empty) = (None, None);
    for copy in 0..2 {
        let block = match device.read(host_offset(sb, slot, copy), BLOCK_SIZE).await {
            Ok(block) => block,
            Err(e) => {
                damaged = Some(e);
                continue;
            }
        };
        match HostRecord::verify(&block, slot, copy, sb.uuid) {
            Ok(r) if best.as_ref().is_none_or(|b| b.generation < r.generation) => best = Some(r),
            Ok(_) => {}
            Err(e) if is_zero(&block) => empty = Some(e),
            Err(e) => damaged = Some(e),
        }
    }
    if best.as_ref().is_some_and(HostRecord::has_predecessor) {
        damaged = damaged.or(empty);
    }
    let trusted = damaged.is_none();
    match (best, damaged) {
        (Some(r), damaged) => {
            warnings.extend(damaged);
            Ok((r, trusted))
        }
        (None, Some(e)) => Err(e),
        (None, None) if slot == HOME_SLOT => {
            Err(Error::corrupt("host record", format!("host slot {slot}"), "both copies are empty"))
        }
        (None, None) => Ok((HostRecord::default(), true)),
    }
}
