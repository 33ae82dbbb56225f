//! The system area: superblock, catalogue, host records, registry.

use std::collections::BTreeSet;

use super::reader::Reader;
use super::{Report, Severity};
use crate::buffer::is_zero;
use crate::device::DeviceHandle;
use crate::error::{Error, ErrorKind, Result};
use crate::format::catalogue::{self, CatalogueEntry, ENTRIES_PER_SECTOR, ExtentKind};
use crate::format::extent::{entry_by_head, overhead_blocks};
use crate::format::host::{Claim, HOME_SLOT, HostLog, HostRecord};
use crate::format::registry::{self, RegistryEntry};
use crate::format::superblock::{self, COPIES, Superblock};
use crate::limits::{COUNTER_MAX, HOSTS_MAX, LEASES_MAX};
use crate::units::{BLOCK_BYTES, BLOCK_SIZE, BlockAddr, ExtentNumber, Generation};

const SECTOR: usize = catalogue::SECTOR_SIZE;
const REWRITTEN: &str = "the other copy serves; the daemon writes this one anew when it changes it next";
const LOST_RECORD: &str =
    "a newer one was lost, or these were another shard's; nothing that it has claimed is taken for free";
const SUPERBLOCK_HINT: &str = "the other copy serves; 'parallax check -r all' writes this one anew";
const CATALOGUE_HINT: &str = "'parallax check -r all' rebuilds it from the extents' own headers; where those are damaged too, restore the \
     VDIs that lie there from a backup into a new store";
const REGISTRY_HINT: &str = "the VDI of this entry cannot be found by name; nothing is collected until the entry is restored, which 'parallax check -r all' \
     can do where one bit is flipped";

/// What the system area holds besides superblock and catalogue.
#[derive(Default)]
pub(super) struct System {
    pub vdis: Vec<RegistryEntry>,
    pub logs: Vec<HostLog>,
    /// The newest record of each host slot that has one.
    pub hosts: Vec<(u16, Generation)>,
    /// Claims of all hosts; what they have not used is free, unless `doubtful`.
    pub claims: Vec<Claim>,
    /// Claims of hosts one of whose record copies is damaged or lost: it may have been the newer one, so none of
    /// their blocks is known to be free.
    pub doubtful: Vec<Claim>,
}

/// Choose the superblock; without one there is nothing to check.
pub(super) async fn superblock(device: &DeviceHandle, report: &mut Report) -> Result<Superblock> {
    let name = device.info().name.clone();
    let mut found: Vec<Superblock> = Vec::new();
    let mut problems = Vec::new();
    let mut damaged = Vec::new();
    for (copy, block) in COPIES.iter().enumerate() {
        let read = device.read(block * BLOCK_BYTES, BLOCK_SIZE).await;
        match read.as_ref().map_err(Error::duplicate).and_then(|bytes| whole(bytes, copy)) {
            Ok(sb) => found.push(sb),
            Err(e) if e.kind() == ErrorKind::Unsupported => return Err(e),
            Err(e) => {
                problems.push(e);
                damaged.push((copy, read.ok()));
            }
        }
    }
    let Some(best) = found.iter().max_by_key(|sb| sb.generation).copied() else {
        let detail = problems.first().map_or("", |e| e.message());
        return Err(Error::new(
            ErrorKind::WrongStore,
            format!("{name} holds no Parallax store: {detail}"),
            "check the path; 'parallax format' makes a new store",
        ));
    };
    if best.check_features()? {
        let message = format!("{name} has features that this program does not know: it can only be read");
        report.add(
            Severity::Note,
            message,
            "write to it with the Parallax release that made it, or a later one",
        );
    }
    for e in &problems {
        report.corrupt(e, SUPERBLOCK_HINT);
    }
    for (copy, bytes) in damaged {
        report.mend_superblock(copy, bytes.as_deref(), &best);
    }
    if found.iter().any(|sb| sb.uuid != best.uuid || (sb.generation == best.generation && *sb != best)) {
        let message = format!("the two superblocks of {name} are of different stores");
        report.add(Severity::Corrupt, message, "restore the device from a backup: two stores were mixed");
    }
    if device.info().len_bytes < best.store_bytes() {
        let (has, needs) = (device.info().len_bytes, best.store_bytes());
        let message = format!("{name} is truncated: it has {has} bytes, its superblock says {needs}");
        report.add(Severity::Corrupt, message, "restore the device to its full size; nothing was changed");
    }
    Ok(best)
}

fn whole(bytes: &[u8], copy: usize) -> Result<Superblock> {
    let sb = Superblock::verify(bytes, copy)?;
    match bytes[superblock::BYTES..].iter().position(|b| *b != 0) {
        None => Ok(sb),
        Some(at) => {
            let at = superblock::BYTES + at;
            Err(Error::corrupt("superblock", format!("copy {copy}"), format!("byte {at} is not zero")))
        }
    }
}

