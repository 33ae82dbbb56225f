//! When to checkpoint, and one round of it over all VDIs.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;

use super::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::latency::Layer;
use crate::log::VdiGeneration;
use crate::sabotage::{Bug, Point, crash_point, seeded_bug};
use crate::store::Freed;
use crate::units::{Generation, SegmentSeq, VdiId};
use crate::vdi::Vdi;
use crate::vdi::checkpoint::Prepared;

/// Rounds that may fail as a whole, one after the other, before VDIs that wait for one take no more writes.
const FAILED_ROUNDS_MAX: u32 = 3;
/// Pause after a failed round, ns.
const RETRY_NS: u64 = 500_000_000;
/// Longest between two rounds while a VDI is held whose checkpoint fails, ns.
const HELD_RETRY_NS: u64 = 60_000_000_000;

impl Engine {
    /// The background task: checkpoints on request (log space, a writer short of credit) and by age.
    pub(super) async fn checkpoint_for_ever(self) {
        loop {
            self.wait_until_due().await;
            if self.0.closing.get() {
                return;
            }
            let result = self.checkpoint_round().await;
            if result.is_err() {
                self.0.env.executor.sleep(RETRY_NS).await;
                self.0.shared.pressure.request();
            }
        }
    }
    async fn wait_until_due(&self) {
        let shared = &self.0.shared;
        let executor = &self.0.env.executor;
        let mut deadline = None;
        loop {
            let wake = shared.pressure.wait();
            if self.0.closing.get() || shared.pressure.take() {
                return;
            }
            if deadline.is_none() && shared.pressure.dirty.get() && !self.0.options.late_checkpoints {
                deadline = Some(executor.now_ns() + self.0.options.checkpoint_age_ns);
            }
            let waiting = shared.log.stats().waiting > 0 && !seeded_bug(Bug::FullLogAsksNobody);
            if deadline.is_none() && waiting {
                // What should have made room did not: a device that fails now and then, perhaps.
                deadline = Some(executor.now_ns() + RETRY_NS);
            }
            if deadline.is_none() && self.0.vdis.borrow().values().any(Vdi::is_stuck) {
                deadline = Some(executor.now_ns() + HELD_RETRY_NS);
            }
            match deadline {
                None => wake.await,
                Some(ns) if executor.now_ns() >= ns => return,
                Some(ns) => either(wake, executor.sleep_until(ns)).await,
            }
        }
    }
    /// One round: everything appended before this call is in the trees when it returns.
    pub(super) async fn checkpoint_round(&self) -> Result<()> {
        self.one_round(false).await?.map_or(Ok(()), Err)
    }
    /// As [`Engine::checkpoint_round`], and held VDIs are tried whose time has not come.
    pub(super) async fn checkpoint_round_of_all(&self) -> Result<()> {
        self.one_round(true).await?.map_or(Ok(()), Err)
    }
    /// A round for the sake of `vdi`: that a neighbour cannot be checkpointed does not concern it.
    pub(super) async fn checkpoint_for(&self, vdi: &Vdi) -> Result<()> {
        match self.one_round(false).await? {
            Some(e) if vdi.is_failing() => Err(e),
            _ => Ok(()),
        }
    }
    /// See [`Engine::round`].
    async fn one_round(&self, held_too: bool) -> Result<Option<Error>> {
        let _round = self.0.round.lock().await;
        if held_too {
            // Only now: the round before this one may just have failed.
            self.0.vdis.borrow().values().for_each(Vdi::retry_soon);
        }
        let pressure = &self.0.shared.pressure;
        pressure.running.set(true);
        pressure.dirty.set(false);
        let latencies = &self.0.shared.latencies;
        let started = latencies.start();
        let result = self.round().await;
        latencies.end(Layer::Checkpoint, started);
        if let Some(why) = self.store().failure() {
            // What the failed flush lost nobody knows: only a restart, which reads it all again, can tell.
            self.poison(&why);
        }
        pressure.running.set(false);
        pressure.count.set(pressure.count.get() + 1);
        pressure.ended.notify();
        match result {
            Ok(problem) => {
                self.0.failed_rounds.set(0);
                if problem.is_some() {
                    self.count_failure();
                }
                Ok(problem)
            }
            Err(e) => {
                self.round_failed(&e);
                Err(e)
            }
        }
    }
    fn count_failure(&self) {
        let mut stats = self.0.stats.get();
        stats.failures += 1;
        self.0.stats.set(stats);
        self.0.shared.pressure.dirty.set(true);
    }
    fn round_failed(&self, e: &Error) {
        self.0.failed_rounds.set(self.0.failed_rounds.get() + 1);
        self.count_failure();
        if self.0.failed_rounds.get() >= FAILED_ROUNDS_MAX && e.kind() != ErrorKind::NoSpace {
            for vdi in self.0.vdis.borrow().values().filter(|v| v.oldest_segment().is_some()) {
                vdi.hold_until_checkpointed(e.duplicate());
            }
        }
    }
    /// Returns why the checkpoint of a single VDI failed that is not held yet, while the others' went on.
    async fn round(&self) -> Result<Option<Error>> {
        let shared = &self.0.shared;
        let started = self.0.env.clock.now_ns();
        let vdis: Vec<Vdi> = self.0.vdis.borrow().values().cloned().collect();
        let mut turns = Vec::with_capacity(vdis.len());
        for v in &vdis {
            turns.push(v.lock_turn().await);
        }
        let (through, sealed) = (shared.log.newest(), shared.log.sealed_through());
        shared.staging.taken();
        shared.store.begin_announcing();
        let cuts: Vec<_> = vdis.iter().filter(|v| v.is_due()).map(|v| (v, v.cut(sealed))).collect();
        let mut prepared: Vec<(&Vdi, Prepared)> = Vec::new();
        let mut problem = None;
        for (vdi, cut) in cuts {
            let Some(cut) = cut else { continue };
            match vdi.apply(cut).await {
                Ok(p) => prepared.push((vdi, p)),
                Err((cut, e)) => {
                    vdi.uncut(cut);
                    // One bad disk: held, and its neighbours go on.
                    if !vdi.checkpoint_failed(&e) {
                        problem.get_or_insert(e);
                    }
                }
            }
        }
        crash_point(Point::BatchesApplied);
        if let Err(e) = self.make_ready().await {
            for (vdi, p) in prepared {
                vdi.uncut(p.into_cut());
                vdi.abandon_attempt();
            }
            return Err(e);
        }
        if let Err(e) = self.write_records(&mut prepared, &mut problem).await {
            for (vdi, p) in prepared {
                vdi.uncut(p.into_cut());
            }
            return Err(e);
        }
        let blocks = self.publish(prepared).await;
        let mut stats = self.0.stats.get();
        stats.rounds += 1;
        stats.freed_blocks += blocks;
        stats.last_ns = self.0.env.clock.now_ns() - started;
        stats.longest_ns = stats.longest_ns.max(stats.last_ns);
        self.0.stats.set(stats);
        drop(turns);
        crash_point(Point::Published);
        self.trim(&vdis, through).await?;
        if self.move_held().await? {
            self.trim(&vdis, shared.log.newest()).await?;
        }
        Ok(problem)
    }
    /// Make durable what the records are about to name.
    async fn make_ready(&self) -> Result<()> {
        let shared = &self.0.shared;
        if !seeded_bug(Bug::SkipHostRecord) {
            shared.store.write_host_record().await?;
        }
        crash_point(Point::HostRecordWritten);
        shared.store.write_dirty_bitmaps().await?;
        shared.log.flush().await?;
        crash_point(Point::LogFlushed);
        if !seeded_bug(Bug::SkipFlushBeforeRecord) {
            self.0.shared.store.flush().await?;
        }
        crash_point(Point::StoreFlushed);
        Ok(())
    }
    /// Write the records of what was `prepared`, durably. One that its device does not take is its own disk's trouble:
    /// that disk is left out of `prepared`, and is the `problem` if it is not held yet.
    async fn write_records(
        &self,
        prepared: &mut Vec<(&Vdi, Prepared)>,
        problem: &mut Option<Error>,
    ) -> Result<()> {
        if prepared.is_empty() {
            return Ok(());
        }
        let mut nth = 0;
        while let Some((vdi, p)) = prepared.get(nth) {
            let Err(e) = vdi.write_record(p).await else {
                nth += 1;
                continue;
            };
            let (vdi, p) = prepared.remove(nth);
            let e = e.context(format!("checkpoint of VDI '{}'", vdi.name()));
            let (cut, held) = vdi.record_failed(p, &e).await;
            vdi.uncut(cut);
            if !held {
                problem.get_or_insert(e);
            }
        }
        crash_point(Point::RecordsWritten);
        if seeded_bug(Bug::SkipFlushAfterRecord) {
            return Ok(());
        }
        self.0.shared.store.flush().await?;
        crash_point(Point::RecordsFlushed);
        Ok(())
    }
    async fn publish(&self, prepared: Vec<(&Vdi, Prepared)>) -> u64 {
        let shared = &self.0.shared;
        let mut freed = Freed::default();
        let mut batches = Vec::new();
        for (vdi, p) in prepared {
            let (batch, blocks) = vdi.publish(p);
            batches.push((vdi, batch));
            freed.merge(blocks);
            self.note_record(vdi);
            // Its tree has what they say.
            self.0.copies.borrow_mut().remove(&vdi.id());
        }
        let blocks = freed.len();
        // Any record appended so far may name them.
        shared.store.quarantine(freed, shared.log.newest());
        for (vdi, batch) in batches {
            vdi.forget(batch).await;
        }
        blocks
    }
    /// The record of `vdi` is durable: an older one is not its present state from now on.
    pub(super) fn note_record(&self, vdi: &Vdi) -> VdiGeneration {
        let least = self.least_record(vdi.id());
        if least.is_lost() {
            return least;
        }
        let (lease_epoch, generation) = (vdi.record().lease_epoch, vdi.record().generation);
        self.0.remembered.borrow_mut().insert(vdi.id(), (lease_epoch, generation));
        VdiGeneration { vdi: vdi.id(), lease_epoch, generation }
    }
    /// Writes of the VDI that were durable are lost with a part of the log. The head remembers it from the first trim
    /// on; before that the damage itself is there to be found.
    pub(super) fn note_lost(&self, vdi: VdiId) {
        let VdiGeneration { lease_epoch, generation, .. } = VdiGeneration::lost(vdi);
        if !seeded_bug(Bug::LossForgotten) {
            self.0.remembered.borrow_mut().insert(vdi, (lease_epoch, generation));
        }
    }
    /// What is remembered of a VDI's record.
    pub(super) fn least_record(&self, vdi: VdiId) -> VdiGeneration {
        let remembered = self.0.remembered.borrow().get(&vdi).copied();
        let (lease_epoch, generation) = remembered.unwrap_or((0, Generation(0)));
        VdiGeneration { vdi, lease_epoch, generation }
    }
    /// Let the log's head know the record of `vdi`, written outside a round: should its device have lost it, a
    /// restart must not take the one before for the present.
    pub(super) async fn remember_record(&self, vdi: &Vdi) -> Result<()> {
        if !self.0.vdis.borrow().contains_key(&vdi.id()) {
            // Deleted meanwhile.
            return Ok(());
        }
        let noted = self.note_record(vdi);
        self.0.shared.log.trim(SegmentSeq(0), &[noted]).await
    }
    /// Forget the part of the log that every VDI has in its tree, and hand out what that makes reusable.
    async fn trim(&self, cut: &[Vdi], through: SegmentSeq) -> Result<()> {
        let shared = &self.0.shared;
        // All that are open now: one opened after the round began was not cut, and may have records below.
        let mut oldest = self.oldest_needed();
        if seeded_bug(Bug::TrimAsksCutDisksOnly) {
            oldest = cut.iter().filter_map(Vdi::oldest_segment).min();
        }
        let mut before = oldest.unwrap_or(SegmentSeq(through.0 + 1)).min(SegmentSeq(through.0 + 1));
        if seeded_bug(Bug::TrimTooSoon) {
            before = shared.log.newest();
        }
        let generations: Vec<VdiGeneration> = {
            let remembered = self.0.remembered.borrow();
            remembered
                .iter()
                .map(|(vdi, (lease_epoch, generation))| VdiGeneration {
                    vdi: *vdi,
                    lease_epoch: *lease_epoch,
                    generation: *generation,
                })
                .collect()
        };
        shared.log.trim(before, &generations).await?;
        crash_point(Point::Trimmed);
        let released = shared.store.release(shared.log.tail());
        shared.store.nodes_among(&released).for_each(|addr| shared.cache.forget(addr));
        for (owner, freed) in shared.store.give_back(released) {
            if let Some(peers) = &self.0.peers {
                peers.tell(owner, move |e| match seeded_bug(Bug::ForeignReusedAtOnce) {
                    false => e.store().quarantine(freed, e.shared().log.newest()),
                    true => e.store().give_back_unreachable(freed),
                });
            }
        }
        // Not needed for safety: a kill right after this round leaks nothing that it freed.
        shared.store.write_dirty_bitmaps().await
    }
}

/// Resolves when the first of two futures does.
async fn either(a: impl Future<Output = ()>, b: impl Future<Output = ()>) {
    let (mut a, mut b) = (pin!(a), pin!(b));
    std::future::poll_fn(|cx| match (a.as_mut().poll(cx), b.as_mut().poll(cx)) {
        (Poll::Pending, Poll::Pending) => Poll::Pending,
        _ => Poll::Ready(()),
    })
    .await;
}
