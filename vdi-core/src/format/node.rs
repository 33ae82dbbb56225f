//! Tree node: 256 entries, no header.
//!
//! | offset | size | unit | field | protects against |
//! |---|---|---|---|---|
//! | 16 i | 6 | block | address of child `i`; zero: absent, reads as zeros | |
//! | 16 i + 6 | 1 | | flags, none defined: zero | meaning we do not know |
//! | 16 i + 7 | 5 | epoch | birth of the child | freeing a shared block |
//! | 16 i + 12 | 4 | | CRC-32C of the child's 4 KiB | torn, stale and misdirected children, rot |
//!
//! A node names neither itself nor its store: the entry that led to it carries its address and its
//! checksum, which prove identity, content and freshness at once. An absent entry is 16 zero bytes.
//! No child is born after the node that names it.
//!
//! Levels count from the leaves: entries of a level 0 node name data blocks, an entry of a level `k`
//! node covers `256^k` blocks. The root of a tree of depth `d` is a node of level `d - 1`.

use std::rc::Rc;

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::buffer::{AlignedBuf, crc32c};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::{DEPTH_MAX, NODE_ENTRIES};
use crate::units::{BLOCK_SIZE, BlockAddr, Epoch, VirtualBlock};

/// log2 of [`NODE_ENTRIES`]: bits of a virtual block number that one level resolves.
pub const LEVEL_BITS: u32 = NODE_ENTRIES.ilog2();

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawEntry {
    addr: [u8; 6],
    flags: u8,
    birth: [u8; 5],
    crc: U32,
}

type RawNode = [RawEntry; NODE_ENTRIES];

const ABSENT: RawEntry = RawEntry { addr: [0; 6], flags: 0, birth: [0; 5], crc: U32::ZERO };
const _: () = {
    assert!(size_of::<RawEntry>() == 16);
    assert!(size_of::<RawNode>() == BLOCK_SIZE);
    assert!(NODE_ENTRIES.is_power_of_two());
};

/// A link to a child: what a node (or a VDI record, for the root) knows of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Where the child lies; never [`BlockAddr::NONE`].
    pub addr: BlockAddr,
    /// The epoch in which it was written.
    pub birth: Epoch,
    /// CRC-32C of its 4 KiB.
    pub crc: u32,
}

impl RawEntry {
    fn decode(&self) -> Option<Entry> {
        let mut addr = [0; 8];
        addr[..6].copy_from_slice(&self.addr);
        let addr = BlockAddr(u64::from_le_bytes(addr));
        let mut birth = [0; 8];
        birth[..5].copy_from_slice(&self.birth);
        let birth = Epoch(u64::from_le_bytes(birth));
        (!addr.is_none()).then_some(Entry { addr, birth, crc: self.crc.get() })
    }
    fn encode(entry: Option<Entry>) -> RawEntry {
        let Some(e) = entry else { return ABSENT };
        assert!(!e.addr.is_none() && e.addr.0 >> BlockAddr::BITS == 0, "{} as a child", e.addr);
        assert!(e.birth <= Epoch::MAX, "{:?} does not fit an entry", e.birth);
        let mut raw = RawEntry { crc: U32::new(e.crc), ..ABSENT };
        raw.addr.copy_from_slice(&e.addr.0.to_le_bytes()[..6]);
        raw.birth.copy_from_slice(&e.birth.0.to_le_bytes()[..5]);
        raw
    }
}

/// The top of a tree: the link to its root node, and how many levels there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Root {
    /// The root node; [`BlockAddr::NONE`] when every block is absent.
    pub addr: BlockAddr,
    /// CRC-32C of the root node, zero when there is none.
    pub crc: u32,
    /// Birth of the root node, zero when there is none.
    pub birth: Epoch,
    /// Levels: 1 to [`DEPTH_MAX`].
    pub depth: u8,
}

