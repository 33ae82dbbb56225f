//! An extent's own first blocks: a header, then its allocation bitmap.
//!
//! Block 0 of the extent starts with the header (512 bytes; place: the extent's number); blocks 1
//! onwards hold the bitmap in 512-byte sectors, eight to a block. Each bitmap sector has its own
//! checksum and covers [`REGIONS_PER_SECTOR`] regions of 512 blocks, so any mixture of old and new
//! sectors is safe as long as each errs towards used. Place of a sector: extent number << 32 | index.
//!
//! | offset | size | unit | field of the header |
//! |---|---|---|---|
//! | 0 | 64 | | header |
//! | 64 | 1 | | kind, as in the catalogue |
//! | 65 | 1 | | reserved, zero |
//! | 66 | 2 | slot | owning host |
//! | 68 | 2 | | owning shard |
//! | 70 | 2 | | reserved, zero |
//! | 72 | 8 | | lease generation, as in the catalogue |
//! | 80 | 432 | | reserved, zero |
//!
//! | offset | size | unit | field of a bitmap sector |
//! |---|---|---|---|
//! | 0 | 64 | | header |
//! | 64 + 64 i | 64 | bits | region i of this sector: bit b of byte a is block 8 a + b; set means used |

use std::ops::Range;

use super::catalogue::{CatalogueEntry, ExtentKind};
use super::superblock::Superblock;
use super::{Expect, HEADER_BYTES, Kind, owner_of, seal, verify};
use crate::error::{Error, Result};
use crate::limits::{LEASES_MAX, REGION_BLOCKS};
use crate::units::{BLOCK_BYTES, BLOCK_SIZE, ExtentNumber, Generation, Geometry, Uuid};

/// Bytes of the header and of a bitmap sector.
pub const SECTOR_SIZE: usize = 512;
/// Regions that one bitmap sector covers.
pub const REGIONS_PER_SECTOR: u32 = 7;
const REGION_BYTES: usize = REGION_BLOCKS as usize / 8;
const _: () = assert!(HEADER_BYTES + REGIONS_PER_SECTOR as usize * REGION_BYTES == SECTOR_SIZE);

/// Used bits of one region, 512 blocks.
pub type RegionBits = [u64; 8];

/// Regions of an extent.
#[must_use]
pub const fn regions(geometry: Geometry) -> u32 {
    (geometry.extent_blocks() / REGION_BLOCKS as u64) as u32
}
/// Bitmap sectors of an extent.
#[must_use]
pub const fn bitmap_sectors(geometry: Geometry) -> u32 {
    regions(geometry).div_ceil(REGIONS_PER_SECTOR)
}
/// Leading blocks of an extent that hold its header and bitmap.
#[must_use]
pub const fn overhead_blocks(geometry: Geometry) -> u32 {
    1 + bitmap_sectors(geometry).div_ceil((BLOCK_SIZE / SECTOR_SIZE) as u32)
}
/// Byte offset of bitmap sector `index` within its extent.
#[must_use]
pub const fn sector_offset(index: u32) -> u64 {
    (BLOCK_SIZE + index as usize * SECTOR_SIZE) as u64
}

/// Generation of the bitmap sectors of a new lease: a sector of an earlier one is never newer.
#[must_use]
pub const fn first_generation(lease_generation: u64) -> Generation {
    Generation(lease_generation << 32)
}

/// Who holds an extent, repeated in the extent itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExtentHeader {
    /// The extent.
    pub number: ExtentNumber,
    /// What it holds.
    pub kind: ExtentKind,
    /// Owning host slot.
    pub host: u16,
    /// Owning shard.
    pub shard: u16,
    /// Lease generation.
    pub lease_generation: u64,
}

