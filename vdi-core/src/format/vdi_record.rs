//! The VDI record: everything of a VDI that must change together. Two slots, written in turn; the
//! highest (lease epoch, generation) that verifies wins. Place is the slot's block address.
//!
//! 512 bytes at the start of its block; the rest of the block is zero.
//!
//! | offset | size | unit | field |
//! |---|---|---|---|
//! | 0 | 64 | | header (generation: never restarts, not even when the blocks are reused) |
//! | 64 | 16 | | VDI id |
//! | 80 | 8 | | lease epoch |
//! | 88 | 8 | bytes | size |
//! | 96 | 8 | address | root node, zero for an empty tree |
//! | 104 | 4 | | CRC-32C of the root node |
//! | 108 | 1 | levels | depth |
//! | 109 | 3 | | reserved, zero |
//! | 112 | 8 | epoch | birth epoch of the root |
//! | 120 | 8 | epoch | current epoch |
//! | 128 | 8 | epoch | free threshold: only blocks born later may be freed when replaced |
//! | 136 | 8 | address | snapshot log: newest block, zero for none |
//! | 144 | 4 | | CRC-32C of that block |
//! | 148 | 4 | records | records in the whole snapshot log |
//! | 152 | 8 | epoch | birth epoch of that block |
//! | 160 | 16 | | applied through: log UUID |
//! | 176 | 8 | | applied through: incarnation |
//! | 184 | 8 | | applied through: segment |
//! | 192 | 8 | | applied through: the VDI's own sequence number |
//! | 200 | 16 | | parent VDI (of a clone), zero for none |
//! | 216 | 8 | epoch | the parent's snapshot |
//! | 224 | 8 | blocks | data blocks that the VDI and its snapshots hold |
//! | 232 | 8 | | generation of a host record, durable before this, that covers every block it names |
//! | 240 | 272 | | reserved, zero |

use zerocopy::little_endian::{U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Expect, HEADER_BYTES, Kind, seal, verify};
use crate::error::{Error, Result};
use crate::limits::{COUNTER_MAX, DEPTH_MAX, VDI_BYTES_MAX};
use crate::units::{
    BLOCK_SIZE, BlockAddr, Epoch, Generation, Incarnation, SECTOR_BYTES, SegmentSeq, Uuid, VdiId, VdiSeq,
};

/// Bytes that carry information.
pub const BYTES: usize = 512;

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Raw {
    header: [u8; HEADER_BYTES],
    id: U128,
    lease_epoch: U64,
    size_bytes: U64,
    root: U64,
    root_crc: U32,
    depth: u8,
    reserved_a: [u8; 3],
    root_birth: U64,
    epoch: U64,
    threshold: U64,
    snapshots: U64,
    snapshots_crc: U32,
    snapshots_count: U32,
    snapshots_birth: U64,
    applied_log: U128,
    applied_incarnation: U64,
    applied_segment: U64,
    applied_seq: U64,
    parent: U128,
    parent_epoch: U64,
    data_blocks: U64,
    host_generation: U64,
    reserved_b: [u8; 272],
}
const _: () = assert!(size_of::<Raw>() == BYTES);

/// How far the log has been applied to this VDI's tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Applied {
    /// Which log.
    pub log: Uuid,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// Last segment whose records of this VDI are all applied.
    pub segment: SegmentSeq,
    /// Last applied record, by the VDI's own count.
    pub seq: VdiSeq,
}

/// Newest block of a snapshot log, as a parent vouches for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SnapshotLogHead {
    /// Its address; none when there are no snapshots.
    pub addr: BlockAddr,
    /// Its checksum.
    pub crc: u32,
    /// Records in the whole list.
    pub count: u32,
    /// Epoch in which the block was written.
    pub birth: Epoch,
}

/// A verified record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VdiRecord {
    /// Which VDI.
    pub id: VdiId,
    /// Rises with each change of owner.
    pub lease_epoch: u64,
    /// Version of the record.
    pub generation: Generation,
    /// Size in bytes, a multiple of 512.
    pub size_bytes: u64,
    /// Root node.
    pub root: BlockAddr,
    /// Its checksum.
    pub root_crc: u32,
    /// Levels of the tree.
    pub depth: u8,
    /// Epoch in which the root was written.
    pub root_birth: Epoch,
    /// Current epoch.
    pub epoch: Epoch,
    /// Blocks born at or before this epoch may be shared.
    pub threshold: Epoch,
    /// Snapshot log.
    pub snapshots: SnapshotLogHead,
    /// How far the log is applied.
    pub applied: Applied,
    /// For a clone: the VDI and snapshot it came from.
    pub parent: Option<(VdiId, Epoch)>,
    /// Data blocks that the VDI and its snapshots hold, those shared with clones included. What a collection takes
    /// of removed snapshots is not subtracted: a tree does not say whose its blocks were.
    pub data_blocks: u64,
    /// A host record of this generation was durable before this record was written, and says of every block that
    /// this one names that it is used. Set when the record is written.
    pub host_generation: Generation,
}

