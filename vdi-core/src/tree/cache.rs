//! Nodes in memory, shared by all VDIs of a shard.
//!
//! Bounded in bytes. Inner nodes have a share of their own, so that leaves, which are up to 256 times
//! as many, never push them out. A hit must match the checksum that the parent expects: what an
//! earlier life of a reused block left here cannot be taken for the present one.

use std::cell::{Cell, RefCell};
use std::hash::{BuildHasherDefault, Hasher};

use quick_cache::unsync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, UnitWeighter};

use super::{Entry, Node, NodeSource};
use crate::error::Result;
use crate::sabotage::{Bug, seeded_bug};
use crate::store::{Run, Store};
use crate::units::{BLOCK_SIZE, BlockAddr};

/// The part of the cache that only inner nodes use.
const INNER_SHARE: usize = 8;
/// Fewest nodes that each part holds.
const PART_NODES_MIN: usize = 16;
/// Memory per cached node beyond its bytes: reference counts, the cache's own slot. Approximate.
const OVERHEAD_BYTES: usize = 128;

/// Mixes a block address; deterministic, as everything in the engine.
#[derive(Default)]
struct AddrHasher(u64);

impl Hasher for AddrHasher {
    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.write_u64(u64::from(*b));
        }
    }
    // The finaliser of MurmurHash3 (Appleby, public domain).
    fn write_u64(&mut self, n: u64) {
        let mut h = self.0.rotate_left(5) ^ n;
        h = (h ^ (h >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        h = (h ^ (h >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        self.0 = h ^ (h >> 33);
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

#[derive(Clone)]
struct Cached {
    node: Node,
    crc: u32,
}

type Part = Cache<BlockAddr, Cached, UnitWeighter, BuildHasherDefault<AddrHasher>>;

/// A bounded cache of verified nodes over a store.
pub struct NodeCache {
    store: Store,
    leaves: RefCell<Part>,
    inner: RefCell<Part>,
    hits: Cell<u64>,
    misses: Cell<u64>,
}

fn part(nodes: usize) -> RefCell<Part> {
    let nodes = nodes.max(PART_NODES_MIN);
    let options = OptionsBuilder::new()
        .estimated_items_capacity(nodes)
        .weight_capacity(nodes as u64)
        .build()
        .expect("both capacities are given");
    let lifecycle = DefaultLifecycle::default();
    RefCell::new(Cache::with_options(options, UnitWeighter, BuildHasherDefault::default(), lifecycle))
}

impl NodeCache {
    /// A cache of at most `bytes_max` bytes (about 1/256 of the mapped bytes in use serves well).
    #[must_use]
    pub fn new(store: Store, bytes_max: usize) -> NodeCache {
        let nodes = bytes_max / (BLOCK_SIZE + OVERHEAD_BYTES);
        let inner = nodes / INNER_SHARE;
        NodeCache {
            store,
            leaves: part(nodes - inner),
            inner: part(inner),
            hits: Cell::new(0),
            misses: Cell::new(0),
        }
    }
    /// The store below.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }
    /// Nodes found in memory since the start.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.hits.get()
    }
    /// Nodes read from the store since the start.
    #[must_use]
    pub fn misses(&self) -> u64 {
        self.misses.get()
    }
    /// Nodes held now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.leaves.borrow().len() + self.inner.borrow().len()
    }
    /// True when no node is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    fn part(&self, level: u8) -> &RefCell<Part> {
        if level == 0 { &self.leaves } else { &self.inner }
    }
    /// The node that `link` names, if it is in memory.
    #[must_use]
    pub fn cached(&self, link: Entry, level: u8) -> Option<Node> {
        let part = self.part(level).borrow();
        let found = part.get(&link.addr).filter(|c| c.crc == link.crc).map(|c| c.node.clone());
        if found.is_some() {
            self.hits.set(self.hits.get() + 1);
        }
        found
    }
    /// Read the node that `link` names past the cache: for nodes that will not be wanted again.
    pub async fn read_through(&self, link: Entry) -> Result<Node> {
        self.misses.set(self.misses.get() + 1);
        Node::verify(self.store.read_blocks(link.addr, 1).await?, link)
    }
    /// Keep `node`, which `link` names.
    pub fn insert(&self, link: Entry, level: u8, node: Node) {
        self.part(level).borrow_mut().insert(link.addr, Cached { node, crc: link.crc });
    }
    /// Drop the node at `addr`, which has been freed.
    pub fn forget(&self, addr: BlockAddr) {
        self.leaves.borrow_mut().remove(&addr);
        self.inner.borrow_mut().remove(&addr);
    }
    /// Give back what was allocated and written for something that did not happen: all writes to it have ended, and
    /// nothing on any device, in a log or in memory names it.
    pub fn abandon(&self, runs: Vec<Run>) {
        for run in &runs {
            (0..u64::from(run.blocks)).for_each(|i| self.forget(run.start.plus(i)));
        }
        if !seeded_bug(Bug::AttemptsLeak) {
            self.store.give_back_unreachable(runs.into_iter().collect());
        }
    }
}

impl NodeSource for NodeCache {
    async fn node(&self, link: Entry, level: u8) -> Result<Node> {
        if let Some(node) = self.cached(link, level) {
            return Ok(node);
        }
        let node = self.read_through(link).await?;
        self.insert(link, level, node.clone());
        Ok(node)
    }
}

/// Reads nodes that nobody else will want without filling the cache with them.
pub(super) struct PastCache<'a>(pub &'a NodeCache);

impl NodeSource for PastCache<'_> {
    async fn node(&self, link: Entry, level: u8) -> Result<Node> {
        match self.0.cached(link, level) {
            Some(node) => Ok(node),
            None => self.0.read_through(link).await,
        }
    }
}
