//! Collection: what no root reaches becomes free. Checkpoints, resizes and out-of-line writes wait while
//! the mark runs, so nothing is allocated or freed under it; guests go on as long as the log has room.

use super::Engine;
use crate::error::Result;
use crate::gc::{Mark, sweep};
use crate::sabotage::{Bug, seeded_bug};
use crate::store::Run;
use crate::units::BLOCK_BYTES;
use crate::vdi::Vdi;

/// What a collection found, or would free.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Collected {
    /// Bytes that no VDI, snapshot or log record reaches.
    pub dead_bytes: u64,
    /// Bytes that live on.
    pub live_bytes: u64,
    /// VDIs and snapshots whose trees were marked.
    pub roots: u64,
    /// How long the mark took, ns.
    pub ns: u64,
}

/// How much a collection would free, as far as is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reclaimable {
    /// That much, when it was counted; overwriting blocks that only deleted snapshots hold adds to it.
    pub bytes: u64,
    /// When that was, wall clock ns.
    pub wall_ns: u64,
}

impl Engine {
    /// Mark from all roots, then free what was not reached; with `dry_run` only say how much that is.
    ///
    /// # Errors
    /// `Corrupt` when a tree cannot be read in full: what it might reach is unknown, so nothing is freed.
    pub async fn collect(&self, dry_run: bool) -> Result<Collected> {
        self.checkpoint_round().await?;
        let started = self.0.env.clock.now_ns();
        let collected = {
            // Before the round: a write on its way may need one to find room.
            let _pause = match seeded_bug(Bug::MarkUnderPlacing) {
                false => Some(self.0.shared.placing.pause().await),
                true => None,
            };
            let _round = self.0.round.lock().await;
            let _registry = self.store().lock_registry().await;
            let mut vdis = Vec::new();
            for entry in self.store().vdis() {
                let vdi = self.open_entry(&entry).await;
                vdis.push(vdi.map_err(|e| e.context("collect needs every VDI"))?);
            }
            let mut turns = Vec::new();
            for v in &vdis {
                turns.push(v.lock_turn().await);
            }
            self.mark_and_sweep(&vdis, dry_run).await?
        };
        let bytes = if dry_run { collected.dead_bytes } else { 0 };
        self.0.reclaimable.set(Some(Reclaimable { bytes, wall_ns: self.0.env.clock.wall_ns() }));
        if !dry_run {
            // What was swept leaves the quarantine with the next trim.
            self.checkpoint_round().await?;
        }
        Ok(Collected { ns: self.0.env.clock.now_ns() - started, ..collected })
    }
    async fn mark_and_sweep(&self, vdis: &[Vdi], dry_run: bool) -> Result<Collected> {
        let (collected, dead) = self.mark(vdis, Vec::new()).await?;
        if !dry_run {
            self.store().quarantine(dead.into_iter().collect(), self.0.shared.log.newest());
        }
        Ok(collected)
    }
    /// What a checkpoint had allocated when the daemon died leaks until the next collection. On a full store
    /// that may be the room promised to what the log holds, and a collection needs a checkpoint: so a
    /// restart that cannot keep its promises looks for such blocks itself. `named` is what the log names.
    /// Nothing is open to guests yet, and nothing was freed.
    pub(super) async fn reclaim_leaks(&self, named: Vec<Run>) -> Result<()> {
        if self.store().keeps_its_promises() || seeded_bug(Bug::LeaksStay) {
            return Ok(());
        }
        let mut vdis = Vec::new();
        for entry in self.store().vdis() {
            vdis.push(self.open_entry(&entry).await?);
        }
        let (_, dead) = self.mark(&vdis, named).await?;
        self.store().give_back_unreachable(dead.into_iter().collect());
        Ok(())
    }
    async fn mark(&self, vdis: &[Vdi], named: Vec<Run>) -> Result<(Collected, Vec<Run>)> {
        let store = self.store();
        let extents = store.owned_bitmaps();
        let mut mark = Mark::new(store.geometry(), store.superblock().extents);
        // All of this is one moment: after the first await an overlay may replace what it held.
        let mut untouchable = store.untouchable();
        if seeded_bug(Bug::MarkMissesClaims) {
            untouchable.clear();
        }
        let held = untouchable.into_iter().chain(vdis.iter().flat_map(Vdi::blocks_without_root));
        for run in held.chain(named) {
            mark.keep(run)?;
        }
        let mut roots = 0;
        for vdi in vdis {
            for root in vdi.roots() {
                roots += 1;
                mark.root(&self.0.shared.cache, &root)
                    .await
                    .map_err(|e| e.context(format!("collect: VDI '{}'", vdi.name())))?;
            }
        }
        let mut dead: Vec<Run> = Vec::new();
        for (number, used) in &extents {
            dead.extend(sweep(store.geometry(), *number, used, mark.reached()));
        }
        let dead_bytes = dead.iter().map(|r| u64::from(r.blocks)).sum::<u64>() * BLOCK_BYTES;
        let live_bytes = mark.reached().len() * BLOCK_BYTES;
        Ok((Collected { dead_bytes, live_bytes, roots, ns: 0 }, dead))
    }
    /// Something was deleted: how much a collection would free is no longer known.
    pub(super) fn reclaimable_changed(&self) {
        self.0.reclaimable.set(None);
    }
    /// What the last collection or dry run counted; None when something was deleted since, or nothing was counted
    /// since the start. Never marks by itself: that reads all trees.
    #[must_use]
    pub fn reclaimable(&self) -> Option<Reclaimable> {
        self.0.reclaimable.get()
    }
}
