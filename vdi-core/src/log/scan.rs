//! Scan: find, from the head on, every segment that counts. Reads only; what the records mean, and whether
//! out-of-line data are there, is the caller's to find out.
//!
//! The head splits the ring into two parts. Segments up to `recovered_through` were found and flushed by
//! the recovery that opened the present incarnation: each must be there. Then come those of the present
//! incarnation, from `first_seq` on, until one is not there. That end is quiet when it lies above every
//! `durable_through` seen, in the head, in the segments before and in those found behind it; at or below it
//! is corruption: a [`Finding`], and the scan goes on behind the gap. Above `durable_through`, inline data
//! are verified and the first bad block ends the log quietly; data below it are verified when they are read.

use std::rc::Rc;

use super::head::{self, FoundHead};
use super::probe::Reader;
use super::ring::{Position, Ring};
use super::segment::Segment;
use super::staging::{StagingMemory, durable_by};
use super::walk::Walk;
use super::{Log, VdiGeneration};
use crate::buffer::crc32c;
use crate::device::DeviceHandle;
use crate::error::{Error, ErrorKind, Result};
use crate::format::log_head::{LogHead, RING_OFFSET_BYTES};
use crate::format::record::{Body, Record};
use crate::limits::LOG_RING_BYTES_MIN;
use crate::sabotage::{Bug, seeded_bug};
use crate::units::{BLOCK_BYTES, BLOCK_SIZE, Incarnation, SegmentSeq, Uuid, VdiId};

/// A segment that counts, with its records and for each the index of its first data block.
#[derive(Debug)]
pub struct ScannedSegment {
    /// Where its data are; holding it keeps its space, in the log started from this scan too.
    pub segment: Rc<Segment>,
    /// Records that count, in order.
    pub records: Vec<(Record, u32)>,
}

/// Segments that were durable once and cannot be read any more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// First sequence missing.
    pub from: SegmentSeq,
    /// Last sequence missing (some in between may never have existed).
    pub to: SegmentSeq,
    /// Where the first one should be, bytes from the start of the log device.
    pub offset_bytes: u64,
    /// VDIs that the bytes there still seem to name; none means that any VDI may be hurt, and so does one
    /// that does not exist (its name rotted). A VDI is clear for certain only when a later record of it
    /// continues its own sequence without a gap.
    pub vdis: Vec<VdiId>,
}

impl Finding {
    /// As an error to show or return.
    #[must_use]
    pub fn error(&self) -> Error {
        let which = if self.from == self.to {
            format!("segment {}", self.from.0)
        } else {
            format!("segments {} to {}", self.from.0, self.to.0)
        };
        Error::corrupt(
            "log",
            format!("offset {}", self.offset_bytes),
            format!("{which} was durable and cannot be read"),
        )
    }
}

/// What a log holds. [`Scan::start`] makes it a running log.
pub struct Scan {
    pub(super) device: DeviceHandle,
    pub(super) ring: Ring,
    pub(super) found: FoundHead,
    pub(super) tail: Position,
    /// Where the present incarnation starts.
    pub(super) start: Position,
    pub(super) segments: Vec<ScannedSegment>,
    pub(super) durable_through: SegmentSeq,
    pub(super) findings: Vec<Finding>,
    /// Highest sequence of any valid segment met, counting or not.
    pub(super) highest_seen: SegmentSeq,
    /// When the log ends in damage: the last sequence lost, and where the first one was.
    pub(super) lost_end: Option<(SegmentSeq, Position)>,
    pub(super) given_up: Option<Error>,
}

/// The end of what counts: what the next segment follows.
pub(super) struct End {
    pub seq: SegmentSeq,
    pub incarnation: Incarnation,
    pub records: u32,
    pub crc: u32,
    pub next: Position,
}

impl Log {
    /// Find everything in the log on `device`, which must be the log `log` of the store `store`.
    ///
    /// [`ErrorKind::LogMissing`] when it is not that log, [`ErrorKind::WrongStore`] when it is another
    /// store's, [`ErrorKind::Corrupt`] when the head is unreadable or older than the segments,
    /// [`ErrorKind::Unsupported`] for a format we do not know, [`ErrorKind::Io`] when the device fails.
    pub async fn scan(device: &DeviceHandle, log: Uuid, store: Uuid) -> Result<Scan> {
        Log::scan_staged(device, log, store, &StagingMemory::default()).await
    }
    /// As [`Log::scan`], and what its last life knew to be durable, as `staging` says, must be there.
    pub async fn scan_staged(
        device: &DeviceHandle,
        log: Uuid,
        store: Uuid,
        staging: &StagingMemory,
    ) -> Result<Scan> {
        let found = head::read(device, log, store).await?;
        let known = durable_by(staging, log, found.head.staged_in);
        let ring = ring_of(device, &found.head)?;
        let place = |from, offset| {
            let bad =
                || Error::corrupt("log head", &device.info().name, "no segment can start where it says");
            ring.position_from(from, offset).ok_or_else(bad)
        };
        let tail = place(Position(0), found.head.tail_offset_bytes)?;
        let start = place(tail, found.head.start_offset_bytes)?;
        let scan = Scan {
            device: device.clone(),
            ring,
            tail,
            start,
            segments: Vec::new(),
            durable_through: found.head.durable_through.max(known),
            given_up: None,
            findings: Vec::new(),
            highest_seen: SegmentSeq(0),
            lost_end: None,
            found,
        };
        let mut scan = Walk::new(scan, Reader::new(device, log, ring)).run().await?;
        scan.verify_tail_data().await?;
        Ok(scan)
    }
}