impl ExtentHeader {
    /// The header's 512 bytes.
    #[must_use]
    pub fn encode(&self, owner: Uuid) -> Vec<u8> {
        let mut b = vec![0; SECTOR_SIZE];
        b[64] = self.kind as u8;
        b[66..68].copy_from_slice(&self.host.to_le_bytes());
        b[68..70].copy_from_slice(&self.shard.to_le_bytes());
        b[72..80].copy_from_slice(&self.lease_generation.to_le_bytes());
        seal(&mut b, header_expect(self.number, owner), Generation(self.lease_generation));
        b
    }
    /// What the header of extent `number` says, whatever the catalogue says.
    pub fn decode(bytes: &[u8], number: ExtentNumber, owner: Uuid) -> Result<ExtentHeader> {
        verify(bytes, header_expect(number, owner))?;
        let bad = |d: &str| Error::corrupt("extent header", format!("extent {}", number.0), d);
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let generation = bytes[72..80].try_into().expect("eight bytes");
        let header = ExtentHeader {
            number,
            kind: ExtentKind::of(bytes[64]).ok_or_else(|| bad("unknown extent kind"))?,
            host: half(66),
            shard: half(68),
            lease_generation: u64::from_le_bytes(generation),
        };
        if header.lease_generation > LEASES_MAX {
            return Err(bad("more changes of owner than anybody counts"));
        }
        // Whatever is not a field is zero.
        if bytes == header.encode(owner) { Ok(header) } else { Err(bad("a reserved field is not zero")) }
    }
    /// Check that `bytes` is exactly this header.
    pub fn verify(&self, bytes: &[u8], owner: Uuid) -> Result<()> {
        verify(bytes, header_expect(self.number, owner))?;
        // On its way to the home shard: the header goes first.
        let handed_over =
            ExtentHeader { host: 0, shard: 0, lease_generation: self.lease_generation + 1, ..*self };
        if bytes != self.encode(owner) && bytes != handed_over.encode(owner) {
            return Err(Error::corrupt(
                "extent header",
                format!("extent {}", self.number.0),
                "it disagrees with the catalogue about kind or owner",
            ));
        }
        Ok(())
    }
}

/// The catalogue entry of extent `number` of the store `sb` as the extent's own first blocks ([`overhead_blocks`] of
/// them, in `head`, or those before one that cannot be read) tell it, for when the catalogue cannot; None when they
/// are damaged.
#[must_use]
pub fn entry_by_head(head: &[u8], number: ExtentNumber, sb: &Superblock) -> Option<CatalogueEntry> {
    let start_block = u64::from(number.0) << sb.geometry.extent_bits;
    let entry = |kind, host, shard, lease_generation| {
        Some(CatalogueEntry { kind, host, shard, device: 0, start_block, lease_generation })
    };
    if number.0 < sb.system_extents {
        return entry(ExtentKind::System, 0, 0, 0);
    }
    match ExtentHeader::decode(head.get(..SECTOR_SIZE)?, number, sb.uuid) {
        Ok(h) => entry(h.kind, h.host, h.shard, h.lease_generation),
        // What lies there was never an extent of this store: even damaged, its header or its bitmap names it.
        Err(_) if !names_store(head, sb) => entry(ExtentKind::Free, 0, 0, 0),
        Err(_) => None,
    }
}

/// Where a log extent lies on the device, in bytes, without the blocks that it holds of itself.
#[must_use]
pub fn log_stretch(entry: &CatalogueEntry, geometry: Geometry) -> Range<u64> {
    let own = u64::from(overhead_blocks(geometry));
    (entry.start_block + own) * BLOCK_BYTES..(entry.start_block + geometry.extent_blocks()) * BLOCK_BYTES
}

/// Whether what is there may be this store's.
fn names_store(head: &[u8], sb: &Superblock) -> bool {
    let bitmap = (0..bitmap_sectors(sb.geometry)).map(sector_offset);
    let starts = std::iter::once(0).chain(bitmap.map(|at| at as usize));
    let mut sectors = starts.map(|at| head.get(at..at + SECTOR_SIZE));
    sectors.any(|sector| sector.is_none_or(|sector| owner_of(sector) == sb.uuid))
}

fn header_expect(number: ExtentNumber, owner: Uuid) -> Expect {
    Expect { kind: Kind::Extent, place: u64::from(number.0), owner }
}
fn sector_expect(number: ExtentNumber, index: u32, owner: Uuid) -> Expect {
    Expect { kind: Kind::Bitmap, place: (u64::from(number.0) << 32) | u64::from(index), owner }
}

