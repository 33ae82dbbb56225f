//! A log record: one change of one VDI. Records lie back to back in a segment's head area, whose
//! checksum covers them; they carry no header of their own. Every length is a multiple of 8 bytes.
//!
//! | offset | size | unit | field |
//! |---|---|---|---|
//! | 0 | 2 | | kind: 1 write, 2 write out, 3 discard, 4 write zeroes, 5 snapshot, 6 label, 7 remove snapshot |
//! | 2 | 2 | | which of the records of its guest request it is, from 0 |
//! | 4 | 4 | bytes | length of the record, this prefix included |
//! | 8 | 16 | | VDI |
//! | 24 | 8 | | the VDI's own sequence number |
//! | 32 | 8 | | lease epoch under which it was written |
//! | 40 | 8 | | epoch of the VDI it belongs to |
//! | 48 | 8 | | first word: virtual block (1-4), wall time in ns (5), epoch of the snapshot (6, 7) |
//! | 56 | 8 | | second word: blocks (1-4), size in bytes (5), zero (6, 7) |
//! | 64 | 4 | | third word: first data block in the segment (1), runs (2), bytes of label (5, 6), else zero |
//! | 68 | 4 | | flags: 1 copy, written again further on because the VDI cannot checkpoint; else zero |
//! | 72 | 8 | | the guest request it comes from; 0 when none is known |
//! | 80 | 16 each | | runs (2): block address 8, blocks 4, reserved 4 |
//! | then | 4 each | | CRC-32C of each block (1, 2) |
//! | then | 1 each | | label, UTF-8 (5, 6) |
//! | then | to 8 | | padding, zero |

use smallvec::SmallVec;
use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::{Error, ErrorKind, Result};
use crate::limits::LABEL_BYTES_MAX;
use crate::units::{BlockAddr, Epoch, VdiId, VdiSeq, VirtualBlock};

/// One change of one VDI, as logged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Whose.
    pub vdi: VdiId,
    /// Its place among the VDI's records: one more than the one before.
    pub seq: VdiSeq,
    /// The lease epoch under which the writer held the VDI.
    pub lease_epoch: u64,
    /// The VDI's epoch it belongs to.
    pub epoch: Epoch,
    /// Where it comes from.
    pub origin: Origin,
    /// Written again, further on in the log, under the number it had: the last of equal numbers counts. It proves
    /// nothing about what the log held between the two.
    pub copy: bool,
    /// What happened.
    pub body: Body,
}

/// The guest request behind a record: a request that is offered again after a restart, and whose records are in
/// the log already, is not executed again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Origin {
    /// Names the request, among all of its VDI that the log may hold; 0 when nothing can offer it again.
    pub request: u64,
    /// Which of its records.
    pub part: u16,
}

/// CRC-32C of each block, in order.
pub type Crcs = SmallVec<[u32; 4]>;
/// Runs of store blocks: first address and number of blocks.
pub type Runs = SmallVec<[(BlockAddr, u32); 1]>;

