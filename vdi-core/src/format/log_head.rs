//! The head of a log: two slots at the start of the log device. Each write of the head goes to one slot,
//! is flushed, then to the other; the highest generation that verifies counts. The common header's place
//! is the slot's byte offset, its generation counts head writes, its owner is the log's UUID.
//!
//! | offset | size | unit | field | protects against |
//! |---|---|---|---|---|
//! | 0 | 64 | | common header | |
//! | 64 | 16 | | UUID of the store this log belongs to | replay into another store |
//! | 80 | 8 | bytes | ring, which starts after the two slots | a truncated file |
//! | 88 | 8 | | incarnation | |
//! | 96 | 8 | | first sequence of this incarnation | |
//! | 104 | 8 | bytes | where that segment goes, from the start of the device | a rotten last recovered segment |
//! | 112 | 8 | | recovered through: last sequence the recovery kept | a discarded tail that comes back |
//! | 120 | 4 | | recovered records: how many records of that segment it kept | the same within a segment |
//! | 124 | 4 | | checksum of that segment's head area | |
//! | 128 | 8 | | tail: sequence of the oldest segment still needed | |
//! | 136 | 8 | bytes | where the tail is, from the start of the device | |
//! | 144 | 4 | | checksum of the head area before the tail | |
//! | 148 | 4 | | format version, 2; 1 has zeros at 176 | |
//! | 152 | 8 | | durable through: highest sequence known flushed | rot taken for a torn tail |
//! | 160 | 4 | | VDIs remembered | |
//! | 164 | 4 | | 1: retired, nothing in it is needed, 0: not | a log that the store has lost track of |
//! | 168 | 8 | | recovered incarnation: that of the segment at 112 | a discarded tail that comes back behind a gap |
//! | 176 | 8 | | staged in: the boot of the host whose staging memory may hold what the ring does not; zero: none does | acknowledged writes that are not looked for |
//! | 184 | 8 | | the life that stages there; zero: none does | the staging memory of another life |
//! | 192 | 32 each | | VDI 16, lease epoch 8, generation 8 of the record that allowed trimming; 2^62 in both: durable writes of it are lost | an older VDI record |
//! | then | to 4 KiB | | padding, zero | |

use zerocopy::little_endian::{U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Expect, Header, Kind, seal, verify};
use crate::buffer::{AlignedBuf, is_zero};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::{COUNTER_MAX, LOG_VDIS_MAX};
use crate::units::{BLOCK_BYTES, BLOCK_SIZE, Generation, Incarnation, SegmentSeq, Uuid, VdiId};

/// Bytes of a slot.
pub const SLOT_BYTES: usize = 128 << 10;
/// Slots.
pub const SLOTS: u64 = 2;
/// Where the ring starts, bytes from the start of the log device.
pub const RING_OFFSET_BYTES: u64 = SLOTS * SLOT_BYTES as u64;
const VERSION: u32 = 2;
const VERSION_MIN: u32 = 1;

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct DiskHead {
    header: Header,
    store: U128,
    ring_bytes: U64,
    incarnation: U64,
    first_seq: U64,
    start_offset_bytes: U64,
    recovered_through: U64,
    recovered_records: U32,
    recovered_crc: U32,
    tail_seq: U64,
    tail_offset_bytes: U64,
    tail_previous_crc: U32,
    version: U32,
    durable_through: U64,
    vdis: U32,
    retired: U32,
    recovered_incarnation: U64,
    staged_in_boot: U64,
    staged_in_life: U64,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct DiskVdi {
    vdi: U128,
    lease_epoch: U64,
    generation: U64,
}

const HEAD_BYTES: usize = 192;
const VDI_BYTES: usize = 32;
const _: () = {
    assert!(size_of::<DiskHead>() == HEAD_BYTES && size_of::<DiskVdi>() == VDI_BYTES);
    assert!(HEAD_BYTES + LOG_VDIS_MAX * VDI_BYTES <= SLOT_BYTES);
    assert!(SLOT_BYTES.is_multiple_of(BLOCK_SIZE));
};

/// The version of a VDI's record whose durability allowed trimming; an older one is corruption.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct VdiGeneration {
    /// Which VDI.
    pub vdi: VdiId,
    /// Lease epoch of its record.
    pub lease_epoch: u64,
    /// Generation of its record.
    pub generation: Generation,
}

impl VdiGeneration {
    /// Writes of `vdi` that were durable are lost with a part of the log: no record is new enough ever again.
    #[must_use]
    pub fn lost(vdi: VdiId) -> VdiGeneration {
        VdiGeneration { vdi, lease_epoch: COUNTER_MAX, generation: Generation(COUNTER_MAX) }
    }
    /// Whether it says so.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        *self == VdiGeneration::lost(self.vdi)
    }
    /// What is wrong with a record of generation `found`, which is older.
    #[must_use]
    pub fn complaint(&self, found: Generation) -> String {
        if self.is_lost() {
            return "writes of it that were durable are lost: the part of the log that held them was damaged"
                .to_owned();
        }
        format!("generation {} is older than {}, which was durable", found.0, self.generation.0)
    }
}

