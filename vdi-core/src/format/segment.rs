//! The head area of a log segment: header, records, padding; data blocks follow it on the device.
//! The head area is a multiple of 4 KiB and its checksum covers all of it. The common header's place
//! is the segment's byte offset on the log device, its generation is the segment's sequence number,
//! its owner the log's UUID, its length that of the head area.
//!
//! | offset | size | unit | field | protects against |
//! |---|---|---|---|---|
//! | 0 | 64 | | common header | |
//! | 64 | 8 | | incarnation | segments of an earlier life, above what its recovery kept |
//! | 72 | 8 | | durable through: highest sequence known flushed when this was written | rot taken for a torn tail |
//! | 80 | 4 | | checksum of the previous segment's head area | a stale segment of the same sequence |
//! | 84 | 4 | | records | |
//! | 88 | 4 | bytes | records, without padding | |
//! | 92 | 4 | blocks | data | |
//! | 96 | 8 | | recovered through: last sequence this incarnation's recovery kept | see incarnation |
//! | 104 | 8 | | recovered incarnation: that segment's | a discarded tail that comes back behind a gap |
//! | 112 | 4 | | recovered records: how many records of that segment it kept | see incarnation |
//! | 116 | 12 | | reserved, zero | |
//! | 128 | | | records, see `record` | |

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{Expect, Header, Kind, MAGIC, seal, verify};
use crate::buffer::{AlignedBuf, is_zero};
use crate::error::{Error, Result};
use crate::limits::{COUNTER_MAX, SEGMENT_DATA_BLOCKS_MAX, SEGMENT_HEAD_BYTES_MAX};
use crate::units::{BLOCK_SIZE, Generation, Incarnation, SegmentSeq, Uuid, VdiId};

pub use super::record::{Body, Crcs, Record, Runs};

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct DiskSegment {
    header: Header,
    incarnation: U64,
    durable_through: U64,
    previous_crc: U32,
    records: U32,
    record_bytes: U32,
    data_blocks: U32,
    recovered_through: U64,
    recovered_incarnation: U64,
    recovered_records: U32,
    reserved: [u8; 12],
}

/// Bytes before the first record.
pub const SEGMENT_HEADER_BYTES: usize = 128;
const _: () = {
    assert!(size_of::<DiskSegment>() == SEGMENT_HEADER_BYTES);
    assert!(SEGMENT_HEAD_BYTES_MAX.is_multiple_of(BLOCK_SIZE));
};

/// What a segment's header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    /// The log it belongs to.
    pub log: Uuid,
    /// Byte offset of the segment on the log device.
    pub offset_bytes: u64,
    /// Sequence number.
    pub seq: SegmentSeq,
    /// The life of the log that wrote it.
    pub incarnation: Incarnation,
    /// Highest segment known flushed when it was written.
    pub durable_through: SegmentSeq,
    /// Checksum of the previous segment's head area.
    pub previous_crc: u32,
    /// Records in it.
    pub records: u32,
    /// Data blocks after its head area.
    pub data_blocks: u32,
    /// Last segment that the recovery before this incarnation kept.
    pub recovered_through: SegmentSeq,
    /// The incarnation that wrote that segment.
    pub recovered_incarnation: Incarnation,
    /// How many records of that segment it kept.
    pub recovered_records: u32,
}

/// A head area whose checksum, owner and place are verified.
pub struct VerifiedSegment<'a> {
    /// What it says.
    pub header: SegmentHeader,
    /// Checksum of the head area: what the next segment names.
    pub crc: u32,
    /// Bytes of the head area; data start there.
    pub head_bytes: usize,
    records: &'a [u8],
}

/// Bytes of the head area that holds `record_bytes` of records.
#[must_use]
pub const fn head_area_bytes(record_bytes: usize) -> usize {
    (SEGMENT_HEADER_BYTES + record_bytes).next_multiple_of(BLOCK_SIZE)
}

