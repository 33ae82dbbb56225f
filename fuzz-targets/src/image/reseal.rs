//! Checksums put right after damage: every header's own, then from the leaves up what parents say of children.
//!
//! Bounded by the blocks of the image: each is sealed once. A loop cannot be sealed, nor two parents that want
//! different things of one child; their checksums stay wrong, which is damage too.

use std::collections::BTreeMap;

use vdi_core::buffer::crc32c;
use vdi_core::device::memory::Media;
use vdi_core::format::catalogue::{self, CatalogueEntry, ENTRIES_PER_SECTOR};
use vdi_core::format::forge::{self, Link, Target};
use vdi_core::format::log_head::{SLOT_BYTES, SLOTS};
use vdi_core::format::registry;
use vdi_core::format::superblock::{COPIES, Superblock};
use vdi_core::limits::{DEPTH_MAX, SEGMENT_HEAD_BYTES_MAX};
use vdi_core::units::{BLOCK_BYTES, BLOCK_SIZE, BlockAddr};

use super::base::{Image, STORE_BYTES};

const SECTOR: usize = 512;

/// Put right every checksum in the store: headers, and in the trees and snapshot logs that records name.
pub fn reseal_store(store: &Media) {
    reseal_headers(store);
    let Some(trees) = Trees::of(store) else { return };
    trees.reseal();
}

/// Structures start at sectors; one in the middle of a larger one is that one's business, and has no header.
fn reseal_headers(media: &Media) {
    for block in media.written_blocks() {
        let mut bytes = Image::block(media, block);
        let mut at = 0;
        let mut any = false;
        while at < BLOCK_SIZE {
            let length = forge::claims(&bytes[at..]).map_or(SECTOR, |(_, length)| length);
            any |= forge::reseal(&mut bytes[at..]).is_some();
            at += length.next_multiple_of(SECTOR);
        }
        if any {
            media.write(block * BLOCK_BYTES, &bytes);
        }
    }
}

struct Trees<'a> {
    store: &'a Media,
    superblock: Superblock,
    extents: Vec<CatalogueEntry>,
    /// Blocks sealed, or being sealed, with the checksum that vouches for them.
    sealed: BTreeMap<u64, u32>,
}

impl<'a> Trees<'a> {
    fn of(store: &'a Media) -> Option<Trees<'a>> {
        let copies = COPIES.iter().enumerate();
        let superblocks = copies.filter_map(|(n, at)| Superblock::verify(&Image::block(store, *at), n).ok());
        let superblock = superblocks.max_by_key(|sb| sb.generation)?;
        let count = (superblock.extents as usize).min(ENTRIES_PER_SECTOR);
        let mut sector = [0; SECTOR];
        store.read(u64::from(superblock.catalogue_start) * BLOCK_BYTES, &mut sector);
        let extents = catalogue::decode(&sector, 0, count, superblock.uuid).ok()?.0;
        Some(Trees { store, superblock, extents, sealed: BTreeMap::new() })
    }
    /// The block of the device that `addr` names.
    fn block_of(&self, addr: BlockAddr) -> Option<u64> {
        let geometry = self.superblock.geometry;
        let extent = self.extents.get(geometry.extent(addr).0 as usize)?;
        let block = extent.start_block.checked_add(u64::from(geometry.block(addr)))?;
        (block < STORE_BYTES / BLOCK_BYTES).then_some(block)
    }
    fn reseal(mut self) {
        let entries = u64::from(self.superblock.registry_entries).min(64);
        for index in 0..entries {
            let mut sector = [0; SECTOR];
            let start = u64::from(self.superblock.registry_start) * BLOCK_BYTES;
            self.store.read(start + index * SECTOR as u64, &mut sector);
            let entry = registry::decode(&sector, index as u32, self.superblock.uuid).ok();
            for slot in entry.and_then(|(entry, _)| entry).map_or([BlockAddr::NONE; 2], |e| e.slots) {
                self.reseal_record(slot);
            }
        }
    }
    fn reseal_record(&mut self, slot: BlockAddr) {
        let Some(block) = self.block_of(slot) else { return };
        let mut bytes = Image::block(self.store, block);
        if forge::claims(&bytes).is_none_or(|(_, length)| length != forge::VDI_RECORD_BYTES) {
            return;
        }
        for link in forge::record_links(&bytes) {
            self.reseal_link(link, &mut bytes);
        }
        let _ = forge::reseal(&mut bytes);
        self.store.write(block * BLOCK_BYTES, &bytes);
    }
    /// Seal what `link` leads to, then make it say so in `bytes`, where it stands.
    fn reseal_link(&mut self, link: Link, bytes: &mut [u8]) {
        let Some(block) = self.block_of(link.addr) else { return };
        let crc = match self.sealed.get(&block) {
            Some(crc) => *crc,
            None => self.reseal_block(block, link.target),
        };
        link.set_crc(bytes, crc);
    }
    fn reseal_block(&mut self, block: u64, target: Target) -> u32 {
        let mut bytes = Image::block(self.store, block);
        // Until it is done, whoever comes back here gets what it was.
        self.sealed.insert(block, crc32c(&bytes));
        let links = match target {
            Target::Node(level) if level < DEPTH_MAX => forge::node_links(&bytes, level),
            Target::SnapshotLog => forge::snapshot_log_links(&bytes),
            Target::Node(_) | Target::Data => Vec::new(),
        };
        for link in links {
            self.reseal_link(link, &mut bytes);
        }
        let crc = match target {
            Target::SnapshotLog => forge::reseal(&mut bytes).unwrap_or_default(),
            Target::Node(_) | Target::Data => crc32c(&bytes),
        };
        self.store.write(block * BLOCK_BYTES, &bytes);
        self.sealed.insert(block, crc);
        crc
    }
}

/// Put right the checksums of the log's heads and segments, and chain the segments in the order they lie in. With
/// `chained` false each keeps what it says of the one before.
pub fn reseal_log(log: &Media, chained: bool) {
    let mut previous = None;
    for block in log.written_blocks() {
        if !forge::begins(&Image::block(log, block)) {
            continue;
        }
        let mut bytes = vec![0; SEGMENT_HEAD_BYTES_MAX];
        log.read(block * BLOCK_BYTES, &mut bytes);
        if !forge::is_segment(&bytes) {
            continue;
        }
        if let Some(crc) = previous.filter(|_| chained) {
            forge::follow(&mut bytes, crc);
        }
        previous = forge::reseal(&mut bytes);
        let length = forge::claims(&bytes).map_or(0, |(_, length)| length);
        log.write(block * BLOCK_BYTES, &bytes[..length]);
    }
    for slot in 0..SLOTS {
        let at = slot * SLOT_BYTES as u64;
        let mut bytes = vec![0; SLOT_BYTES];
        log.read(at, &mut bytes);
        if forge::reseal(&mut bytes).is_some() {
            log.write(at, &bytes);
        }
    }
}
