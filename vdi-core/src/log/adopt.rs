//! Adopt: what a killed daemon had staged, and perhaps acknowledged, and not yet brought to the device goes there now,
//! behind the last segment that is there whole. After a power loss there is nothing to adopt.

use super::Scan;
use super::scan::holds;
use super::staging::{Entry, StagingMemory, left_by};
use crate::buffer::IoBuf;
use crate::error::{Error, ErrorKind, Result};
use crate::format::record::Record;
use crate::format::segment::{SegmentHeader, encode};
use crate::sabotage::{Bug, Point, crash_point, seeded_bug};
use crate::units::{BLOCK_BYTES, SegmentSeq, Uuid};

/// The entries of one segment together.
struct Segment {
    seq: SegmentSeq,
    records: Vec<u8>,
    count: u32,
    data_blocks: u32,
    data: Vec<IoBuf>,
}

impl Scan {
    /// Write what the last life of this log left in `staging`, and scan again. Nothing is flushed yet: [`Scan::start`]
    /// does that. Another kill on the way changes nothing: all is still staged.
    ///
    /// [`ErrorKind::StagingMissing`] when there should be staged records and the memory is not there,
    /// [`ErrorKind::Corrupt`] when they make no sense; with `give_up` they are given up instead.
    pub async fn adopt(self, staging: &StagingMemory, give_up: bool) -> Result<Scan> {
        let head = &self.found.head;
        if head.staged_in == Uuid(0) || head.staged_in != staging.boot || seeded_bug(Bug::StagedNotAdopted) {
            return Ok(self);
        }
        let written = match self.left(staging) {
            Ok(left) => self.write_staged(left).await?,
            Err(_) if give_up => false,
            Err(e) => return Err(e),
        };
        match written {
            true => super::Log::scan(&self.device, head.log, head.store).await,
            false => Ok(self),
        }
    }
    /// What is staged and not on the device, by segments.
    fn left(&self, staging: &StagingMemory) -> Result<Vec<Segment>> {
        let head = &self.found.head;
        let Some(entries) = left_by(staging, head.log, head.incarnation)? else {
            return Err(Error::new(
                ErrorKind::StagingMissing,
                format!(
                    "the last daemon of the log on {} was killed, and its staging memory is not here",
                    self.device.info().name
                ),
                "start with the run directory that it had (--run-dir); --discard-log gives up what was only there: \
                 acknowledged writes that no guest has flushed",
            ));
        };
        let next = SegmentSeq((self.end().seq.0 + 1).max(head.first_seq.0));
        let left: Vec<Segment> = by_segments(entries)?.into_iter().skip_while(|s| s.seq < next).collect();
        let whole = left.iter().zip(next.0..).all(|(s, seq)| s.seq.0 == seq);
        if !whole {
            return Err(bad(next, "a segment is neither staged nor on the device"));
        }
        Ok(left)
    }
    /// Write `left` where the log ends; true when there was something.
    async fn write_staged(&self, left: Vec<Segment>) -> Result<bool> {
        let (head, mut end) = (&self.found.head, self.end());
        let any = !left.is_empty();
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
            end.next = self.ring.start_after(after);
            end.crc = crc;
            if end.next.since(self.tail) > self.ring.bytes {
                return Err(bad(s.seq, "the ring has no room for what is staged"));
            }
            let bufs = std::iter::once(IoBuf::Owned(area)).chain(s.data).collect();
            self.device.write_bufs(header.offset_bytes, bufs).await?;
            crash_point(Point::Adopted);
        }
        Ok(any)
    }
}

fn bad(seq: SegmentSeq, detail: &str) -> Error {
    Error::corrupt("staging memory", format!("segment {}", seq.0), detail)
}

/// The segments that `entries` belong to, each record and its data verified.
fn by_segments(entries: Vec<Entry>) -> Result<Vec<Segment>> {
    let mut out: Vec<Segment> = Vec::new();
    for Entry { seq, record, data } in entries {
        if out.last().is_none_or(|last| last.seq != seq) {
            out.push(Segment { seq, records: Vec::new(), count: 0, data_blocks: 0, data: Vec::new() });
        }
        let segment = out.last_mut().expect("just pushed");
        let (decoded, bytes) = Record::decode(&record, segment.data_blocks)?;
        let sound = bytes == record.len() && holds(&decoded, &data);
        if !sound {
            return Err(bad(seq, "a record and its data contradict each other"));
        }
        segment.records.extend_from_slice(&record);
        segment.count += 1;
        segment.data_blocks += decoded.body.inline_blocks();
        if !data.is_empty() {
            segment.data.push(IoBuf::Owned(data));
        }
    }
    Ok(out)
}
