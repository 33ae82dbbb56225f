//! Append: copy a record into the open segment. Synchronous and cheap; nothing can fail but a poisoned log.

use std::rc::Rc;

use smallvec::SmallVec;

use super::reserve::charge_bytes;
use super::state::{Open, State};
use super::{Log, Reservation, Segment, count};
use crate::buffer::AlignedBuf;
use crate::error::Result;
use crate::format::record::Record;
use crate::units::{BLOCK_SIZE, SegmentSeq};

/// Where a record went.
#[derive(Clone, Debug)]
pub struct Appended {
    /// Its segment; holding it keeps the segment's space.
    pub segment: Rc<Segment>,
    /// Index of the record in the segment.
    pub record: u32,
    /// Index of its first data block in the segment.
    pub first_block: u32,
}

impl Log {
    /// Append `record` with its inline `data` (whole blocks, as many as its checksums), using up
    /// `reservation`. It is on its way at the next [`Log::kick`] or [`Log::flush`], and safe when
    /// [`Log::written`] or `flush` says so.
    ///
    /// Panics when record or data are larger than reserved. [`crate::ErrorKind::Poisoned`] after a failure.
    pub fn append(
        &self,
        reservation: Reservation,
        record: &Record,
        data: SmallVec<[Rc<AlignedBuf>; 1]>,
    ) -> Result<Appended> {
        let bytes: usize = data.iter().map(|b| b.len()).sum();
        let blocks = record.body.inline_blocks();
        assert!(record.encoded_bytes() <= reservation.record_bytes && blocks <= reservation.data_blocks);
        assert!(data.iter().all(|b| b.len().is_multiple_of(BLOCK_SIZE) && !b.is_empty()));
        assert_eq!(bytes, blocks as usize * BLOCK_SIZE, "as many blocks of data as checksums");
        let incarnation = self.incarnation();
        let (appended, full) = {
            let mut s = self.0.state.borrow_mut();
            s.check()?;
            let fits = s.open.as_ref().is_none_or(|open| fits(&s, open, record));
            if !fits {
                let open = s.open.take();
                s.full.extend(open);
                s.urgent = false;
            }
            if s.open.is_none() {
                let segment = Rc::new(Segment::open(s.next_seq, incarnation));
                s.next_seq = SegmentSeq(s.next_seq.0 + 1);
                s.open =
                    Some(Open { segment, records: Vec::new(), count: 0, data_blocks: 0, charge_bytes: 0 });
            }
            let open = s.open.as_mut().expect("just opened");
            let before = open.records.len();
            let appended = push(open, record, &data);
            if let Some(staging) = &self.0.staging {
                staging.push(appended.segment.seq(), &open.records[before..], &data);
            }
            (appended, !s.full.is_empty())
        };
        // The record's own charge now stands in the open segment; the reservation's goes back.
        drop(reservation);
        count(&self.0.counts.records, 1);
        if full {
            self.pump(false);
        }
        Ok(appended)
    }
}

fn fits(s: &State, open: &Open, record: &Record) -> bool {
    open.records.len() + record.encoded_bytes() <= s.ring.record_bytes_max()
        && open.data_blocks + record.body.inline_blocks() <= s.ring.data_blocks_max
}

fn push(open: &mut Open, record: &Record, data: &[Rc<AlignedBuf>]) -> Appended {
    let appended =
        Appended { segment: Rc::clone(&open.segment), record: open.count, first_block: open.data_blocks };
    record.encode_into(open.data_blocks, &mut open.records);
    open.count += 1;
    open.charge_bytes += charge_bytes(record.encoded_bytes(), record.body.inline_blocks());
    for buf in data {
        let blocks = u32::try_from(buf.len() / BLOCK_SIZE).expect("bounded by a segment");
        open.segment.stage(open.data_blocks, Rc::clone(buf));
        open.data_blocks += blocks;
    }
    appended
}
