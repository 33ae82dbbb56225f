//! Idle work, while no guest asks for anything: what lies scattered after random writes is written again in order, and regions that
//! are nearly empty are emptied where free space is in pieces. Blocks of a disk that no snapshot shares; the rest would cost
//! space, and others name them.
//!
//! Bounds: 1 MiB at a time and a pause after it; [`UNCHECKPOINTED_BLOCKS_MAX`] between two checkpoints, since what is
//! replaced is free only after one; a disk that did not change since it was last gone through is left alone.

use std::collections::BTreeMap;

use super::Engine;
use crate::error::Result;
use crate::executor::{TaskLock, yield_now};
use crate::limits::NODE_ENTRIES;
use crate::tree::lookup::{Leaf, leaf};
use crate::tree::{Entry, Node};
use crate::units::{Epoch, VdiId, VdiSeq, VirtualBlock};
use crate::vdi::Vdi;
use crate::vdi::rewrite::{REWRITE_BLOCKS_MAX, Rewritten, Scattered};

/// Runs of this length are long: a range that has no more of them than it has so many blocks lies in order.
const LONG_RUN_BLOCKS: u32 = 64;
/// Blocks rewritten between two checkpoints at most: 64 MiB.
const UNCHECKPOINTED_BLOCKS_MAX: u64 = 16_384;
/// Ranges written again at once at most.
const TOGETHER_MAX: usize = 32;
/// Guests that asked for nothing for so long are idle, ns.
const IDLE_NS: u64 = 500_000_000;
/// Pause after each group, of a MiB at most, ns.
const PAUSE_NS: u64 = 4_000_000;

/// Ranges of a disk for which the store had no long runs: after so many a pass gives it up.
const SHORT_RUNS_MAX: usize = 8;

/// What was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tidied {
    /// Blocks that lie in order now.
    pub blocks: u64,
    /// All disks were gone through to the end.
    pub complete: bool,
}

/// How far the idle work is.
#[derive(Default)]
pub(super) struct Tidying {
    /// Disks that lie in order, as of this record of theirs.
    in_order: BTreeMap<VdiId, VdiSeq>,
    /// The disk that has its turn.
    under_way: Option<(VdiId, Passage)>,
    /// Held by who is at it.
    turn: TaskLock,
    /// Blocks rewritten since the last checkpoint for their sake, and in all.
    blocks: u64,
    total_blocks: u64,
}

/// How far a disk was gone through.
#[derive(Clone, Copy)]
struct Passage {
    /// Where to go on.
    at: VirtualBlock,
    /// The disk's last record, if nobody else wrote since.
    seq: VdiSeq,
    /// At the beginning all of it was in the tree, and nothing was left out since.
    whole: bool,
    short_runs: usize,
}