/// What a record says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// Blocks from `at` on, one per checksum; their data lie in the record's own segment.
    Write {
        /// First virtual block.
        at: VirtualBlock,
        /// CRC-32C of each block.
        crcs: Crcs,
    },
    /// Blocks from `at` on, one per checksum; their data lie at their final place in the store.
    WriteOut {
        /// First virtual block.
        at: VirtualBlock,
        /// Where the data are, in order; as many blocks as checksums.
        runs: Runs,
        /// CRC-32C of each block.
        crcs: Crcs,
    },
    /// The blocks are no longer needed and read as zeros.
    Discard {
        /// First virtual block.
        at: VirtualBlock,
        /// How many.
        blocks: u64,
    },
    /// The blocks read as zeros.
    WriteZeroes {
        /// First virtual block.
        at: VirtualBlock,
        /// How many.
        blocks: u64,
    },
    /// The record's epoch ended here as a snapshot.
    Snapshot {
        /// When, in ns since 1970, for people.
        wall_ns: u64,
        /// Size of the VDI at that moment, bytes.
        size_bytes: u64,
        /// Its label, or empty.
        label: String,
    },
    /// A snapshot's label changed.
    Label {
        /// Which snapshot.
        snapshot: Epoch,
        /// Its new label, or empty.
        label: String,
    },
    /// A snapshot was removed.
    RemoveSnapshot {
        /// Which snapshot.
        snapshot: Epoch,
    },
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Prefix {
    kind: U16,
    part: U16,
    length: U32,
    vdi: U128,
    seq: U64,
    lease_epoch: U64,
    epoch: U64,
    first: U64,
    second: U64,
    third: U32,
    flags: U32,
    request: U64,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct DiskRun {
    start: U64,
    blocks: U32,
    reserved: U32,
}

const PREFIX_BYTES: usize = 80;
const RUN_BYTES: usize = 16;
const _: () = assert!(size_of::<Prefix>() == PREFIX_BYTES && size_of::<DiskRun>() == RUN_BYTES);

const COPY: u32 = 1;

const WRITE: u16 = 1;
const WRITE_OUT: u16 = 2;
const DISCARD: u16 = 3;
const WRITE_ZEROES: u16 = 4;
const SNAPSHOT: u16 = 5;
const LABEL: u16 = 6;
const REMOVE_SNAPSHOT: u16 = 7;

impl Body {
    /// Blocks of data this record has in its segment.
    #[must_use]
    pub fn inline_blocks(&self) -> u32 {
        match self {
            Body::Write { crcs, .. } => u32::try_from(crcs.len()).expect("a segment's blocks fit 32 bits"),
            _ => 0,
        }
    }
    /// Kind and the three words of the prefix; `first_block` is for inline data.
    fn words(&self, first_block: u32) -> (u16, u64, u64, u32) {
        let len = |n: usize| u32::try_from(n).expect("a record fits a segment");
        match self {
            Body::Write { at, crcs } => (WRITE, at.0, crcs.len() as u64, first_block),
            Body::WriteOut { at, runs, crcs } => (WRITE_OUT, at.0, crcs.len() as u64, len(runs.len())),
            Body::Discard { at, blocks } => (DISCARD, at.0, *blocks, 0),
            Body::WriteZeroes { at, blocks } => (WRITE_ZEROES, at.0, *blocks, 0),
            Body::Snapshot { wall_ns, size_bytes, label } => {
                (SNAPSHOT, *wall_ns, *size_bytes, len(label.len()))
            }
            Body::Label { snapshot, label } => (LABEL, snapshot.0, 0, len(label.len())),
            Body::RemoveSnapshot { snapshot } => (REMOVE_SNAPSHOT, snapshot.0, 0, 0),
        }
    }
    fn tail_bytes(&self) -> usize {
        match self {
            Body::Write { crcs, .. } => crcs.len() * 4,
            Body::WriteOut { runs, crcs, .. } => runs.len() * RUN_BYTES + crcs.len() * 4,
            Body::Snapshot { label, .. } | Body::Label { label, .. } => label.len(),
            Body::Discard { .. } | Body::WriteZeroes { .. } | Body::RemoveSnapshot { .. } => 0,
        }
    }
}

impl Record {
    /// Bytes this record takes in a segment, data not counted; what to reserve.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        (PREFIX_BYTES + self.body.tail_bytes()).next_multiple_of(8)
    }
    /// Append the record to `out`. Its inline data start at data block `first_block` of the segment.
    pub fn encode_into(&self, first_block: u32, out: &mut Vec<u8>) {
        let start = out.len();
        let (kind, first, second, third) = self.body.words(first_block);
        let prefix = Prefix {
            kind: U16::new(kind),
            part: U16::new(self.origin.part),
            length: U32::new(u32::try_from(self.encoded_bytes()).expect("a record fits a segment")),
            vdi: U128::new(self.vdi.0),
            seq: U64::new(self.seq.0),
            lease_epoch: U64::new(self.lease_epoch),
            epoch: U64::new(self.epoch.0),
            first: U64::new(first),
            second: U64::new(second),
            third: U32::new(third),
            flags: U32::new(if self.copy { COPY } else { 0 }),
            request: U64::new(self.origin.request),
        };
        out.extend_from_slice(prefix.as_bytes());
        match &self.body {
            Body::Write { crcs, .. } => push_crcs(crcs, out),
            Body::WriteOut { runs, crcs, .. } => {
                for (start, blocks) in runs {
                    let run =
                        DiskRun { start: U64::new(start.0), blocks: U32::new(*blocks), reserved: U32::ZERO };
                    out.extend_from_slice(run.as_bytes());
                }
                push_crcs(crcs, out);
            }
            Body::Snapshot { label, .. } | Body::Label { label, .. } => {
                assert!(label.len() <= LABEL_BYTES_MAX, "labels are checked where they come in");
                out.extend_from_slice(label.as_bytes());
            }
            Body::Discard { .. } | Body::WriteZeroes { .. } | Body::RemoveSnapshot { .. } => {}
        }
        out.resize(start + self.encoded_bytes(), 0);
    }
    /// Read the first record of `bytes`, whose inline data must start at `first_block`; returns it with
    /// its length. `bytes` are under a verified checksum, so a failure means a format we do not know
    /// ([`ErrorKind::Unsupported`]) or a writer's mistake ([`ErrorKind::Corrupt`]).
    pub fn decode(bytes: &[u8], first_block: u32) -> Result<(Record, usize)> {
        let bad = |detail: String| Error::corrupt("log record", "its segment", detail);
        let (prefix, _) =
            Prefix::ref_from_prefix(bytes).map_err(|_| bad("the records end within a record".into()))?;
        let length = prefix.length.get() as usize;
        if length < PREFIX_BYTES || !length.is_multiple_of(8) || length > bytes.len() {
            return Err(bad(format!("its length is {length} of {} bytes", bytes.len())));
        }
        let body = decode_body(prefix, &bytes[PREFIX_BYTES..length], first_block)?;
        let record = Record {
            vdi: VdiId(prefix.vdi.get()),
            seq: VdiSeq(prefix.seq.get()),
            lease_epoch: prefix.lease_epoch.get(),
            epoch: Epoch(prefix.epoch.get()),
            origin: Origin { request: prefix.request.get(), part: prefix.part.get() },
            copy: prefix.flags.get() & COPY != 0,
            body,
        };
        // Encoding is canonical: one check for lengths, reserved fields, padding and data position.
        let mut again = Vec::with_capacity(length);
        record.encode_into(first_block, &mut again);
        if again != bytes[..length] {
            return Err(bad(
                "a length, a reserved field, padding or a position is not what its kind demands".into(),
            ));
        }
        Ok((record, length))
    }
    /// The VDI that the record at the start of `bytes` seems to name, and its length: for reports on a
    /// segment whose checksum is wrong. Nothing here can be relied on.
    #[must_use]
    pub fn guess_vdi(bytes: &[u8]) -> Option<(VdiId, usize)> {
        let (prefix, _) = Prefix::ref_from_prefix(bytes).ok()?;
        let length = prefix.length.get() as usize;
        let plausible = (PREFIX_BYTES..=bytes.len()).contains(&length)
            && length.is_multiple_of(8)
            && (WRITE..=REMOVE_SNAPSHOT).contains(&prefix.kind.get());
        plausible.then(|| (VdiId(prefix.vdi.get()), length))
    }
}

