//! Collection within one shard: what no root reaches becomes free. Checkpoints, resizes and out-of-line writes wait
//! while the mark runs, so nothing is allocated or freed under it; guests go on as long as the log has room. The
//! order of things over all shards is in `shards`.

use super::Engine;
use crate::error::Result;
use crate::executor::TaskGuard;
use crate::format::extent::RegionBits;
use crate::gc::{Mark, sweep};
use crate::sabotage::{Bug, seeded_bug};
use crate::store::{Freed, HOME_SLOT, Run, Store};
use crate::tree::Root;
use crate::units::{BLOCK_BYTES, ExtentNumber};
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

/// What a mark keeps.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// What runs: what the logs name is in overlays, or in quarantine.
    Running,
    /// What was just recovered: all that the logs name too.
    Recovered,
}

/// Held while a mark goes on: nothing of this shard is allocated or freed.
pub(super) struct Paused {
    _placing: Option<crate::vdi::placing::PauseGuard>,
    _round: TaskGuard,
    _turns: Vec<TaskGuard>,
    vdis: Vec<Vdi>,
}

/// What a mark must know of one shard.
pub(super) struct Part {
    shard: u16,
    extents: Vec<(ExtentNumber, Vec<RegionBits>)>,
    /// In use although no root reaches them.
    keep: Vec<Run>,
    roots: Vec<(String, Root)>,
}

/// What a mark found.
pub(super) struct Marked {
    pub collected: Collected,
    /// By shard.
    pub dead: Vec<(u16, Freed)>,
}

impl Engine {
    /// Stop what changes the trees of this shard until [`Engine::end_mark`].
    pub(super) async fn pause_for_mark(&self) -> Result<()> {
        // Before the round: a write on its way may need one to find room.
        let placing = match seeded_bug(Bug::MarkUnderPlacing) {
            false => Some(self.0.shared.placing.pause().await),
            true => None,
        };
        let round = self.0.round.lock().await;
        self.store().check_knows_all_vdis().map_err(|e| e.context("collect needs every VDI"))?;
        let mut vdis = Vec::new();
        for entry in self.store().vdis() {
            let vdi = self.open_entry(&entry).await;
            let known = vdi.and_then(|vdi| vdi.check_marks_all().map(|()| vdi));
            vdis.push(known.map_err(|e| e.context("collect needs every VDI"))?);
        }
        let mut turns = Vec::new();
        for v in &vdis {
            turns.push(v.lock_turn().await);
        }
        let paused = Paused { _placing: placing, _round: round, _turns: turns, vdis };
        *self.0.paused.borrow_mut() = Some(paused);
        Ok(())
    }
    /// What a mark must know of this shard. All shards are paused, and what they had to say to each other is said.
    pub(super) fn part_for_mark(&self, scope: Scope) -> Part {
        let paused = self.0.paused.borrow();
        let vdis = &paused.as_ref().expect("a mark pauses every shard first").vdis;
        let store = self.store();
        let mut keep = store.untouchable();
        if seeded_bug(Bug::MarkMissesClaims) {
            keep.clear();
        }
        keep.extend(vdis.iter().flat_map(Vdi::blocks_without_root));
        if scope == Scope::Recovered {
            keep.extend(self.0.named.borrow().iter());
        }
        let roots = vdis.iter().flat_map(|v| v.roots().into_iter().map(|root| (v.name(), root))).collect();
        Part { shard: store.slot(), extents: store.owned_bitmaps(), keep, roots }
    }
    /// Go on after [`Engine::pause_for_mark`].
    pub(super) fn end_mark(&self) {
        self.0.paused.take();
    }
    /// Mark from the roots of all shards.
    pub(super) async fn mark(&self, parts: Vec<Part>) -> Result<Marked> {
        let store = self.store();
        let g = store.geometry();
        let mut mark = Mark::new(g, store.superblock().extents);
        for run in parts.iter().flat_map(|p| &p.keep) {
            mark.keep(*run)?;
        }
        let mut roots = 0;
        for (name, root) in parts.iter().flat_map(|p| &p.roots) {
            roots += 1;
            let marked = mark.root(&self.0.shared.cache, root).await;
            marked.map_err(|e| e.context(format!("collect: VDI '{name}'")))?;
        }
        let swept = |p: &Part| {
            let runs = p.extents.iter().flat_map(|(number, used)| sweep(g, *number, used, mark.reached()));
            (p.shard, runs.collect::<Freed>())
        };
        let dead: Vec<(u16, Freed)> = parts.iter().map(swept).collect();
        let dead_bytes = dead.iter().map(|(_, freed)| freed.len()).sum::<u64>() * BLOCK_BYTES;
        let live_bytes = mark.reached().len() * BLOCK_BYTES;
        Ok(Marked { collected: Collected { dead_bytes, live_bytes, roots, ns: 0 }, dead })
    }
    /// Whether every promise that the log repeated can be kept, with what the other shards can spare.
    pub(super) async fn has_room_for_promises(&self) -> bool {
        self.finds_room(Store::keeps_its_promises).await
    }
    /// Whether there is room enough, with what the other shards can spare.
    pub(super) async fn finds_room(&self, enough: impl Fn(&Store) -> bool) -> bool {
        let store = self.store();
        while !enough(store) {
            if !store.ask_for_room().await {
                return false;
            }
        }
        true
    }
    /// The mark found that much.
    pub(super) fn note_reclaimable(&self, bytes: u64) {
        self.0.reclaimable.set(Some(Reclaimable { bytes, wall_ns: self.0.env.clock.wall_ns() }));
    }
    /// Something was deleted: how much a collection would free is no longer known.
    pub(super) fn reclaimable_changed(&self) {
        self.0.reclaimable.set(None);
        if let Some(peers) = self.0.peers.as_ref().filter(|p| p.own() != HOME_SLOT) {
            peers.tell(HOME_SLOT, Engine::reclaimable_changed);
        }
    }
    /// What the last collection or dry run counted; None when something was deleted since, or nothing was counted
    /// since the start. Never marks by itself: that reads all trees.
    #[must_use]
    pub fn reclaimable(&self) -> Option<Reclaimable> {
        self.0.reclaimable.get()
    }
}