fn ring_of(device: &DeviceHandle, head: &LogHead) -> Result<Ring> {
    let name = &device.info().name;
    let room = device.info().len_bytes - RING_OFFSET_BYTES;
    if head.ring_bytes > room {
        let bytes = head.ring_bytes;
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!(
                "the log on {name} is truncated: its ring has {bytes} bytes, the device has room for {room}"
            ),
            "give the daemon the whole log; without its end, writes that were not checkpointed are lost",
        ));
    }
    if head.ring_bytes < LOG_RING_BYTES_MIN {
        return Err(Error::corrupt("log head", name, "its ring is shorter than any"));
    }
    Ok(Ring::of(head.ring_bytes))
}

impl Scan {
    /// The segments that count, oldest first.
    #[must_use]
    pub fn segments(&self) -> &[ScannedSegment] {
        &self.segments
    }
    /// Every record that counts, in order: its segment, its index there, its first data block.
    pub fn records(&self) -> impl Iterator<Item = (&Rc<Segment>, u32, &Record, u32)> {
        self.segments.iter().flat_map(|s| {
            (0u32..)
                .zip(&s.records)
                .map(move |(n, (record, first_block))| (&s.segment, n, record, *first_block))
        })
    }
    /// Highest segment known to have been flushed. Above it, out-of-line data may be torn: a record whose
    /// data do not verify ends the log ([`Scan::cut`]); at or below it that is corruption.
    #[must_use]
    pub fn durable_through(&self) -> SegmentSeq {
        self.durable_through
    }
    /// What the head remembers, by VDI: older records are corruption, not history.
    #[must_use]
    pub fn generations(&self) -> &[VdiGeneration] {
        &self.found.head.vdis
    }
    /// The incarnation that wrote last.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.found.head.incarnation
    }
    /// Segments that were durable once and are unreadable now.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }
    /// Why what was staged was given up, if it was.
    #[must_use]
    pub fn given_up(&self) -> Option<&Error> {
        self.given_up.as_ref()
    }
    /// Record `record` of segment `seq` and everything after it do not count: its out-of-line data never
    /// reached their device. Remembered by the next incarnation, so they never come back. Panics when the
    /// segment is at or below [`Scan::durable_through`]: that would drop flushed writes.
    pub fn cut(&mut self, seq: SegmentSeq, record: u32) {
        assert!(seq > self.durable_through, "only what was never flushed can be torn");
        self.void_after(seq, record);
        if self.segments.last().is_some_and(|s| s.records.is_empty()) {
            self.segments.pop();
        }
    }
    /// Nothing counts after the first `records` records of segment `seq`.
    pub(super) fn void_after(&mut self, seq: SegmentSeq, records: u32) {
        while self.segments.last().is_some_and(|s| s.segment.seq() > seq) {
            self.segments.pop();
        }
        if let Some(last) = self.segments.last_mut().filter(|s| s.segment.seq() == seq) {
            last.records.truncate(records as usize);
        }
    }
    /// What the next segment will follow.
    pub(super) fn end(&self) -> End {
        let head = &self.found.head;
        if let Some((seq, at)) = self.lost_end {
            // Go on behind the damage, so that every later scan still finds it, until it is trimmed.
            let next = self.ring.start_after(at.plus(BLOCK_BYTES));
            return End { seq, incarnation: head.incarnation, records: 0, crc: 0, next };
        }
        if let Some(last) = self.segments.last().filter(|s| s.segment.seq() >= head.first_seq) {
            let place = last.segment.place();
            let records = u32::try_from(last.records.len()).expect("bounded by a head area");
            let next = self.ring.start_after(place.end());
            return End {
                seq: last.segment.seq(),
                incarnation: last.segment.incarnation(),
                records,
                crc: place.crc,
                next,
            };
        }
        if head.tail_seq < head.first_seq {
            return End {
                seq: head.recovered_through,
                incarnation: head.recovered_incarnation,
                records: head.recovered_records,
                crc: head.recovered_crc,
                next: self.start,
            };
        }
        let seq = SegmentSeq(head.tail_seq.0.saturating_sub(1));
        End { seq, incarnation: head.incarnation, records: 0, crc: head.tail_previous_crc, next: self.tail }
    }
    /// Read the inline data of every segment that was perhaps never flushed; the first bad block ends the
    /// log. Bounded by the unflushed window.
    async fn verify_tail_data(&mut self) -> Result<()> {
        if seeded_bug(Bug::TornTailCounts) {
            return Ok(());
        }
        let first = self.segments.partition_point(|s| s.segment.seq() <= self.durable_through);
        for n in first..self.segments.len() {
            let segment = &self.segments[n];
            // What ends a log was not misread.
            if !data_hold(&self.device, segment).await? && !data_hold(&self.device, segment).await? {
                self.segments.truncate(n);
                break;
            }
        }
        Ok(())
    }
}

async fn data_hold(device: &DeviceHandle, s: &ScannedSegment) -> Result<bool> {
    let place = s.segment.place();
    if place.data_blocks == 0 {
        return Ok(true);
    }
    let data = device.read(place.data_offset_bytes, place.data_blocks as usize * BLOCK_SIZE).await?;
    Ok(s.records.iter().all(|(record, first_block)| {
        let first = *first_block as usize * BLOCK_SIZE;
        let end = first + record.body.inline_blocks() as usize * BLOCK_SIZE;
        holds(record, data[first..end].chunks_exact(BLOCK_SIZE))
    }))
}

/// Whether `blocks` are the inline data of `record`.
pub(super) fn holds<'a>(record: &Record, mut blocks: impl Iterator<Item = &'a [u8]>) -> bool {
    let crcs: &[u32] = match &record.body {
        Body::Write { crcs, .. } => crcs,
        _ => &[],
    };
    crcs.iter().all(|crc| blocks.next().is_some_and(|b| crc32c(b) == *crc)) && blocks.next().is_none()
}
