//! Apply: a new tree from an old one and a sorted batch of changes, copy-on-write.
//!
//! Depth first, children before parents: a node is finished, gets the next allocated address and
//! goes to the [`NodeWriter`], so memory holds one draft per level and the writer's bounded buffers,
//! whatever the size of the batch.
//!
//! Invariants:
//! - nothing that the old tree reaches is written; the old root reads as before for as long as its
//!   blocks are not reused;
//! - what is freed was born after the threshold, is not reachable from the new root, and is named
//!   once: each block has one parent entry in a tree, and each entry is replaced once;
//! - a subtree whose entry was born at or below the threshold is dropped without reading it.

use super::walk::{Place, Step, Walk};
use super::writer::NodeWriter;
use super::{Applied, Change, Entry, Node, NodeCache, NodeSource, PastCache, Root, To};
use crate::error::{Error, Result};
use crate::executor::{LocalFuture, join_all, yield_now};
use crate::format::node::{LEVEL_BITS, NodeDraft, entry_blocks};
use crate::limits::{DEPTH_MAX, NODE_ENTRIES};
use crate::sabotage::{Bug, seeded_bug};
use crate::store::Freed;
use crate::units::{BlockAddr, Epoch, VirtualBlock};

/// Nodes rewritten before a job gives way: about 200 us of work.
const NODES_PER_SLICE: u32 = 32;
/// Changes surveyed before a job gives way.
const CHANGES_PER_SLICE: usize = 4096;
/// Old children read ahead at once while a node's children are rewritten.
const PREFETCH_NODES: usize = 32;

/// The tree `root` with `changes` made, which are sorted, disjoint and within its capacity. New blocks
/// are born in `epoch`; replaced ones are freed if born after `threshold`. All nodes are written, none
/// flushed, when this returns; an emptied tree has no nodes. Freed blocks are
/// bits by region ([`Freed`]): however large a discard is, they take no more memory than the bitmaps of the store.
///
/// # Errors
/// `Corrupt` when an old node is not what its parent vouches for, or when a change maps a block to where
/// it already lies (a record applied twice); `NoSpace` and device errors from the store. The old tree is
/// as it was then, and what was allocated is free again.
pub async fn apply(
    cache: &NodeCache,
    root: &Root,
    changes: &[Change],
    epoch: Epoch,
    threshold: Epoch,
) -> Result<Applied> {
    root.verify()?;
    assert!(threshold < epoch && root.birth <= epoch, "{threshold:?}, {:?}, {epoch:?}", root.birth);
    let writer = NodeWriter::new(cache, survey(root, changes).await, epoch);
    let mut job =
        Job { cache, epoch, threshold, writer, freed: Freed::default(), data_blocks_delta: 0, busy: 0 };
    let top = job.rewrite(root.entry(), root.depth - 1, 0, changes).await;
    let settled = job.writer.settle().await;
    let nodes_written = job.writer.nodes_written();
    let allocated = job.writer.into_allocated();
    match settled.and(top) {
        Ok(top) => Ok(Applied {
            root: Root::new(top, root.depth),
            freed: job.freed,
            nodes_written,
            allocated,
            data_blocks_delta: job.data_blocks_delta,
        }),
        Err(e) => {
            cache.abandon(allocated);
            Err(e)
        }
    }
}

/// The same tree with `depth` levels: the old root becomes entry zero of a new one.
///
/// # Errors
/// As [`apply`].
pub async fn grow(cache: &NodeCache, root: &Root, depth: u8, epoch: Epoch) -> Result<Applied> {
    root.verify()?;
    Root::empty(depth).verify()?;
    assert!(depth >= root.depth && root.birth <= epoch, "{root:?} to {depth} levels in {epoch:?}");
    let mut top = root.entry();
    let levels = if top.is_some() { root.depth..depth } else { 0..0 };
    let mut writer = NodeWriter::new(cache, levels.len() as u64, epoch);
    let mut result = Ok(());
    for level in levels {
        let mut draft = NodeDraft::empty();
        draft.set(0, top);
        match writer.put(draft.finish(), level, true).await {
            Ok(entry) => top = Some(entry),
            Err(e) => {
                result = Err(e);
                break;
            }
        }
    }
    let settled = writer.settle().await.and(result);
    let nodes_written = writer.nodes_written();
    let allocated = writer.into_allocated();
    if let Err(e) = settled {
        cache.abandon(allocated);
        return Err(e);
    }
    let freed = Freed::default();
    Ok(Applied { root: Root::new(top, depth), freed, nodes_written, allocated, data_blocks_delta: 0 })
}

