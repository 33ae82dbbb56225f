//! Write: seal segments and send them, a few at a time; they count as written in sequence.

use std::rc::Rc;

use super::segment::{Place, Segment};
use super::state::{Flight, Open, State};
use super::{Log, count};
use crate::buffer::{IoBuf, IoBufs};
use crate::error::Result;
use crate::format::segment::{SegmentHeader, encode};
use crate::limits::{LOG_COLLECTED_BYTES, LOG_COLLECTING_NS, SEGMENTS_IN_FLIGHT_MAX};
use crate::sabotage::{Bug, Point, crash_point, is_stopped, seeded_bug};
use crate::units::{BLOCK_BYTES, SegmentSeq};

impl Log {
    /// To be called when no task can go on: sends what was collected if nothing is in flight, and moves
    /// the tail on if that is what reservations wait for. True when it started something, which the
    /// executor must then run.
    pub fn kick(&self) -> bool {
        let sent = self.pump(true);
        self.trim_if_awaited() || sent
    }
    /// Wait until the segment `seq` and all before it are on the device (perhaps in its cache: see
    /// [`Log::flush`]). Something must send it: a [`Log::kick`] now and then.
    ///
    /// [`crate::ErrorKind::Poisoned`] after a failure, even if that segment had been written.
    pub async fn written(&self, seq: SegmentSeq) -> Result<()> {
        self.0.written.wait(seq, || self.check().is_err()).await;
        self.check()
    }
    /// Wait until what was appended to the segment `seq` and all before it is safe from the daemon's end: at once where
    /// there is staging memory, else as [`Log::written`].
    pub async fn acknowledged(&self, seq: SegmentSeq) -> Result<()> {
        if self.stages() {
            if is_stopped() {
                // Nobody is there any more to acknowledge anything.
                std::future::pending::<()>().await;
            }
            return self.check();
        }
        self.written(seq).await
    }
    fn stages(&self) -> bool {
        self.0.stages.get()
    }
    /// From the end of this on what is staged is acknowledged, if there is memory for it: a start without that memory is refused
    /// then. A start that comes to nothing must not get so far.
    ///
    /// [`crate::ErrorKind::Poisoned`] after a failure.
    pub async fn begin_staging(&self) -> Result<()> {
        if self.0.staging.is_none() {
            return Ok(());
        }
        self.0.bound_to_staging.set(true);
        self.move_tail(true).await?;
        // Unless somebody has left it meanwhile.
        self.0.stages.set(self.0.bound_to_staging.get());
        Ok(())
    }
    /// Stop in good order: nothing is acknowledged for being staged from now on, all is made durable, and the head says
    /// that the next daemon need not look for the staging memory.
    pub async fn leave_staging(&self) -> Result<()> {
        if !self.0.bound_to_staging.get() {
            return Ok(());
        }
        self.0.stages.set(false);
        crash_point(Point::StagingLeft);
        self.flush().await?;
        self.0.bound_to_staging.set(false);
        self.move_tail(true).await
    }
    /// Send every segment whose turn it is; the open one only when `idle` and nothing is in flight, or
    /// when a flush waits for it. True when something was started.
    pub(super) fn pump(&self, idle: bool) -> bool {
        let collecting = if idle && self.stages() { self.collect() } else { Collecting::Over };
        let mut started = collecting == Collecting::Begun;
        let idle = idle && collecting == Collecting::Over;
        loop {
            let sealed = {
                let mut s = self.0.state.borrow_mut();
                s.take_next_to_send(idle).map(|open| self.seal(&mut s, open))
            };
            let Some((segment, bufs)) = sealed else { break };
            self.send(segment, bufs);
            started = true;
        }
        self.pump_flush() || started
    }
    /// Nobody waits for what is staged: the open segment is collected for a while.
    fn collect(&self) -> Collecting {
        let mut s = self.0.state.borrow_mut();
        let wanted = s.open.as_ref().filter(|o| o.charge_bytes < LOG_COLLECTED_BYTES && s.waiters.is_empty());
        let Some(seq) = wanted.map(|open| open.segment.seq()) else { return Collecting::Over };
        match s.collecting {
            Some((of, true)) if of == seq => return Collecting::Over,
            Some((of, false)) if of == seq => return Collecting::GoesOn,
            _ => s.collecting = Some((seq, false)),
        }
        drop(s);
        let log = self.clone();
        self.0.executor.spawn(async move {
            log.0.executor.sleep(LOG_COLLECTING_NS).await;
            let is_open = {
                let mut s = log.0.state.borrow_mut();
                let is_open = s.collecting == Some((seq, false));
                if is_open {
                    s.collecting = Some((seq, true));
                }
                is_open
            };
            if is_open {
                log.pump(true);
            }
        });
        Collecting::Begun
    }
    /// Give `open` its place and its header.
    fn seal(&self, s: &mut State, open: Open) -> (Rc<Segment>, IoBufs) {
        let head = self.0.head.borrow();
        let header = SegmentHeader {
            log: head.log,
            offset_bytes: s.ring.device_offset(s.next),
            seq: open.segment.seq(),
            incarnation: head.incarnation,
            durable_through: if seeded_bug(Bug::DurableTooHigh) {
                SegmentSeq(open.segment.seq().0 - 1)
            } else {
                self.0.durable.reached()
            },
            previous_crc: s.last_crc,
            records: open.count,
            data_blocks: open.data_blocks,
            recovered_through: head.recovered_through,
            recovered_incarnation: head.recovered_incarnation,
            recovered_records: head.recovered_records,
        };
        let (area, crc) = encode(&header, &open.records);
        let head_bytes = area.len() as u64;
        let place = Place {
            at: s.next,
            bytes: head_bytes + u64::from(open.data_blocks) * BLOCK_BYTES,
            data_offset_bytes: header.offset_bytes + head_bytes,
            data_blocks: open.data_blocks,
            crc,
            previous_crc: s.last_crc,
        };
        assert!(place.bytes <= open.charge_bytes, "a segment takes at most what its records were charged");
        let mut bufs: IoBufs = std::iter::once(IoBuf::Owned(area)).collect();
        bufs.extend(open.segment.buffers().into_iter().map(|b| {
            let all = 0..b.len();
            IoBuf::Shared(b, all)
        }));
        open.segment.seal(place);
        s.sealed(&open.segment, place);
        (open.segment, bufs)
    }
    fn send(&self, segment: Rc<Segment>, bufs: IoBufs) {
        let place = segment.place();
        count(&self.0.counts.segments, 1);
        count(&self.0.counts.segment_bytes, place.bytes);
        let log = self.clone();
        self.0.executor.spawn(async move {
            let offset_bytes = log.0.ring.device_offset(place.at);
            let result = log.0.device.write_bufs(offset_bytes, bufs).await;
            log.write_ended(segment, result);
        });
    }
    fn write_ended(&self, segment: Rc<Segment>, result: Result<()>) {
        if let Err(e) = result {
            return self.poison(&e);
        }
        let (reached, wakers) = {
            let mut s = self.0.state.borrow_mut();
            if s.failure.is_some() {
                return;
            }
            segment.set_written();
            let reached = s.land(&segment);
            (reached, s.grant())
        };
        // A flight's own handle is not a reader's: it must be gone before a trim looks.
        drop(segment);
        if let Some(seq) = reached {
            if let Some(staging) = self.0.staging.as_ref().filter(|_| seeded_bug(Bug::UnstagedWhenWritten)) {
                staging.release(seq);
            }
            self.0.written.advance(seq);
        }
        for waker in wakers {
            waker.wake();
        }
        crash_point(Point::SegmentWritten);
        self.pump(false);
    }
}