/// Read the catalogue. Of a damaged sector, what the headers of its extents say; None where they say nothing.
pub(super) async fn catalogue(
    device: &DeviceHandle,
    sb: &Superblock,
    report: &mut Report,
) -> Vec<Option<CatalogueEntry>> {
    let sectors = sb.catalogue_sectors as usize;
    let bytes = device.read_pieces(u64::from(sb.catalogue_start) * BLOCK_BYTES, sectors * SECTOR).await;
    let mut entries = Vec::new();
    for index in 0..sectors {
        let sector = bytes.get(index * SECTOR..(index + 1) * SECTOR);
        let left = (sb.extents as usize).saturating_sub(entries.len());
        let count = left.min(ENTRIES_PER_SECTOR);
        let decoded = sector.as_ref().map_err(Error::duplicate);
        match decoded.and_then(|sector| catalogue::decode(sector, index as u32, count, sb.uuid)) {
            Ok((some, generation)) => {
                let sector = format!("sector {index}");
                report.near_its_end("extent catalogue", sector, generation.0, COUNTER_MAX);
                for (n, e) in (entries.len()..).zip(&some) {
                    report.near_its_end(
                        "extent catalogue",
                        format!("entry {n}"),
                        e.lease_generation,
                        LEASES_MAX,
                    );
                }
                entries.extend(some.into_iter().map(Some));
            }
            Err(e) => {
                if count == 0 {
                    report.corrupt(
                        &e,
                        "no extent is described there yet; 'parallax check -r all' writes it anew",
                    );
                } else {
                    report.blind(&e, CATALOGUE_HINT);
                }
                let told = by_headers(device, sb, entries.len() as u32, count as u32).await;
                if let Ok(sector) = sector {
                    report.mend_catalogue(sb, index as u32, sector, &told);
                }
                entries.extend(told);
            }
        }
    }
    check_extents(device, sb, &mut entries, report);
    entries
}

async fn by_headers(
    device: &DeviceHandle,
    sb: &Superblock,
    first: u32,
    count: u32,
) -> Vec<Option<CatalogueEntry>> {
    let mut entries = Vec::new();
    for number in (first..first + count).map(ExtentNumber) {
        let start_block = u64::from(number.0) << sb.geometry.extent_bits;
        if (start_block + sb.geometry.extent_blocks()) * BLOCK_BYTES > device.info().len_bytes {
            entries.push(None);
            continue;
        }
        let bytes = overhead_blocks(sb.geometry) as usize * BLOCK_SIZE;
        let head = device.read_pieces(start_block * BLOCK_BYTES, bytes).await;
        entries.push(entry_by_head(head.prefix(), number, sb));
    }
    entries
}

/// Every extent lies on the device, and no two lie in one place.
fn check_extents(
    device: &DeviceHandle,
    sb: &Superblock,
    entries: &mut [Option<CatalogueEntry>],
    report: &mut Report,
) {
    let device_blocks = device.info().len_bytes / BLOCK_BYTES;
    let extent_blocks = sb.geometry.extent_blocks();
    let mut starts = BTreeSet::new();
    for (n, slot) in entries.iter_mut().enumerate() {
        let Some(e) = slot else { continue };
        let bad = |detail: String, report: &mut Report| {
            let error = Error::corrupt("extent catalogue", format!("entry {n}"), detail);
            report.blind(&error, CATALOGUE_HINT);
        };
        let end = e.start_block.checked_add(extent_blocks);
        let system = n < sb.system_extents as usize;
        if system != (e.kind == ExtentKind::System) {
            bad(format!("the extent is {:?}", e.kind), report);
        } else if system && e.start_block != (n as u64) << sb.geometry.extent_bits {
            bad("the system area does not lie there".into(), report);
        } else if e.device != 0 || end.is_none_or(|end| end > device_blocks) {
            bad("the extent lies outside the device".into(), report);
        } else if e.kind != ExtentKind::Free && e.host >= HOSTS_MAX {
            bad(format!("it belongs to host slot {}, which there cannot be", e.host), report);
        } else {
            let near = e.start_block.saturating_sub(extent_blocks - 1)..e.start_block + extent_blocks;
            if starts.range(near).next().is_some() {
                bad("the extent overlaps another one".into(), report);
            }
            starts.insert(e.start_block);
            continue;
        }
        *slot = None;
    }
}

impl System {
    /// VDI records rely on the host record of generation `relied_on`. That it is older means something only where one
    /// shard has written all of them.
    pub fn doubt_claims(&mut self, relied_on: Generation, report: &mut Report) {
        let [(slot, newest)] = self.hosts[..] else { return };
        if newest < relied_on {
            let detail = format!("it is of generation {}, VDI records rely on {}", newest.0, relied_on.0);
            let error = Error::corrupt("host record", format!("host slot {slot}"), detail);
            report.add(Severity::Note, error.message().to_owned(), LOST_RECORD);
            self.doubtful.append(&mut self.claims);
        }
    }
}