/// Which staging memory a log has; none by default.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StagedIn {
    /// The boot of the host.
    pub boot: u64,
    /// The life of the log: a random number.
    pub life: u64,
}

/// What a log's head says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogHead {
    /// The log.
    pub log: Uuid,
    /// The store it belongs to.
    pub store: Uuid,
    /// Counts writes of the head.
    pub generation: Generation,
    /// Length of the ring, bytes.
    pub ring_bytes: u64,
    /// This life of the log.
    pub incarnation: Incarnation,
    /// Its first segment.
    pub first_seq: SegmentSeq,
    /// Where that segment goes, bytes from the start of the device.
    pub start_offset_bytes: u64,
    /// The last segment its recovery kept (below `first_seq`).
    pub recovered_through: SegmentSeq,
    /// The incarnation that wrote that segment.
    pub recovered_incarnation: Incarnation,
    /// How many of that segment's records it kept.
    pub recovered_records: u32,
    /// Checksum of that segment's head area.
    pub recovered_crc: u32,
    /// The oldest segment still needed: where a scan starts.
    pub tail_seq: SegmentSeq,
    /// Where it is, bytes from the start of the device.
    pub tail_offset_bytes: u64,
    /// Checksum of the head area before it.
    pub tail_previous_crc: u32,
    /// Highest segment known flushed when the head was written.
    pub durable_through: SegmentSeq,
    /// Whose staging memory may hold what the ring does not.
    pub staged_in: StagedIn,
    /// Whether nothing in it is needed: its store names it no longer, or will soon not.
    pub retired: bool,
    /// Sorted by VDI, each once.
    pub vdis: Vec<VdiGeneration>,
}

/// Byte offset of slot `slot`.
#[must_use]
pub const fn slot_offset_bytes(slot: u64) -> u64 {
    slot * SLOT_BYTES as u64
}

/// Encode `head` for slot `slot`.
#[must_use]
pub fn encode(head: &LogHead, slot: u64) -> AlignedBuf {
    assert!(head.vdis.len() <= LOG_VDIS_MAX && slot < SLOTS);
    assert!(head.vdis.is_sorted_by(|a, b| a.vdi < b.vdi), "each VDI once, in order");
    let used = HEAD_BYTES + head.vdis.len() * VDI_BYTES;
    let mut buf = AlignedBuf::zeroed(used.next_multiple_of(BLOCK_SIZE));
    let (disk, rest) = DiskHead::mut_from_prefix(&mut buf[..]).expect("a slot holds its head");
    disk.store = U128::new(head.store.0);
    disk.ring_bytes = U64::new(head.ring_bytes);
    disk.incarnation = U64::new(head.incarnation.0);
    disk.first_seq = U64::new(head.first_seq.0);
    disk.start_offset_bytes = U64::new(head.start_offset_bytes);
    disk.recovered_through = U64::new(head.recovered_through.0);
    disk.recovered_incarnation = U64::new(head.recovered_incarnation.0);
    disk.recovered_records = U32::new(head.recovered_records);
    disk.recovered_crc = U32::new(head.recovered_crc);
    disk.tail_seq = U64::new(head.tail_seq.0);
    disk.tail_offset_bytes = U64::new(head.tail_offset_bytes);
    disk.tail_previous_crc = U32::new(head.tail_previous_crc);
    disk.version = U32::new(VERSION);
    disk.durable_through = U64::new(head.durable_through.0);
    disk.staged_in_boot = U64::new(head.staged_in.boot);
    disk.staged_in_life = U64::new(head.staged_in.life);
    disk.retired = U32::new(u32::from(head.retired));
    disk.vdis = U32::new(u32::try_from(head.vdis.len()).expect("bounded above"));
    for (bytes, v) in rest.chunks_exact_mut(VDI_BYTES).zip(&head.vdis) {
        let entry = DiskVdi {
            vdi: U128::new(v.vdi.0),
            lease_epoch: U64::new(v.lease_epoch),
            generation: U64::new(v.generation.0),
        };
        bytes.copy_from_slice(entry.as_bytes());
    }
    seal(&mut buf, expect(head.log, slot), head.generation);
    buf
}

fn expect(log: Uuid, slot: u64) -> Expect {
    Expect { kind: Kind::LogHead, place: slot_offset_bytes(slot), owner: log }
}