impl Root {
    /// A tree of `depth` levels in which every block is absent.
    #[must_use]
    pub const fn empty(depth: u8) -> Root {
        Root { addr: BlockAddr::NONE, crc: 0, birth: Epoch(0), depth }
    }
    /// A tree of `depth` levels with root node `entry`.
    #[must_use]
    pub fn new(entry: Option<Entry>, depth: u8) -> Root {
        match entry {
            Some(Entry { addr, birth, crc }) => Root { addr, crc, birth, depth },
            None => Root::empty(depth),
        }
    }
    /// The link to the root node, if there is one.
    #[must_use]
    pub fn entry(&self) -> Option<Entry> {
        (!self.addr.is_none()).then_some(Entry { addr: self.addr, birth: self.birth, crc: self.crc })
    }
    /// Blocks that the tree can map.
    #[must_use]
    pub const fn capacity_blocks(&self) -> u64 {
        1 << (LEVEL_BITS * self.depth as u32)
    }
    /// Check what a record on disk says a root is.
    pub fn verify(&self) -> Result<()> {
        let bad = |detail: &str| Err(Error::corrupt("tree root", self.addr, detail));
        match self {
            r if r.depth == 0 || r.depth > DEPTH_MAX => {
                bad(&format!("depth {} is not 1 to {DEPTH_MAX}", r.depth))
            }
            r if r.addr.0 >> BlockAddr::BITS != 0 => bad("the address is wider than 48 bits"),
            r if r.birth > Epoch::MAX => bad("the birth epoch is wider than 40 bits"),
            r if r.addr.is_none() && (r.crc != 0 || r.birth != Epoch(0)) => {
                bad("absent, but with checksum or birth")
            }
            _ => Ok(()),
        }
    }
}

/// Blocks that one entry of a node of `level` covers.
#[must_use]
pub const fn entry_blocks(level: u8) -> u64 {
    1 << (LEVEL_BITS * level as u32)
}

/// Which entry of a node of `level` covers `block`.
#[must_use]
pub const fn entry_index(block: VirtualBlock, level: u8) -> usize {
    (block.0 >> (LEVEL_BITS * level as u32)) as usize % NODE_ENTRIES
}

/// A node whose bytes are what its parent vouches for.
#[derive(Clone, Debug)]
pub struct Node {
    bytes: Rc<AlignedBuf>,
}

impl Node {
    /// Check that `bytes`, read from `link.addr`, are the node that `link` names.
    pub fn verify(bytes: AlignedBuf, link: Entry) -> Result<Node> {
        let bad = |detail: String| Err(Error::corrupt("tree node", link.addr, detail));
        if bytes.len() != BLOCK_SIZE {
            return bad(format!("{} bytes were read", bytes.len()));
        }
        let found = crc32c(&bytes);
        if found != link.crc {
            return bad(format!("checksum is {found:#010x}, its parent says {:#010x}", link.crc));
        }
        let node = Node { bytes: Rc::new(bytes) };
        for (i, raw) in node.raw().iter().enumerate() {
            if raw.flags != 0 {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("tree node at {}: entry {i} has unknown flags {:#04x}", link.addr, raw.flags),
                    "use the version of Parallax that wrote this store, or a later one",
                ));
            }
            match raw.decode() {
                None if raw.as_bytes() != ABSENT.as_bytes() => {
                    return bad(format!("entry {i} is absent, but not zero"));
                }
                Some(e) if e.birth > link.birth => {
                    let (child, own) = (e.birth.0, link.birth.0);
                    return bad(format!("entry {i} was born in epoch {child}, after its node ({own})"));
                }
                _ => {}
            }
        }
        Ok(node)
    }
    fn raw(&self) -> &RawNode {
        RawNode::ref_from_bytes(&self.bytes).expect("a node is one block, entries have no alignment")
    }
    /// Entry `index`, None when absent.
    #[must_use]
    pub fn entry(&self, index: usize) -> Option<Entry> {
        self.raw()[index].decode()
    }
    /// The entries that are not absent, with their index, in order.
    pub fn entries(&self) -> impl Iterator<Item = (usize, Entry)> + '_ {
        self.raw().iter().enumerate().filter_map(|(i, raw)| Some((i, raw.decode()?)))
    }
    /// The bytes, for writing.
    #[must_use]
    pub fn bytes(&self) -> &Rc<AlignedBuf> {
        &self.bytes
    }
    /// CRC-32C of the bytes: what the entry that names this node must say.
    #[must_use]
    pub fn crc(&self) -> u32 {
        crc32c(&self.bytes)
    }
}

/// A node being made; [`NodeDraft::finish`] ends it.
pub struct NodeDraft {
    bytes: AlignedBuf,
}

