//! Adopt: what a killed daemon had staged, and perhaps acknowledged, and not yet brought to the device goes there now,
//! behind the last segment that is there whole. After a loss of power there is nothing to adopt.

use super::staging::{Entry, StagingMemory, left_by, may_be_needed, missing};
use super::{Log, Scan};
use crate::buffer::{AlignedBuf, IoBuf, IoBufs};
use crate::error::{Error, ErrorKind, Result};
use crate::format::log_head::StagedIn;
use crate::format::record::Record;
use crate::format::segment::{SegmentHeader, encode, head_area_bytes};
use crate::limits::SEGMENT_HEAD_BYTES_MAX;
use crate::sabotage::{Bug, Point, crash_point, seeded_bug};
use crate::units::{BLOCK_BYTES, BLOCK_SIZE, SegmentSeq};

use super::scan::holds;

/// The entries of one segment together.
struct Segment {
    seq: SegmentSeq,
    records: Vec<u8>,
    count: u32,
    data_blocks: u32,
    data: Vec<AlignedBuf>,
}

impl Scan {
    /// Write what the last life of this log left in `staging`, and scan again. Nothing is flushed yet: [`Scan::start`]
    /// does that. Another kill on the way changes nothing: all is still staged.
    ///
    /// [`ErrorKind::StagingMissing`] when there should be staged records and the memory is not there,
    /// [`ErrorKind::Corrupt`] when they make no sense; with `give_up` they are given up instead, as [`Scan::given_up`] says.
    /// [`ErrorKind::Io`].
    pub async fn adopt(mut self, staging: &StagingMemory, give_up: bool) -> Result<Scan> {
        let head = &self.found.head;
        if head.staged_in == StagedIn::default() || seeded_bug(Bug::StagedNotAdopted) {
            return Ok(self);
        }
        let writes = match self.left(staging).and_then(|left| self.sealed(left)) {
            Err(e) if give_up && matches!(e.kind(), ErrorKind::StagingMissing | ErrorKind::Corrupt) => {
                self.given_up = Some(e);
                return Ok(self);
            }
            writes => writes?,
        };
        if writes.is_empty() {
            return Ok(self);
        }
        let last = SegmentSeq(self.next().0 + writes.len() as u64 - 1);
        for (offset_bytes, bufs) in writes {
            self.device.write_bufs(offset_bytes, bufs).await?;
            crash_point(Point::Adopted);
        }
        let scan = Log::scan_staged(&self.device, head.log, head.store, staging).await?;
        match scan.end().seq == last {
            true => Ok(scan),
            false => Err(bad(last, "it was written to the log's device and is not there")),
        }
    }
    /// The segment behind the last one that is on the device.
    fn next(&self) -> SegmentSeq {
        SegmentSeq((self.end().seq.0 + 1).max(self.found.head.first_seq.0))
    }
    /// What is staged and not on the device, by segments.
    fn left(&self, staging: &StagingMemory) -> Result<Vec<Segment>> {
        let head = &self.found.head;
        let entries = match left_by(staging, head.log, head.staged_in)? {
            Ok(entries) => entries,
            Err(why) if may_be_needed(head.staged_in, staging.boot) => {
                return Err(missing(&self.device.info().name, &why));
            }
            Err(_) => Vec::new(),
        };
        let next = self.next();
        let all = by_segments(entries, self.ring.data_blocks_max)?;
        let left: Vec<Segment> = all.into_iter().skip_while(|s| s.seq < next).collect();
        if left.iter().zip(next.0..).any(|(s, seq)| s.seq.0 != seq) {
            return Err(bad(next, "the segment is neither staged nor on the log's device"));
        }
        Ok(left)
    }
    /// `left` as it goes to the device, from where the log ends: offsets and bytes.
    fn sealed(&self, left: Vec<Segment>) -> Result<Vec<(u64, IoBufs)>> {
        let (head, mut end) = (&self.found.head, self.end());
        let mut out = Vec::new();
        for s in left {
            let header = SegmentHeader {
                log: head.log,
                offset_bytes: self.ring.device_offset(end.next),
                seq: s.seq,
                incarnation: head.incarnation,
                durable_through: self.durable_through,
                previous_crc: end.crc,
                records: s.count,
                data_blocks: s.data_blocks,
                recovered_through: head.recovered_through,
                recovered_incarnation: head.recovered_incarnation,
                recovered_records: head.recovered_records,
            };
            let (area, crc) = encode(&header, &s.records);
            let after = end.next.plus(area.len() as u64 + u64::from(s.data_blocks) * BLOCK_BYTES);
            (end.next, end.crc) = (self.ring.start_after(after), crc);
            if end.next.since(self.tail) > self.ring.bytes {
                return Err(bad(s.seq, "the ring has no room for what is staged"));
            }
            let data = s.data.into_iter().map(IoBuf::Owned);
            out.push((header.offset_bytes, std::iter::once(IoBuf::Owned(area)).chain(data).collect()));
        }
        Ok(out)
    }
}

fn bad(seq: SegmentSeq, detail: &str) -> Error {
    Error::corrupt("staging memory", format!("segment {}", seq.0), detail)
}

/// The segments that `entries` belong to, each record and its data verified.
fn by_segments(entries: Vec<Entry>, data_blocks_max: u32) -> Result<Vec<Segment>> {
    let mut out: Vec<Segment> = Vec::new();
    for Entry { seq, record, data } in entries {
        if out.last().is_none_or(|last| last.seq != seq) {
            out.push(Segment { seq, records: Vec::new(), count: 0, data_blocks: 0, data: Vec::new() });
        }
        let segment = out.last_mut().expect("just pushed");
        let (decoded, bytes) = Record::decode(&record, segment.data_blocks)?;
        let blocks = data.iter().flat_map(|d| d.chunks_exact(BLOCK_SIZE));
        if bytes != record.len() || !holds(&decoded, blocks) {
            return Err(bad(seq, "a record and its data contradict each other"));
        }
        segment.records.extend_from_slice(&record);
        segment.count += 1;
        segment.data_blocks += decoded.body.inline_blocks();
        let fits = head_area_bytes(segment.records.len()) <= SEGMENT_HEAD_BYTES_MAX
            && segment.data_blocks <= data_blocks_max;
        if !fits {
            return Err(bad(seq, "it is larger than a segment"));
        }
        segment.data.extend(data);
    }
    Ok(out)
}