/// Encode a head area; returns it with its checksum. `header.records` must be the number of `records`.
#[must_use]
pub fn encode(header: &SegmentHeader, records: &[u8]) -> (AlignedBuf, u32) {
    let head_bytes = head_area_bytes(records.len());
    assert!(head_bytes <= SEGMENT_HEAD_BYTES_MAX && header.data_blocks as usize <= SEGMENT_DATA_BLOCKS_MAX);
    let mut buf = AlignedBuf::zeroed(head_bytes);
    let (disk, _) = DiskSegment::mut_from_prefix(&mut buf[..]).expect("a head area holds its header");
    disk.incarnation = U64::new(header.incarnation.0);
    disk.durable_through = U64::new(header.durable_through.0);
    disk.previous_crc = U32::new(header.previous_crc);
    disk.records = U32::new(header.records);
    disk.record_bytes = U32::new(u32::try_from(records.len()).expect("bounded by the head area"));
    disk.data_blocks = U32::new(header.data_blocks);
    disk.recovered_through = U64::new(header.recovered_through.0);
    disk.recovered_incarnation = U64::new(header.recovered_incarnation.0);
    disk.recovered_records = U32::new(header.recovered_records);
    buf[SEGMENT_HEADER_BYTES..SEGMENT_HEADER_BYTES + records.len()].copy_from_slice(records);
    seal(&mut buf, expect(header.log, header.offset_bytes), Generation(header.seq.0));
    let (disk, _) = DiskSegment::ref_from_prefix(&buf[..]).expect("a head area holds its header");
    let crc = disk.header.crc.get();
    (buf, crc)
}

fn expect(log: Uuid, offset_bytes: u64) -> Expect {
    Expect { kind: Kind::Segment, place: offset_bytes, owner: log }
}

/// Length of the head area that seems to start at `bytes`, or None when none does. Cheap; proves nothing.
#[must_use]
pub fn peek(bytes: &[u8]) -> Option<usize> {
    let (disk, _) = DiskSegment::ref_from_prefix(bytes).ok()?;
    let length = disk.header.length.get() as usize;
    let plausible = disk.header.magic == MAGIC
        && disk.header.kind.get() == Kind::Segment as u16
        && length.is_multiple_of(BLOCK_SIZE)
        && (BLOCK_SIZE..=SEGMENT_HEAD_BYTES_MAX).contains(&length);
    plausible.then_some(length)
}

/// Verify the head area at the start of `bytes`, read from `offset_bytes` of the log `log`.
pub fn verify_at(bytes: &[u8], log: Uuid, offset_bytes: u64) -> Result<VerifiedSegment<'_>> {
    let bad = |detail: &str| Error::corrupt("log segment", format!("offset {offset_bytes}"), detail);
    let head_bytes = peek(bytes).ok_or_else(|| bad("no segment starts here"))?;
    let area = bytes.get(..head_bytes).ok_or_else(|| bad("its head area is cut off"))?;
    let generation = verify(area, expect(log, offset_bytes))?;
    let (disk, rest) = DiskSegment::ref_from_prefix(area).map_err(|_| bad("shorter than its header"))?;
    let (record_bytes, data_blocks) = (disk.record_bytes.get() as usize, disk.data_blocks.get());
    let sizes_hold = record_bytes <= rest.len()
        && head_area_bytes(record_bytes) == head_bytes
        && data_blocks as usize <= SEGMENT_DATA_BLOCKS_MAX
        && is_zero(&rest[record_bytes..])
        && disk.reserved == [0; 12];
    if !sizes_hold {
        return Err(bad("its lengths contradict each other, or a reserved field is not zero"));
    }
    let header = SegmentHeader {
        log,
        offset_bytes,
        seq: SegmentSeq(generation.0),
        incarnation: Incarnation(disk.incarnation.get()),
        durable_through: SegmentSeq(disk.durable_through.get()),
        previous_crc: disk.previous_crc.get(),
        records: disk.records.get(),
        data_blocks,
        recovered_through: SegmentSeq(disk.recovered_through.get()),
        recovered_incarnation: Incarnation(disk.recovered_incarnation.get()),
        recovered_records: disk.recovered_records.get(),
    };
    let in_order = header.durable_through < header.seq
        && header.recovered_through < header.seq
        && header.recovered_incarnation < header.incarnation
        && header.incarnation.0 <= COUNTER_MAX;
    if !in_order {
        return Err(bad("it names segments that come after it"));
    }
    Ok(VerifiedSegment { header, crc: disk.header.crc.get(), head_bytes, records: &rest[..record_bytes] })
}