impl Engine {
    /// The background task.
    pub(super) async fn tidy_for_ever(self) {
        let executor = &self.0.env.executor;
        let asked = || self.0.shared.asked.get();
        loop {
            // Only checkpoints make anything that could be put in order.
            self.0.shared.pressure.ended.wait().await;
            loop {
                let before = asked();
                executor.sleep(IDLE_NS).await;
                if self.0.closing.get() {
                    return;
                }
                let idle = || asked() == before && !self.0.closing.get();
                if idle() && self.tidy_while(idle, PAUSE_NS).await.complete {
                    break;
                }
            }
        }
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
        let mut tidied = Tidied::default();
        let mut left = self.disks_to_tidy();
        while may_go_on() {
            let Some((vdi, passage)) = left.pop() else {
                tidied.complete = true;
                break;
            };
            // Else it is at its end, or damaged, or gone.
            if let Ok(Some(passage)) =
                self.tidy_disk(&vdi, passage, &may_go_on, pause_ns, &mut tidied.blocks).await
            {
                self.0.tidying.borrow_mut().under_way = Some((vdi.id(), passage));
            }
        }
        tidied
    }
    /// The disks that are not known to lie in order, and how far each is. The last one comes first.
    fn disks_to_tidy(&self) -> Vec<(Vdi, Passage)> {
        let vdis = self.0.vdis.borrow();
        let mut tidying = self.0.tidying.borrow_mut();
        tidying.in_order.retain(|id, _| vdis.contains_key(id));
        let under_way = tidying.under_way.take();
        let first = under_way.map_or(VdiId::default(), |(id, _)| id);
        let in_turn = vdis.range(first..).chain(vdis.range(..first));
        let wanted =
            in_turn.filter(|(id, v)| tidying.in_order.get(id) != Some(&v.seq()) && v.held().is_none());
        let mut all: Vec<(Vdi, Passage)> = wanted
            .map(|(id, v)| {
                (v.clone(), under_way.filter(|(u, _)| u == id).map_or_else(|| Passage::of(v), |(_, p)| p))
            })
            .collect();
        all.reverse();
        all
    }
    /// Returns where it was broken off, None at the end.
    async fn tidy_disk(
        &self,
        vdi: &Vdi,
        passage: Passage,
        may_go_on: impl Fn() -> bool,
        pause_ns: u64,
        done: &mut u64,
    ) -> Result<Option<Passage>> {
        let shared = &self.0.shared;
        let mut p = passage;
        p.whole &= vdi.seq() == p.seq;
        while p.at.0 < vdi.root().capacity_blocks() {
            if !may_go_on() {
                return Ok(Some(p));
            }
            let Some(own_since) = vdi.own_since() else { return Ok(None) };
            let epoch = vdi.epoch();
            let node = {
                let _pin = shared.store.read_pin();
                leaf(&shared.cache, &vdi.root(), p.at).await?
            };
            let node = match node {
                Leaf::Here(node) => node,
                Leaf::AbsentUntil(next) => {
                    p.at = next;
                    continue;
                }
            };
            for some in in_groups(self.found_in(&node, p.at, own_since, epoch)) {
                if !may_go_on() {
                    return Ok(Some(p));
                }
                let mut blocks = 0;
                for (scattered, result) in some.iter().zip(vdi.rewrite(&some).await) {
                    match result? {
                        Rewritten::InOrder => {
                            blocks += scattered.blocks;
                            p.seq = VdiSeq(p.seq.0 + 1);
                        }
                        Rewritten::Overtaken => p.whole = false,
                        Rewritten::ShortRuns => {
                            p.whole = false;
                            p.short_runs += 1;
                        }
                        Rewritten::NoRoom => return Ok(None),
                    }
                }
                *done += u64::from(blocks);
                self.checkpoint_what_was_rewritten(blocks).await?;
                if p.short_runs > SHORT_RUNS_MAX {
                    return Ok(None);
                }
                if pause_ns > 0 {
                    self.0.env.executor.sleep(pause_ns).await;
                }
            }
            p.at = VirtualBlock(p.at.0 + NODE_ENTRIES as u64);
            yield_now().await;
        }
        if p.whole && vdi.seq() == p.seq {
            self.0.tidying.borrow_mut().in_order.insert(vdi.id(), p.seq);
        }
        Ok(None)
    }
    async fn checkpoint_what_was_rewritten(&self, blocks: u32) -> Result<()> {
        let due = {
            let mut tidying = self.0.tidying.borrow_mut();
            tidying.blocks += u64::from(blocks);
            tidying.total_blocks += u64::from(blocks);
            let due = tidying.blocks >= UNCHECKPOINTED_BLOCKS_MAX;
            if due {
                tidying.blocks = 0;
            }
            due
        };
        if due { self.checkpoint_round().await } else { Ok(()) }
    }
}

impl Passage {
    fn of(vdi: &Vdi) -> Passage {
        let seq = vdi.seq();
        let whole = vdi.record().applied.seq == seq;
        Passage { at: VirtualBlock(0), seq, whole, short_runs: 0 }
    }
}

impl Engine {
    /// What to put elsewhere of a leaf, `first` being its first block: ranges of [`EngineOptions::rewrite_blocks_min`] or
    /// more blocks that lie in more runs than they need to; and, while free space is hardly anywhere in one piece, whatever lies
    /// in regions that are nearly empty. Only blocks born after `own_since`.
    ///
    /// [`EngineOptions::rewrite_blocks_min`]: super::EngineOptions::rewrite_blocks_min
    fn found_in(&self, node: &Node, first: VirtualBlock, own_since: Epoch, epoch: Epoch) -> Vec<Scattered> {
        let own = || node.entries().filter(|(_, e)| e.birth > own_since);
        let scattered = |span: &Span, runs_max: u32| {
            let at = VirtualBlock(first.0 + u64::from(span.from));
            Scattered { at, blocks: span.blocks, runs_max: runs_max as usize, epoch }
        };
        let mut out = Vec::new();
        let mut moved = [false; NODE_ENTRIES];
        for span in spans(own()) {
            let runs_max = 1 + span.blocks / LONG_RUN_BLOCKS;
            if span.blocks >= self.0.options.rewrite_blocks_min && span.runs > runs_max {
                moved[span.from as usize..][..span.blocks as usize].fill(true);
                out.push(scattered(&span, runs_max));
            }
        }
        let store = self.store();
        if store.lacks_empty_regions() {
            let sparse = own().filter(|(i, e)| !moved[*i] && store.is_sparse(e.addr));
            out.extend(spans(sparse).iter().map(|span| scattered(span, span.blocks)));
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
