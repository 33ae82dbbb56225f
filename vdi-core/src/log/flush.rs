//! Flush: everything appended so far to stable storage, one device flush for all who ask meanwhile.

use super::{Log, count};
use crate::error::Result;
use crate::sabotage::{Bug, seeded_bug};
use crate::units::SegmentSeq;

use super::ring::Position;

impl Log {
    /// Make everything appended before this call durable: sends the open segment, waits for it and all
    /// before, then for one device flush that starts after that. Callers whose segments were written when
    /// that flush began share it; later ones share the next.
    ///
    /// [`crate::ErrorKind::Poisoned`] after a failure, this flush's own included.
    pub async fn flush(&self) -> Result<()> {
        let target = {
            let mut s = self.0.state.borrow_mut();
            s.check()?;
            s.urgent = s.open.is_some();
            if seeded_bug(Bug::FlushForgetsOpenSegment) { self.0.written.reached() } else { s.newest() }
        };
        let durable = self.0.durable.wait(target, || self.check().is_err());
        self.pump(false);
        durable.await;
        self.check()
    }
    /// Start a device flush when someone waits for what it would cover, or when the unflushed window is
    /// half used. True when one was started.
    pub(super) fn pump_flush(&self) -> bool {
        let (written, durable) = (self.0.written.reached(), self.0.durable.reached());
        let end = {
            let mut s = self.0.state.borrow_mut();
            let wanted = self.0.durable.lowest_wanted().is_some_and(|seq| seq <= written);
            let lagging = s.written_end.since(s.durable_end) > s.ring.unflushed_bytes_max / 2;
            if s.failure.is_some() || s.flushing || written == durable || !(wanted || lagging) {
                return false;
            }
            s.flushing = true;
            s.written_end
        };
        count(&self.0.counts.flushes, 1);
        let log = self.clone();
        self.0.executor.spawn(async move {
            let barrier = log.0.barrier.borrow().clone();
            let placed = match barrier {
                Some(barrier) => barrier().await,
                None => Ok(()),
            };
            let result = match placed {
                Ok(()) => log.0.device.flush().await,
                Err(e) => Err(e),
            };
            log.flush_ended(written, end, result);
        });
        true
    }
    /// A device flush ended that began when `written` was the newest segment written, with `end` its end.
    fn flush_ended(&self, written: SegmentSeq, end: Position, result: Result<()>) {
        if let Err(e) = result {
            return self.poison(&e);
        }
        {
            let mut s = self.0.state.borrow_mut();
            if s.failure.is_some() {
                return;
            }
            s.flushing = false;
            s.durable_end = end;
        }
        let written = if seeded_bug(Bug::FlushCoversTooMuch) { self.0.written.reached() } else { written };
        assert!(written <= self.0.written.reached(), "durable is part of written");
        if let Some(staging) = &self.0.staging {
            staging.release(written);
        }
        self.0.durable.advance(written);
        self.pump(false);
    }
}
