//! A forger's tools, only with the feature `sim`: put right the checksums of structures that were changed by
//! hand, so that tests reach what stands behind the checksums. Nothing here looks at what a structure means.
//!
//! Offsets are those of the layout tables in the structures' own files.

use super::{CRC_AT, HEADER_BYTES, Header, Kind, MAGIC, vdi_record};
use crate::buffer::crc32c;
use crate::units::{BLOCK_SIZE, BlockAddr};

use zerocopy::FromBytes;

/// What a link leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// A tree node of this level; data hang below level 0.
    Node(u8),
    /// A data block.
    Data,
    /// A block of a snapshot log.
    SnapshotLog,
}

/// A place in a structure that names a block and its checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    /// Which block.
    pub addr: BlockAddr,
    /// What it should be.
    pub target: Target,
    /// Where in the structure its checksum stands, bytes.
    crc_at: usize,
}

impl Link {
    /// Write the checksum of what the link leads to into the structure it was found in.
    pub fn set_crc(&self, bytes: &mut [u8], crc: u32) {
        bytes[self.crc_at..self.crc_at + 4].copy_from_slice(&crc.to_le_bytes());
    }
}

/// Segment header: checksum of the previous segment's head area.
const SEGMENT_PREVIOUS_CRC_AT: usize = 80;
/// Snapshot log: first record, and bytes of a snapshot's record before its label.
const SNAPSHOT_RECORDS_AT: usize = 96;
const SNAPSHOT_RECORD_BYTES: usize = 48;
const OTHER_RECORD_BYTES: usize = 16;

