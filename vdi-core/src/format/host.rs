//! The host record: what a host holds in this store besides its VDIs: its logs, and the runs it has
//! claimed for allocation. Two slots, written in turn; the highest generation that verifies wins.
//! Place is host slot * 2 + copy.
//!
//! A claim is a region (512 blocks) of an extent the host owns; the mask has a bit for each block
//! that was free when it was claimed. Claims are consumed in ascending order: blocks below
//! `used_through` may be live, blocks of the mask at or above it are free whatever the bitmap says.
//!
//! | offset | size | unit | field |
//! |---|---|---|---|
//! | 0 | 64 | | header |
//! | 64 | 16 | | host UUID |
//! | 80 | 2 | | logs |
//! | 82 | 2 | | claims |
//! | 84 | 12 | | reserved, zero |
//! | 96 + 32 i | 16 | | log i of 8: UUID |
//! | + 16 | 8 | bytes | its size |
//! | + 24 | 2 | | its shard |
//! | + 26 | 6 | | reserved, zero |
//! | 352 + 80 i | 8 | address | claim i of 46: first block of the region |
//! | + 8 | 2 | blocks | used through |
//! | + 10 | 1 | | kind of the extent, as in the catalogue |
//! | + 11 | 5 | | reserved, zero |
//! | + 16 | 64 | bits | mask of claimed blocks |
//! | 4032 | 64 | | reserved, zero |

use zerocopy::little_endian::{U16, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::catalogue::ExtentKind;
use super::extent::{RegionBits, overhead_blocks};
use super::{Expect, HEADER_BYTES, Kind, seal, verify};
use crate::error::{Error, Result};
use crate::limits::REGION_BLOCKS;
use crate::units::{BLOCK_SIZE, BlockAddr, Generation, Geometry, Uuid};

/// Logs a host may have in one store.
pub const LOGS_MAX: usize = 8;
/// Claims a host may hold at once.
pub const CLAIMS_MAX: usize = 46;

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawLog {
    uuid: U128,
    bytes: U64,
    shard: U16,
    reserved: [u8; 6],
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawClaim {
    start: U64,
    used_through: U16,
    kind: u8,
    reserved: [u8; 5],
    mask: [U64; 8],
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Raw {
    header: [u8; HEADER_BYTES],
    host: U128,
    logs_count: U16,
    claims_count: U16,
    reserved_a: [u8; 12],
    logs: [RawLog; LOGS_MAX],
    claims: [RawClaim; CLAIMS_MAX],
    reserved_b: [u8; 64],
}
const _: () = assert!(size_of::<Raw>() == BLOCK_SIZE);

/// The host slot of the home shard. Each shard of a host has a slot of its own, and in it a host record with its
/// log and its claims; shard n has slot n until several hosts share a store.
pub const HOME_SLOT: u16 = 0;

/// One log of a host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostLog {
    /// Its identity, also in its head.
    pub uuid: Uuid,
    /// Its size.
    pub bytes: u64,
    /// The shard that writes it.
    pub shard: u16,
}

/// One claimed region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim {
    /// First block of the region.
    pub start: BlockAddr,
    /// Blocks of the region below this offset may be in use; 0 to 512.
    pub used_through: u16,
    /// Kind of its extent: metadata or data.
    pub kind: ExtentKind,
    /// Blocks that were free when it was claimed.
    pub mask: RegionBits,
}

impl Claim {
    /// The claimed blocks that were not used when the record was written.
    #[must_use]
    pub fn unused(&self) -> RegionBits {
        let mut mask = self.mask;
        for block in 0..u32::from(self.used_through).min(REGION_BLOCKS) {
            mask[(block / 64) as usize] &= !(1 << (block % 64));
        }
        mask
    }
    /// Whether it can be one in an extent of `kind`: its own kind, and nothing of the extent's header and bitmap.
    #[must_use]
    pub fn fits(&self, kind: ExtentKind, geometry: Geometry) -> bool {
        let own = if geometry.block(self.start) == 0 { overhead_blocks(geometry) } else { 0 };
        let names = |block: u32| self.mask[(block / 64) as usize] >> (block % 64) & 1 == 1;
        self.kind == kind && !(0..own).any(names)
    }
}

/// A verified host record.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HostRecord {
    /// Version of the record.
    pub generation: Generation,
    /// The host's own UUID.
    pub host: Uuid,
    /// Its logs, at most [`LOGS_MAX`].
    pub logs: Vec<HostLog>,
    /// Its claims, at most [`CLAIMS_MAX`].
    pub claims: Vec<Claim>,
}

