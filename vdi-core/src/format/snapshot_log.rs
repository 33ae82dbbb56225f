//! Snapshot log: the list of a VDI's snapshots, as blocks of records that each name their predecessor.
//! The VDI record names the newest. Blocks are written whole to new addresses, never in place. Place is
//! the block's address; the generation is the number of records in all its predecessors, so a chain
//! cannot loop.
//!
//! | offset | size | unit | field |
//! |---|---|---|---|
//! | 0 | 64 | | header |
//! | 64 | 16 | | VDI id |
//! | 80 | 8 | address | predecessor, zero for the oldest block |
//! | 88 | 4 | | checksum in the predecessor's header, zero for the oldest block |
//! | 92 | 2 | records | in this block, at least one |
//! | 94 | 2 | bytes | of records |
//! | 96 | 4000 | | records, oldest first; the rest is zero |
//!
//! Record:
//!
//! | offset | size | unit | field |
//! |---|---|---|---|
//! | 0 | 1 | | kind: 1 snapshot, 2 label, 3 removal |
//! | 1 | 1 | bytes | length of the label |
//! | 2 | 1 | levels | depth of the tree (snapshot only) |
//! | 3 | 1 | | reserved, zero |
//! | 4 | 4 | | CRC-32C of the root node (snapshot only) |
//! | 8 | 8 | epoch | the snapshot |
//! | 16 | 8 | ns since 1970 | when it was taken (snapshot only, as all below) |
//! | 24 | 8 | address | root node, zero for an empty tree |
//! | 32 | 8 | epoch | birth epoch of the root node |
//! | 40 | 8 | bytes | size of the disk |
//! | 16 or 48 | length | UTF-8 | label |

use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::node::Root;
use super::{Expect, HEADER_BYTES, Header, Kind, seal, verify};
use crate::error::{Error, Result};
use crate::limits::{LABEL_BYTES_MAX, VDI_BYTES_MAX};
use crate::units::{BLOCK_BYTES, BLOCK_SIZE, BlockAddr, Epoch, Generation, SECTOR_BYTES, Uuid, VdiId};

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawBlock {
    header: [u8; HEADER_BYTES],
    vdi: U128,
    predecessor: U64,
    predecessor_crc: U32,
    records: U16,
    records_bytes: U16,
    room: [u8; RECORDS_BYTES_MAX],
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHead {
    kind: u8,
    label_bytes: u8,
    depth: u8,
    reserved: u8,
    root_crc: U32,
    epoch: U64,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawSnapshot {
    wall_ns: U64,
    root: U64,
    root_birth: U64,
    size_bytes: U64,
}

/// Bytes of records that one block holds.
pub const RECORDS_BYTES_MAX: usize = 4000;
const SNAPSHOT: u8 = 1;
const LABEL: u8 = 2;
const REMOVAL: u8 = 3;
const _: () = {
    assert!(size_of::<RawBlock>() == BLOCK_SIZE);
    assert!(size_of::<RawHead>() == 16 && size_of::<RawSnapshot>() == 32);
    assert!(LABEL_BYTES_MAX <= u8::MAX as usize);
};

/// One snapshot of a VDI.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snapshot {
    /// Its number: the epoch it ended.
    pub epoch: Epoch,
    /// When it was taken, ns since 1970, for people.
    pub wall_ns: u64,
    /// The tree as it was.
    pub root: Root,
    /// Size of the disk as it was, bytes.
    pub size_bytes: u64,
    /// Its label; empty for none.
    pub label: String,
}

/// What happened to the list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SnapshotRecord {
    /// A snapshot was taken.
    Taken(Snapshot),
    /// A snapshot has a new label; an empty one takes the label away.
    Labelled {
        /// Which snapshot.
        snapshot: Epoch,
        /// The new label.
        label: String,
    },
    /// A snapshot was removed.
    Removed {
        /// Which snapshot.
        snapshot: Epoch,
    },
}