/// Whether a structure seems to start here.
#[must_use]
pub fn begins(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

/// The kind that a structure at the start of `bytes` claims to be of, and the bytes it claims to have (at
/// least a header's, at most all of `bytes`).
#[must_use]
pub fn claims(bytes: &[u8]) -> Option<(u16, usize)> {
    let (header, _) = Header::ref_from_prefix(bytes).ok()?;
    let length = header.length.get() as usize;
    let plausible = header.magic == MAGIC && (HEADER_BYTES..=bytes.len()).contains(&length);
    plausible.then(|| (header.kind.get(), length))
}

/// Put right the checksum in the header of the structure that `bytes` seem to start with; returns it, or None
/// when there is no such structure.
pub fn reseal(bytes: &mut [u8]) -> Option<u32> {
    let (_, length) = claims(bytes)?;
    bytes[CRC_AT..CRC_AT + 4].fill(0);
    let crc = crc32c(&bytes[..length]);
    bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    Some(crc)
}

/// Whether the structure at the start of `bytes` claims to be a log segment.
#[must_use]
pub fn is_segment(bytes: &[u8]) -> bool {
    claims(bytes).is_some_and(|(kind, _)| kind == Kind::Segment as u16)
}

/// Chain a segment's head area to the one before, whose checksum is `crc`.
pub fn follow(segment: &mut [u8], crc: u32) {
    segment[SEGMENT_PREVIOUS_CRC_AT..SEGMENT_PREVIOUS_CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
}

/// The links of a VDI record: its root and its snapshot log.
#[must_use]
pub fn record_links(block: &[u8]) -> Vec<Link> {
    let root = Target::Node(block[108].saturating_sub(1));
    let links = [link(block, 96, 104, root), link(block, 136, 144, Target::SnapshotLog)];
    links.into_iter().flatten().collect()
}

/// The links of a node of `level`.
#[must_use]
pub fn node_links(block: &[u8], level: u8) -> Vec<Link> {
    let target = if level == 0 { Target::Data } else { Target::Node(level - 1) };
    (0..BLOCK_SIZE / 16).filter_map(|i| link_of(address(block, 16 * i, 6), 16 * i + 12, target)).collect()
}

/// The links of a block of a snapshot log: the block before it, and the roots of its snapshots.
#[must_use]
pub fn snapshot_log_links(block: &[u8]) -> Vec<Link> {
    let mut links: Vec<Link> = link(block, 80, 88, Target::SnapshotLog).into_iter().collect();
    let mut at = SNAPSHOT_RECORDS_AT;
    while at + SNAPSHOT_RECORD_BYTES <= BLOCK_SIZE && block[at] != 0 {
        let label_bytes = usize::from(block[at + 1]);
        if block[at] == 1 {
            links.extend(link(block, at + 24, at + 4, Target::Node(block[at + 2].saturating_sub(1))));
            at += SNAPSHOT_RECORD_BYTES + label_bytes;
        } else {
            at += OTHER_RECORD_BYTES + label_bytes;
        }
    }
    links
}

/// Bytes of a VDI record that its checksum covers.
pub const VDI_RECORD_BYTES: usize = vdi_record::BYTES;

fn link(block: &[u8], addr_at: usize, crc_at: usize, target: Target) -> Option<Link> {
    link_of(address(block, addr_at, 8), crc_at, target)
}

fn link_of(addr: u64, crc_at: usize, target: Target) -> Option<Link> {
    (addr != 0).then_some(Link { addr: BlockAddr(addr), target, crc_at })
}

fn address(block: &[u8], at: usize, bytes: usize) -> u64 {
    let mut word = [0; 8];
    word[..bytes].copy_from_slice(&block[at..at + bytes]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::AlignedBuf;
    use crate::format::node::{Entry, Node, NodeDraft, Root};
    use crate::format::snapshot_log::{Snapshot, SnapshotBlock, SnapshotRecord};
    use crate::format::{Expect, seal, verify};
    use crate::units::{Epoch, Generation, Uuid, VdiId};

    const EXPECT: Expect = Expect { kind: Kind::Host, place: 7, owner: Uuid(9) };

    #[test]
    fn a_changed_structure_verifies_again_once_resealed() {
        let mut bytes = vec![0x5a; 512];
        seal(&mut bytes, EXPECT, Generation(3));
        bytes[100] ^= 1;
        assert!(verify(&bytes, EXPECT).is_err());
        assert!(reseal(&mut bytes).is_some());
        assert_eq!(verify(&bytes, EXPECT).unwrap(), Generation(3));
        assert_eq!(reseal(&mut [0; 512]), None);
        assert_eq!(reseal(&mut [0; 8]), None);
    }

    #[test]
    fn a_changed_child_is_vouched_for_again() {
        let mut draft = NodeDraft::empty();
        draft.set(3, Some(Entry { addr: BlockAddr(77), birth: Epoch(2), crc: 5 }));
        let mut bytes = AlignedBuf::copy_of(draft.finish().bytes());
        let links = node_links(&bytes, 1);
        assert_eq!(links.iter().map(|l| (l.addr.0, l.target)).collect::<Vec<_>>(), [(77, Target::Node(0))]);
        links[0].set_crc(&mut bytes, 0x1234);
        let link = Entry { addr: BlockAddr(1), birth: Epoch(2), crc: crc32c(&bytes) };
        assert_eq!(Node::verify(bytes, link).unwrap().entry(3).unwrap().crc, 0x1234);
    }

    #[test]
    fn the_links_of_a_snapshot_log_are_its_predecessor_and_its_roots() {
        let root = Root { addr: BlockAddr(0x1234), crc: 7, birth: Epoch(3), depth: 3 };
        let taken =
            Snapshot { epoch: Epoch(4), wall_ns: 5, root, size_bytes: 1 << 30, label: "before".into() };
        let records = vec![
            SnapshotRecord::Labelled { snapshot: Epoch(2), label: "x".into() },
            SnapshotRecord::Taken(taken.clone()),
            SnapshotRecord::Taken(Snapshot { label: String::new(), ..taken }),
        ];
        let block = SnapshotBlock { predecessor: None, records_before: 0, records };
        let (bytes, _) = block.encode(BlockAddr(0x42), VdiId(5), Uuid(6));
        let links = snapshot_log_links(&bytes);
        assert_eq!(links.len(), 2);
        assert!(links.iter().all(|l| (l.addr.0, l.target) == (0x1234, Target::Node(2))));
    }
}
