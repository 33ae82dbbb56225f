//! Idle work, while no guest asks for anything: what lies scattered after random writes is written again in order; and where free
//! space is in pieces, regions that are nearly empty are emptied instead. Blocks of a disk that no snapshot shares; the rest would
//! cost space, and others name them.
//!
//! Leaves are looked at that changed since the last look, and all of a disk after it was opened, or while free space is in pieces
//! and much was freed since the last time.
//!
//! Bounds: 1 MiB at a time and a pause after it, and after [`LEAVES_PER_SLICE`] leaves; [`EngineOptions::rewrite_blocks_max`] between two
//! checkpoints, since what is replaced is free only after one. What cannot be put in order is left alone until it changes.
//!
//! [`EngineOptions::rewrite_blocks_max`]: super::EngineOptions::rewrite_blocks_max

use std::collections::BTreeMap;

use super::Engine;
use crate::error::Result;
use crate::executor::{TaskLock, yield_now};
use crate::limits::NODE_ENTRIES;
use crate::store::ExtentKind;
use crate::tree::lookup::{Leaf, leaf_since};
use crate::tree::{Entry, Node};
use crate::units::{Epoch, VdiId, VirtualBlock};
use crate::vdi::Vdi;
use crate::vdi::rewrite::{REWRITE_BLOCKS_MAX, Rewritten, Scattered};
use crate::vdi::touched::Touched;

/// Runs of this length are long: a range that has no more of them than it has so many blocks lies in order.
const LONG_RUN_BLOCKS: u32 = 64;
/// Ranges written again at once at most.
const TOGETHER_MAX: usize = 32;
/// Guests that asked for nothing for so long are idle, ns.
const IDLE_NS: u64 = 500_000_000;
/// Pause after each group, of a MiB at most, and after [`LEAVES_PER_SLICE`] leaves, ns.
const PAUSE_NS: u64 = 4_000_000;
/// Leaves looked at between two pauses.
const LEAVES_PER_SLICE: u32 = 64;
/// Ranges of a disk for which the store had no long runs: after so many it is left alone until it changes.
const SHORT_RUNS_MAX: u32 = 8;
/// All leaves are looked at again for sparse regions when so much was freed since, as a share of the data blocks of this shard.
const FREED_SHARE: u64 = 16;

/// What was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tidied {
    /// Blocks rewritten: they lie in order now, or elsewhere than in a region with little in it.
    pub blocks: u64,
    /// Nothing is left to do, for now.
    pub complete: bool,
}

/// How far the idle work is.
#[derive(Default)]
pub(super) struct Tidying {
    /// Leaves of each disk that are still to be looked at.
    left: BTreeMap<VdiId, Touched>,
    /// The disk that was broken off.
    next: VdiId,
    /// Held by who is at it.
    turn: TaskLock,
    /// Blocks rewritten since the last checkpoint for their sake, and in all.
    blocks: u64,
    total_blocks: u64,
    /// Blocks freed when all leaves were last looked at for sparse regions.
    swept_at: Option<u64>,
}

/// How it goes with one disk.
#[derive(Clone, Copy, Default)]
struct Progress {
    leaves: u32,
    short_runs: u32,
}

