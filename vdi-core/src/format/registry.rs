//! The registry: which VDIs there are, and where each one's record lies. One 512-byte entry each,
//! changed by compare-and-swap of its sector. Place is the entry's index.
//!
//! | offset | size | unit | field |
//! |---|---|---|---|
//! | 0 | 64 | | header |
//! | 64 | 1 | | state: 0 free, 1 live |
//! | 65 | 1 | bytes | length of the name |
//! | 66 | 2 | slot | host that owns the record |
//! | 68 | 4 | | reserved, zero |
//! | 72 | 16 | | VDI id |
//! | 88 | 16 | address | the two slots of its record |
//! | 104 | 8 | ns | creation time, wall clock |
//! | 112 | 64 | UTF-8 | name, zero-padded |
//! | 176 | 336 | | reserved, zero |

use zerocopy::little_endian::{U16, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Expect, HEADER_BYTES, Kind, seal, verify};
use crate::error::{Error, Result};
use crate::limits::NAME_BYTES_MAX;
use crate::units::{BlockAddr, Generation, Uuid, VdiId};

/// Bytes of an entry.
pub const BYTES: usize = 512;

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Raw {
    header: [u8; HEADER_BYTES],
    state: u8,
    name_len: u8,
    host: U16,
    reserved_a: [u8; 4],
    id: U128,
    slots: [U64; 2],
    created_ns: U64,
    name: [u8; 64],
    reserved_b: [u8; 336],
}
const _: () = assert!(size_of::<Raw>() == BYTES);

/// A live VDI.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RegistryEntry {
    /// Its identity.
    pub id: VdiId,
    /// Its name.
    pub name: String,
    /// Host slot that owns the record.
    pub host: u16,
    /// Where the record's two slots lie.
    pub slots: [BlockAddr; 2],
    /// When it was created, wall clock ns.
    pub created_ns: u64,
}

/// Encode entry `index`; None is a free one.
#[must_use]
pub fn encode(index: u32, entry: Option<&RegistryEntry>, owner: Uuid, generation: Generation) -> Vec<u8> {
    let mut raw = Raw::new_zeroed_entry();
    if let Some(e) = entry {
        assert!(!e.name.is_empty() && e.name.len() <= NAME_BYTES_MAX);
        raw.state = 1;
        raw.name_len = e.name.len() as u8;
        raw.host = U16::new(e.host);
        raw.id = U128::new(e.id.0);
        raw.slots = e.slots.map(|a| U64::new(a.0));
        raw.created_ns = U64::new(e.created_ns);
        raw.name[..e.name.len()].copy_from_slice(e.name.as_bytes());
    }
    let mut bytes = raw.as_bytes().to_vec();
    seal(&mut bytes, expect(index, owner), generation);
    bytes
}

impl Raw {
    fn new_zeroed_entry() -> Raw {
        Raw {
            header: [0; HEADER_BYTES],
            state: 0,
            name_len: 0,
            host: U16::ZERO,
            reserved_a: [0; 4],
            id: U128::ZERO,
            slots: [U64::ZERO; 2],
            created_ns: U64::ZERO,
            name: [0; 64],
            reserved_b: [0; 336],
        }
    }
}

/// Check entry `index`.
pub fn decode(bytes: &[u8], index: u32, owner: Uuid) -> Result<(Option<RegistryEntry>, Generation)> {
    let generation = verify(bytes, expect(index, owner))?;
    let place = format!("entry {index}");
    let bad = |d: &str| Error::corrupt("VDI registry", &place, d);
    let raw = Raw::read_from_bytes(bytes).map_err(|_| bad("wrong length"))?;
    if raw.reserved_a != [0; 4] || raw.reserved_b.iter().any(|b| *b != 0) {
        return Err(bad("a reserved field is not zero"));
    }
    match raw.state {
        0 => Ok((None, generation)),
        1 => {
            let len = usize::from(raw.name_len);
            let name = raw.name.get(..len).filter(|_| (1..=NAME_BYTES_MAX).contains(&len));
            let name = name.and_then(|n| std::str::from_utf8(n).ok()).ok_or_else(|| bad("bad name"))?;
            let entry = RegistryEntry {
                id: VdiId(raw.id.get()),
                name: name.to_owned(),
                host: raw.host.get(),
                slots: raw.slots.map(|a| BlockAddr(a.get())),
                created_ns: raw.created_ns.get(),
            };
            Ok((Some(entry), generation))
        }
        _ => Err(bad("unknown state")),
    }
}

fn expect(index: u32, owner: Uuid) -> Expect {
    Expect { kind: Kind::Registry, place: u64::from(index), owner }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::law::every_flipped_bit_is_found;

    #[test]
    fn an_entry_round_trips_and_every_flipped_bit_is_found() {
        let e = RegistryEntry {
            id: VdiId(77),
            name: "web".into(),
            host: 0,
            slots: [BlockAddr(5), BlockAddr(6)],
            created_ns: 8,
        };
        let bytes = encode(3, Some(&e), Uuid(1), Generation(2));
        assert_eq!(decode(&bytes, 3, Uuid(1)).unwrap(), (Some(e), Generation(2)));
        every_flipped_bit_is_found(&bytes, |b| decode(b, 3, Uuid(1)).is_ok());
        let free = encode(3, None, Uuid(1), Generation(9));
        assert_eq!(decode(&free, 3, Uuid(1)).unwrap(), (None, Generation(9)));
        // Golden bytes: these structures are on disks.
        assert_eq!(
            (crate::buffer::crc32c(&bytes), crate::buffer::crc32c(&free)),
            (3_758_653_054, 1_702_427_603)
        );
    }
}