fn push_crcs(crcs: &[u32], out: &mut Vec<u8>) {
    for crc in crcs {
        out.extend_from_slice(U32::new(*crc).as_bytes());
    }
}

fn decode_body(prefix: &Prefix, tail: &[u8], first_block: u32) -> Result<Body> {
    let bad = |detail: &str| Error::corrupt("log record", "its segment", detail);
    let (first, second, third) = (prefix.first.get(), prefix.second.get(), prefix.third.get() as usize);
    let at = VirtualBlock(first);
    Ok(match prefix.kind.get() {
        WRITE => {
            if prefix.third.get() != first_block {
                return Err(bad("its data are not where the record before ends"));
            }
            Body::Write { at, crcs: read_crcs(tail, second).ok_or_else(|| bad("checksums are missing"))? }
        }
        WRITE_OUT => {
            let (runs, rest) =
                <[DiskRun]>::ref_from_prefix_with_elems(tail, third).map_err(|_| bad("runs are missing"))?;
            let runs: Runs = runs.iter().map(|r| (BlockAddr(r.start.get()), r.blocks.get())).collect();
            if runs.iter().any(|r| r.1 == 0) {
                return Err(bad("a run has no blocks"));
            }
            if runs.iter().map(|r| u64::from(r.1)).sum::<u64>() != second {
                return Err(bad("runs and checksums differ in number"));
            }
            let crcs = read_crcs(rest, second).ok_or_else(|| bad("checksums are missing"))?;
            Body::WriteOut { at, runs, crcs }
        }
        DISCARD => Body::Discard { at, blocks: second },
        WRITE_ZEROES => Body::WriteZeroes { at, blocks: second },
        SNAPSHOT => {
            let label = read_label(tail, third).ok_or_else(|| bad("its label is not one"))?;
            Body::Snapshot { wall_ns: first, size_bytes: second, label }
        }
        LABEL => {
            let label = read_label(tail, third).ok_or_else(|| bad("its label is not one"))?;
            Body::Label { snapshot: Epoch(first), label }
        }
        REMOVE_SNAPSHOT => Body::RemoveSnapshot { snapshot: Epoch(first) },
        kind => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("the log holds a record of kind {kind}, which this version does not know"),
                "open the store with the version that wrote it, or a newer one",
            ));
        }
    })
}

