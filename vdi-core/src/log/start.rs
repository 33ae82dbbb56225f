//! Start: open the next incarnation, durably, before its first append.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use super::head::{write_first, write_second};
use super::scan::{End, Scan, ScannedSegment};
use super::segment::Segment;
use super::staging::{Staging, StagingMemory, arena_in};
use super::state::State;
use super::watch::Watch;
use super::{Counts, Inner, Log};
use crate::buffer::Arena;
use crate::error::Result;
use crate::executor::{Executor, TaskLock};
use crate::format::log_head::{LogHead, StagedIn};
use crate::sabotage::{Point, crash_point};
use crate::units::{Generation, Incarnation, SegmentSeq};

/// A segment of the past, with as many records as count.
fn counting(found: ScannedSegment) -> Rc<Segment> {
    found.segment.keep_records(found.records.len());
    found.segment
}

impl Scan {
    /// Make the scanned log a running one: flush the device (what was read may sit in a volatile cache),
    /// then write and flush a head that opens the next incarnation, with a sequence above everything
    /// seen. A crash on the way is a crash before it or after it. The log's writes run on `executor`; what is appended
    /// is staged in `staging`, which must have been adopted from ([`Scan::adopt`]).
    ///
    /// [`crate::ErrorKind::Io`] when the device fails; scan again then.
    pub async fn start(self, executor: &Executor, staging: &StagingMemory) -> Result<Log> {
        self.device.flush().await?;
        let end = self.end();
        let mut head = self.next_head(&end);
        let before = self.found.head.staged_in.life;
        let (staged, arena) = match &staging.outlives {
            Ok(()) => {
                let staged = Staging::begin(staging, head.log, before, &self.ring)?;
                let arena = staged.arena();
                (Some(staged), arena)
            }
            Err(_) => (None, arena_in(&staging.memory, 0)?),
        };
        // Of a boot that nobody knows it is never over.
        let staged_in = StagedIn { boot: staging.boot.unwrap_or(0), life: staging.life };
        // Nothing is acknowledged for being staged before [`Log::begin_staging`].
        head.staged_in = StagedIn::default();
        write_first(&self.device, &head, self.found.order).await?;
        write_second(&self.device, &head, self.found.order).await?;
        crash_point(Point::IncarnationOpened);
        Ok(self.into_log(executor, &end, head, (staged, staged_in), arena))
    }
    fn next_head(&self, end: &End) -> LogHead {
        let old = &self.found.head;
        let highest = [self.highest_seen, end.seq, old.durable_through, self.durable_through];
        let highest = highest.into_iter().max().expect("four of them");
        let first_seq = SegmentSeq(highest.0.max(old.first_seq.0) + 1);
        let start_offset_bytes = self.ring.device_offset(end.next);
        let mut head = LogHead {
            generation: Generation(old.generation.0 + 1),
            incarnation: Incarnation(old.incarnation.0 + 1),
            first_seq,
            start_offset_bytes,
            recovered_through: end.seq,
            recovered_incarnation: end.incarnation,
            recovered_records: end.records,
            recovered_crc: end.crc,
            durable_through: end.seq.max(self.durable_through),
            retired: false,
            ..old.clone()
        };
        if old.tail_seq > end.seq {
            // Nothing is left of the past: the tail is where this incarnation starts.
            head.tail_seq = first_seq;
            head.tail_offset_bytes = start_offset_bytes;
            head.tail_previous_crc = end.crc;
        }
        head
    }
    fn into_log(
        self,
        executor: &Executor,
        end: &End,
        head: LogHead,
        (staging, staged_in): (Option<Staging>, StagedIn),
        arena: Arena,
    ) -> Log {
        let before_first = SegmentSeq(head.first_seq.0 - 1);
        let empty = head.tail_seq == head.first_seq;
        let state = State {
            ring: self.ring,
            failure: None,
            open: None,
            full: VecDeque::new(),
            collecting: None,
            urgent: false,
            flying: VecDeque::new(),
            flying_bytes: 0,
            live: self.segments.into_iter().map(counting).collect(),
            next_seq: head.first_seq,
            next: end.next,
            tail: if empty { end.next } else { self.tail },
            written_end: end.next,
            durable_end: end.next,
            last_crc: end.crc,
            reserved_bytes: 0,
            waiters: VecDeque::new(),
            flushing: false,
            trim_before: head.tail_seq,
            trimming: false,
        };
        Log(Rc::new(Inner {
            executor: executor.clone(),
            device: self.device,
            ring: self.ring,
            state: RefCell::new(state),
            written: Watch::at(before_first),
            durable: Watch::at(before_first),
            head: RefCell::new(head),
            head_lock: TaskLock::default(),
            staging,
            arena,
            staged_in,
            bound_to_staging: Cell::new(false),
            stages: Cell::new(false),
            retired: Cell::new(false),
            counts: Counts::default(),
            barrier: RefCell::default(),
        }))
    }
}
