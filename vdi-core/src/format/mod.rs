//! Every structure on disk, one file each: layout table, struct, encode, verify, size assertion,
//! golden bytes. Nothing outside this folder touches a byte offset. All integers are little-endian.
//!
//! Every structure but the tree node (whose parent vouches for it) and records inside a segment
//! starts with this header:
//!
//! | offset | size | unit | field | protects against |
//! |---|---|---|---|---|
//! | 0 | 4 | | magic `PLXV` | something else entirely |
//! | 4 | 2 | | kind ([`Kind`]) | another structure of ours |
//! | 6 | 2 | | reserved, zero | |
//! | 8 | 4 | | CRC-32C of the whole structure with this field zero | torn writes, rot |
//! | 12 | 4 | bytes | length of the structure | a short read taken for a whole one |
//! | 16 | 8 | see file | place: the structure's own address | misdirected reads and writes |
//! | 24 | 8 | | generation | older copies |
//! | 32 | 16 | | UUID of the store (of the log, for log structures) | another store's bytes |
//! | 48 | 16 | | reserved, zero | |

pub mod catalogue;
pub mod extent;
pub mod flipped;
#[cfg(any(test, feature = "sim"))]
pub mod forge;
pub mod host;
pub mod log_head;
pub mod node;
pub mod record;
pub mod registry;
pub mod segment;
pub mod snapshot_chain;
pub mod snapshot_log;
pub mod staging;
pub mod succession;
pub mod superblock;
pub mod vdi_record;

use std::mem::offset_of;

use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::buffer::{crc32c, is_zero};
use crate::error::{Error, Result};
use crate::limits::COUNTER_MAX;
use crate::units::{Generation, Uuid};

/// What a structure is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum Kind {
    /// `superblock`
    Superblock = 1,
    /// `catalogue`: one sector of it.
    Catalogue = 2,
    /// `extent`: header.
    Extent = 3,
    /// `extent`: bitmap sector.
    Bitmap = 4,
    /// `registry`: one entry.
    Registry = 5,
    /// `vdi_record`
    VdiRecord = 6,
    /// `host`
    Host = 7,
    /// `snapshot_log`
    SnapshotLog = 8,
    /// `segment`
    Segment = 9,
    /// `log_head`
    LogHead = 10,
}

/// The common header; see the module table.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Header {
    magic: [u8; 4],
    kind: U16,
    reserved_a: U16,
    crc: U32,
    length: U32,
    place: U64,
    generation: U64,
    owner: U128,
    reserved_b: [u8; 16],
}

/// Bytes of [`Header`].
pub const HEADER_BYTES: usize = 64;
const MAGIC: [u8; 4] = *b"PLXV";
const CRC_AT: usize = offset_of!(Header, crc);
const _: () = assert!(size_of::<Header>() == HEADER_BYTES);

/// What a reader knows before it reads: a structure that says otherwise is not the one it wants.
#[derive(Clone, Copy, Debug)]
pub struct Expect {
    /// Which structure.
    pub kind: Kind,
    /// Its own address, in the unit its file states.
    pub place: u64,
    /// The store (or log) it belongs to.
    pub owner: Uuid,
}

/// Fill in the header of `bytes` (a whole structure whose first 64 bytes are the header's room) and seal it.
pub fn seal(bytes: &mut [u8], expect: Expect, generation: Generation) {
    let header = Header {
        magic: MAGIC,
        kind: U16::new(expect.kind as u16),
        reserved_a: U16::ZERO,
        crc: U32::ZERO,
        length: U32::new(u32::try_from(bytes.len()).expect("structures are small")),
        place: U64::new(expect.place),
        generation: U64::new(generation.0),
        owner: U128::new(expect.owner.0),
        reserved_b: [0; 16],
    };
    bytes[..HEADER_BYTES].copy_from_slice(header.as_bytes());
    let crc = crc32c(bytes);
    bytes[CRC_AT..CRC_AT + 4].copy_from_slice(U32::new(crc).as_bytes());
}

