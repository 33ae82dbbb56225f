//! Lookup: where a range of virtual blocks lies.

use smallvec::SmallVec;

use super::{Crcs, Entry, Mapping, Node, NodeCache, NodeSource, PastCache, Root};
use crate::error::Result;
use crate::format::node::{entry_blocks, entry_index};
use crate::limits::NODE_ENTRIES;
use crate::units::{BlockAddr, Epoch, VirtualBlock};

/// Where the `blocks` blocks from `first` on lie, in order and without gaps. Blocks beyond the tree's
/// capacity are absent. Blocks that are neighbours here and in the store share a [`Mapping`], within an
/// extent.
///
/// # Errors
/// `Corrupt` when a node on the way is not what its parent vouches for; what the device says.
pub async fn lookup(
    cache: &NodeCache,
    root: &Root,
    first: VirtualBlock,
    blocks: u32,
) -> Result<SmallVec<[Mapping; 4]>> {
    root.verify()?;
    let mut out = Merger { cache, mappings: SmallVec::new() };
    let end = first.0 + u64::from(blocks);
    let mapped_end = end.min(root.capacity_blocks());
    let mut at = first.0;
    while at < mapped_end {
        match descend(cache, cache, root, VirtualBlock(at), |_| true).await? {
            Found::Leaf(leaf) => {
                let index = entry_index(VirtualBlock(at), 0);
                let stop = NODE_ENTRIES.min(index + (mapped_end - at) as usize);
                for i in index..stop {
                    out.push(VirtualBlock(at), leaf.entry(i));
                    at += 1;
                }
            }
            Found::AbsentBelow(level) => {
                let covered = entry_blocks(level);
                let next = mapped_end.min((at / covered + 1) * covered);
                out.push_absent(VirtualBlock(at), next - at);
                at = next;
            }
        }
    }
    if at < end {
        out.push_absent(VirtualBlock(at), end - at);
    }
    Ok(out.mappings)
}

/// What there is at a block.
pub enum Leaf {
    /// The leaf that covers it.
    Here(Node),
    /// Nothing, up to this block.
    AbsentUntil(VirtualBlock),
}

/// The leaf that covers `block`, which the tree has room for, if anything below it was born after `since`: nothing below an entry
/// is younger than it. Fills no cache with leaves that nobody else asks for.
///
/// # Errors
/// As [`lookup`].
pub async fn leaf_since(cache: &NodeCache, root: &Root, block: VirtualBlock, since: Epoch) -> Result<Leaf> {
    root.verify()?;
    Ok(match descend(cache, &PastCache(cache), root, block, |e| e.birth > since).await? {
        Found::Leaf(node) => Leaf::Here(node),
        Found::AbsentBelow(level) => {
            let covered = entry_blocks(level);
            Leaf::AbsentUntil(VirtualBlock((block.0 / covered + 1) * covered))
        }
    })
}

enum Found {
    Leaf(Node),
    /// The entry of a node of this level is absent; the depth itself stands for the root's.
    AbsentBelow(u8),
}

/// Leaves come from `leaves`; entries that are not `wanted` are taken for absent.
async fn descend(
    cache: &NodeCache,
    leaves: &impl NodeSource,
    root: &Root,
    block: VirtualBlock,
    wanted: impl Fn(&Entry) -> bool,
) -> Result<Found> {
    let mut level = root.depth;
    let mut link = root.entry();
    loop {
        let Some(entry) = link.filter(&wanted) else { return Ok(Found::AbsentBelow(level)) };
        level -= 1;
        let node = match cache.cached(entry, level) {
            Some(node) => node,
            None if level == 0 => leaves.node(entry, level).await?,
            None => cache.node(entry, level).await?,
        };
        if level == 0 {
            return Ok(Found::Leaf(node));
        }
        link = node.entry(entry_index(block, level));
    }
}

struct Merger<'a> {
    cache: &'a NodeCache,
    mappings: SmallVec<[Mapping; 4]>,
}

impl Merger<'_> {
    fn push(&mut self, at: VirtualBlock, entry: Option<Entry>) {
        let Some(entry) = entry else { return self.push_absent(at, 1) };
        let geometry = self.cache.store().geometry();
        if let Some(Mapping { blocks, target: Some((start, crcs)), .. }) = self.mappings.last_mut() {
            let adjacent = start.plus(u64::from(*blocks)) == entry.addr;
            if adjacent && geometry.extent(*start) == geometry.extent(entry.addr) {
                *blocks += 1;
                crcs.push(entry.crc);
                return;
            }
        }
        let target: (BlockAddr, Crcs) = (entry.addr, smallvec::smallvec![entry.crc]);
        self.mappings.push(Mapping { at, blocks: 1, target: Some(target) });
    }
    fn push_absent(&mut self, at: VirtualBlock, count: u64) {
        let count = u32::try_from(count).expect("never more than was asked for");
        match self.mappings.last_mut() {
            Some(Mapping { blocks, target: None, .. }) => *blocks += count,
            _ => self.mappings.push(Mapping { at, blocks: count, target: None }),
        }
    }
}