impl VdiRecord {
    /// The whole block for slot `slot`.
    #[must_use]
    pub fn encode(&self, slot: BlockAddr, owner: Uuid) -> Vec<u8> {
        let (parent, parent_epoch) = self.parent.unwrap_or_default();
        let raw = Raw {
            header: [0; HEADER_BYTES],
            id: U128::new(self.id.0),
            lease_epoch: U64::new(self.lease_epoch),
            size_bytes: U64::new(self.size_bytes),
            root: U64::new(self.root.0),
            root_crc: U32::new(self.root_crc),
            depth: self.depth,
            reserved_a: [0; 3],
            root_birth: U64::new(self.root_birth.0),
            epoch: U64::new(self.epoch.0),
            threshold: U64::new(self.threshold.0),
            snapshots: U64::new(self.snapshots.addr.0),
            snapshots_crc: U32::new(self.snapshots.crc),
            snapshots_count: U32::new(self.snapshots.count),
            snapshots_birth: U64::new(self.snapshots.birth.0),
            applied_log: U128::new(self.applied.log.0),
            applied_incarnation: U64::new(self.applied.incarnation.0),
            applied_segment: U64::new(self.applied.segment.0),
            applied_seq: U64::new(self.applied.seq.0),
            parent: U128::new(parent.0),
            parent_epoch: U64::new(parent_epoch.0),
            data_blocks: U64::new(self.data_blocks),
            host_generation: U64::new(self.host_generation.0),
            reserved_b: [0; 272],
        };
        let mut block = vec![0; BLOCK_SIZE];
        block[..BYTES].copy_from_slice(raw.as_bytes());
        seal(&mut block[..BYTES], expect(slot, owner), self.generation);
        block
    }
    /// Check the block of slot `slot`.
    pub fn verify(block: &[u8], slot: BlockAddr, owner: Uuid) -> Result<VdiRecord> {
        let bytes = block.get(..BYTES).unwrap_or(block);
        let generation = verify(bytes, expect(slot, owner))?;
        let bad = |d: &str| Error::corrupt("VDI record", slot, d);
        let raw = Raw::read_from_bytes(bytes).map_err(|_| bad("wrong length"))?;
        if raw.reserved_a != [0; 3] || raw.reserved_b.iter().any(|b| *b != 0) {
            return Err(bad("a reserved field is not zero"));
        }
        let parent = VdiId(raw.parent.get());
        let record = VdiRecord {
            id: VdiId(raw.id.get()),
            lease_epoch: raw.lease_epoch.get(),
            generation,
            size_bytes: raw.size_bytes.get(),
            root: BlockAddr(raw.root.get()),
            root_crc: raw.root_crc.get(),
            depth: raw.depth,
            root_birth: Epoch(raw.root_birth.get()),
            epoch: Epoch(raw.epoch.get()),
            threshold: Epoch(raw.threshold.get()),
            snapshots: SnapshotLogHead {
                addr: BlockAddr(raw.snapshots.get()),
                crc: raw.snapshots_crc.get(),
                count: raw.snapshots_count.get(),
                birth: Epoch(raw.snapshots_birth.get()),
            },
            applied: Applied {
                log: Uuid(raw.applied_log.get()),
                incarnation: Incarnation(raw.applied_incarnation.get()),
                segment: SegmentSeq(raw.applied_segment.get()),
                seq: VdiSeq(raw.applied_seq.get()),
            },
            parent: (parent != VdiId(0)).then(|| (parent, Epoch(raw.parent_epoch.get()))),
            data_blocks: raw.data_blocks.get(),
            host_generation: Generation(raw.host_generation.get()),
        };
        record.check_shape().map_err(bad)?;
        Ok(record)
    }
    fn check_shape(&self) -> std::result::Result<(), &'static str> {
        if !(1..=DEPTH_MAX).contains(&self.depth) {
            return Err("depth out of range");
        }
        let covered = (BLOCK_SIZE as u64) << (8 * u32::from(self.depth));
        if self.size_bytes == 0 || self.size_bytes > VDI_BYTES_MAX.min(covered) {
            return Err("size out of range for its depth");
        }
        if !self.size_bytes.is_multiple_of(SECTOR_BYTES) {
            return Err("size is not a multiple of 512");
        }
        if self.epoch.0 > Epoch::MAX.0 / 2 {
            return Err("its epoch is higher than anybody counts");
        }
        if self.threshold >= self.epoch || self.root_birth > self.epoch {
            return Err("epochs are out of order");
        }
        let counters = [
            self.lease_epoch,
            self.applied.incarnation.0,
            self.applied.segment.0,
            self.applied.seq.0,
            self.host_generation.0,
        ];
        if counters.iter().any(|n| *n > COUNTER_MAX) {
            return Err("a counter is higher than anybody counts");
        }
        if self.root.0 >> BlockAddr::BITS != 0 || self.snapshots.addr.0 >> BlockAddr::BITS != 0 {
            return Err("an address has more than 48 bits");
        }
        Ok(())
    }
    /// Levels needed for `size_bytes`.
    #[must_use]
    pub fn depth_for(size_bytes: u64) -> u8 {
        let mut depth = 1;
        while depth < DEPTH_MAX && size_bytes > (BLOCK_SIZE as u64) << (8 * u32::from(depth)) {
            depth += 1;
        }
        depth
    }
}