/// Read host records and registry.
pub(super) async fn read(reader: &Reader, report: &mut Report) -> System {
    let mut system = System::default();
    for slot in 0..HOSTS_MAX {
        host(reader, slot, &mut system, report).await;
    }
    check_claims(reader, &mut system, report);
    registry(reader, &mut system, report).await;
    for entry in &system.vdis {
        if !system.hosts.iter().any(|(slot, _)| *slot == entry.host) {
            let detail = format!("it belongs to shard {}, which has no log", entry.host);
            let error = Error::corrupt("VDI registry", format!("VDI '{}'", entry.name), detail);
            report.blind(&error, "restore the store from a backup, or copy the VDI out of another one");
        }
    }
    system
}

async fn host(reader: &Reader, slot: u16, system: &mut System, report: &mut Report) {
    let sb = &reader.superblock;
    let mut best: Option<HostRecord> = None;
    let (mut problems, mut empty) = (Vec::new(), Vec::new());
    for copy in 0..2u64 {
        let block = u64::from(sb.hosts_start) + u64::from(slot) * 2 + copy;
        let read = reader.device.read(Superblock::system_offset(block), BLOCK_SIZE).await;
        let blank = read.as_ref().is_ok_and(|bytes| is_zero(bytes));
        match read.and_then(|bytes| HostRecord::verify(&bytes, slot, copy, sb.uuid)) {
            Ok(r) if best.as_ref().is_none_or(|b| b.generation < r.generation) => best = Some(r),
            Ok(_) => {}
            Err(e) if blank => empty.push(e),
            Err(e) => problems.push(e),
        }
    }
    // The home shard's is as old as the store.
    if best.as_ref().map_or(slot == HOME_SLOT, HostRecord::has_predecessor) {
        problems.extend(empty);
    }
    for e in &problems {
        match best {
            // The write in progress at a crash looks just like this.
            Some(_) => report.add(Severity::Note, e.message().to_owned(), REWRITTEN),
            None => {
                report.blind(e, "the host's claims and logs are unknown; restore the store from a backup")
            }
        };
    }
    if let Some(record) = best {
        report.near_its_end("host record", format!("host slot {slot}"), record.generation.0, COUNTER_MAX);
        system.hosts.push((slot, record.generation));
        system.logs.extend(record.logs);
        let claims = if problems.is_empty() { &mut system.claims } else { &mut system.doubtful };
        claims.extend(record.claims);
    }
}

/// Drop claims that do not lie in an extent of their kind, or in its header and bitmap.
fn check_claims(reader: &Reader, system: &mut System, report: &mut Report) {
    let g = reader.superblock.geometry;
    let fits = |c: &Claim| {
        let in_store = c.start.0 >> g.extent_bits < reader.catalogue.len() as u64;
        in_store && reader.entry(g.extent(c.start)).is_none_or(|e| c.fits(e.kind, g))
    };
    for claims in [&mut system.claims, &mut system.doubtful] {
        for c in claims.iter().filter(|c| !fits(c)) {
            let detail = format!("a claim of {:?} blocks is of what nobody can claim", c.kind);
            report.corrupt(&Error::corrupt("host record", c.start, detail), REWRITTEN);
        }
        claims.retain(fits);
    }
}

async fn registry(reader: &Reader, system: &mut System, report: &mut Report) {
    let sb = &reader.superblock;
    let count = sb.registry_entries as usize;
    let start = u64::from(sb.registry_start) * BLOCK_BYTES;
    let bytes = reader.device.read_pieces(start, count * registry::BYTES).await;
    let (mut names, mut ids) = (BTreeSet::new(), BTreeSet::new());
    for index in 0..count {
        let sector = bytes.get(index * registry::BYTES..(index + 1) * registry::BYTES);
        let found = sector.as_ref().ok().copied();
        match sector.and_then(|sector| registry::decode(sector, index as u32, sb.uuid)) {
            Ok((None, generation)) => {
                report.near_its_end("VDI registry", format!("entry {index}"), generation.0, COUNTER_MAX);
            }
            Ok((Some(entry), generation)) => {
                report.near_its_end("VDI registry", format!("entry {index}"), generation.0, COUNTER_MAX);
                if !names.insert(entry.name.clone()) || !ids.insert(entry.id) {
                    let detail = format!("VDI '{}' ({}) is there twice", entry.name, entry.id);
                    let error = Error::corrupt("VDI registry", format!("entry {index}"), detail);
                    report.corrupt(&error, "delete one of them under its name, after copying what it holds");
                }
                system.vdis.push(entry);
            }
            Err(e) => {
                report.blind(&e, REGISTRY_HINT);
                if let Some(found) = found {
                    report.mend_registry(sb, index as u32, found);
                }
            }
        }
    }
    report.counts.vdis = system.vdis.len() as u64;
}

/// For messages: where a record's slot lies.
pub(super) fn slot_name(name: &str, slot: BlockAddr) -> String {
    format!("{slot} (VDI '{name}')")
}