/// Assert that `changes` are sorted, disjoint and within `root`'s capacity; returns how many nodes will be
/// written for certain: those with a mapped block below. Discards may add some.
async fn survey(root: &Root, changes: &[Change]) -> u64 {
    let (mut end, mut count) = (0, 0);
    // By level: the first node not counted yet.
    let mut next = [0; DEPTH_MAX as usize];
    for (nth, change) in changes.iter().enumerate() {
        assert!(
            change.at.0 >= end && change.blocks > 0,
            "changes overlap or are not sorted at {:?}",
            change.at
        );
        end = change.end();
        if let To::Blocks { crcs, .. } = &change.to {
            assert_eq!(crcs.len() as u64, change.blocks, "one checksum per block at {:?}", change.at);
            for (level, next) in next.iter_mut().enumerate().take(usize::from(root.depth)) {
                let bits = LEVEL_BITS * (level as u32 + 1);
                let (first, last) = ((change.at.0 >> bits).max(*next), (end - 1) >> bits);
                count += (last + 1).saturating_sub(first);
                *next = last + 1;
            }
        }
        if nth % CHANGES_PER_SLICE == CHANGES_PER_SLICE - 1 {
            yield_now().await;
        }
    }
    assert!(end <= root.capacity_blocks(), "a change ends at block {end}, beyond depth {}", root.depth);
    count
}

/// The part of `changes` that touches blocks `from..to`.
fn touching(changes: &[Change], from: u64, to: u64) -> &[Change] {
    let start = changes.partition_point(|c| c.end() <= from);
    let stop = changes.partition_point(|c| c.at.0 < to);
    &changes[start..stop.max(start)]
}

/// Whether `changes`, all of which touch blocks `from..to`, touch every one of them.
fn covers(changes: &[Change], from: u64, to: u64) -> bool {
    let Some((first, last)) = changes.first().zip(changes.last()) else { return false };
    // Most do not even reach both ends, and many changes need not be looked at to see it.
    let reach = first.at.0 <= from && last.end() >= to;
    reach && changes.iter().map(|c| c.end().min(to) - c.at.0.max(from)).sum::<u64>() == to - from
}

struct Job<'a> {
    cache: &'a NodeCache,
    epoch: Epoch,
    threshold: Epoch,
    writer: NodeWriter<'a>,
    freed: Freed,
    data_blocks_delta: i64,
    /// Nodes rewritten since this job last gave way.
    busy: u32,
}