impl SnapshotRecord {
    /// Bytes that the record takes in a block.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        size_of::<RawHead>()
            + match self {
                SnapshotRecord::Taken(s) => size_of::<RawSnapshot>() + s.label.len(),
                SnapshotRecord::Labelled { label, .. } => label.len(),
                SnapshotRecord::Removed { .. } => 0,
            }
    }
    fn encode(&self, out: &mut Vec<u8>) {
        let (kind, epoch, label) = match self {
            SnapshotRecord::Taken(s) => (SNAPSHOT, s.epoch, s.label.as_str()),
            SnapshotRecord::Labelled { snapshot, label } => (LABEL, *snapshot, label.as_str()),
            SnapshotRecord::Removed { snapshot } => (REMOVAL, *snapshot, ""),
        };
        assert!(label.len() <= LABEL_BYTES_MAX, "labels are checked where they come in");
        let mut head = RawHead {
            kind,
            label_bytes: label.len() as u8,
            depth: 0,
            reserved: 0,
            root_crc: U32::ZERO,
            epoch: U64::new(epoch.0),
        };
        if let SnapshotRecord::Taken(s) = self {
            (head.depth, head.root_crc) = (s.root.depth, U32::new(s.root.crc));
            out.extend_from_slice(head.as_bytes());
            let raw = RawSnapshot {
                wall_ns: U64::new(s.wall_ns),
                root: U64::new(s.root.addr.0),
                root_birth: U64::new(s.root.birth.0),
                size_bytes: U64::new(s.size_bytes),
            };
            out.extend_from_slice(raw.as_bytes());
        } else {
            out.extend_from_slice(head.as_bytes());
        }
        out.extend_from_slice(label.as_bytes());
    }
    /// Decode one record from the front of `bytes`; returns the rest.
    fn decode(bytes: &[u8]) -> std::result::Result<(SnapshotRecord, &[u8]), String> {
        let cut = |_| "a record is cut short".to_owned();
        let (head, rest) = RawHead::read_from_prefix(bytes).map_err(|e| cut(e.to_string()))?;
        let snapshot = Epoch(head.epoch.get());
        if head.reserved != 0 || snapshot > Epoch::MAX {
            return Err(format!("the record of {snapshot:?} has reserved bits set"));
        }
        if head.kind != SNAPSHOT && (head.depth != 0 || head.root_crc != U32::ZERO) {
            return Err(format!("the record of {snapshot:?} has a root, but is not a snapshot"));
        }
        let (raw, rest) = match head.kind {
            SNAPSHOT => RawSnapshot::read_from_prefix(rest).map_err(|e| cut(e.to_string()))?,
            LABEL | REMOVAL => (RawSnapshot::new_zeroed(), rest),
            kind => return Err(format!("unknown record kind {kind}")),
        };
        let (label, rest) = rest
            .split_at_checked(usize::from(head.label_bytes))
            .ok_or_else(|| format!("the label of {snapshot:?} is cut short"))?;
        let label = std::str::from_utf8(label)
            .ok()
            .filter(|l| l.len() <= LABEL_BYTES_MAX && !l.contains(char::is_control))
            .ok_or_else(|| format!("the label of {snapshot:?} is not one"))?
            .to_owned();
        let record = match head.kind {
            SNAPSHOT => SnapshotRecord::Taken(decode_snapshot(&head, &raw, label)?),
            LABEL => SnapshotRecord::Labelled { snapshot, label },
            _ if label.is_empty() => SnapshotRecord::Removed { snapshot },
            _ => return Err(format!("the removal of {snapshot:?} has a label")),
        };
        Ok((record, rest))
    }
}

