//! The extent catalogue: for each extent its kind, its owner and where it lies.
//!
//! An array of 512-byte sectors in the system area, 14 entries each. Place is the sector's index.
//! A sector changes in one 512-byte write, so a torn update leaves it old or new.
//!
//! | offset | size | unit | field |
//! |---|---|---|---|
//! | 0 | 64 | | header |
//! | 64 + 32 i | 1 | [`ExtentKind`] | kind |
//! | + 1 | 1 | | reserved, zero |
//! | + 2 | 2 | slot | owning host |
//! | + 4 | 2 | | owning shard of that host |
//! | + 6 | 2 | index | device (0: the only one) |
//! | + 8 | 8 | blocks | where the extent starts on its device |
//! | + 16 | 8 | | lease generation: rises with each change of owner |
//! | + 24 | 8 | | reserved, zero |

use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Expect, HEADER_BYTES, Kind, seal, verify};
use crate::error::{Error, Result};
use crate::limits::LEASES_MAX;
use crate::units::{Generation, Uuid};

/// Bytes of a catalogue sector.
pub const SECTOR_SIZE: usize = 512;
/// Entries in one sector.
pub const ENTRIES_PER_SECTOR: usize = 14;

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawEntry {
    kind: u8,
    reserved_a: u8,
    host: U16,
    shard: U16,
    device: U16,
    start_block: U64,
    lease_generation: U64,
    reserved_b: U64,
}
const _: () = assert!(HEADER_BYTES + ENTRIES_PER_SECTOR * size_of::<RawEntry>() == SECTOR_SIZE);

/// What an extent holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum ExtentKind {
    /// Nobody's.
    Free = 0,
    /// Part of the system area.
    System = 1,
    /// Tree nodes, snapshot logs, VDI records.
    Metadata = 2,
    /// What guests wrote.
    Data = 3,
    /// A log ring.
    Log = 4,
}

impl ExtentKind {
    /// The kind that byte `raw` stands for.
    pub(super) fn of(raw: u8) -> Option<ExtentKind> {
        use ExtentKind::{Data, Free, Log, Metadata, System};
        [Free, System, Metadata, Data, Log].into_iter().find(|kind| *kind as u8 == raw)
    }
}

/// One extent's entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CatalogueEntry {
    /// What it holds.
    pub kind: ExtentKind,
    /// Slot of the owning host; meaningless when free.
    pub host: u16,
    /// Shard of that host that owns it; meaningless when free.
    pub shard: u16,
    /// Device index.
    pub device: u16,
    /// First block on that device.
    pub start_block: u64,
    /// Rises with each change of owner.
    pub lease_generation: u64,
}

/// Encode sector `index` holding up to [`ENTRIES_PER_SECTOR`] entries; the rest of it is zero.
#[must_use]
pub fn encode(index: u32, entries: &[CatalogueEntry], owner: Uuid, generation: Generation) -> Vec<u8> {
    assert!(entries.len() <= ENTRIES_PER_SECTOR);
    let mut bytes = vec![0; SECTOR_SIZE];
    for (e, at) in entries.iter().zip(bytes[HEADER_BYTES..].chunks_exact_mut(size_of::<RawEntry>())) {
        let raw = RawEntry {
            kind: e.kind as u8,
            reserved_a: 0,
            host: U16::new(e.host),
            shard: U16::new(e.shard),
            device: U16::new(e.device),
            start_block: U64::new(e.start_block),
            lease_generation: U64::new(e.lease_generation),
            reserved_b: U64::ZERO,
        };
        at.copy_from_slice(raw.as_bytes());
    }
    seal(&mut bytes, expect(index, owner), generation);
    bytes
}

/// Check sector `index` and return its first `count` entries.
pub fn decode(
    bytes: &[u8],
    index: u32,
    count: usize,
    owner: Uuid,
) -> Result<(Vec<CatalogueEntry>, Generation)> {
    let generation = verify(bytes, expect(index, owner))?;
    let place = format!("sector {index}");
    let bad = |d: String| Error::corrupt("extent catalogue", &place, d);
    let mut out = Vec::with_capacity(count);
    for (i, at) in bytes[HEADER_BYTES..].chunks_exact(size_of::<RawEntry>()).take(count).enumerate() {
        let raw = RawEntry::read_from_bytes(at).map_err(|_| bad("short entry".into()))?;
        if raw.reserved_a != 0 || raw.reserved_b.get() != 0 {
            return Err(bad(format!("entry {i}: a reserved field is not zero")));
        }
        if raw.lease_generation.get() > LEASES_MAX {
            return Err(bad(format!("entry {i}: more changes of owner than anybody counts")));
        }
        out.push(CatalogueEntry {
            kind: ExtentKind::of(raw.kind)
                .ok_or_else(|| bad(format!("entry {i}: unknown extent kind {}", raw.kind)))?,
            host: raw.host.get(),
            shard: raw.shard.get(),
            device: raw.device.get(),
            start_block: raw.start_block.get(),
            lease_generation: raw.lease_generation.get(),
        });
    }
    Ok((out, generation))
}

fn expect(index: u32, owner: Uuid) -> Expect {
    Expect { kind: Kind::Catalogue, place: u64::from(index), owner }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::law::every_flipped_bit_is_found;

    #[test]
    fn a_sector_round_trips_and_every_flipped_bit_is_found() {
        let e = CatalogueEntry {
            kind: ExtentKind::Data,
            host: 3,
            shard: 1,
            device: 0,
            start_block: 1 << 20,
            lease_generation: 9,
        };
        let entries = vec![e; ENTRIES_PER_SECTOR];
        let bytes = encode(5, &entries, Uuid(1), Generation(2));
        assert_eq!(decode(&bytes, 5, 14, Uuid(1)).unwrap(), (entries, Generation(2)));
        every_flipped_bit_is_found(&bytes, |b| decode(b, 5, 14, Uuid(1)).is_ok());
        assert_eq!(crate::buffer::crc32c(&bytes), 632_627_418, "golden bytes");
        for lease_generation in [LEASES_MAX + 1, u64::MAX] {
            let sealed = encode(5, &[CatalogueEntry { lease_generation, ..e }], Uuid(1), Generation(2));
            assert!(decode(&sealed, 5, 1, Uuid(1)).is_err(), "bitmaps count on from it");
        }
    }
}