impl Job<'_> {
    /// Rewrite the node `old` of `level` that covers the blocks from `first` on, for `changes`, all of which
    /// touch it. Boxed because it calls itself, at most as deep as the tree.
    fn rewrite<'b>(
        &'b mut self,
        old: Option<Entry>,
        level: u8,
        first: u64,
        changes: &'b [Change],
    ) -> LocalFuture<'b, Result<Option<Entry>>> {
        Box::pin(async move {
            let end = first + entry_blocks(level + 1);
            let maps = changes.iter().any(Change::maps);
            let covered = covers(changes, first, end);
            match old {
                _ if changes.is_empty() => return Ok(old),
                None if !maps => return Ok(None),
                Some(link) if covered && !maps => {
                    self.cut(Place { link, level, at: VirtualBlock(first) }).await?;
                    return Ok(None);
                }
                _ => {}
            }
            // Covered and shared: nothing of the old node survives here, nothing below it is freed.
            let reads = old.filter(|link| !(covered && link.birth <= self.threshold));
            let node = match reads {
                Some(link) => Some(self.cache.node(link, level).await?),
                None => None,
            };
            let mut draft = node.as_ref().map_or_else(NodeDraft::empty, NodeDraft::copy_of);
            let changed = match level {
                0 => self.change_leaf(&mut draft, first, changes)?,
                _ => self.change_children(&mut draft, node.as_ref(), level, first, changes).await?,
            };
            if !changed {
                return Ok(old);
            }
            if let Some(link) = old {
                self.free_node(link);
            }
            if draft.is_empty() {
                return Ok(None);
            }
            self.busy += 1;
            if self.busy >= NODES_PER_SLICE {
                self.busy = 0;
                yield_now().await;
            }
            self.writer.put(draft.finish(), level, maps).await.map(Some)
        })
    }

    async fn change_children(
        &mut self,
        draft: &mut NodeDraft,
        old: Option<&Node>,
        level: u8,
        first: u64,
        changes: &[Change],
    ) -> Result<bool> {
        let span = entry_blocks(level);
        let mut changed = false;
        let mut read_ahead = 0;
        for index in 0..NODE_ENTRIES {
            let at = first + index as u64 * span;
            let below = touching(changes, at, at + span);
            if below.is_empty() {
                continue;
            }
            if let Some(node) = old.filter(|_| index >= read_ahead) {
                read_ahead = self.prefetch(node, index, level, first, changes).await;
            }
            let before = draft.entry(index);
            let after = self.rewrite(before, level - 1, at, below).await?;
            if before != after {
                draft.set(index, after);
                changed = true;
            }
        }
        Ok(changed)
    }

    /// Bring the next few old children that will be read anyway into the cache, side by side.
    /// Returns the index up to which that was done. Failures show when the child is read in its turn.
    async fn prefetch(&self, node: &Node, from: usize, level: u8, first: u64, changes: &[Change]) -> usize {
        let span = entry_blocks(level);
        let mut reads: Vec<LocalFuture<'_, _>> = Vec::new();
        let mut index = from;
        while index < NODE_ENTRIES && reads.len() < PREFETCH_NODES {
            let at = first + index as u64 * span;
            let below = touching(changes, at, at + span);
            let whole = covers(below, at, at + span);
            let unread =
                |old: &Entry| whole && (old.birth <= self.threshold || !below.iter().any(Change::maps));
            if let Some(link) = node.entry(index).filter(|old| !below.is_empty() && !unread(old)) {
                reads.push(Box::pin(self.cache.node(link, level - 1)));
            }
            index += 1;
        }
        if reads.len() > 1 {
            join_all(reads).await;
        }
        index
    }

    fn change_leaf(&mut self, draft: &mut NodeDraft, first: u64, changes: &[Change]) -> Result<bool> {
        let end = first + entry_blocks(1);
        let mut changed = false;
        for change in changes {
            for block in change.at.0.max(first)..change.end().min(end) {
                let index = (block - first) as usize;
                let before = draft.entry(index);
                let birth = if seeded_bug(Bug::BirthTooLate) { self.epoch.next() } else { self.epoch };
                let after = change.entry(block, birth);
                if let Some(old) = before {
                    if after.is_some_and(|new| new.addr == old.addr) {
                        return Err(applied_twice(block, old.addr));
                    }
                    self.free_data(old);
                }
                self.data_blocks_delta += i64::from(after.is_some());
                changed |= before.is_some() || after.is_some();
                draft.set(index, after);
            }
        }
        Ok(changed)
    }

    /// Drop the whole subtree at `top`, freeing what was born after the threshold.
    async fn cut(&mut self, top: Place) -> Result<()> {
        let (cache, threshold) = (self.cache, self.threshold);
        let mut freed = std::mem::take(&mut self.freed);
        let young = |place: &Place, freed: &mut Freed| {
            let young = place.link.birth > threshold;
            if young {
                freed.insert(place.link.addr);
            }
            young
        };
        let mut walk = Walk::below(top, |p| young(p, &mut freed));
        let source = PastCache(cache);
        let mut result = Ok(());
        while let Some(step) = walk.next(&source, |p| young(p, &mut freed)).await {
            if let Some(block) = freed.twice() {
                // Two ways lead there, and each has to be walked: a tree never frees a block twice.
                result = Err(Error::corrupt("tree node", block, "its tree has it twice"));
                break;
            }
            match step {
                Step::Leaf(_, node) => {
                    self.busy += 1;
                    if self.busy >= NODES_PER_SLICE {
                        self.busy = 0;
                        yield_now().await;
                    }
                    for (_, entry) in node.entries().filter(|(_, e)| e.birth > threshold) {
                        freed.insert(entry.addr);
                        self.data_blocks_delta -= 1;
                    }
                }
                Step::Damaged(_, error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        self.freed = freed;
        result
    }

    fn free_node(&mut self, old: Entry) {
        if old.birth > self.threshold {
            self.freed.insert(old.addr);
        }
    }
    fn free_data(&mut self, old: Entry) {
        if old.birth > self.threshold {
            self.freed.insert(old.addr);
            self.data_blocks_delta -= 1;
        }
    }
}

fn applied_twice(block: u64, addr: BlockAddr) -> Error {
    Error::corrupt("virtual block", block, format!("a change maps it to {addr}, where it already lies"))
}