/// The UUIDs of log and store that slot bytes claim, checksum verified but nothing expected; None when
/// they hold no head at all.
#[must_use]
pub fn identify(bytes: &[u8], slot: u64) -> Option<(Uuid, Uuid)> {
    let (disk, _) = DiskHead::ref_from_prefix(bytes).ok()?;
    let log = Uuid(disk.header.owner.get());
    let area = bytes.get(..disk.header.length.get() as usize)?;
    verify(area, expect(log, slot)).ok()?;
    Some((log, Uuid(disk.store.get())))
}

/// Verify the bytes of slot `slot` as a head of the log `log`.
pub fn verify_slot(bytes: &[u8], log: Uuid, slot: u64) -> Result<LogHead> {
    let bad = |detail: &str| Error::corrupt("log head", format!("slot {slot}"), detail);
    let (disk, _) = DiskHead::ref_from_prefix(bytes).map_err(|_| bad("shorter than itself"))?;
    let length = disk.header.length.get() as usize;
    let area = bytes.get(..length).ok_or_else(|| bad("its length is beyond its slot"))?;
    let generation = verify(area, expect(log, slot))?;
    let (disk, rest) = DiskHead::ref_from_prefix(area).map_err(|_| bad("shorter than its fields"))?;
    if !(VERSION_MIN..=VERSION).contains(&disk.version.get()) {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("the log has format version {}, this program knows {VERSION}", disk.version),
            "open the store with the version that wrote it, or a newer one",
        ));
    }
    let (entries, padding) = <[DiskVdi]>::ref_from_prefix_with_elems(rest, disk.vdis.get() as usize)
        .map_err(|_| bad("its VDIs do not fit its length"))?;
    let head = LogHead {
        log,
        store: Uuid(disk.store.get()),
        generation,
        ring_bytes: disk.ring_bytes.get(),
        incarnation: Incarnation(disk.incarnation.get()),
        first_seq: SegmentSeq(disk.first_seq.get()),
        start_offset_bytes: disk.start_offset_bytes.get(),
        recovered_through: SegmentSeq(disk.recovered_through.get()),
        recovered_incarnation: Incarnation(disk.recovered_incarnation.get()),
        recovered_records: disk.recovered_records.get(),
        recovered_crc: disk.recovered_crc.get(),
        tail_seq: SegmentSeq(disk.tail_seq.get()),
        tail_offset_bytes: disk.tail_offset_bytes.get(),
        tail_previous_crc: disk.tail_previous_crc.get(),
        durable_through: SegmentSeq(disk.durable_through.get()),
        staged_in: StagedIn { boot: disk.staged_in_boot.get(), life: disk.staged_in_life.get() },
        retired: disk.retired.get() == 1,
        vdis: entries.iter().map(friendly).collect(),
    };
    let reserved_hold = disk.retired.get() <= 1 && is_zero(padding);
    if !reserved_hold || !head.holds() {
        return Err(bad("its fields contradict each other, or a reserved field is not zero"));
    }
    Ok(head)
}

fn friendly(d: &DiskVdi) -> VdiGeneration {
    VdiGeneration {
        vdi: VdiId(d.vdi.get()),
        lease_epoch: d.lease_epoch.get(),
        generation: Generation(d.generation.get()),
    }
}