impl Engine {
    /// The background task.
    pub(super) async fn tidy_for_ever(self) {
        let executor = &self.0.env.executor;
        loop {
            // Only checkpoints make anything that could be put in order.
            self.0.shared.pressure.ended.wait().await;
            loop {
                let before = self.0.shared.asked.get();
                executor.sleep(IDLE_NS).await;
                if self.0.closing.get() {
                    return;
                }
                let idle = || self.is_idle_since(before);
                if idle() && self.tidy_while(idle, PAUSE_NS).await.complete {
                    break;
                }
            }
        }
    }
    /// No guest has asked for anything since `asked` was so much, and none waits for an answer, or for a checkpoint.
    fn is_idle_since(&self, asked: u64) -> bool {
        let shared = &self.0.shared;
        shared.asked.get() == asked
            && shared.under_way.get() == 0
            && shared.log.stats().waiting == 0
            && !shared.pressure.running.get()
            && !self.0.closing.get()
    }
    /// Put everything in order that can be, at once. A failure is told to whoever reads or writes there, and the rest is
    /// put in order all the same.
    pub async fn tidy(&self) -> Tidied {
        self.tidy_while(|| true, 0).await
    }
    /// Blocks rewritten so far to put them in order.
    #[must_use]
    pub fn tidied_blocks(&self) -> u64 {
        self.0.tidying.borrow().total_blocks
    }
    /// Wait for what is under way; `closing` keeps more from beginning.
    pub(super) async fn end_tidying(&self) {
        let turn = self.0.tidying.borrow().turn.clone();
        if turn.try_lock().is_none() {
            // It may wait for room in the log.
            let _ = self.checkpoint_round_of_all().await;
            drop(turn.lock().await);
        }
    }
    async fn tidy_while(&self, may_go_on: impl Fn() -> bool, pause_ns: u64) -> Tidied {
        let turn = self.0.tidying.borrow().turn.clone();
        let _turn = turn.lock().await;
        self.sweep_when_due();
        let mut tidied = Tidied::default();
        for vdi in self.disks_in_turn() {
            let mut left = self.0.tidying.borrow_mut().left.remove(&vdi.id()).unwrap_or_default();
            if left.first().is_none() {
                left = vdi.take_touched();
            }
            // What fails is heard of by whoever reads or writes there.
            let _ = self.tidy_disk(&vdi, &mut left, &may_go_on, pause_ns, &mut tidied.blocks).await;
            if left.first().is_some() {
                let mut tidying = self.0.tidying.borrow_mut();
                tidying.next = vdi.id();
                tidying.left.insert(vdi.id(), left);
            }
            if !may_go_on() {
                return tidied;
            }
        }
        tidied.complete = true;
        tidied
    }
    /// While free space is in pieces, what is nearly empty may be anywhere.
    fn sweep_when_due(&self) {
        let store = self.store();
        if !store.lacks_empty_regions() {
            return;
        }
        let freed = self.0.stats.get().freed_blocks;
        let share = store.owned_blocks(ExtentKind::Data) / FREED_SHARE;
        let mut tidying = self.0.tidying.borrow_mut();
        if tidying.swept_at.is_none_or(|at| freed >= at + share) {
            tidying.swept_at = Some(freed);
            self.0.vdis.borrow().values().for_each(Vdi::touch_all);
        }
    }
    /// All disks that can be written to, the one that was broken off first.
    fn disks_in_turn(&self) -> Vec<Vdi> {
        let vdis = self.0.vdis.borrow();
        let mut tidying = self.0.tidying.borrow_mut();
        tidying.left.retain(|id, _| vdis.contains_key(id));
        let in_turn = vdis.range(tidying.next..).chain(vdis.range(..tidying.next));
        in_turn.map(|(_, v)| v.clone()).filter(|v| v.held().is_none()).collect()
    }
    /// Look at what is `left` of a disk, which says afterwards what still is.
    async fn tidy_disk(
        &self,
        vdi: &Vdi,
        left: &mut Touched,
        may_go_on: impl Fn() -> bool,
        pause_ns: u64,
        done: &mut u64,
    ) -> Result<()> {
        let mut progress = Progress::default();
        while let Some(number) = left.first() {
            let at = VirtualBlock(number * NODE_ENTRIES as u64);
            if at.0 >= vdi.root().capacity_blocks() {
                *left = Touched::default();
                break;
            }
            // A snapshot that is not checkpointed yet will be: then.
            let Some(own_since) = vdi.own_since().filter(|_| may_go_on()) else { break };
            let epoch = vdi.epoch();
            let found = {
                let _pin = self.store().read_pin();
                leaf_since(&self.0.shared.cache, &vdi.root(), at, own_since).await
            };
            progress.leaves += 1;
            if progress.leaves.is_multiple_of(LEAVES_PER_SLICE) {
                self.pause(pause_ns).await;
            }
            let node = match found {
                Ok(Leaf::Here(node)) => node,
                Ok(Leaf::AbsentUntil(next)) => {
                    left.done_before(next.0 / NODE_ENTRIES as u64);
                    continue;
                }
                Err(e) => {
                    left.done_before(number + 1);
                    return Err(e);
                }
            };
            for some in in_groups(self.found_in(&node, at, own_since, epoch)) {
                if !may_go_on() {
                    return Ok(());
                }
                if !self.rewrite(vdi, number, &some, &mut progress, done).await? {
                    return Ok(());
                }
                if progress.short_runs > SHORT_RUNS_MAX {
                    *left = Touched::default();
                    return Ok(());
                }
                self.pause(pause_ns).await;
            }
            left.done_before(number + 1);
        }
        Ok(())
    }
    async fn pause(&self, pause_ns: u64) {
        match pause_ns {
            0 => yield_now().await,
            ns => self.0.env.executor.sleep(ns).await,
        }
    }
    /// Write `some` of leaf `number` again; false when guests need what is free.
    async fn rewrite(
        &self,
        vdi: &Vdi,
        number: u64,
        some: &[Scattered],
        progress: &mut Progress,
        done: &mut u64,
    ) -> Result<bool> {
        let mut blocks = 0;
        for (scattered, result) in some.iter().zip(vdi.rewrite(some).await) {
            match result {
                Ok(Rewritten::InOrder) => blocks += u64::from(scattered.blocks),
                Ok(Rewritten::Overtaken) => vdi.touch([number]),
                Ok(Rewritten::ShortRuns) => progress.short_runs += 1,
                Ok(Rewritten::NoRoom) => return Ok(false),
                // The others of the leaf may be sound.
                Err(_) => {}
            }
        }
        *done += blocks;
        let due = {
            let mut tidying = self.0.tidying.borrow_mut();
            tidying.blocks += blocks;
            tidying.total_blocks += blocks;
            let due = tidying.blocks >= self.0.options.rewrite_blocks_max;
            if due {
                tidying.blocks = 0;
            }
            due
        };
        if due {
            self.checkpoint_round().await?;
        }
        Ok(true)
    }
}