fn read_crcs(bytes: &[u8], count: u64) -> Option<Crcs> {
    let count = usize::try_from(count).ok()?;
    let (crcs, _) = <[U32]>::ref_from_prefix_with_elems(bytes, count).ok()?;
    Some(crcs.iter().map(|c| c.get()).collect())
}

fn read_label(bytes: &[u8], len: usize) -> Option<String> {
    if len > LABEL_BYTES_MAX {
        return None;
    }
    Some(std::str::from_utf8(bytes.get(..len)?).ok()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use smallvec::smallvec;

    pub(crate) fn one_of_each() -> Vec<Record> {
        let bodies = [
            Body::Write { at: VirtualBlock(5), crcs: smallvec![0x1111_2222, 0x3333_4444] },
            Body::WriteOut {
                at: VirtualBlock(1 << 30),
                runs: smallvec![(BlockAddr(0x40_0007), 2), (BlockAddr(0x80_0000), 1)],
                crcs: smallvec![1, 2, 3],
            },
            Body::Discard { at: VirtualBlock(0), blocks: 1 << 32 },
            Body::WriteZeroes { at: VirtualBlock(9), blocks: 1 },
            Body::Snapshot { wall_ns: 1_700_000_000, size_bytes: 20 << 30, label: "before upgrade".into() },
            Body::Label { snapshot: Epoch(3), label: String::new() },
            Body::RemoveSnapshot { snapshot: Epoch(2) },
        ];
        let record = |(i, body)| Record {
            vdi: VdiId(0xabcd),
            seq: VdiSeq(1 + i as u64),
            lease_epoch: 7,
            epoch: Epoch(4),
            origin: Origin { request: 0x0203_0405_0607_0809, part: 3 },
            copy: i % 2 == 1,
            body,
        };
        bodies.into_iter().enumerate().map(record).collect()
    }

    #[test]
    fn every_kind_comes_back_as_written() {
        for record in one_of_each() {
            let mut bytes = Vec::new();
            record.encode_into(17, &mut bytes);
            assert_eq!(bytes.len(), record.encoded_bytes());
            assert_eq!(Record::decode(&bytes, 17).unwrap(), (record.clone(), bytes.len()));
            assert_eq!(Record::guess_vdi(&bytes), Some((VdiId(0xabcd), bytes.len())));
            for cut in 0..bytes.len() {
                assert!(Record::decode(&bytes[..cut], 17).is_err(), "{record:?} cut to {cut}");
            }
        }
    }

    #[test]
    fn golden_bytes_of_a_write() {
        let mut bytes = Vec::new();
        one_of_each()[0].encode_into(17, &mut bytes);
        let golden: &[u8] = &[
            1, 0, 3, 0, 88, 0, 0, 0, 0xcd, 0xab, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0,
            0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0,
            0, 0, 17, 0, 0, 0, 0, 0, 0, 0, 9, 8, 7, 6, 5, 4, 3, 2, 0x22, 0x22, 0x11, 0x11, 0x44, 0x44, 0x33,
            0x33,
        ];
        assert_eq!(bytes, golden);
    }

    #[test]
    fn any_bytes_decode_or_give_an_error() {
        for record in one_of_each() {
            let mut bytes = Vec::new();
            record.encode_into(0, &mut bytes);
            for bit in 0..bytes.len() * 8 {
                bytes[bit / 8] ^= 1 << (bit % 8);
                // A flipped bit may well give another valid record (the segment's checksum is the guard).
                let _ = Record::decode(&bytes, 0);
                let _ = Record::guess_vdi(&bytes);
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
        let unknown = [&[99u8, 0, 0, 0, 80, 0, 0, 0][..], &[0; 72]].concat();
        assert_eq!(Record::decode(&unknown, 0).unwrap_err().kind(), ErrorKind::Unsupported);
    }
}
