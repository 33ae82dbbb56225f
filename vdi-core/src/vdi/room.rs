//! Room for writes before they are acknowledged: the promise of space, and asking for a checkpoint
//! when credit is short.

use std::future::{Future, poll_fn};
use std::ops::Range;
use std::pin::pin;
use std::task::Poll;

use super::Vdi;
use crate::error::Result;
use crate::latency::Layer;
use crate::limits::{NODE_ENTRIES, OVERLAY_VERSIONS_MAX};
use crate::log::Reservation;
use crate::sabotage::{Bug, seeded_bug};
use crate::store::Need;

impl Vdi {
    /// Blocks that a write of `range` may cost at its checkpoint: `data` blocks, and the whole path of
    /// each leaf that this batch and epoch has not touched yet. Zeros remove leaves, but for the edges.
    fn need(&self, range: &Range<u64>, data: u64, zeros: bool) -> (Need, Vec<u64>) {
        let entries = NODE_ENTRIES as u64;
        let (first, last) = (range.start / entries, (range.end - 1) / entries);
        let leaves = self.0.leaves.borrow();
        let touched: Vec<u64> = if zeros {
            if first == last { vec![first] } else { vec![first, last] }
        } else {
            (first..=last).collect()
        };
        let new: Vec<u64> = touched.into_iter().filter(|l| !leaves.contains(l)).collect();
        let metadata = new.len() as u64 * u64::from(self.0.root.get().depth);
        (Need { data, metadata }, new)
    }
    /// Promise room to the current batch, without waiting; false when there is not enough.
    pub(super) fn try_promise(&self, range: &Range<u64>, data: u64, zeros: bool) -> bool {
        let (need, leaves) = self.need(range, data, zeros);
        let store = &self.0.shared.store;
        let ok = if zeros { store.try_reserve_to_free(need) } else { store.try_reserve(need) };
        if ok {
            self.promised(need, leaves);
        }
        ok
    }
    /// Promise metadata blocks for the snapshot log; `frees` when it is a removal.
    pub(super) fn try_promise_metadata(&self, metadata: u64, frees: bool) -> bool {
        let need = Need { data: 0, metadata };
        let store = &self.0.shared.store;
        let ok = if frees { store.try_reserve_to_free(need) } else { store.try_reserve(need) };
        if ok {
            self.promised(need, Vec::new());
        }
        ok
    }
    /// What was promised before a restart is promised again, room or not: without it a new write would get
    /// the room that this one was acknowledged with.
    pub(super) fn promise_again(&self, range: &Range<u64>, data: u64, zeros: bool) {
        let (need, leaves) = self.need(range, data, zeros);
        if seeded_bug(Bug::PromisesNotRepeated) {
            let _ = self.try_promise(range, data, zeros);
            return;
        }
        self.0.shared.store.reserve_again(need);
        self.promised(need, leaves);
    }
    /// As [`Vdi::promise_again`] for the snapshot log.
    pub(super) fn promise_metadata_again(&self, metadata: u64) {
        let need = Need { data: 0, metadata };
        self.0.shared.store.reserve_again(need);
        self.promised(need, Vec::new());
    }
    fn promised(&self, need: Need, leaves: Vec<u64>) {
        self.0.leaves.borrow_mut().extend(leaves);
        self.0.reserved.set(self.0.reserved.get().plus(need));
    }
    /// Wait for checkpoints that may free space; the error of a full store when they freed nothing.
    pub(super) async fn wait_for_space(&self, tries: &mut u32) -> Result<()> {
        // The second checkpoint is the first to find the blocks that the one before it freed.
        const TRIES: u32 = 3;
        if self.0.shared.store.ask_for_room().await {
            return Ok(());
        }
        *tries += 1;
        if *tries > TRIES {
            return Err(self.0.shared.store.no_space());
        }
        self.wait_for_checkpoint().await;
        Ok(())
    }
    /// Ask for a checkpoint and wait until one that started after this call has ended.
    pub(super) async fn wait_for_checkpoint(&self) {
        let pressure = &self.0.shared.pressure;
        // One may be under way that cut before this call.
        let target = pressure.count.get() + if pressure.running.get() { 2 } else { 1 };
        while pressure.count.get() < target {
            let ended = pressure.ended.wait();
            pressure.request();
            ended.await;
        }
    }
    /// Reserve log space, unless the VDI stops taking writes first. Who waits for it asks for the checkpoint that makes
    /// room: after a restart everything in a full log may be in the trees already, and nothing else would.
    pub(super) async fn reserve_log(&self, record_bytes: usize, data_blocks: u32) -> Result<Reservation> {
        let (pressure, latencies) = (&self.0.shared.pressure, &self.0.shared.latencies);
        let started = latencies.start();
        let mut reserve = pin!(self.0.shared.log.reserve(record_bytes, data_blocks));
        let mut asked = false;
        loop {
            self.check_writable()?;
            let mut refused = pin!(pressure.refused.wait());
            let granted = poll_fn(|cx| match reserve.as_mut().poll(cx) {
                Poll::Ready(r) => Poll::Ready(Some(r)),
                Poll::Pending => {
                    if !std::mem::replace(&mut asked, true) && !seeded_bug(Bug::FullLogAsksNobody) {
                        pressure.request();
                    }
                    refused.as_mut().poll(cx).map(|()| None)
                }
            });
            if let Some(result) = granted.await {
                if asked {
                    latencies.end(Layer::LogRoom, started);
                }
                self.check_writable()?;
                return result;
            }
        }
    }
    /// Keep the overlay within its bound.
    pub(super) async fn wait_for_overlay(&self) {
        while self.0.overlay.borrow().len() >= OVERLAY_VERSIONS_MAX && self.held().is_none() {
            self.wait_for_checkpoint().await;
        }
    }
}
