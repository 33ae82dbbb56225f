//! The write-back log: a prewritten ring of segments on a local file or device, one per shard.
//!
//! A segment is a head area (header and records, one checksum over all) and data blocks, sent as one
//! write. Records are copied into the open segment by [`Log::append`]; it is sealed (given its place and
//! its header) when it is sent: at once when nothing is in flight, else when it is full, when a flush
//! asks for it, or when the last write ended. The ring starts after the two slots of the head
//! (`format::log_head`), which says where the oldest segment still needed lies and which incarnation
//! writes now. This module moves records; what they mean is not its business.
//!
//! Life: [`Log::create`] once; then each daemon scans ([`Log::scan`]), replays, and opens the next
//! incarnation ([`Scan::start`]).
//!
//! Invariants:
//! - Segments have consecutive sequence numbers within an incarnation; each names the checksum of the one
//!   before, its incarnation, and what that incarnation's recovery kept. So a stale segment never
//!   follows, whatever its own checksum says.
//! - A segment never wraps: where the largest one does not fit before the ring's end, the next starts at
//!   the ring's start ([`ring::Ring::start_after`]). Writer and scan share that one function.
//! - `durable <= written <= sealed <= appended`, in sequence; both ends of each hand-off assert it.
//! - Space is granted before it is used: `used + reserved + staged + one largest segment <= ring`, so an
//!   append or a seal can never lack room, not even for the skip at the ring's end. Of it a share is for
//!   copies of records alone ([`copies`]), so that a full ring can always be made to move on.
//! - The space of a segment is reused only when a trim has passed it, nobody holds its [`Segment`], and
//!   the head that names the new tail is durable.
//! - No segment starts more than `unflushed_bytes_max` after the end of the durable part, or what was adopted after it,
//!   which is flushed before anything else is written. Hence whoever
//!   finds a bad segment finds proof that it was once durable, if there is any, within
//!   [`ring::Ring::probe_bytes`].
//! - After the first failed write or flush nothing is acknowledged any more: every call ends with
//!   [`ErrorKind::Poisoned`](crate::ErrorKind::Poisoned).
//! - No `RefCell` borrow lives across an await. No task is woken into this module while it holds one.

mod adopt;
mod append;
mod copies;
mod create;
mod flush;
mod head;
mod probe;
mod reserve;
pub(crate) mod ring;
mod scan;
mod segment;
mod staging;
mod start;
mod state;
mod trim;
mod walk;
mod watch;
mod write;

#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::buffer::{AlignedBuf, Arena};
use crate::device::DeviceHandle;
use crate::error::{Error, ErrorKind, Result};
use crate::executor::{Executor, LocalFuture, TaskLock};
use crate::format::log_head::{LogHead, StagedIn};
use crate::units::{BLOCK_SIZE, Incarnation, SegmentSeq, Uuid};

pub use crate::format::log_head::VdiGeneration;
pub use crate::format::record::{Body, Crcs, Origin, Record, Runs};
pub use append::Appended;
pub use reserve::Reservation;
pub use scan::{Finding, Scan, ScannedSegment};
pub use segment::Segment;
pub use staging::{StagingMemory, check_staged};

use ring::Ring;
use staging::Staging;
use state::State;
use watch::Watch;

/// Handle on an open log; clones share it.
#[derive(Clone)]
pub struct Log(Rc<Inner>);

struct Inner {
    executor: Executor,
    device: DeviceHandle,
    ring: Ring,
    state: RefCell<State>,
    /// Every segment up to here is on the device, perhaps in its cache.
    written: Watch,
    /// Every segment up to here is on stable storage.
    durable: Watch,
    /// What the head says, or will say with its next write.
    head: RefCell<LogHead>,
    /// Held while the head is being written.
    head_lock: TaskLock,
    /// Where appended records are safe from the daemon's end, if there is such memory.
    staging: Option<Staging>,
    /// Memory for data to be appended.
    arena: Arena,
    /// Which life of the memory that is.
    staged_in: StagedIn,
    /// The next head says that something may be staged there.
    bound_to_staging: Cell<bool>,
    /// What is staged is acknowledged.
    stages: Cell<bool>,
    retired: Cell<bool>,
    counts: Counts,
    barrier: RefCell<Option<Barrier>>,
}

/// Makes durable what records name outside the log; called before each flush of the log.
pub type Barrier = Rc<dyn Fn() -> LocalFuture<'static, Result<()>>>;

#[derive(Default)]
struct Counts {
    segments: Cell<u64>,
    segment_bytes: Cell<u64>,
    records: Cell<u64>,
    flushes: Cell<u64>,
    head_writes: Cell<u64>,
    waits: Cell<u64>,
}

fn count(cell: &Cell<u64>, n: u64) {
    cell.set(cell.get() + n);
}

/// What a log is doing, for `status` and metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stats {
    /// Length of the ring, bytes.
    pub ring_bytes: u64,
    /// Bytes of the ring that hold segments not trimmed yet, or are promised.
    pub used_bytes: u64,
    /// Bytes that a reservation can still get without a trim.
    pub free_bytes: u64,
    /// Bytes reserved, or appended and not on the device yet.
    pub staged_bytes: u64,
    /// Reservations waiting for space.
    pub waiting: usize,
    /// Reservations that had to wait, since start.
    pub waits: u64,
    /// The oldest segment still held.
    pub tail: SegmentSeq,
    /// The newest segment appended to.
    pub newest: SegmentSeq,
    /// Highest segment known flushed.
    pub durable_through: SegmentSeq,
    /// Segments that lie between tail and newest.
    pub segments_live: usize,
    /// Segments sent since start.
    pub segments_written: u64,
    /// Bytes of these.
    pub segment_bytes_written: u64,
    /// Records appended since start.
    pub records: u64,
    /// Device flushes for segments since start; those for the head are not counted.
    pub flushes: u64,
    /// Writes of the head since start (each is two slots and two flushes).
    pub head_writes: u64,
}