impl Engine {
    /// What to put elsewhere of a leaf, `first` being its first block: ranges of [`EngineOptions::rewrite_blocks_min`] or
    /// more blocks that lie in more runs than they need to; or, while free space is hardly anywhere in one piece, whatever lies
    /// in regions that are nearly empty. Only blocks born after `own_since`.
    ///
    /// [`EngineOptions::rewrite_blocks_min`]: super::EngineOptions::rewrite_blocks_min
    fn found_in(&self, node: &Node, first: VirtualBlock, own_since: Epoch, epoch: Epoch) -> Vec<Scattered> {
        let own = node.entries().filter(|(_, e)| e.birth > own_since);
        let scattered = |span: &Span, runs_max: u32| {
            let at = VirtualBlock(first.0 + u64::from(span.from));
            Scattered { at, blocks: span.blocks, runs_max: runs_max as usize, epoch }
        };
        let store = self.store();
        if store.lacks_empty_regions() {
            // It may lie in no more runs elsewhere.
            let sparse = spans(own.filter(|(_, e)| store.is_sparse(e.addr)));
            return sparse.iter().map(|span| scattered(span, span.runs)).collect();
        }
        let mut out = Vec::new();
        for span in spans(own) {
            let runs_max = 1 + span.blocks / LONG_RUN_BLOCKS;
            if span.blocks >= self.0.options.rewrite_blocks_min && span.runs > runs_max {
                out.push(scattered(&span, runs_max));
            }
        }
        out
    }
}

/// Neighbours on a disk.
struct Span {
    /// The first, as an entry of its leaf.
    from: u32,
    blocks: u32,
    /// Runs of the store that they lie in.
    runs: u32,
}

/// Spans of at most [`REWRITE_BLOCKS_MAX`] of the entries, which are in order.
fn spans(entries: impl Iterator<Item = (usize, Entry)>) -> Vec<Span> {
    let mut out: Vec<Span> = Vec::new();
    let mut last: Option<Entry> = None;
    for (i, entry) in entries {
        let i = i as u32;
        let follows = last.is_some_and(|l| l.addr.plus(1) == entry.addr);
        match out.last_mut().filter(|s| s.from + s.blocks == i && s.blocks < REWRITE_BLOCKS_MAX) {
            Some(span) => {
                span.blocks += 1;
                span.runs += u32::from(!follows);
            }
            None => out.push(Span { from: i, blocks: 1, runs: 1 }),
        }
        last = Some(entry);
    }
    out
}

/// As many at once as make a MiB, and [`TOGETHER_MAX`] at most.
fn in_groups(all: Vec<Scattered>) -> Vec<Vec<Scattered>> {
    let mut out: Vec<Vec<Scattered>> = Vec::new();
    let mut blocks = 0;
    for s in all {
        if out.last().is_none_or(|g| g.len() == TOGETHER_MAX || blocks + s.blocks > REWRITE_BLOCKS_MAX) {
            out.push(Vec::new());
            blocks = 0;
        }
        blocks += s.blocks;
        out.last_mut().expect("there is one").push(s);
    }
    out
}
