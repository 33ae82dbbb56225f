//! Trim: forget segments that no record needs any more, and give their space back once the head says so.

use super::head::{write_first, write_second};
use super::state::State;
use super::{Log, VdiGeneration, count};
use crate::error::{Error, ErrorKind, Result};
use crate::format::log_head::LogHead;
use crate::limits::LOG_VDIS_MAX;
use crate::sabotage::{Bug, seeded_bug};
use crate::units::{SegmentSeq, VdiId};

use std::rc::Rc;

use super::ring::Position;

/// Both slots at rest hold the same head, so slot 0 always goes first.
const ORDER: [u64; 2] = [0, 1];

/// Where the tail can move.
struct NewTail {
    seq: SegmentSeq,
    at: Position,
    previous_crc: u32,
    /// Segments that it leaves behind.
    released: usize,
}

impl Log {
    /// No segment below `before` is needed by any record any more. `generations` are the VDI records whose
    /// durability allows that; the head remembers the highest of each VDI. Segments still held (an
    /// `Rc<Segment>` somewhere, or in flight) keep the tail; it moves on with a later trim, or with
    /// [`Log::kick`] when reservations wait. Returns when the head is durable.
    ///
    /// [`ErrorKind::TooLarge`] (and nothing changed) when the head cannot remember that many VDIs;
    /// [`ErrorKind::Poisoned`] after a failure.
    pub async fn trim(&self, before: SegmentSeq, generations: &[VdiGeneration]) -> Result<()> {
        self.check()?;
        let news = self.remember(generations)?;
        {
            let mut s = self.0.state.borrow_mut();
            s.trim_before = s.trim_before.max(before.min(s.unsealed()));
        }
        self.move_tail(news).await
    }
    /// The VDI is gone: the head need not remember it. Takes effect with the next [`Log::trim`].
    pub fn forget(&self, vdi: VdiId) {
        self.0.head.borrow_mut().vdis.retain(|v| v.vdi != vdi);
    }
    /// What the head remembers, by VDI: records older than these are not history but corruption.
    #[must_use]
    pub fn generations(&self) -> Vec<VdiGeneration> {
        self.0.head.borrow().vdis.clone()
    }
    /// Merge `generations` into the head to be written next; true when that changes it.
    fn remember(&self, generations: &[VdiGeneration]) -> Result<bool> {
        let mut head = self.0.head.borrow_mut();
        let mut vdis = head.vdis.clone();
        for new in generations {
            match vdis.binary_search_by_key(&new.vdi, |v| v.vdi) {
                Ok(at) => vdis[at] = vdis[at].max(*new),
                Err(at) => vdis.insert(at, *new),
            }
        }
        if vdis.len() > LOG_VDIS_MAX {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("the log would have to remember {} VDIs, {LOG_VDIS_MAX} fit", vdis.len()),
                "use more shards, each has its own log",
            ));
        }
        let news = vdis != head.vdis;
        head.vdis = vdis;
        Ok(news)
    }
    /// Write the head with the tail as far on as it can go, then free the space. Nothing to do is no write.
    pub(super) async fn move_tail(&self, news: bool) -> Result<()> {
        let _guard = self.0.head_lock.lock().await;
        let new_tail = {
            let s = self.0.state.borrow();
            s.check()?;
            s.new_tail(self.0.head.borrow().tail_seq)
        };
        if new_tail.is_none() && !news {
            return Ok(());
        }
        let head = self.next_head(|head| {
            if let Some(tail) = &new_tail {
                head.tail_seq = tail.seq;
                head.tail_offset_bytes = self.0.ring.device_offset(tail.at);
                head.tail_previous_crc = tail.previous_crc;
            }
        });
        count(&self.0.counts.head_writes, 1);
        if let Some(tail) = new_tail.as_ref().filter(|_| seeded_bug(Bug::SpaceBeforeHead)) {
            self.release(tail);
        }
        self.or_poison(write_first(&self.0.device, &head, ORDER).await)?;
        self.adopt(&head);
        if let Some(tail) = new_tail.filter(|_| !seeded_bug(Bug::SpaceBeforeHead)) {
            self.release(&tail);
        }
        self.or_poison(write_second(&self.0.device, &head, ORDER).await)
    }
    /// `head` is durable. VDIs remembered or forgotten while it was being written wait for the next one.
    fn adopt(&self, head: &LogHead) {
        let mut now = self.0.head.borrow_mut();
        let vdis = std::mem::take(&mut now.vdis);
        *now = LogHead { vdis, ..head.clone() };
    }
    fn release(&self, tail: &NewTail) {
        let wakers = {
            let mut s = self.0.state.borrow_mut();
            for segment in s.live.drain(..tail.released) {
                assert_eq!(Rc::strong_count(&segment), 1, "nobody got hold of a segment that nobody held");
            }
            assert!(tail.at >= s.tail, "the tail only moves on");
            s.tail = tail.at;
            s.grant()
        };
        for waker in wakers {
            waker.wake();
        }
    }
    fn or_poison(&self, result: Result<()>) -> Result<()> {
        if let Err(e) = result {
            self.poison(&e);
        }
        self.check()
    }
    /// Move the tail when reservations wait for space that nobody holds any more. True when it does.
    pub(super) fn trim_if_awaited(&self) -> bool {
        {
            let mut s = self.0.state.borrow_mut();
            let head_tail = self.0.head.borrow().tail_seq;
            if s.trimming || s.waiters.is_empty() || s.failure.is_some() || s.new_tail(head_tail).is_none() {
                return false;
            }
            s.trimming = true;
        }
        let log = self.clone();
        self.0.executor.spawn(async move {
            // A failure poisons the log, and that is how everyone learns of it.
            let _ = log.move_tail(false).await;
            log.0.state.borrow_mut().trimming = false;
        });
        true
    }
}

impl State {
    /// Where the tail can move from `tail_seq`, the one on the device.
    fn new_tail(&self, tail_seq: SegmentSeq) -> Option<NewTail> {
        if self.trim_before <= tail_seq {
            return None;
        }
        let needed = |s: &Rc<super::Segment>| s.seq() >= self.trim_before || Rc::strong_count(s) > 1;
        let released = self.live.iter().position(needed).unwrap_or(self.live.len());
        let tail = match self.live.get(released) {
            Some(s) => {
                let place = s.place();
                NewTail { seq: s.seq(), at: place.at, previous_crc: place.previous_crc, released }
            }
            None => NewTail { seq: self.unsealed(), at: self.next, previous_crc: self.last_crc, released },
        };
        (tail.seq > tail_seq).then_some(tail)
    }
}