impl Log {
    /// The log's UUID.
    #[must_use]
    pub fn uuid(&self) -> Uuid {
        self.0.head.borrow().log
    }
    /// This life of the log.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.0.head.borrow().incarnation
    }
    /// The device under the log.
    #[must_use]
    pub fn device(&self) -> &DeviceHandle {
        &self.0.device
    }
    /// Most bytes of records, and most data blocks, that one reservation can ask for.
    #[must_use]
    pub fn reservation_max(&self) -> (usize, u32) {
        (self.0.ring.record_bytes_max(), self.0.ring.data_blocks_max)
    }
    /// Highest segment known to be on stable storage.
    #[must_use]
    pub fn durable_through(&self) -> SegmentSeq {
        self.0.durable.reached()
    }
    /// The newest segment that anything was appended to; all records so far are in it or before it.
    #[must_use]
    pub fn newest(&self) -> SegmentSeq {
        self.0.state.borrow().newest()
    }
    /// The newest segment that nothing is appended to any more, and no older one is.
    #[must_use]
    pub fn sealed_through(&self) -> SegmentSeq {
        SegmentSeq(self.0.state.borrow().unsealed().0 - 1)
    }
    /// The oldest segment still held: what keeps the ring's space.
    #[must_use]
    pub fn tail(&self) -> SegmentSeq {
        self.0.state.borrow().tail_seq()
    }
    /// From now on each flush of the log first awaits `barrier`, which makes durable the out-of-line data
    /// that records appended so far name: a durable record never names data in a volatile cache.
    pub fn set_barrier(&self, barrier: Barrier) {
        *self.0.barrier.borrow_mut() = Some(barrier);
    }
    /// What the log is doing.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let s = self.0.state.borrow();
        let c = &self.0.counts;
        let used_bytes = s.promised_bytes();
        Stats {
            ring_bytes: self.0.ring.bytes,
            used_bytes,
            free_bytes: (self.0.ring.usable_bytes() - self.0.ring.copies_bytes_max())
                .saturating_sub(used_bytes),
            staged_bytes: s.staged_bytes(),
            waiting: s.waiters.len(),
            waits: c.waits.get(),
            tail: s.tail_seq(),
            newest: s.newest(),
            durable_through: self.0.durable.reached(),
            segments_live: s.live.len(),
            segments_written: c.segments.get(),
            segment_bytes_written: c.segment_bytes.get(),
            records: c.records.get(),
            flushes: c.flushes.get(),
            head_writes: c.head_writes.get(),
        }
    }
    /// Memory for `len` bytes of data that are to be appended, holding whatever was there. Staged in place where it comes from the
    /// log's arena; that has room for what is in memory for ordinary, and the heap for the rest.
    #[must_use]
    pub fn buffer(&self, len: usize) -> AlignedBuf {
        self.0.arena.take(len).unwrap_or_else(|| AlignedBuf::zeroed(len))
    }
    /// Data blocks `first..first + blocks` of `segment`, from memory while they are there, else from the
    /// device; checksums are the caller's to verify. [`ErrorKind::Io`] when the device cannot read them.
    pub async fn read_data(&self, segment: &Rc<Segment>, first: u32, blocks: u32) -> Result<AlignedBuf> {
        if blocks == 0 {
            return Ok(AlignedBuf::zeroed(0));
        }
        if let Some(offset_bytes) = segment.block_offset(first) {
            return self.0.device.read(offset_bytes, blocks as usize * BLOCK_SIZE).await;
        }
        let mut out = AlignedBuf::zeroed(blocks as usize * BLOCK_SIZE);
        for (n, block) in out.chunks_exact_mut(BLOCK_SIZE).enumerate() {
            let index = first + u32::try_from(n).expect("blocks fit 32 bits");
            let (buf, at) = segment.staged(index).expect("a segment not written yet is in memory");
            block.copy_from_slice(&buf[at..at + BLOCK_SIZE]);
        }
        Ok(out)
    }
    /// Give up: nothing is acknowledged any more. Everyone who waits learns it now.
    fn poison(&self, cause: &Error) {
        let wakers = {
            let mut s = self.0.state.borrow_mut();
            if s.failure.is_some() {
                return;
            }
            s.failure = Some(Error::new(
                ErrorKind::Poisoned,
                format!("the log on {} failed earlier: {}", self.0.device.info().name, cause.message()),
                "nothing written since then was acknowledged; check the log device and the kernel log, then restart the daemon, which recovers",
            ));
            s.take_waiters()
        };
        for waker in wakers {
            waker.wake();
        }
        self.0.written.wake_all();
        self.0.durable.wake_all();
    }
    /// The error of an earlier failure, if there was one.
    pub fn check_alive(&self) -> Result<()> {
        self.check()
    }
    fn check(&self) -> Result<()> {
        self.0.state.borrow().check()
    }
}
