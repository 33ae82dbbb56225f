//! The superblock: what a store is and where its system area lies. Two copies, 1 MiB apart.
//!
//! Place is the block number of the copy. 512 bytes at the start of its block; the rest is zero.
//!
//! | offset | size | unit | field |
//! |---|---|---|---|
//! | 0 | 64 | | header (owner: the store's UUID) |
//! | 64 | 4 | | format version, 1 |
//! | 68 | 4 | log2 blocks | extent size |
//! | 72 | 8 | flags | features: unknown means refuse |
//! | 80 | 8 | flags | features: unknown means read-only |
//! | 88 | 8 | flags | features: unknown may be ignored |
//! | 96 | 4 | extents | extents in the store |
//! | 100 | 4 | extents | leading extents that form the system area |
//! | 104 | 4 | blocks | start of the host records |
//! | 108 | 4 | blocks | start of the catalogue |
//! | 112 | 4 | sectors | catalogue sectors |
//! | 116 | 4 | blocks | start of the registry |
//! | 120 | 4 | sectors | registry entries |
//! | 124 | 4 | | reserved, zero |
//! | 128 | 8 | ns | creation time, wall clock |
//! | 136 | 376 | | reserved, zero |
//!
//! Blocks 1 to 255 are kept for on-store locks and heartbeats (later).

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Expect, HEADER_BYTES, Kind, seal, verify};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::{EXTENT_BITS_MAX, EXTENT_BITS_MIN, EXTENTS_MAX, HOSTS_MAX, LOG_VDIS_MAX};
use crate::units::{BLOCK_BYTES, BLOCK_SIZE, Generation, Geometry, Uuid};

/// Block numbers of the two copies.
pub const COPIES: [u64; 2] = [0, 256];
/// First block of the host records: after the lease room and the second copy.
pub const HOSTS_START: u32 = 260;
/// Bytes that carry information.
pub const BYTES: usize = 512;
const VERSION: u32 = 1;
/// Features this version knows, by class.
const KNOWN: Features = Features { refuse: 0, read_only: 0, ignore: 0 };

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Raw {
    header: [u8; HEADER_BYTES],
    version: U32,
    extent_bits: U32,
    refuse: U64,
    read_only: U64,
    ignore: U64,
    extents: U32,
    system_extents: U32,
    hosts_start: U32,
    catalogue_start: U32,
    catalogue_sectors: U32,
    registry_start: U32,
    registry_entries: U32,
    reserved_a: U32,
    created_ns: U64,
    reserved_b: [u8; 376],
}
const _: () = assert!(size_of::<Raw>() == BYTES);

/// Feature flags by what a reader must do with one it does not know.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Features {
    /// Unknown: do not open.
    pub refuse: u64,
    /// Unknown: open for reading only.
    pub read_only: u64,
    /// Unknown: go on.
    pub ignore: u64,
}

/// A verified superblock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Superblock {
    /// The store's identity.
    pub uuid: Uuid,
    /// Which version of the two copies this is.
    pub generation: Generation,
    /// How addresses split.
    pub geometry: Geometry,
    /// Feature flags.
    pub features: Features,
    /// Extents in the store, system extents included.
    pub extents: u32,
    /// Leading extents that hold the system area.
    pub system_extents: u32,
    /// First block of the host records.
    pub hosts_start: u32,
    /// First block of the catalogue.
    pub catalogue_start: u32,
    /// Sectors of the catalogue.
    pub catalogue_sectors: u32,
    /// First block of the registry.
    pub registry_start: u32,
    /// Entries (one 512-byte sector each) of the registry.
    pub registry_entries: u32,
    /// When the store was formatted, wall clock ns.
    pub created_ns: u64,
}