fn decode_snapshot(
    head: &RawHead,
    raw: &RawSnapshot,
    label: String,
) -> std::result::Result<Snapshot, String> {
    let epoch = Epoch(head.epoch.get());
    let root = Root {
        addr: BlockAddr(raw.root.get()),
        crc: head.root_crc.get(),
        birth: Epoch(raw.root_birth.get()),
        depth: head.depth,
    };
    root.verify().map_err(|e| format!("snapshot {}: {}", epoch.0, e.message()))?;
    let size_bytes = raw.size_bytes.get();
    if size_bytes == 0 || !size_bytes.is_multiple_of(SECTOR_BYTES) {
        return Err(format!("snapshot {} has {size_bytes} bytes, which is no size", epoch.0));
    }
    if root.birth > epoch || size_bytes > VDI_BYTES_MAX.min(root.capacity_blocks() * BLOCK_BYTES) {
        return Err(format!("snapshot {} is younger than its root, or too large for its depth", epoch.0));
    }
    Ok(Snapshot { epoch, wall_ns: raw.wall_ns.get(), root, size_bytes, label })
}

/// A link to a block of the list: its address, and the checksum in its header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockLink {
    /// Where it lies.
    pub addr: BlockAddr,
    /// CRC-32C in its header.
    pub crc: u32,
}

/// A verified block of the list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotBlock {
    /// The block before, None for the oldest.
    pub predecessor: Option<BlockLink>,
    /// Records in all blocks before.
    pub records_before: u64,
    /// The records, oldest first; at least one.
    pub records: Vec<SnapshotRecord>,
}

impl SnapshotBlock {
    /// The 4 KiB for address `addr` of VDI `vdi` in store `owner`, and the link to them. Panics when the
    /// records do not fit.
    #[must_use]
    pub fn encode(&self, addr: BlockAddr, vdi: VdiId, owner: Uuid) -> (Vec<u8>, BlockLink) {
        let mut records = Vec::with_capacity(RECORDS_BYTES_MAX);
        self.records.iter().for_each(|r| r.encode(&mut records));
        let records_bytes = records.len();
        assert!(
            !records.is_empty() && records_bytes <= RECORDS_BYTES_MAX,
            "{records_bytes} bytes of records"
        );
        records.resize(RECORDS_BYTES_MAX, 0);
        let (predecessor, predecessor_crc) = self.predecessor.map_or((0, 0), |l| (l.addr.0, l.crc));
        let raw = RawBlock {
            header: [0; HEADER_BYTES],
            vdi: U128::new(vdi.0),
            predecessor: U64::new(predecessor),
            predecessor_crc: U32::new(predecessor_crc),
            records: U16::new(self.records.len() as u16),
            records_bytes: U16::new(records_bytes as u16),
            room: records.try_into().expect("resized to the room"),
        };
        let mut bytes = raw.as_bytes().to_vec();
        seal(&mut bytes, expect(addr, owner), Generation(self.records_before));
        let crc = header_crc(&bytes);
        (bytes, BlockLink { addr, crc })
    }
    /// Check the 4 KiB that `link` names.
    pub fn verify(bytes: &[u8], link: BlockLink, vdi: VdiId, owner: Uuid) -> Result<SnapshotBlock> {
        let bad = |detail: String| Error::corrupt("snapshot log", link.addr, detail);
        let raw = RawBlock::ref_from_bytes(bytes).map_err(|_| bad("it is not one block".into()))?;
        let records_before = verify(bytes, expect(link.addr, owner))?.0;
        let found = header_crc(bytes);
        if found != link.crc {
            return Err(bad(format!("checksum is {found:#010x}, its successor says {:#010x}", link.crc)));
        }
        if raw.vdi.get() != vdi.0 {
            return Err(bad(format!("it belongs to VDI {}, not to {vdi}", VdiId(raw.vdi.get()))));
        }
        let (mut rest, unused) = raw
            .room
            .split_at_checked(usize::from(raw.records_bytes.get()))
            .ok_or_else(|| bad("more records than fit".into()))?;
        let mut records = Vec::new();
        while !rest.is_empty() {
            let (record, next) = SnapshotRecord::decode(rest).map_err(bad)?;
            records.push(record);
            rest = next;
        }
        if records.is_empty() || records.len() != usize::from(raw.records.get()) {
            return Err(bad(format!("{} records, its header says {}", records.len(), raw.records)));
        }
        if unused.iter().any(|b| *b != 0) {
            return Err(bad("the unused room is not zero".into()));
        }
        let addr = BlockAddr(raw.predecessor.get());
        let crc = raw.predecessor_crc.get();
        if addr.0 >> BlockAddr::BITS != 0
            || addr.is_none() != (records_before == 0)
            || (addr.is_none() && crc != 0)
        {
            return Err(bad(format!("{records_before} records before it, and {addr} as predecessor")));
        }
        let predecessor = (!addr.is_none()).then_some(BlockLink { addr, crc });
        Ok(SnapshotBlock { predecessor, records_before, records })
    }
}