impl NodeDraft {
    /// All absent.
    #[must_use]
    pub fn empty() -> NodeDraft {
        NodeDraft { bytes: AlignedBuf::block() }
    }
    /// A copy of `node`.
    #[must_use]
    pub fn copy_of(node: &Node) -> NodeDraft {
        NodeDraft { bytes: AlignedBuf::copy_of(&node.bytes) }
    }
    fn raw(&self) -> &RawNode {
        RawNode::ref_from_bytes(&self.bytes).expect("a node is one block, entries have no alignment")
    }
    /// Entry `index`, None when absent.
    #[must_use]
    pub fn entry(&self, index: usize) -> Option<Entry> {
        self.raw()[index].decode()
    }
    /// Set entry `index`.
    pub fn set(&mut self, index: usize, entry: Option<Entry>) {
        let raw = RawNode::mut_from_bytes(&mut self.bytes).expect("a node is one block");
        raw[index] = RawEntry::encode(entry);
    }
    /// True when every entry is absent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.iter().all(|b| *b == 0)
    }
    /// The finished node.
    #[must_use]
    pub fn finish(self) -> Node {
        Node { bytes: Rc::new(self.bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::law::every_flipped_bit_is_found;

    fn sample() -> (Node, Entry) {
        let mut draft = NodeDraft::empty();
        draft.set(0, Some(Entry { addr: BlockAddr(0x0102_0304_0506), birth: Epoch(7), crc: 0xa1b2_c3d4 }));
        draft.set(255, Some(Entry { addr: BlockAddr(9), birth: Epoch(0x01_0000_0002), crc: 1 }));
        let node = draft.finish();
        let link = Entry { addr: BlockAddr(77), birth: Epoch(0x01_0000_0002), crc: node.crc() };
        (node, link)
    }

    #[test]
    fn golden_bytes() {
        let (node, _) = sample();
        let hex = |r: std::ops::Range<usize>| {
            node.bytes()[r].iter().map(|b| format!("{b:02x}")).collect::<String>()
        };
        assert_eq!(hex(0..16), "060504030201000700000000d4c3b2a1");
        assert_eq!(hex(4080..4096), "09000000000000020000000101000000");
        assert!(node.bytes()[16..4080].iter().all(|b| *b == 0));
        assert_eq!(node.crc(), 0x6465_1408);
    }

    #[test]
    fn entries_survive_the_round_trip() {
        let (node, link) = sample();
        let node = Node::verify(AlignedBuf::copy_of(node.bytes()), link).unwrap();
        let found: Vec<_> = node.entries().map(|(i, e)| (i, e.addr.0, e.birth.0, e.crc)).collect();
        assert_eq!(found, [(0, 0x0102_0304_0506, 7, 0xa1b2_c3d4), (255, 9, 0x01_0000_0002, 1)]);
        assert_eq!(node.entry(1), None);
    }

    #[test]
    fn a_flipped_bit_is_found_and_the_error_names_the_address() {
        let (node, link) = sample();
        every_flipped_bit_is_found(node.bytes(), |b| Node::verify(AlignedBuf::copy_of(b), link).is_ok());
        let mut bytes = AlignedBuf::copy_of(node.bytes());
        bytes[100] ^= 1;
        let error = Node::verify(bytes, link).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.message().contains("block 0x4d"), "{error}");
    }

    #[test]
    fn entries_that_make_no_sense_are_refused_even_with_a_good_checksum() {
        let check = |at: usize, value: u8| {
            let (node, link) = sample();
            let mut bytes = AlignedBuf::copy_of(node.bytes());
            bytes[at] = value;
            let link = Entry { crc: crc32c(&bytes), ..link };
            Node::verify(bytes, link).unwrap_err().kind()
        };
        assert_eq!(check(6, 1), ErrorKind::Unsupported, "unknown flag");
        assert_eq!(check(16 + 12, 1), ErrorKind::Corrupt, "absent with a checksum");
        assert_eq!(check(4080 + 10, 1), ErrorKind::Corrupt, "born after its node");
    }

    #[test]
    fn impossible_roots_are_refused() {
        let good = Root { addr: BlockAddr(5), crc: 1, birth: Epoch(1), depth: 3 };
        assert!(good.verify().is_ok() && Root::empty(5).verify().is_ok());
        for bad in [
            Root { depth: 0, ..good },
            Root { depth: 6, ..good },
            Root { addr: BlockAddr(1 << 48), ..good },
            Root { birth: Epoch(1 << 40), ..good },
            Root { crc: 1, ..Root::empty(2) },
        ] {
            assert_eq!(bad.verify().unwrap_err().kind(), ErrorKind::Corrupt, "{bad:?}");
        }
        assert_eq!(entry_index(VirtualBlock(0x0003_0405), 1), 4);
        assert_eq!(entry_blocks(2), 65536);
    }
}
