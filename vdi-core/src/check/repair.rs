//! Repair: write what can be known anew, give leaked blocks back.

use super::Report;
use super::mend::Mend;
use super::report::Severity;
use super::system;
use crate::buffer::AlignedBuf;
use crate::device::DeviceHandle;
use crate::error::{Error, ErrorKind, Result};
use crate::format::extent::{self, REGIONS_PER_SECTOR, RegionBits, bitmap_sectors};
use crate::format::superblock::Superblock;
use crate::units::{BLOCK_BYTES, BLOCK_SIZE, ExtentNumber, Generation};

/// Write anew every structure of which the check behind `report` knows what it must hold; returns how many. The
/// caller has held the store's lock since before that check. Each is one write that makes something sound, so a
/// crash in between leaves the rest as it was. What a damaged structure hid may be repaired after another check.
///
/// # Errors
/// `Busy` when something is not what the check saw; `Io`.
pub async fn write_mends(store: &DeviceHandle, report: &Report) -> Result<u64> {
    for Mend { offset_bytes, found, anew, .. } in &report.mends {
        replace(store, *offset_bytes, found.as_deref(), anew).await?;
    }
    store.flush().await?;
    Ok(report.mends.len() as u64)
}

/// Clear the bits of the blocks that the check behind `report` found leaked; returns how many. The caller
/// has held the store's lock since before that check. Each bitmap sector changes in one write, so a crash
/// in between leaves some leaks, nothing else.
///
/// # Errors
/// `Denied` when that check could not read every reference: what looks leaked might be in use then.
/// `Busy` when a bitmap is not what the check saw.
pub async fn repair_leaks(store: &DeviceHandle, report: &Report) -> Result<u64> {
    let Some(leaks) = &report.leaks else {
        return Err(Error::new(
            ErrorKind::Denied,
            "the check could not read every reference: what looks leaked may be in use",
            "deal with the other findings first, and give every log of the store",
        ));
    };
    let mut again = Report::default();
    let sb = system::superblock(store, &mut again).await?;
    let catalogue = system::catalogue(store, &sb, &mut again).await;
    let mut cleared = 0;
    for number in leaks.extents() {
        let bits = leaks.extent(number).unwrap_or_default();
        let entry = catalogue.get(number.0 as usize).copied().flatten();
        let start = entry.ok_or_else(changed)?.start_block * BLOCK_BYTES;
        for index in 0..bitmap_sectors(sb.geometry) {
            let first = (index * REGIONS_PER_SECTOR) as usize;
            let some = &bits[first..bits.len().min(first + REGIONS_PER_SECTOR as usize)];
            if some.iter().flatten().any(|w| *w != 0) {
                cleared += clear(store, &sb, start, number, index, some).await?;
            }
        }
    }
    store.flush().await?;
    Ok(cleared)
}

impl Report {
    /// What [`write_mends`] would do, for people; empty when there is nothing to do.
    #[must_use]
    pub fn mend_plan(&self) -> Vec<String> {
        self.mends.iter().map(|m| m.what.clone()).collect()
    }
    /// What [`repair_leaks`] would do, for people; empty when there is nothing to do.
    #[must_use]
    pub fn leak_plan(&self) -> Vec<String> {
        let leaks = self.findings.iter().filter(|f| f.severity == Severity::Leak);
        leaks.map(|f| format!("free: {}", f.message)).collect()
    }
}

fn changed() -> Error {
    Error::new(
        ErrorKind::Busy,
        "the store has changed since it was checked",
        "make sure that no daemon uses the store, then check again",
    )
}

/// Write `anew` where `found` is, or what cannot be read (None), in whole sectors of the device.
async fn replace(store: &DeviceHandle, offset: u64, found: Option<&[u8]>, anew: &[u8]) -> Result<()> {
    if store.info().align_bytes as usize <= anew.len() {
        let now = store.read(offset, anew.len()).await;
        if now.as_deref().ok() != found {
            return Err(changed());
        }
        return store.write(offset, AlignedBuf::copy_of(anew)).await;
    }
    let block = offset / BLOCK_BYTES * BLOCK_BYTES;
    let within = (offset - block) as usize..(offset - block) as usize + anew.len();
    let mut bytes = store.read(block, BLOCK_SIZE).await?;
    if Some(&bytes[within.clone()]) != found {
        return Err(changed());
    }
    bytes[within].copy_from_slice(anew);
    store.write(block, bytes).await
}

async fn clear(
    store: &DeviceHandle,
    sb: &Superblock,
    extent_offset: u64,
    number: ExtentNumber,
    index: u32,
    leaks: &[RegionBits],
) -> Result<u64> {
    let offset = extent_offset + extent::sector_offset(index);
    // A whole block, for devices whose sectors are that large.
    let block = offset / BLOCK_BYTES * BLOCK_BYTES;
    let within = (offset - block) as usize;
    let bytes = store.read(block, BLOCK_SIZE).await?;
    let sector = &bytes[within..within + extent::SECTOR_SIZE];
    let (mut regions, generation) = extent::decode_sector(sector, number, index, sb.uuid)?;
    let mut cleared = 0;
    for (word, leaked) in regions.iter_mut().flatten().zip(leaks.iter().flatten()) {
        if *word & leaked != *leaked {
            return Err(changed());
        }
        *word &= !leaked;
        cleared += u64::from(leaked.count_ones());
    }
    let next = Generation(generation.0 + 1);
    let anew = extent::encode_sector(number, index, &regions[..leaks.len()], sb.uuid, next);
    replace(store, offset, Some(sector), &anew).await?;
    Ok(cleared)
}