/// See [`Log::collect`].
#[derive(Clone, Copy, PartialEq, Eq)]
enum Collecting {
    Begun,
    GoesOn,
    Over,
}

impl State {
    /// The segment to send now, if any: see [`Log::pump`].
    fn take_next_to_send(&mut self, idle: bool) -> Option<Open> {
        let window_open = self.next.since(self.durable_end) <= self.ring.unflushed_bytes_max;
        if self.failure.is_some() || self.flying.len() >= SEGMENTS_IN_FLIGHT_MAX || !window_open {
            return None;
        }
        if let Some(open) = self.full.pop_front() {
            return Some(open);
        }
        if self.urgent || (idle && self.flying.is_empty()) {
            self.urgent = false;
            return self.open.take();
        }
        None
    }
    /// `segment` has its place: the ring moves on.
    fn sealed(&mut self, segment: &Rc<Segment>, place: Place) {
        self.next = self.ring.start_after(place.end());
        assert!(self.next.since(self.tail) <= self.ring.bytes, "the head never passes the tail");
        self.last_crc = place.crc;
        self.flying_bytes += place.bytes;
        self.flying.push_back(Flight { segment: Rc::clone(segment), ended: false });
        self.live.push_back(Rc::clone(segment));
    }
    /// The write of `segment` has ended; the highest segment written with all before it, if that is news.
    fn land(&mut self, segment: &Rc<Segment>) -> Option<SegmentSeq> {
        let flight = self.flying.iter_mut().find(|f| Rc::ptr_eq(&f.segment, segment));
        flight.expect("a segment ends while it is in flight").ended = true;
        let mut reached = seeded_bug(Bug::WrittenOutOfOrder).then(|| segment.seq());
        while self.flying.front().is_some_and(|f| f.ended) {
            let flight = self.flying.pop_front().expect("just seen");
            let place = flight.segment.place();
            self.flying_bytes -= place.bytes;
            self.written_end = self.ring.start_after(place.end());
            reached = Some(flight.segment.seq());
        }
        reached
    }
}