fn expect(addr: BlockAddr, owner: Uuid) -> Expect {
    Expect { kind: Kind::SnapshotLog, place: addr.0, owner }
}

fn header_crc(bytes: &[u8]) -> u32 {
    let (header, _) = Header::ref_from_prefix(bytes).expect("verified or just sealed");
    header.crc.get()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::law::every_flipped_bit_is_found;

    const VDI: VdiId = VdiId(5);
    const STORE: Uuid = Uuid(6);

    fn sample() -> SnapshotBlock {
        let root = Root { addr: BlockAddr(0x1234), crc: 7, birth: Epoch(3), depth: 3 };
        let taken =
            Snapshot { epoch: Epoch(4), wall_ns: 5, root, size_bytes: 1 << 30, label: "before".into() };
        SnapshotBlock {
            predecessor: Some(BlockLink { addr: BlockAddr(0x99), crc: 0xabcd }),
            records_before: 17,
            records: vec![
                SnapshotRecord::Taken(taken),
                SnapshotRecord::Labelled { snapshot: Epoch(2), label: "näch".into() },
                SnapshotRecord::Removed { snapshot: Epoch(1) },
            ],
        }
    }

    #[test]
    fn golden_bytes() {
        let (bytes, link) = sample().encode(BlockAddr(0x42), VDI, STORE);
        let hex: String = bytes[64..172].iter().map(|b| format!("{b:02x}")).collect();
        let expected = concat!(
            "05000000000000000000000000000000",
            "9900000000000000",
            "cdab0000",
            "0300",
            "5b00",
            "01060300",
            "07000000",
            "0400000000000000",
            "0500000000000000",
            "3412000000000000",
            "0300000000000000",
            "0000004000000000",
            "6265666f7265",
            "02050000",
            "00000000",
            "0200000000000000",
            "6ec3a46368",
            "03",
        );
        assert_eq!(hex, expected);
        assert_eq!(
            link.crc,
            crate::buffer::crc32c(&{
                let mut b = bytes.clone();
                b[8..12].fill(0);
                b
            })
        );
    }

    #[test]
    fn a_block_round_trips_and_every_flipped_bit_is_found() {
        let block = sample();
        let (bytes, link) = block.encode(BlockAddr(0x42), VDI, STORE);
        assert_eq!(SnapshotBlock::verify(&bytes, link, VDI, STORE).unwrap(), block);
        every_flipped_bit_is_found(&bytes, |b| SnapshotBlock::verify(b, link, VDI, STORE).is_ok());
        for (other, vdi) in [(BlockLink { crc: 1, ..link }, VDI), (link, VdiId(1))] {
            assert!(SnapshotBlock::verify(&bytes, other, vdi, STORE).is_err());
        }
    }

    #[test]
    fn sealed_nonsense_is_refused_without_panic() {
        let (good, _) = sample().encode(BlockAddr(0x42), VDI, STORE);
        for at in 64..200 {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bytes = good.clone();
                bytes[at] = value;
                seal(&mut bytes, expect(BlockAddr(0x42), STORE), Generation(17));
                let link = BlockLink { addr: BlockAddr(0x42), crc: header_crc(&bytes) };
                if let Ok(block) = SnapshotBlock::verify(&bytes, link, VDI, STORE) {
                    assert_eq!(
                        block.encode(BlockAddr(0x42), VDI, STORE).0,
                        bytes,
                        "one meaning, one encoding"
                    );
                }
            }
        }
    }
}