impl VerifiedSegment<'_> {
    /// The records in order, each with the index of its first data block.
    pub fn records(&self) -> Result<Vec<(Record, u32)>> {
        let bad = |detail: &str| {
            Error::corrupt("log segment", format!("offset {}", self.header.offset_bytes), detail)
        };
        let (mut at, mut first_block) = (0, 0u32);
        let mut out = Vec::new();
        while at < self.records.len() {
            let (record, length) = Record::decode(&self.records[at..], first_block)
                .map_err(|e| e.context(format!("segment {}", self.header.seq.0)))?;
            at += length;
            let blocks = record.body.inline_blocks();
            out.push((record, first_block));
            first_block = first_block.checked_add(blocks).ok_or_else(|| bad("too many data blocks"))?;
        }
        if out.len() != self.header.records as usize || first_block != self.header.data_blocks {
            return Err(bad("its records and their data are not as many as its header says"));
        }
        Ok(out)
    }
}

/// The VDIs that a segment with a wrong checksum seems to name, when its header and records at least agree
/// with each other about their number and length; else none, which means: any VDI may be in it. Never a
/// proof: a VDI identifier may itself be what rotted.
#[must_use]
pub fn guess_vdis(bytes: &[u8]) -> Vec<VdiId> {
    let Ok((disk, rest)) = DiskSegment::ref_from_prefix(bytes) else { return Vec::new() };
    let Some(records) = rest.get(..disk.record_bytes.get() as usize) else { return Vec::new() };
    let (mut at, mut count, mut vdis) = (0, 0, Vec::new());
    while let Some((vdi, length)) = Record::guess_vdi(&records[at..]) {
        if !vdis.contains(&vdi) {
            vdis.push(vdi);
        }
        at += length;
        count += 1;
    }
    if at != records.len() || count != disk.records.get() {
        vdis.clear();
    }
    vdis
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::law::every_flipped_bit_is_found;
    use crate::format::record::Origin;
    use crate::units::{BlockAddr, Epoch, VdiSeq, VirtualBlock};
    use proptest::prelude::*;
    use smallvec::smallvec;

    const LOG: Uuid = Uuid(0x1122);

    fn header() -> SegmentHeader {
        SegmentHeader {
            log: LOG,
            offset_bytes: 0x8_0000,
            seq: SegmentSeq(42),
            incarnation: Incarnation(3),
            durable_through: SegmentSeq(40),
            previous_crc: 0xdead_beef,
            records: 2,
            data_blocks: 3,
            recovered_through: SegmentSeq(30),
            recovered_incarnation: Incarnation(2),
            recovered_records: 5,
        }
    }

    fn records() -> Vec<(Record, u32)> {
        let write = |seq, crcs| Record {
            vdi: VdiId(8),
            seq: VdiSeq(seq),
            lease_epoch: 1,
            epoch: Epoch(1),
            origin: Origin::default(),
            copy: false,
            body: Body::Write { at: VirtualBlock(7), crcs },
        };
        vec![(write(1, smallvec![10, 11]), 0), (write(2, smallvec![12]), 2)]
    }

    fn encoded() -> AlignedBuf {
        let mut bytes = Vec::new();
        for (record, first_block) in records() {
            record.encode_into(first_block, &mut bytes);
        }
        encode(&header(), &bytes).0
    }

    #[test]
    fn a_segment_comes_back_as_written() {
        let bytes = encoded();
        let found = verify_at(&bytes, LOG, 0x8_0000).unwrap();
        assert_eq!(found.header, header());
        assert_eq!(found.records().unwrap(), records());
        assert_eq!(found.head_bytes, BLOCK_SIZE);
        assert_eq!(guess_vdis(&bytes), [VdiId(8)]);
    }

    #[test]
    fn a_guess_at_the_vdis_of_a_rotten_segment_is_whole_or_none() {
        let good = encoded();
        for bit in 0..(SEGMENT_HEADER_BYTES + 176) * 8 {
            let mut bytes = AlignedBuf::copy_of(&good);
            bytes[bit / 8] ^= 1 << (bit % 8);
            let vdi = SEGMENT_HEADER_BYTES + 8..SEGMENT_HEADER_BYTES + 24;
            let in_a_vdi = vdi.contains(&(bit / 8)) || vdi.contains(&(bit / 8).saturating_sub(88));
            let guess = guess_vdis(&bytes);
            assert!(guess.is_empty() || guess == [VdiId(8)] || in_a_vdi, "bit {bit}: {guess:?}");
        }
        assert!(guess_vdis(&good[..100]).is_empty() && guess_vdis(&[0; 4096]).is_empty());
    }

    #[test]
    fn golden_bytes() {
        let bytes = encoded();
        // (value, bytes) in the order of the layout table; the checksum comes below.
        let fields: &[(u128, usize)] = &[
            (0x5658_4c50, 4),
            (9, 2),
            (0, 2),
            (0, 4),
            (4096, 4),
            (0x8_0000, 8),
            (42, 8),
            (0x1122, 16),
            (0, 16),
            (3, 8),
            (40, 8),
            (0xdead_beef, 4),
            (2, 4),
            (176, 4),
            (3, 4),
            (30, 8),
            (2, 8),
            (5, 4),
            (0, 12),
        ];
        let golden: Vec<u8> =
            fields.iter().flat_map(|(value, bytes)| value.to_le_bytes()[..*bytes].to_vec()).collect();
        let mut found = bytes[..SEGMENT_HEADER_BYTES].to_vec();
        found[8..12].fill(0);
        assert_eq!(found, golden);
        assert_eq!(&bytes[8..12], GOLDEN_CRC.to_le_bytes());
    }
    const GOLDEN_CRC: u32 = 0x44e0_844f;

    #[test]
    fn a_segment_is_bound_to_its_log_and_place() {
        let bytes = encoded();
        every_flipped_bit_is_found(&bytes, |b| verify_at(b, LOG, 0x8_0000).is_ok());
        assert!(verify_at(&bytes, Uuid(1), 0x8_0000).is_err());
        assert!(verify_at(&bytes, LOG, 0x9_0000).is_err());
        assert!(verify_at(&bytes[..100], LOG, 0x8_0000).is_err());
        assert!(verify_at(&[], LOG, 0x8_0000).is_err());
    }

    #[test]
    fn counts_that_contradict_the_records_are_an_error() {
        let mut bytes = Vec::new();
        for (record, first_block) in records() {
            record.encode_into(first_block, &mut bytes);
        }
        for wrong in [SegmentHeader { records: 3, ..header() }, SegmentHeader { data_blocks: 2, ..header() }]
        {
            let (area, _) = encode(&wrong, &bytes);
            assert!(verify_at(&area, LOG, 0x8_0000).unwrap().records().is_err());
        }
    }

    fn body() -> impl Strategy<Value = Body> {
        let at = || (0u64..1 << 40).prop_map(VirtualBlock);
        let range = || (at(), 1u64..1 << 30);
        let crcs = |most| proptest::collection::vec(any::<u32>(), 1..most);
        let place = || (0u64..1 << 40).prop_map(BlockAddr);
        let label = "[a-z]{0,63}";
        prop_oneof![
            4 => (at(), crcs(9)).prop_map(|(at, crcs)| Body::Write { at, crcs: crcs.into() }),
            2 => (at(), crcs(40), place(), place(), any::<prop::sample::Index>()).prop_map(|(at, crcs, a, b, cut)| {
                let first = cut.index(crcs.len()) as u32;
                let runs = [(a, first), (b, crcs.len() as u32 - first)];
                let runs = runs.into_iter().filter(|(_, blocks)| *blocks > 0).collect();
                Body::WriteOut { at, runs, crcs: crcs.into() }
            }),
            1 => range().prop_map(|(at, blocks)| Body::Discard { at, blocks }),
            1 => range().prop_map(|(at, blocks)| Body::WriteZeroes { at, blocks }),
            1 => (any::<u64>(), 1u64..1 << 40, label).prop_map(|(wall_ns, blocks, label)| {
                Body::Snapshot { wall_ns, size_bytes: blocks << 12, label }
            }),
            1 => (any::<u64>(), label).prop_map(|(e, label)| Body::Label { snapshot: Epoch(e >> 24), label }),
            1 => any::<u64>().prop_map(|e| Body::RemoveSnapshot { snapshot: Epoch(e >> 24) }),
        ]
    }

    fn record() -> impl Strategy<Value = Record> {
        let names = (any::<u128>(), any::<u64>(), any::<u64>(), any::<u64>());
        let origin = (any::<u64>(), any::<u16>());
        (names, origin, any::<bool>(), body()).prop_map(
            |((vdi, seq, lease_epoch, epoch), origin, copy, body)| Record {
                vdi: VdiId(vdi.max(1)),
                seq: VdiSeq(seq.max(1)),
                lease_epoch,
                epoch: Epoch(epoch >> 24),
                origin: Origin { request: origin.0, part: origin.1 },
                copy,
                body,
            },
        )
    }

    proptest! {
        #[test]
        fn any_records_come_back_with_their_places_and_no_damage_passes(
            records in proptest::collection::vec(record(), 0..30),
            (seq, incarnation, previous_crc) in (1u64..1 << 60, 1u64..1 << 60, any::<u32>()),
            offset_bytes in (0u64..1 << 40).prop_map(|block| block << 12),
            hit in any::<prop::sample::Index>(),
            flip in 1u8..,
            cut in any::<prop::sample::Index>(),
        ) {
            let (mut bytes, mut placed, mut data_blocks) = (Vec::new(), Vec::new(), 0);
            for record in records {
                record.encode_into(data_blocks, &mut bytes);
                let blocks = record.body.inline_blocks();
                placed.push((record, data_blocks));
                data_blocks += blocks;
            }
            let header = SegmentHeader {
                log: LOG,
                offset_bytes,
                seq: SegmentSeq(seq),
                incarnation: Incarnation(incarnation),
                durable_through: SegmentSeq(seq - 1),
                previous_crc,
                records: placed.len() as u32,
                data_blocks,
                recovered_through: SegmentSeq(seq / 2),
                recovered_incarnation: Incarnation(incarnation - 1),
                recovered_records: previous_crc / 2,
            };
            let (area, crc) = encode(&header, &bytes);
            // What follows in the ring is none of its business.
            let mut there = area.to_vec();
            there.extend([0xee; BLOCK_SIZE]);
            let found = verify_at(&there, LOG, offset_bytes).unwrap();
            prop_assert_eq!(&found.header, &header);
            prop_assert_eq!((found.crc, found.head_bytes), (crc, area.len()));
            prop_assert_eq!(found.records().unwrap(), placed.clone());
            let mut vdis: Vec<VdiId> = placed.iter().map(|(r, _)| r.vdi).collect();
            vdis.dedup();
            if vdis.len() < 2 {
                prop_assert_eq!(guess_vdis(&there), vdis);
            }
            prop_assert!(verify_at(&there[..cut.index(area.len())], LOG, offset_bytes).is_err());
            there[hit.index(area.len())] ^= flip;
            prop_assert!(verify_at(&there, LOG, offset_bytes).is_err());
        }

        #[test]
        fn any_bytes_as_records_decode_or_give_an_error(
            bytes in proptest::collection::vec(any::<u8>(), 0..600),
            kind in 0u16..10,
            records in 0u32..8,
            data_blocks in 0u32..8,
        ) {
            let mut bytes = bytes;
            let length = bytes.len() as u32;
            if let Some(first) = bytes.get_mut(..8) {
                    // It looks like a record at first.
                first[..2].copy_from_slice(&kind.to_le_bytes());
                first[4..].copy_from_slice(&length.to_le_bytes());
            }
            let (area, _) = encode(&SegmentHeader { records, data_blocks, ..header() }, &bytes);
            let found = verify_at(&area, LOG, 0x8_0000).unwrap();
            let _ = found.records();
            let _ = guess_vdis(&area);
        }
    }
}