impl LogHead {
    /// Relations between fields that every head keeps.
    fn holds(&self) -> bool {
        let in_ring = |offset: u64| {
            offset.is_multiple_of(BLOCK_BYTES)
                && offset >= RING_OFFSET_BYTES
                && offset - RING_OFFSET_BYTES < self.ring_bytes
        };
        let counters = [self.incarnation.0, self.first_seq.0, self.tail_seq.0, self.durable_through.0];
        counters.iter().all(|n| *n <= COUNTER_MAX)
            && self.vdis.iter().all(|v| v.lease_epoch.max(v.generation.0) <= COUNTER_MAX)
            && self.ring_bytes.is_multiple_of(BLOCK_BYTES)
            && in_ring(self.tail_offset_bytes)
            && in_ring(self.start_offset_bytes)
            && self.recovered_through < self.first_seq
            && self.recovered_incarnation <= self.incarnation
            && (self.tail_seq <= self.recovered_through || self.tail_seq >= self.first_seq)
            && self.durable_through >= self.recovered_through
            && self.vdis.is_sorted_by(|a, b| a.vdi < b.vdi)
            && self.vdis.len() <= LOG_VDIS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::law::every_flipped_bit_is_found;
    use crate::format::{HEADER_BYTES, forge};

    const LOG: Uuid = Uuid(0x77);

    fn head() -> LogHead {
        let vdi = |n| VdiGeneration { vdi: VdiId(n), lease_epoch: 2, generation: Generation(n as u64 * 10) };
        LogHead {
            log: LOG,
            store: Uuid(0x88),
            generation: Generation(9),
            ring_bytes: 1 << 20,
            incarnation: Incarnation(4),
            first_seq: SegmentSeq(101),
            start_offset_bytes: RING_OFFSET_BYTES + 0x5000,
            recovered_through: SegmentSeq(99),
            recovered_incarnation: Incarnation(3),
            recovered_records: 6,
            recovered_crc: 0xaabb_ccdd,
            tail_seq: SegmentSeq(90),
            tail_offset_bytes: RING_OFFSET_BYTES + 0x1000,
            tail_previous_crc: 0x1122_3344,
            durable_through: SegmentSeq(99),
            staged_in: StagedIn { boot: 0x99, life: 0xaa },
            retired: false,
            vdis: vec![vdi(3), vdi(5)],
        }
    }

    #[test]
    fn a_head_comes_back_as_written_with_any_number_of_vdis() {
        for n in [0, 1, 119, 120, LOG_VDIS_MAX] {
            let vdi = |i| VdiGeneration { vdi: VdiId(i as u128), lease_epoch: 1, generation: Generation(1) };
            let head = LogHead { vdis: (0..n).map(vdi).collect(), retired: n % 2 == 1, ..head() };
            let mut slot = encode(&head, 1).to_vec();
            slot.resize(SLOT_BYTES, 0xee);
            assert_eq!(verify_slot(&slot, LOG, 1).unwrap(), head);
            assert_eq!(identify(&slot, 1), Some((LOG, Uuid(0x88))));
        }
    }

    #[test]
    fn golden_bytes() {
        let bytes = encode(&head(), 1);
        // (value, bytes) in the order of the layout table; the checksum comes below.
        let fields: &[(u128, usize)] = &[
            (0x5658_4c50, 4),
            (10, 2),
            (0, 2),
            (0, 4),
            (4096, 4),
            (128 << 10, 8),
            (9, 8),
            (0x77, 16),
            (0, 16),
            (0x88, 16),
            (1 << 20, 8),
            (4, 8),
            (101, 8),
            (0x4_5000, 8),
            (99, 8),
            (6, 4),
            (0xaabb_ccdd, 4),
            (90, 8),
            (0x4_1000, 8),
            (0x1122_3344, 4),
            (2, 4),
            (99, 8),
            (2, 4),
            (0, 4),
            (3, 8),
            (0x99, 8),
            (0xaa, 8),
            (3, 16),
            (2, 8),
            (30, 8),
            (5, 16),
            (2, 8),
            (50, 8),
        ];
        let golden: Vec<u8> =
            fields.iter().flat_map(|(value, bytes)| value.to_le_bytes()[..*bytes].to_vec()).collect();
        assert_eq!(golden.len(), HEAD_BYTES + 2 * VDI_BYTES);
        let mut found = bytes[..golden.len()].to_vec();
        found[8..12].fill(0);
        assert_eq!(found, golden);
        assert_eq!(&bytes[8..12], GOLDEN_CRC.to_le_bytes());
    }
    const GOLDEN_CRC: u32 = 0xd478_9832;

    #[test]
    fn a_head_is_bound_to_its_log_and_slot() {
        let bytes = encode(&head(), 0);
        every_flipped_bit_is_found(&bytes, |b| verify_slot(b, LOG, 0).is_ok());
        assert!(verify_slot(&bytes, LOG, 1).is_err());
        assert!(verify_slot(&bytes, Uuid(1), 0).is_err());
        assert!(verify_slot(&[], LOG, 0).is_err());
    }

    #[test]
    fn a_sealed_head_that_ends_before_its_fields_is_an_error() {
        for bytes in [HEADER_BYTES, HEAD_BYTES - 1] {
            let mut head = encode(&head(), 0);
            head[12..16].copy_from_slice(&(bytes as u32).to_le_bytes());
            forge::reseal(&mut head[..bytes]).unwrap();
            assert!(verify_slot(&head, LOG, 0).is_err());
        }
    }

    #[test]
    fn contradicting_fields_are_an_error() {
        for wrong in [
            LogHead { tail_offset_bytes: 0, ..head() },
            LogHead { tail_offset_bytes: RING_OFFSET_BYTES + (1 << 20), ..head() },
            LogHead { first_seq: SegmentSeq(99), ..head() },
            LogHead { tail_seq: SegmentSeq(100), ..head() },
            LogHead { durable_through: SegmentSeq(98), ..head() },
            LogHead { durable_through: SegmentSeq(u64::MAX), ..head() },
            LogHead { incarnation: Incarnation(u64::MAX), ..head() },
        ] {
            assert!(verify_slot(&encode(&wrong, 0), LOG, 0).is_err(), "{wrong:?}");
        }
    }
}
