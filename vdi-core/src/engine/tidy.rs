//! Idle work: what lies scattered after random writes is written again in order, while no guest asks for anything. Blocks of
//! a disk that no snapshot shares; the rest would cost space.
//!
//! Bounds: 1 MiB at a time and a pause after it; [`UNCHECKPOINTED_BLOCKS_MAX`] between two checkpoints, since what is
//! replaced is free only after one; a disk that did not change since it was last gone through is left alone.

use std::collections::BTreeMap;

use super::Engine;
use crate::error::Result;
use crate::executor::yield_now;
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
/// Guests that asked for nothing for so long are idle, ns.
const IDLE_NS: u64 = 500_000_000;
/// Pause after each MiB, ns: it is written in less, so the devices stay free for half of the time.
const PAUSE_NS: u64 = 4_000_000;

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
    /// Where to go on.
    from: BTreeMap<VdiId, VirtualBlock>,
    blocks: u64,
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
                if asked() != before {
                    continue;
                }
                // A failure is told to whoever reads or writes there.
                match self.tidy_while(|| asked() == before && !self.0.closing.get(), PAUSE_NS).await {
                    Ok(tidied) if !tidied.complete => {}
                    Ok(_) | Err(_) => break,
                }
            }
        }
    }
    /// Put everything in order that can be, at once.
    ///
    /// # Errors
    /// Those of a read and of a write, and of a checkpoint.
    pub async fn tidy(&self) -> Result<Tidied> {
        self.tidy_while(|| true, 0).await
    }
    async fn tidy_while(&self, may_go_on: impl Fn() -> bool, pause_ns: u64) -> Result<Tidied> {
        let mut tidied = Tidied { blocks: 0, complete: true };
        let vdis: Vec<Vdi> = self.0.vdis.borrow().values().cloned().collect();
        for vdi in vdis {
            let known = self.0.tidying.borrow().in_order.get(&vdi.id()) == Some(&vdi.seq());
            if known || vdi.held().is_some() {
                continue;
            }
            tidied.complete &= self.tidy_disk(&vdi, &may_go_on, pause_ns, &mut tidied.blocks).await?;
            if !may_go_on() {
                tidied.complete = false;
                break;
            }
        }
        Ok(tidied)
    }
    /// Returns whether it was gone through to the end.
    async fn tidy_disk(
        &self,
        vdi: &Vdi,
        may_go_on: impl Fn() -> bool,
        pause_ns: u64,
        done: &mut u64,
    ) -> Result<bool> {
        let shared = &self.0.shared;
        let first = self.0.tidying.borrow_mut().from.remove(&vdi.id());
        let (mut at, mut seq) = (first.unwrap_or_default(), vdi.seq());
        let end = || vdi.root().capacity_blocks();
        while at.0 < end() {
            let Some(own_since) = vdi.own_since() else { return Ok(true) };
            if !may_go_on() {
                self.0.tidying.borrow_mut().from.insert(vdi.id(), at);
                return Ok(false);
            }
            let (root, epoch) = (vdi.root(), vdi.epoch());
            let node = {
                let _pin = shared.store.read_pin();
                leaf(&shared.cache, &root, at).await?
            };
            let (node, next) = match node {
                Leaf::Here(node) => (node, at.0 + NODE_ENTRIES as u64),
                Leaf::AbsentUntil(next) => {
                    at = next;
                    continue;
                }
            };
            for scattered in scattered(&node, at, own_since, epoch, self.0.options.rewrite_blocks_min) {
                match vdi.rewrite(&scattered).await? {
                    Rewritten::InOrder => {
                        *done += u64::from(scattered.blocks);
                        seq = VdiSeq(seq.0 + 1);
                    }
                    Rewritten::Overtaken => {}
                    // Nor will the next ones find any.
                    Rewritten::NoRoom => return Ok(true),
                }
                self.checkpoint_what_was_rewritten(scattered.blocks).await?;
                if pause_ns > 0 {
                    self.0.env.executor.sleep(pause_ns).await;
                }
            }
            at = VirtualBlock(next);
            yield_now().await;
        }
        // Unless somebody wrote meanwhile, where it had been gone through perhaps.
        if first.is_none() && vdi.seq() == seq {
            self.0.tidying.borrow_mut().in_order.insert(vdi.id(), seq);
        }
        Ok(true)
    }
    async fn checkpoint_what_was_rewritten(&self, blocks: u32) -> Result<()> {
        let due = {
            let mut tidying = self.0.tidying.borrow_mut();
            tidying.blocks += u64::from(blocks);
            let due = tidying.blocks >= UNCHECKPOINTED_BLOCKS_MAX;
            if due {
                tidying.blocks = 0;
            }
            due
        };
        if due { self.checkpoint_round().await } else { Ok(()) }
    }
}

/// The ranges of a leaf, `first` being its first block, that lie in more runs than they need to. Only blocks born after
/// `own_since` are looked at, and only ranges of `blocks_min` or more of them.
fn scattered(
    node: &Node,
    first: VirtualBlock,
    own_since: Epoch,
    epoch: Epoch,
    blocks_min: u32,
) -> Vec<Scattered> {
    let mut out = Vec::new();
    let mut span: Option<(u32, u32, u32, Entry)> = None;
    let mut end = |span: Option<(u32, u32, u32, Entry)>| {
        let Some((from, blocks, runs, _)) = span else { return };
        let runs_max = 1 + blocks / LONG_RUN_BLOCKS;
        if blocks >= blocks_min && runs > runs_max {
            let at = VirtualBlock(first.0 + u64::from(from));
            out.push(Scattered { at, blocks, runs_max: runs_max as usize, epoch });
        }
    };
    for (i, entry) in node.entries().filter(|(_, e)| e.birth > own_since) {
        let i = i as u32;
        span = match span {
            Some((from, blocks, runs, last)) if from + blocks == i && blocks < REWRITE_BLOCKS_MAX => {
                let broken = last.addr.plus(1) != entry.addr;
                Some((from, blocks + 1, runs + u32::from(broken), entry))
            }
            _ => {
                end(span);
                Some((i, 1, 1, entry))
            }
        };
    }
    end(span);
    out
}
