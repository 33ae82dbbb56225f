//! What a damaged structure must hold, where that follows from what is sound: the other copy of a superblock, the
//! catalogue from the extents' headers and they from it, a bitmap from everything that names blocks, a record's slot
//! from the other one; and one flipped bit of a registry entry or a record from its checksum. Trees and data have no second
//! copy.

use super::{Check, Report};
use crate::format::catalogue::{self, CatalogueEntry, ExtentKind};
use crate::format::extent::{self, ExtentHeader, REGIONS_PER_SECTOR, RegionBits};
use crate::format::flipped;
use crate::format::registry::{self, RegistryEntry};
use crate::format::superblock::{COPIES, Superblock};
use crate::format::vdi_record::{self, VdiRecord};
use crate::limits::CHECK_FINDINGS_MAX;
use crate::units::{BLOCK_BYTES, BLOCK_SIZE, BlockAddr, ExtentNumber, Generation};

/// One structure to be written anew.
pub(super) struct Mend {
    /// For people.
    pub what: String,
    /// Where it begins, bytes from the start of the store.
    pub offset_bytes: u64,
    /// What the check found there; None when it could not be read, as it still must be when it is written.
    pub found: Option<Vec<u8>>,
    /// What it will hold.
    pub anew: Vec<u8>,
}

impl Report {
    /// Propose a mend; as many as there may be findings, the rest waits for the next check.
    pub(super) fn mend(&mut self, what: String, offset_bytes: u64, found: Option<&[u8]>, anew: Vec<u8>) {
        debug_assert!(found.is_none_or(|found| found.len() == anew.len()));
        if self.mends.len() < CHECK_FINDINGS_MAX {
            self.mends.push(Mend { what, offset_bytes, found: found.map(<[u8]>::to_vec), anew });
        }
    }
    /// A superblock from its other copy.
    pub(super) fn mend_superblock(&mut self, copy: usize, found: Option<&[u8]>, other: &Superblock) {
        let what = format!("write superblock copy {copy} anew, from copy {}", 1 - copy);
        self.mend(what, COPIES[copy] * BLOCK_BYTES, found, other.encode(copy));
    }
    /// A sector of the catalogue from what the headers of its extents say, when each says something.
    pub(super) fn mend_catalogue(
        &mut self,
        sb: &Superblock,
        index: u32,
        found: &[u8],
        told: &[Option<CatalogueEntry>],
    ) {
        let Some(entries) = told.iter().copied().collect::<Option<Vec<_>>>() else { return };
        let what = format!("write catalogue sector {index} anew, from the headers of its extents");
        let offset =
            u64::from(sb.catalogue_start) * BLOCK_BYTES + u64::from(index) * catalogue::SECTOR_SIZE as u64;
        self.mend(what, offset, Some(found), catalogue::encode(index, &entries, sb.uuid, Generation(1)));
    }
    /// A registry entry of which one bit is flipped.
    pub(super) fn mend_registry(&mut self, sb: &Superblock, index: u32, found: &[u8]) {
        let sound = |b: &[u8]| registry::decode(b, index, sb.uuid).is_ok();
        let Some(anew) = flipped::put_right(found, sound) else { return };
        let what = format!("write registry entry {index} anew: one bit of it is flipped");
        let offset = u64::from(sb.registry_start) * BLOCK_BYTES + u64::from(index) * registry::BYTES as u64;
        self.mend(what, offset, Some(found), anew);
    }
    /// An extent's header from the catalogue.
    pub(super) fn mend_header(&mut self, header: &ExtentHeader, sb: &Superblock, offset: u64, found: &[u8]) {
        let what = format!("write the header of extent {} anew, from the catalogue", header.number.0);
        self.mend(what, offset, Some(found), header.encode(sb.uuid));
    }
}

impl Check {
    /// A bitmap sector from everything that names blocks; what claims have not used counts as used, as before.
    pub(super) fn mend_bitmap(
        &mut self,
        number: ExtentNumber,
        entry: &CatalogueEntry,
        (index, found): (u32, &[u8]),
        used: &[RegionBits],
    ) {
        let what =
            format!("write bitmap sector {index} of extent {} anew, from what uses its blocks", number.0);
        let offset = entry.start_block * BLOCK_BYTES + extent::sector_offset(index);
        let first = (index * REGIONS_PER_SECTOR) as usize;
        let regions = &used[first..used.len().min(first + REGIONS_PER_SECTOR as usize)];
        let generation = extent::first_generation(entry.lease_generation);
        let anew = extent::encode_sector(number, index, regions, self.reader.superblock.uuid, generation);
        self.report.mend(what, offset, Some(found), anew);
    }
    /// A record's slot of which one bit is flipped.
    pub(super) async fn mend_flipped_slot(&mut self, entry: &RegistryEntry, slot: BlockAddr) {
        let Ok(offset) = self.reader.offset_bytes(slot, ExtentKind::Metadata) else { return };
        let Ok(found) = self.reader.metadata(slot).await else { return };
        let uuid = self.reader.superblock.uuid;
        let sound = |b: &[u8]| VdiRecord::verify(b, slot, uuid).is_ok_and(|r| r.id == entry.id);
        let Some(anew) = flipped::put_right(&found[..vdi_record::BYTES], sound) else { return };
        let what = format!("write slot {slot} of VDI '{}' anew: one bit of it is flipped", entry.name);
        self.report.mend(what, offset, Some(&found[..vdi_record::BYTES]), anew);
    }
    /// A record's slot as if it was never written, when the log says that the other one is the newest.
    pub(super) async fn mend_slot(&mut self, name: &str, slot: BlockAddr) {
        let Ok(offset) = self.reader.offset_bytes(slot, ExtentKind::Metadata) else { return };
        let found = self.reader.metadata(slot).await.ok();
        let what = format!("empty the damaged slot {slot} of VDI '{name}'; the other is the newest");
        self.report.mend(what, offset, found.as_deref(), vec![0; BLOCK_SIZE]);
    }
}