/// Check a sealed structure and return its generation. The error names what was found instead.
pub fn verify(bytes: &[u8], expect: Expect) -> Result<Generation> {
    let bad = |detail: String| Error::corrupt(&format!("{:?}", expect.kind), expect.place, detail);
    let (header, _) = Header::ref_from_prefix(bytes).map_err(|_| bad("shorter than its header".into()))?;
    if is_zero(bytes) {
        return Err(bad("never written (all zero)".into()));
    }
    if header.magic != MAGIC {
        return Err(bad(format!("magic is {:02x?}, expected {MAGIC:02x?}", header.magic)));
    }
    if header.length.get() as usize != bytes.len() {
        return Err(bad(format!("length is {}, expected {}", header.length, bytes.len())));
    }
    let found = header.crc.get();
    let mut copy = *header;
    copy.crc = U32::ZERO;
    let expected = crc32c_joined(copy.as_bytes(), &bytes[HEADER_BYTES..]);
    if found != expected {
        return Err(bad(format!("checksum is {found:#010x}, expected {expected:#010x}")));
    }
    if header.kind.get() != expect.kind as u16 {
        return Err(bad(format!("kind is {}, expected {}", header.kind, expect.kind as u16)));
    }
    if header.owner.get() != expect.owner.0 {
        let found = Uuid(header.owner.get());
        return Err(bad(format!("it belongs to {found}, not to {}", expect.owner)));
    }
    if header.place.get() != expect.place {
        return Err(bad(format!("it was written for place {}", header.place)));
    }
    if header.reserved_a.get() != 0 || header.reserved_b != [0; 16] {
        return Err(bad("a reserved field is not zero".into()));
    }
    let generation = header.generation.get();
    if generation > COUNTER_MAX {
        return Err(bad(format!("generation {generation} is higher than anybody counts")));
    }
    Ok(Generation(generation))
}

/// The owner that a structure claims, unverified (zero when too short): only those may ask who know nothing yet,
/// or look at what does not verify.
fn owner_of(bytes: &[u8]) -> Uuid {
    Header::ref_from_prefix(bytes).map_or(Uuid(0), |(h, _)| Uuid(h.owner.get()))
}

fn crc32c_joined(a: &[u8], b: &[u8]) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    digest.update(a);
    digest.update(b);
    digest.finalize() as u32
}

#[cfg(test)]
pub(crate) mod law {
    //! What every structure's tests assert.
    use super::*;

    /// Every single flipped bit of `bytes` must fail `verify`.
    pub fn every_flipped_bit_is_found(bytes: &[u8], verify: impl Fn(&[u8]) -> bool) {
        assert!(verify(bytes), "the structure itself verifies");
        let mut copy = bytes.to_vec();
        for bit in 0..bytes.len() * 8 {
            copy[bit / 8] ^= 1 << (bit % 8);
            assert!(!verify(&copy), "flipped bit {bit} went unnoticed");
            copy[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn a_header_protects_kind_place_owner_and_content() {
        let expect = Expect { kind: Kind::Host, place: 7, owner: Uuid(9) };
        let mut bytes = vec![0x5a; 512];
        seal(&mut bytes, expect, Generation(3));
        assert_eq!(verify(&bytes, expect).unwrap(), Generation(3));
        every_flipped_bit_is_found(&bytes, |b| verify(b, expect).is_ok());
        assert!(verify(&bytes, Expect { kind: Kind::Extent, ..expect }).is_err());
        assert!(verify(&bytes, Expect { place: 8, ..expect }).is_err());
        assert!(verify(&bytes, Expect { owner: Uuid(1), ..expect }).is_err());
        assert!(verify(&bytes[..256], expect).is_err());
        seal(&mut bytes, expect, Generation(u64::MAX));
        assert!(verify(&bytes, expect).is_err(), "whoever counts on from it would overflow");
    }
}