/// Encode bitmap sector `index`; regions beyond the extent's end are all used.
#[must_use]
pub fn encode_sector(
    number: ExtentNumber,
    index: u32,
    regions: &[RegionBits],
    owner: Uuid,
    generation: Generation,
) -> Vec<u8> {
    assert!(regions.len() <= REGIONS_PER_SECTOR as usize);
    let mut bytes = vec![0xff; SECTOR_SIZE];
    for (bits, at) in regions.iter().zip(bytes[HEADER_BYTES..].chunks_exact_mut(REGION_BYTES)) {
        for (word, out) in bits.iter().zip(at.chunks_exact_mut(8)) {
            out.copy_from_slice(&word.to_le_bytes());
        }
    }
    seal(&mut bytes, sector_expect(number, index, owner), generation);
    bytes
}

/// Check bitmap sector `index` and return its regions (those beyond the extent's end are all used).
pub fn decode_sector(
    bytes: &[u8],
    number: ExtentNumber,
    index: u32,
    owner: Uuid,
) -> Result<([RegionBits; REGIONS_PER_SECTOR as usize], Generation)> {
    let generation = verify(bytes, sector_expect(number, index, owner))?;
    let mut out = [[0u64; 8]; REGIONS_PER_SECTOR as usize];
    for (bits, at) in out.iter_mut().zip(bytes[HEADER_BYTES..].chunks_exact(REGION_BYTES)) {
        for (word, raw) in bits.iter_mut().zip(at.chunks_exact(8)) {
            *word = u64::from_le_bytes(raw.try_into().expect("chunks of eight"));
        }
    }
    Ok((out, generation))
}

/// Runs of set bits: (first block, blocks), in order; `bits` are the regions of one extent.
pub fn bit_runs(bits: &[RegionBits]) -> impl Iterator<Item = (u32, u32)> + '_ {
    let blocks = bits.len() as u32 * REGION_BLOCKS;
    let word = |block: u32| bits[(block / REGION_BLOCKS) as usize][(block % REGION_BLOCKS / 64) as usize];
    let is_set = move |block: u32| word(block) >> (block % 64) & 1 == 1;
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < blocks && !is_set(at) {
            // A whole word of zeros in one step.
            at += if at.is_multiple_of(64) && word(at) == 0 { 64 } else { 1 };
        }
        let first = at;
        while at < blocks && is_set(at) {
            at += 1;
        }
        (first < at).then_some((first, at - first))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::law::every_flipped_bit_is_found;

    #[test]
    fn header_and_bitmap_round_trip_and_every_flipped_bit_is_found() {
        let h = ExtentHeader {
            number: ExtentNumber(7),
            kind: ExtentKind::Metadata,
            host: 1,
            shard: 2,
            lease_generation: 3,
        };
        let bytes = h.encode(Uuid(5));
        every_flipped_bit_is_found(&bytes, |b| h.verify(b, Uuid(5)).is_ok());
        assert_eq!(ExtentHeader::decode(&bytes, h.number, Uuid(5)).unwrap(), h);
        every_flipped_bit_is_found(&bytes, |b| ExtentHeader::decode(b, h.number, Uuid(5)).is_ok());
        let endless = ExtentHeader { lease_generation: LEASES_MAX + 1, ..h }.encode(Uuid(5));
        assert!(ExtentHeader::decode(&endless, h.number, Uuid(5)).is_err(), "bitmaps count on from it");
        let mut regions = [[0u64; 8]; 7];
        regions[0][0] = 0b1011;
        regions[6][7] = 1 << 63;
        let sector = encode_sector(ExtentNumber(7), 2, &regions, Uuid(5), Generation(4));
        assert_eq!(decode_sector(&sector, ExtentNumber(7), 2, Uuid(5)).unwrap(), (regions, Generation(4)));
        every_flipped_bit_is_found(&sector, |b| decode_sector(b, ExtentNumber(7), 2, Uuid(5)).is_ok());
        assert!(decode_sector(&sector, ExtentNumber(7), 3, Uuid(5)).is_err());
        // Golden bytes: these structures are on disks.
        assert_eq!(
            (crate::buffer::crc32c(&bytes), crate::buffer::crc32c(&sector)),
            (4_226_069_998, 958_930_664)
        );
    }

    #[test]
    fn a_gibibyte_extent_spends_eleven_blocks_on_itself() {
        let g = Geometry { extent_bits: 18 };
        assert_eq!((regions(g), bitmap_sectors(g), overhead_blocks(g)), (512, 74, 11));
        assert_eq!(overhead_blocks(Geometry { extent_bits: 9 }), 2);
    }
}
