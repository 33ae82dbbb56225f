//! Who uses each block, in bits: what may be shared, what must not, and what is used in two ways.

use std::collections::HashMap;

use crate::format::node::Entry;
use crate::limits::DEPTH_MAX;
use crate::tree::walk::BlockSet;
use crate::units::{BlockAddr, Epoch, ExtentNumber};

/// The answer for one more use of a block.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Use {
    /// The first.
    New,
    /// Another tree has it too, as it may.
    Shared,
    /// The same, by a link that says something else of it.
    Otherwise,
    /// It cannot be what both users take it for.
    Conflict(&'static str),
    /// The store has no such block.
    Outside,
}

/// Owners of all blocks so far.
pub(super) struct Owners {
    /// Nodes by level: a node that is a leaf here and not there is two things at once.
    nodes: [BlockSet; DEPTH_MAX as usize],
    /// Checksum and birth of each node as the first link to it says: 16 bytes and the map's own for each node, a 256th of
    /// the blocks in use.
    links: HashMap<u64, (u32, Epoch)>,
    data: BlockSet,
    /// Slots of records and blocks of snapshot logs: each has one user.
    single: BlockSet,
    /// Nodes and data born after the free threshold of the VDI that has them: it will free them when it
    /// replaces them, so nothing else may use them.
    exclusive: BlockSet,
    /// What any two users cannot both have.
    disputed: BlockSet,
}

impl Owners {
    pub fn new(set: impl Fn() -> BlockSet) -> Owners {
        Owners {
            nodes: std::array::from_fn(|_| set()),
            links: HashMap::new(),
            data: set(),
            single: set(),
            exclusive: set(),
            disputed: set(),
        }
    }
    /// A tree uses what `link` names as a node of `level`.
    pub fn node(&mut self, link: &Entry, level: u8, exclusive: bool) -> Use {
        let mut found = self.add_node(link.addr, level, exclusive);
        let said = (link.crc, link.birth);
        match found {
            Use::New => drop(self.links.insert(link.addr.0, said)),
            Use::Shared if self.links.get(&link.addr.0) != Some(&said) => found = Use::Otherwise,
            _ => {}
        }
        self.judged(link.addr, found)
    }
    fn add_node(&mut self, addr: BlockAddr, level: u8, exclusive: bool) -> Use {
        let other_levels =
            (0..DEPTH_MAX).filter(|l| *l != level).any(|l| self.nodes[usize::from(l)].contains(addr));
        if other_levels {
            return Use::Conflict("it is a node of two levels at once");
        }
        if self.data.contains(addr) || self.single.contains(addr) {
            return Use::Conflict("it is a tree node and something else at once");
        }
        let first = self.nodes[usize::from(level)].insert(addr);
        self.share(addr, first, exclusive)
    }
    /// A tree uses `addr` as a data block.
    pub fn data(&mut self, addr: BlockAddr, exclusive: bool) -> Use {
        let found = self.add_data(addr, exclusive);
        self.judged(addr, found)
    }
    fn add_data(&mut self, addr: BlockAddr, exclusive: bool) -> Use {
        if self.single.contains(addr) || self.nodes.iter().any(|n| n.contains(addr)) {
            return Use::Conflict("it is a data block and metadata at once");
        }
        let first = self.data.insert(addr);
        self.share(addr, first, exclusive)
    }
    /// A record or a snapshot log uses `addr`.
    pub fn single(&mut self, addr: BlockAddr) -> Use {
        let found = self.add_single(addr);
        self.judged(addr, found)
    }
    fn add_single(&mut self, addr: BlockAddr) -> Use {
        if self.data.contains(addr) || self.nodes.iter().any(|n| n.contains(addr)) {
            return Use::Conflict("a tree uses it too");
        }
        match self.single.insert(addr) {
            None => Use::Outside,
            Some(true) => Use::New,
            Some(false) => Use::Conflict("two records or snapshot logs use it"),
        }
    }
    fn judged(&mut self, addr: BlockAddr, found: Use) -> Use {
        if matches!(found, Use::Conflict(_)) {
            self.disputed.insert(addr);
        }
        found
    }
    /// Whether anything uses the block.
    pub fn has(&self, addr: BlockAddr) -> bool {
        self.nodes.iter().chain([&self.data, &self.single]).any(|set| set.contains(addr))
    }
    /// Whether two users have the block that cannot both have it.
    pub fn is_disputed(&self, addr: BlockAddr) -> bool {
        self.disputed.contains(addr)
    }
    fn share(&mut self, addr: BlockAddr, first: Option<bool>, exclusive: bool) -> Use {
        match first {
            None => Use::Outside,
            Some(false) if exclusive || self.exclusive.contains(addr) => {
                Use::Conflict("it is used twice, but one user may free it at any time")
            }
            Some(false) => Use::Shared,
            Some(true) => {
                if exclusive {
                    self.exclusive.insert(addr);
                }
                Use::New
            }
        }
    }
    /// Everything used in extent `number`, as words of its bitmap.
    pub fn words(&self, number: ExtentNumber, words: usize) -> Vec<u64> {
        let mut used = vec![0; words];
        for set in self.nodes.iter().chain([&self.data, &self.single]) {
            let bits = set.extent(number).into_iter().flatten().flatten();
            used.iter_mut().zip(bits).for_each(|(word, bits)| *word |= bits);
        }
        used
    }
    pub fn nodes_total(&self) -> u64 {
        self.nodes.iter().map(BlockSet::len).sum()
    }
    pub fn data_total(&self) -> u64 {
        self.data.len()
    }
    pub fn total(&self) -> u64 {
        self.nodes_total() + self.data_total() + self.single.len()
    }
}