impl HostRecord {
    /// Whether there was one before it: then both copies have been written, and neither is empty.
    #[must_use]
    pub fn has_predecessor(&self) -> bool {
        self.generation > Generation(1)
    }
    /// The block for copy `copy` of host slot `slot`.
    #[must_use]
    pub fn encode(&self, slot: u16, copy: u64, owner: Uuid) -> Vec<u8> {
        assert!(self.logs.len() <= LOGS_MAX && self.claims.len() <= CLAIMS_MAX);
        let mut raw = Raw::read_from_bytes(&[0; BLOCK_SIZE]).expect("a block is a record's size");
        raw.host = U128::new(self.host.0);
        raw.logs_count = U16::new(self.logs.len() as u16);
        raw.claims_count = U16::new(self.claims.len() as u16);
        for (log, out) in self.logs.iter().zip(&mut raw.logs) {
            out.uuid = U128::new(log.uuid.0);
            out.bytes = U64::new(log.bytes);
            out.shard = U16::new(log.shard);
        }
        for (claim, out) in self.claims.iter().zip(&mut raw.claims) {
            out.start = U64::new(claim.start.0);
            out.used_through = U16::new(claim.used_through);
            out.kind = claim.kind as u8;
            out.mask = claim.mask.map(U64::new);
        }
        let mut block = raw.as_bytes().to_vec();
        seal(&mut block, expect(slot, copy, owner), self.generation);
        block
    }
    /// Check the block of copy `copy` of host slot `slot`.
    pub fn verify(block: &[u8], slot: u16, copy: u64, owner: Uuid) -> Result<HostRecord> {
        let generation = verify(block, expect(slot, copy, owner))?;
        let place = format!("host slot {slot} copy {copy}");
        let bad = |d: &str| Error::corrupt("host record", &place, d);
        let raw = Raw::read_from_bytes(block).map_err(|_| bad("wrong length"))?;
        let (logs, claims) = (usize::from(raw.logs_count.get()), usize::from(raw.claims_count.get()));
        if logs > LOGS_MAX || claims > CLAIMS_MAX {
            return Err(bad("more logs or claims than fit"));
        }
        let mut out = HostRecord { generation, host: Uuid(raw.host.get()), ..HostRecord::default() };
        for log in &raw.logs[..logs] {
            out.logs.push(HostLog {
                uuid: Uuid(log.uuid.get()),
                bytes: log.bytes.get(),
                shard: log.shard.get(),
            });
        }
        for claim in &raw.claims[..claims] {
            let kind = match claim.kind {
                2 => ExtentKind::Metadata,
                3 => ExtentKind::Data,
                _ => return Err(bad("a claim of neither data nor metadata")),
            };
            if claim.start.get() >> BlockAddr::BITS != 0
                || !claim.start.get().is_multiple_of(u64::from(REGION_BLOCKS))
                || u32::from(claim.used_through.get()) > REGION_BLOCKS
            {
                return Err(bad("a claim out of range"));
            }
            out.claims.push(Claim {
                start: BlockAddr(claim.start.get()),
                used_through: claim.used_through.get(),
                kind,
                mask: claim.mask.map(U64::get),
            });
        }
        // Every byte that means nothing must be zero: what encodes back is all there is.
        if out.encode(slot, copy, owner) != block {
            return Err(bad("a reserved field is not zero"));
        }
        Ok(out)
    }
}

fn expect(slot: u16, copy: u64, owner: Uuid) -> Expect {
    Expect { kind: Kind::Host, place: u64::from(slot) * 2 + copy, owner }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::law::every_flipped_bit_is_found;

    #[test]
    fn a_host_record_round_trips_and_every_flipped_bit_is_found() {
        let r = HostRecord {
            generation: Generation(4),
            host: Uuid(5),
            logs: vec![HostLog { uuid: Uuid(6), bytes: 1 << 30, shard: 0 }],
            claims: vec![Claim {
                start: BlockAddr(512 * 9),
                used_through: 100,
                kind: ExtentKind::Data,
                mask: [u64::MAX; 8],
            }],
        };
        let block = r.encode(2, 1, Uuid(1));
        assert_eq!(HostRecord::verify(&block, 2, 1, Uuid(1)).unwrap(), r);
        every_flipped_bit_is_found(&block, |b| HostRecord::verify(b, 2, 1, Uuid(1)).is_ok());
        assert!(HostRecord::verify(&block, 2, 0, Uuid(1)).is_err());
        assert_eq!(crate::buffer::crc32c(&block), 266_650_981, "golden bytes");
    }
}