impl Superblock {
    /// The block for copy `copy` (0 or 1).
    #[must_use]
    pub fn encode(&self, copy: usize) -> Vec<u8> {
        let raw = Raw {
            header: [0; HEADER_BYTES],
            version: U32::new(VERSION),
            extent_bits: U32::new(self.geometry.extent_bits),
            refuse: U64::new(self.features.refuse),
            read_only: U64::new(self.features.read_only),
            ignore: U64::new(self.features.ignore),
            extents: U32::new(self.extents),
            system_extents: U32::new(self.system_extents),
            hosts_start: U32::new(self.hosts_start),
            catalogue_start: U32::new(self.catalogue_start),
            catalogue_sectors: U32::new(self.catalogue_sectors),
            registry_start: U32::new(self.registry_start),
            registry_entries: U32::new(self.registry_entries),
            reserved_a: U32::ZERO,
            created_ns: U64::new(self.created_ns),
            reserved_b: [0; 376],
        };
        let mut block = vec![0; BLOCK_SIZE];
        block[..BYTES].copy_from_slice(raw.as_bytes());
        let expect = Expect { kind: Kind::Superblock, place: COPIES[copy], owner: self.uuid };
        seal(&mut block[..BYTES], expect, self.generation);
        block
    }
    /// Check copy `copy`. The store's UUID is what the copy itself says: nobody knows better yet.
    pub fn verify(block: &[u8], copy: usize) -> Result<Superblock> {
        let bytes = block.get(..BYTES).unwrap_or(block);
        let owner = super::owner_of(bytes);
        let expect = Expect { kind: Kind::Superblock, place: COPIES[copy], owner };
        let generation = verify(bytes, expect)?;
        let place = format!("copy {copy}");
        let bad = |d: &str| Error::corrupt("superblock", &place, d);
        let raw = Raw::read_from_bytes(bytes).map_err(|_| bad("wrong length"))?;
        if raw.version.get() != VERSION {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("the store has format version {}, this program knows {VERSION}", raw.version),
                "use the Parallax release that made the store, or a later one",
            ));
        }
        if raw.reserved_a.get() != 0 || raw.reserved_b.iter().any(|b| *b != 0) {
            return Err(bad("a reserved field is not zero"));
        }
        let sb = Superblock {
            uuid: owner,
            generation,
            geometry: Geometry { extent_bits: raw.extent_bits.get() },
            features: Features {
                refuse: raw.refuse.get(),
                read_only: raw.read_only.get(),
                ignore: raw.ignore.get(),
            },
            extents: raw.extents.get(),
            system_extents: raw.system_extents.get(),
            hosts_start: raw.hosts_start.get(),
            catalogue_start: raw.catalogue_start.get(),
            catalogue_sectors: raw.catalogue_sectors.get(),
            registry_start: raw.registry_start.get(),
            registry_entries: raw.registry_entries.get(),
            created_ns: raw.created_ns.get(),
        };
        sb.check_shape().map_err(bad)?;
        Ok(sb)
    }
    /// Relations between fields that every reader relies on.
    fn check_shape(&self) -> std::result::Result<(), &'static str> {
        if !(EXTENT_BITS_MIN..=EXTENT_BITS_MAX).contains(&self.geometry.extent_bits) {
            return Err("extent size out of range");
        }
        if u64::from(self.extents) > EXTENTS_MAX
            || self.system_extents == 0
            || self.system_extents >= self.extents
        {
            return Err("extent counts make no sense");
        }
        let sectors_max = EXTENTS_MAX.div_ceil(super::catalogue::ENTRIES_PER_SECTOR as u64);
        if u64::from(self.catalogue_sectors) > sectors_max || self.registry_entries as usize > LOG_VDIS_MAX {
            return Err("the catalogue or the registry is larger than any");
        }
        let hosts_end = u64::from(self.hosts_start) + u64::from(HOSTS_MAX) * 2;
        let catalogue_end = u64::from(self.catalogue_start) + u64::from(self.catalogue_sectors).div_ceil(8);
        let registry_end = u64::from(self.registry_start) + u64::from(self.registry_entries).div_ceil(8);
        let system_blocks = u64::from(self.system_extents) << self.geometry.extent_bits;
        if self.hosts_start < HOSTS_START
            || hosts_end > u64::from(self.catalogue_start)
            || catalogue_end > u64::from(self.registry_start)
            || registry_end > system_blocks
        {
            return Err("parts of the system area overlap");
        }
        if u64::from(self.catalogue_sectors) * (super::catalogue::ENTRIES_PER_SECTOR as u64)
            < u64::from(self.extents)
        {
            return Err("the catalogue is smaller than the store");
        }
        Ok(())
    }
    /// Bytes a device must have to hold this store.
    #[must_use]
    pub fn store_bytes(&self) -> u64 {
        u64::from(self.extents) * self.geometry.extent_bytes()
    }
    /// Device offset of block `block` of the system area.
    #[must_use]
    pub fn system_offset(block: u64) -> u64 {
        block * BLOCK_BYTES
    }
    /// Refuse unknown features of the first class; true when the second class demands read-only.
    pub fn check_features(&self) -> Result<bool> {
        let unknown = self.features.refuse & !KNOWN.refuse;
        if unknown != 0 {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("the store uses features this program does not know (flags {unknown:#x})"),
                "use the Parallax release that made the store, or a later one",
            ));
        }
        Ok(self.features.read_only & !KNOWN.read_only != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::law::every_flipped_bit_is_found;

    fn sample() -> Superblock {
        Superblock {
            uuid: Uuid(0x1122_3344_5566_7788_99aa_bbcc_ddee_ff00),
            generation: Generation(1),
            geometry: Geometry { extent_bits: 18 },
            features: Features::default(),
            extents: 100,
            system_extents: 1,
            hosts_start: HOSTS_START,
            catalogue_start: 512,
            catalogue_sectors: 32,
            registry_start: 516,
            registry_entries: 4000,
            created_ns: 7,
        }
    }

    #[test]
    fn both_copies_round_trip_and_every_flipped_bit_is_found() {
        for copy in 0..2 {
            let block = sample().encode(copy);
            assert_eq!(Superblock::verify(&block, copy).unwrap(), sample());
            every_flipped_bit_is_found(&block[..BYTES], |b| Superblock::verify(b, copy).is_ok());
            assert!(Superblock::verify(&block, 1 - copy).is_err());
        }
    }

    #[test]
    fn a_catalogue_or_registry_that_no_memory_holds_is_refused() {
        let many = Superblock { extents: 1 << 20, system_extents: 1 << 19, ..sample() };
        let registry = Superblock { registry_entries: u32::MAX, ..many };
        let catalogue = Superblock { catalogue_sectors: 1 << 30, registry_start: 512 + (1 << 27), ..many };
        for sealed in [registry, catalogue] {
            assert!(Superblock::verify(&sealed.encode(0), 0).is_err());
        }
    }

    #[test]
    fn golden_bytes_stay() {
        let block = sample().encode(0);
        assert_eq!(block[..4], *b"PLXV");
        assert_eq!(block[64..72], [1, 0, 0, 0, 18, 0, 0, 0]);
        assert_eq!(crate::buffer::crc32c(&block), 3_206_828_793);
    }

    #[test]
    fn unknown_features_refuse_or_make_read_only_or_are_ignored() {
        let with = |features| Superblock { features, ..sample() }.check_features();
        assert!(!with(Features::default()).unwrap());
        let e = with(Features { refuse: 4, ..Features::default() }).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unsupported);
        assert!(with(Features { read_only: 4, ..Features::default() }).unwrap());
        assert!(!with(Features { ignore: 4, ..Features::default() }).unwrap());
    }
}
