//! Copies: records of a VDI that cannot checkpoint are read back and written again at the head, under the
//! numbers they had, so that the log can be trimmed past the originals. A share of the ring is kept free for
//! this: it works when the log is full and writers wait, which is when it is needed.

use std::rc::Rc;

use super::reserve::charge_bytes;
use super::state::{Open, State};
use super::{Log, Segment, count};
use crate::error::{Error, ErrorKind, Result};
use crate::format::record::Record;
use crate::format::segment::verify_at;
use crate::units::{BLOCK_BYTES, SegmentSeq};

/// Reads of a segment before it is believed to be damaged: all of a move is in vain for one that was misread.
const READS_MAX: usize = 4;

impl Log {
    /// Bytes of records that one batch of copies can hold, and that all copies together may take.
    #[must_use]
    pub fn copies_max(&self) -> (usize, u64) {
        (self.0.ring.record_bytes_max(), self.0.ring.copies_bytes_max())
    }
    /// Ring bytes that a batch of copies of `record_bytes` takes.
    #[must_use]
    pub fn copies_charge(record_bytes: usize) -> u64 {
        charge_bytes(record_bytes, 0)
    }
    /// The segments on the device from `from` on, oldest first, and how many of them lie in the older half of what
    /// they take of the ring. The caller vouches that some record in `from` is still needed, so that no trim is
    /// passing them.
    #[must_use]
    pub fn segments_from(&self, from: SegmentSeq) -> (Vec<Rc<Segment>>, usize) {
        let s = self.0.state.borrow();
        let written = self.0.written.reached();
        assert!(from >= s.trim_before, "segments that are being given back are nobody's");
        let segments: Vec<Rc<Segment>> =
            s.live.iter().filter(|s| (from..=written).contains(&s.seq())).map(Rc::clone).collect();
        let Some(first) = segments.first().map(|s| s.place().at) else { return (segments, 0) };
        let middle = first.plus(s.next.since(first) / 2);
        let older = segments.partition_point(|s| s.place().at < middle).max(1);
        (segments, older)
    }
    /// The records of a segment that count, each with its first data block, read from the device.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] when they are not what was written there, [`ErrorKind::Io`].
    pub async fn read_records(&self, segment: &Rc<Segment>) -> Result<Vec<(Record, u32)>> {
        let mut records = self.read_records_once(segment).await;
        for _ in 1..READS_MAX {
            if records.is_ok() {
                break;
            }
            records = self.read_records_once(segment).await;
        }
        records
    }
    async fn read_records_once(&self, segment: &Rc<Segment>) -> Result<Vec<(Record, u32)>> {
        let place = segment.place();
        let offset_bytes = self.0.ring.device_offset(place.at);
        let head_bytes = usize::try_from(place.data_offset_bytes - offset_bytes).expect("a head area");
        let bytes = self.0.device.read(offset_bytes, head_bytes).await?;
        let found = verify_at(&bytes, self.uuid(), offset_bytes)?;
        if found.crc != place.crc {
            return Err(Error::corrupt(
                "log segment",
                format!("offset {offset_bytes}"),
                "another segment lies where it was",
            ));
        }
        let mut records = found.records()?;
        records.truncate(segment.records_kept());
        Ok(records)
    }
    /// Append `records`, none with inline data, ahead of everyone who waits for space; they lie in one new
    /// segment, which is returned. On its way and safe as with [`Log::append`].
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] when even the share for copies is used up; [`ErrorKind::Poisoned`].
    pub fn append_copies(&self, records: &[Record]) -> Result<Rc<Segment>> {
        let (mut encoded, mut ends) = (Vec::new(), Vec::new());
        for record in records {
            assert!(record.copy && record.body.inline_blocks() == 0, "{record:?}");
            record.encode_into(0, &mut encoded);
            ends.push(encoded.len());
        }
        assert!(!records.is_empty() && encoded.len() <= self.0.ring.record_bytes_max());
        let charge_bytes = charge_bytes(encoded.len(), 0);
        let incarnation = self.incarnation();
        let segment = {
            let mut s = self.0.state.borrow_mut();
            s.check()?;
            if s.promised_bytes() + charge_bytes > s.copies_end_bytes() {
                return Err(Error::new(
                    ErrorKind::Busy,
                    "the log has no room left to move records of held VDIs on",
                    "mend or delete the VDIs that are held; see 'parallax ls'",
                ));
            }
            let open = s.open.take();
            s.full.extend(open);
            s.urgent = false;
            let segment = Rc::new(Segment::open(s.next_seq, incarnation));
            s.next_seq = SegmentSeq(s.next_seq.0 + 1);
            if let Some(staging) = &self.0.staging {
                let mut start = 0;
                for end in ends {
                    staging.push(segment.seq(), &encoded[start..end], &[]);
                    start = end;
                }
            }
            let number = u32::try_from(records.len()).expect("bounded by a head area");
            s.open = Some(Open {
                segment: Rc::clone(&segment),
                records: encoded,
                count: number,
                data_blocks: 0,
                charge_bytes,
            });
            segment
        };
        count(&self.0.counts.records, records.len() as u64);
        self.pump(false);
        Ok(segment)
    }
}

impl State {
    /// Ring bytes that may be in use when copies are appended. A block is left: a ring that is full to the last would look
    /// like an empty one, which starts where it ends. The skip at the ring's end is part of what is in
    /// use once it is made, and there is one at most between tail and head.
    fn copies_end_bytes(&self) -> u64 {
        let skipped = self.tail.0 / self.ring.bytes != self.next.0 / self.ring.bytes;
        if skipped { self.ring.bytes - BLOCK_BYTES } else { self.ring.usable_bytes() }
    }
}
