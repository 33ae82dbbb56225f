//! The walk of a scan: segment after segment by their chain, and past the gaps that corruption leaves.

use std::rc::Rc;

use super::probe::Reader;
use super::ring::{Position, Ring};
use super::scan::{Finding, Scan, ScannedSegment};
use super::segment::{Place, Segment};
use crate::error::{Error, Result};
use crate::format::log_head::LogHead;
use crate::format::segment::{SegmentHeader, VerifiedSegment, guess_vdis};
use crate::sabotage::{Bug, seeded_bug};
use crate::units::{BLOCK_BYTES, Incarnation, SegmentSeq};

/// A scan under way: what it expects next, and where.
pub(super) struct Walk {
    scan: Scan,
    reader: Reader,
    expect: SegmentSeq,
    next: Position,
    /// Checksum of the head area before.
    crc: u32,
    /// Of the segment before, if any.
    incarnation: Option<Incarnation>,
}

impl Walk {
    pub fn new(scan: Scan, reader: Reader) -> Walk {
        let head = &scan.found.head;
        let (expect, next, crc) = (head.tail_seq, scan.tail, head.tail_previous_crc);
        Walk { reader, expect, next, crc, incarnation: None, scan }
    }
    fn head(&self) -> &LogHead {
        &self.scan.found.head
    }
    /// Whether the next segment is one that an earlier recovery kept.
    fn in_recovered_part(&self) -> bool {
        self.expect < self.head().first_seq
    }
    /// One whole ring after the tail: nothing lies beyond.
    fn lap_end(&self) -> Position {
        self.scan.tail.plus(self.scan.ring.bytes)
    }
    /// Go through the log to its end.
    pub async fn run(mut self) -> Result<Scan> {
        while self.next < self.lap_end() {
            let at = self.next;
            if self.finds_next(at).await? || self.finds_next_again(at).await? {
                self.accept(at).await?;
            } else if !self.pass_gap().await? {
                break;
            }
        }
        Ok(self.scan)
    }
    /// Whether the segment at `at` is the next one.
    async fn finds_next(&mut self, at: Position) -> Result<bool> {
        let header = self.reader.segment_at(at).await?.map(|found| found.header);
        if let Some(header) = &header {
            self.see(header)?;
        }
        Ok(header.is_some_and(|h| self.follows(&h)))
    }
    /// The same from the device: what ends a log was not misread.
    async fn finds_next_again(&mut self, at: Position) -> Result<bool> {
        self.reader.forget();
        self.finds_next(at).await
    }
    /// A valid segment of this log was met, whether it counts or not.
    fn see(&mut self, header: &SegmentHeader) -> Result<()> {
        self.scan.highest_seen = self.scan.highest_seen.max(header.seq);
        if header.incarnation > self.head().incarnation {
            return Err(Error::corrupt(
                "log head",
                &self.scan.device.info().name,
                format!(
                    "it is of incarnation {}, but segment {} is of incarnation {}: the newest head was lost",
                    self.head().incarnation.0,
                    header.seq.0,
                    header.incarnation.0
                ),
            ));
        }
        Ok(())
    }
    fn follows(&self, h: &SegmentHeader) -> bool {
        if h.previous_crc != self.crc {
            return false;
        }
        if !self.in_recovered_part() {
            return h.incarnation == self.head().incarnation && h.seq == self.expect;
        }
        let kept = h.incarnation < self.head().incarnation && h.seq <= self.head().recovered_through;
        let next_in_line = self.incarnation.is_none_or(|i| i == h.incarnation) && h.seq == self.expect;
        // An incarnation in between: its recovery kept exactly what came before.
        let next_life = self.incarnation.is_some_and(|i| i < h.incarnation)
            && h.seq >= self.expect
            && h.recovered_through.0 + 1 == self.expect.0;
        kept && (next_in_line || next_life)
    }
    /// The segment at `at` counts.
    async fn accept(&mut self, at: Position) -> Result<()> {
        let found = self.reader.segment_at(at).await?.ok_or_else(|| changing(at))?;
        let (header, place) = (found.header, place_of(&found, at, &self.scan.ring));
        let records = found.records()?;
        if self.incarnation.is_some_and(|i| i < header.incarnation) && !seeded_bug(Bug::VoidRecordsComeBack) {
            self.scan.void_after(header.recovered_through, header.recovered_records);
        }
        self.scan.durable_through = self.scan.durable_through.max(header.durable_through);
        let segment = Rc::new(Segment::found(header.seq, header.incarnation, place));
        self.scan.segments.push(ScannedSegment { segment, records });
        self.reader.passed(place.bytes);
        self.incarnation = Some(header.incarnation);
        self.expect = SegmentSeq(header.seq.0 + 1);
        self.crc = place.crc;
        self.next = self.scan.ring.start_after(place.end());
        if header.seq == self.head().recovered_through {
            let ring = &self.scan.ring;
            if ring.device_offset(self.next) != ring.device_offset(self.scan.start) {
                return Err(Error::corrupt(
                    "log head",
                    &self.scan.device.info().name,
                    format!("what came after segment {} does not start behind it", header.seq.0),
                ));
            }
            self.enter_present();
        }
        Ok(())
    }
    /// The recovered part is over; the present incarnation starts.
    fn enter_present(&mut self) {
        let head = &self.scan.found.head;
        let (first_seq, crc, incarnation) = (head.first_seq, head.recovered_crc, head.incarnation);
        let (through, records) = (head.recovered_through, head.recovered_records);
        if !seeded_bug(Bug::VoidRecordsComeBack) {
            self.scan.void_after(through, records);
        }
        self.expect = first_seq;
        self.crc = crc;
        self.next = self.scan.start;
        self.incarnation = Some(incarnation);
    }
    /// Nothing that follows is at `self.next`. False when the log ends here; else the walk goes on behind
    /// the gap, which is a finding.
    async fn pass_gap(&mut self) -> Result<bool> {
        let (at, from) = (self.next, self.expect);
        let recovered_part = self.in_recovered_part();
        let behind = self.look_behind(at).await?;
        let durable = behind.iter().map(|(_, h)| h.durable_through).max();
        self.scan.durable_through = self.scan.durable_through.max(durable.unwrap_or_default());
        let durable = self.scan.durable_through;
        if let Some((found, header)) = behind.first()
            && header.seq.0 - 1 <= durable.0
        {
            self.report(from, SegmentSeq(header.seq.0 - 1), at).await?;
            self.accept(*found).await?;
            return Ok(true);
        }
        if recovered_part {
            let through = self.head().recovered_through;
            self.report(from, through, at).await?;
            self.enter_present();
            return Ok(true);
        }
        if from <= durable {
            self.report(from, durable, at).await?;
            self.scan.lost_end = Some((durable, at));
        }
        Ok(false)
    }
    /// The segments behind `at` that would count but for the gap there, in order. In the recovered part all
    /// the rest of it is searched, else as far as a witness can lie.
    async fn look_behind(&mut self, at: Position) -> Result<Vec<(Position, SegmentHeader)>> {
        let end = if self.in_recovered_part() {
            self.scan.start
        } else {
            at.plus(self.scan.ring.probe_bytes()).min(self.lap_end())
        };
        let mut valid = Vec::new();
        let mut probe = at;
        while let Some(found) = self.reader.next_valid(probe, end).await? {
            probe = found;
            let header = self.reader.segment_at(found).await?.ok_or_else(|| changing(found))?.header;
            self.see(&header)?;
            valid.push((found, header));
        }
        Ok(self.counting(valid))
    }
    /// Of `valid` segments behind a gap, those that count. Whether one of an earlier incarnation was kept by
    /// the recovery after it is known only from what came later: backwards, each must be of the same
    /// incarnation as the one after it, or be what that one's recovery kept.
    fn counting(&self, mut valid: Vec<(Position, SegmentHeader)>) -> Vec<(Position, SegmentHeader)> {
        let head = self.head();
        let (mut through, mut incarnation) = (SegmentSeq(u64::MAX), head.incarnation);
        if self.in_recovered_part() {
            (through, incarnation) = (head.recovered_through, head.recovered_incarnation);
        }
        // What the recovery before the last one counted had kept.
        let mut kept = None;
        let mut counting = Vec::new();
        while let Some((at, h)) = valid.pop() {
            let same_life = h.incarnation == incarnation && h.seq <= through;
            let life_before = kept.is_some_and(|(seq, i)| h.incarnation == i && h.seq <= seq);
            if h.seq <= self.expect || !(same_life || life_before) {
                continue;
            }
            through = SegmentSeq(h.seq.0 - 1);
            incarnation = h.incarnation;
            kept = Some((h.recovered_through, h.recovered_incarnation));
            counting.push((at, h));
        }
        counting.reverse();
        counting
    }
    async fn report(&mut self, from: SegmentSeq, to: SegmentSeq, at: Position) -> Result<()> {
        // Only the first segment's place is known; of more than one, nobody knows what the others held.
        let vdis = if from == to { guess_vdis(&self.reader.bytes_at(at).await?) } else { Vec::new() };
        let offset_bytes = self.scan.ring.device_offset(at);
        self.scan.findings.push(Finding { from, to, offset_bytes, vdis });
        Ok(())
    }
}

fn changing(at: Position) -> Error {
    Error::corrupt("log", format!("{at:?}"), "its device reads the same place in two ways")
}

fn place_of(found: &VerifiedSegment<'_>, at: Position, ring: &Ring) -> Place {
    Place {
        at,
        bytes: found.head_bytes as u64 + u64::from(found.header.data_blocks) * BLOCK_BYTES,
        data_offset_bytes: ring.device_offset(at) + found.head_bytes as u64,
        data_blocks: found.header.data_blocks,
        crc: found.crc,
        previous_crc: found.header.previous_crc,
    }
}
