//! What the log keeps in memory: space, the open segment, segments in flight and segments on the device.

use std::collections::VecDeque;
use std::rc::Rc;
use std::task::Waker;

use super::reserve::Waiter;
use super::ring::{Position, Ring};
use super::segment::Segment;
use crate::error::{Error, Result};
use crate::units::SegmentSeq;

/// A segment that takes records.
pub(super) struct Open {
    pub segment: Rc<Segment>,
    /// Encoded records, back to back.
    pub records: Vec<u8>,
    pub count: u32,
    pub data_blocks: u32,
    /// Ring bytes promised to its records, each rounded up as if alone.
    pub charge_bytes: u64,
}

/// A segment being written.
pub(super) struct Flight {
    pub segment: Rc<Segment>,
    pub ended: bool,
}

/// Bounds: `open`, `full` and `flying` by [`Ring::staged_bytes_max`]; `live` by the ring (4 KiB each at
/// least); `waiters` by whoever calls.
pub(super) struct State {
    pub ring: Ring,
    pub failure: Option<Error>,
    /// Takes records.
    pub open: Option<Open>,
    /// Full, waiting for their turn to be written.
    pub full: VecDeque<Open>,
    /// The open segment that is collected for a while, and whether that is over.
    pub collecting: Option<(SegmentSeq, bool)>,
    /// A flush waits for the open segment.
    pub urgent: bool,
    /// Sent, in order, until each and all before have ended.
    pub flying: VecDeque<Flight>,
    pub flying_bytes: u64,
    /// Sealed and not trimmed, oldest first.
    pub live: VecDeque<Rc<Segment>>,
    /// Of the next segment to be opened.
    pub next_seq: SegmentSeq,
    /// Where the next segment to be sealed starts.
    pub next: Position,
    /// Where the space in use starts.
    pub tail: Position,
    /// End of the part that is on the device, and of the part that is flushed; as starts of what follows.
    pub written_end: Position,
    pub durable_end: Position,
    /// Checksum of the newest sealed head area.
    pub last_crc: u32,
    /// Ring bytes promised to reservations.
    pub reserved_bytes: u64,
    pub waiters: VecDeque<Rc<Waiter>>,
    pub flushing: bool,
    /// Segments below this are no longer needed by any record.
    pub trim_before: SegmentSeq,
    pub trimming: bool,
}

impl State {
    pub fn check(&self) -> Result<()> {
        self.failure.as_ref().map_or(Ok(()), |e| Err(e.duplicate()))
    }
    /// The newest segment that has records.
    pub fn newest(&self) -> SegmentSeq {
        SegmentSeq(self.next_seq.0 - 1)
    }
    /// The oldest segment not sealed yet.
    pub fn unsealed(&self) -> SegmentSeq {
        let open = self.full.front().or(self.open.as_ref());
        open.map_or(self.next_seq, |o| o.segment.seq())
    }
    /// The oldest segment held.
    pub fn tail_seq(&self) -> SegmentSeq {
        self.live.front().map_or(self.unsealed(), |s| s.seq())
    }
    fn open_bytes(&self) -> u64 {
        self.full.iter().chain(&self.open).map(|o| o.charge_bytes).sum()
    }
    /// Ring bytes in use or promised.
    pub fn promised_bytes(&self) -> u64 {
        self.next.since(self.tail) + self.reserved_bytes + self.open_bytes()
    }
    /// Bytes reserved, or appended and not on the device yet.
    pub fn staged_bytes(&self) -> u64 {
        self.reserved_bytes + self.open_bytes() + self.flying_bytes
    }
    /// Whether a reservation of `charge_bytes` can be granted now.
    pub fn fits(&self, charge_bytes: u64) -> bool {
        let staged = self.staged_bytes();
        self.promised_bytes() + charge_bytes <= self.ring.usable_bytes() - self.ring.copies_bytes_max()
            && (staged == 0 || staged + charge_bytes <= self.ring.staged_bytes_max())
    }
    /// Grant waiting reservations in order, as far as space goes; the caller wakes them.
    pub fn grant(&mut self) -> Vec<Waker> {
        let mut wakers = Vec::new();
        while let Some(waiter) = self.waiters.front() {
            if !self.fits(waiter.charge_bytes) {
                break;
            }
            self.reserved_bytes += waiter.charge_bytes;
            wakers.extend(waiter.grant());
            self.waiters.pop_front();
        }
        wakers
    }
    /// Forget all waiting reservations; the caller wakes them and they find the failure.
    pub fn take_waiters(&mut self) -> Vec<Waker> {
        self.waiters.drain(..).filter_map(|w| w.take_waker()).collect()
    }
}
