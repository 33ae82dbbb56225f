//! Walk: visit everything that a root reaches, in order of virtual block.
//!
//! The caller pulls, so that it may do I/O of its own between steps, and is offered each node before
//! it is read: what it has seen under another root it skips, and so a subtree that trees share is
//! read once. Siblings are read a window at a time.

mod block_set;

use std::collections::VecDeque;
use std::future::Future;

use super::{Entry, Node, Root};
use crate::error::{Error, Result};
use crate::executor::{LocalFuture, join_all};
use crate::format::node::entry_blocks;
use crate::units::VirtualBlock;

pub use block_set::BlockSet;

/// Nodes read at once; with one window held per level, this also bounds the memory of a walk.
const WINDOW_NODES: usize = 32;

/// Where nodes come from: the cache for the engine, its own reader for the checker.
pub trait NodeSource {
    /// The node that `link` names, verified against it; `level` 0 is a leaf.
    fn node(&self, link: Entry, level: u8) -> impl Future<Output = Result<Node>>;
}

/// Where in a tree a node lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The link that names the node.
    pub link: Entry,
    /// Its level; 0 is a leaf.
    pub level: u8,
    /// First virtual block below it.
    pub at: VirtualBlock,
}

impl Place {
    /// Virtual blocks below the node.
    #[must_use]
    pub const fn blocks(&self) -> u64 {
        entry_blocks(self.level + 1)
    }
}

/// What a walk came across.
#[derive(Debug)]
pub enum Step {
    /// A leaf; its entries name data blocks.
    Leaf(Place, Node),
    /// A node that cannot be read; nothing below it is visited.
    Damaged(Place, Error),
}

#[derive(Default)]
struct Level {
    waiting: VecDeque<Place>,
    read: VecDeque<(Place, Result<Node>)>,
}

/// A walk in progress.
pub struct Walk {
    levels: Vec<Level>,
}

impl Walk {
    /// A walk over all that `root` (which has been verified) reaches. `enter` as in [`Walk::next`].
    pub fn new(root: &Root, enter: impl FnMut(&Place) -> bool) -> Walk {
        match root.entry() {
            Some(link) => Walk::below(Place { link, level: root.depth - 1, at: VirtualBlock(0) }, enter),
            None => Walk { levels: Vec::new() },
        }
    }
    /// A walk over the node at `top` and all that it reaches.
    pub fn below(top: Place, mut enter: impl FnMut(&Place) -> bool) -> Walk {
        let mut levels: Vec<Level> = (0..=top.level).map(|_| Level::default()).collect();
        if enter(&top) {
            levels[usize::from(top.level)].waiting.push_back(top);
        }
        Walk { levels }
    }
    /// The next step, None at the end. `enter` is asked once for each node before it is read; after
    /// false neither the node nor anything below it is visited.
    pub async fn next(
        &mut self,
        source: &impl NodeSource,
        mut enter: impl FnMut(&Place) -> bool,
    ) -> Option<Step> {
        loop {
            let busy = |l: &Level| !(l.waiting.is_empty() && l.read.is_empty());
            let lowest = self.levels.iter().position(busy)?;
            let level = &mut self.levels[lowest];
            if level.read.is_empty() {
                level.read = read_window(source, &mut level.waiting).await;
            }
            let (place, result) = level.read.pop_front()?;
            match result {
                Err(error) => return Some(Step::Damaged(place, error)),
                Ok(node) if place.level == 0 => return Some(Step::Leaf(place, node)),
                Ok(node) => {
                    let below = &mut self.levels[lowest - 1].waiting;
                    below.extend(children(&place, &node).filter(|p| enter(p)));
                }
            }
        }
    }
}

fn children<'a>(place: &Place, node: &'a Node) -> impl Iterator<Item = Place> + 'a {
    let Place { level, at, .. } = *place;
    node.entries().map(move |(i, link)| Place {
        link,
        level: level - 1,
        at: VirtualBlock(at.0 + i as u64 * entry_blocks(level)),
    })
}

async fn read_window(
    source: &impl NodeSource,
    waiting: &mut VecDeque<Place>,
) -> VecDeque<(Place, Result<Node>)> {
    let window: Vec<Place> = waiting.drain(..waiting.len().min(WINDOW_NODES)).collect();
    let reads = window.iter().map(|p| Box::pin(source.node(p.link, p.level)) as LocalFuture<'_, _>);
    let nodes = join_all(reads.collect()).await;
    window.into_iter().zip(nodes).collect()
}