fn expect(slot: BlockAddr, owner: Uuid) -> Expect {
    Expect { kind: Kind::VdiRecord, place: slot.0, owner }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::law::every_flipped_bit_is_found;

    #[test]
    fn a_record_round_trips_and_every_flipped_bit_is_found() {
        let r = VdiRecord {
            id: VdiId(1),
            lease_epoch: 2,
            generation: Generation(3),
            size_bytes: 20 << 30,
            root: BlockAddr(0x1234_5678_9abc),
            root_crc: 5,
            depth: 3,
            root_birth: Epoch(6),
            epoch: Epoch(7),
            threshold: Epoch(6),
            snapshots: SnapshotLogHead { addr: BlockAddr(9), crc: 10, count: 11, birth: Epoch(6) },
            applied: Applied {
                log: Uuid(12),
                incarnation: Incarnation(13),
                segment: SegmentSeq(14),
                seq: VdiSeq(15),
            },
            parent: Some((VdiId(16), Epoch(17))),
            data_blocks: 18,
            host_generation: Generation(19),
        };
        let block = r.encode(BlockAddr(40), Uuid(1));
        assert_eq!(VdiRecord::verify(&block, BlockAddr(40), Uuid(1)).unwrap(), r);
        every_flipped_bit_is_found(&block[..BYTES], |b| VdiRecord::verify(b, BlockAddr(40), Uuid(1)).is_ok());
        assert!(VdiRecord::verify(&block, BlockAddr(41), Uuid(1)).is_err());
        assert_eq!(crate::buffer::crc32c(&block), 2_652_595, "golden bytes");
    }

    #[test]
    fn counters_that_nobody_can_have_reached_are_refused() {
        let bytes = |change: &dyn Fn(&mut VdiRecord)| {
            let mut r = VdiRecord {
                id: VdiId(1),
                lease_epoch: 2,
                generation: Generation(3),
                size_bytes: 1 << 20,
                root: BlockAddr(9),
                root_crc: 5,
                depth: 1,
                root_birth: Epoch(1),
                epoch: Epoch(7),
                threshold: Epoch(6),
                snapshots: SnapshotLogHead::default(),
                applied: Applied::default(),
                parent: None,
                data_blocks: 256,
                host_generation: Generation(19),
            };
            change(&mut r);
            r.encode(BlockAddr(40), Uuid(1))
        };
        let sound = |bytes: Vec<u8>| VdiRecord::verify(&bytes, BlockAddr(40), Uuid(1)).is_ok();
        assert!(sound(bytes(&|_| {})));
        assert!(!sound(bytes(&|r| r.lease_epoch = u64::MAX)));
        assert!(!sound(bytes(&|r| r.applied.seq = VdiSeq(u64::MAX))));
        assert!(!sound(bytes(&|r| r.generation = Generation(u64::MAX))));
    }

    #[test]
    fn depth_follows_size_up_to_four_pebibytes() {
        for (size, depth) in
            [(512, 1), (1 << 20, 1), ((1 << 20) + 512, 2), (64 << 30, 3), (16 << 40, 4), (1 << 52, 5)]
        {
            assert_eq!(VdiRecord::depth_for(size), depth, "{size}");
        }
    }
}
