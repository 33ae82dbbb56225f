//! Which disks, and which ranges of them, damage in a tree hurts.
//!
//! Shared subtrees are walked once, under the first root that leads there. A block lies at the same
//! virtual place in every tree that shares it, so each root is followed down to that place, and no
//! further: a few reads for each pair of damage and root, and of each node that damage side by side takes up.

use super::vdis::Tree;
use super::{Check, Hurt, Severity};
use crate::error::{Error, ErrorKind};
use crate::format::node::{Entry, entry_blocks, entry_index};
use crate::limits::NODE_ENTRIES;
use crate::tree::walk::{NodeSource, Place};
use crate::units::{BlockAddr, VirtualBlock};

/// Nodes read in all; beyond, only the first tree found is known.
const READS_MAX: u64 = 1 << 16;
/// Disks named for one finding at most.
const HURT_MAX: usize = 256;

/// Nodes or data blocks that cannot be used: side by side, on the disk and in the store.
pub(super) struct Damage {
    finding: usize,
    /// Height above the data: 0 a data block, 1 a leaf, ...
    height: u8,
    at: VirtualBlock,
    addr: BlockAddr,
    count: u64,
    /// What the finding said of the first of them.
    first: String,
    kind: ErrorKind,
}

impl Damage {
    pub fn node(place: &Place) -> Damage {
        Damage::of(place.level + 1, place.at, place.link.addr)
    }
    pub fn data(at: VirtualBlock, addr: BlockAddr) -> Damage {
        Damage::of(0, at, addr)
    }
    fn of(height: u8, at: VirtualBlock, addr: BlockAddr) -> Damage {
        let (finding, count, first, kind) = (0, 1, String::new(), ErrorKind::Corrupt);
        Damage { finding, height, at, addr, count, first, kind }
    }
    /// Whether `next` goes on where this ends.
    fn goes_on(&self, next: &Damage) -> bool {
        self.height == next.height
            && self.kind == next.kind
            && self.at.0 + self.count * entry_blocks(self.height) == next.at.0
            && self.addr.plus(self.count) == next.addr
    }
}

impl Check {
    /// Report damage in a tree; who is hurt is found out at the end. What goes on where the damage before it ended is
    /// part of that finding.
    pub(super) fn damaged(&mut self, error: &Error, hint: &'static str, damage: Damage) {
        let damage = Damage { kind: error.kind(), ..damage };
        let newest = self.report.findings.len().checked_sub(1);
        if let Some(last) = self.damage.last_mut().filter(|d| Some(d.finding) == newest && d.goes_on(&damage))
        {
            let finding = &mut self.report.findings[last.finding];
            if finding.hint == hint {
                finding.message = format!("{}; so it is with the next {}", last.first, last.count);
                last.count += 1;
                return;
            }
        }
        if let Some(finding) = self.report.corrupt(error, hint) {
            self.damage.push(Damage { finding, first: error.message().to_owned(), ..damage });
        }
    }
    /// Name, for every damage found, the disks and ranges it hurts.
    pub(super) async fn who_is_hurt(&mut self) {
        let mut reads_left = READS_MAX;
        for damage in std::mem::take(&mut self.damage) {
            for tree in &self.trees {
                let hurt = &self.report.findings[damage.finding].hurt;
                if reads_left == 0 || hurt.len() >= HURT_MAX {
                    break;
                }
                for (first, blocks) in self.reached(tree, &damage, &mut reads_left).await {
                    let hurt = Hurt { vdi: tree.vdi.to_string(), snapshot: tree.snapshot, first, blocks };
                    self.report.findings[damage.finding].hurt.push(hurt);
                }
            }
        }
        if reads_left == 0 {
            let message = "so much is damaged that not every VDI and snapshot hurt is named".to_owned();
            self.report.add(Severity::Note, message, "treat all VDIs of the store as damaged");
        }
    }
    /// Ranges of `tree` that have the damage at its place, a few at most.
    async fn reached(&self, tree: &Tree, damage: &Damage, reads_left: &mut u64) -> Vec<(VirtualBlock, u64)> {
        let unit = entry_blocks(damage.height);
        let mut ranges: Vec<(VirtualBlock, u64)> = Vec::new();
        let mut n = 0;
        while n < damage.count && ranges.len() < HURT_MAX {
            let at = VirtualBlock(damage.at.0 + n * unit);
            if at.0 >= tree.root.capacity_blocks() || tree.root.depth < damage.height {
                break;
            }
            let links = self.links(tree, at, damage.height, reads_left).await;
            // However many there are: the next one is in the next node.
            let here = if tree.root.depth == damage.height {
                1
            } else {
                NODE_ENTRIES - entry_index(at, damage.height)
            };
            let links = links.into_iter().chain(std::iter::repeat(None)).take(here);
            for (link, n) in links.zip(n..damage.count) {
                let at = VirtualBlock(damage.at.0 + n * unit);
                if link.is_none_or(|link: Entry| link.addr != damage.addr.plus(n)) {
                    continue;
                }
                match ranges.last_mut().filter(|(first, blocks)| first.0 + *blocks == at.0) {
                    Some((_, blocks)) => *blocks += unit,
                    None => ranges.push((at, unit)),
                }
            }
            n += here as u64;
        }
        ranges
    }
    /// What `tree` has at `at`, `height` above the data, and behind it in the same node.
    async fn links(
        &self,
        tree: &Tree,
        at: VirtualBlock,
        height: u8,
        reads_left: &mut u64,
    ) -> Vec<Option<Entry>> {
        let mut links = vec![tree.root.entry()];
        for level in (height..tree.root.depth).rev() {
            let Some(Some(link)) = links.first().copied().filter(|_| *reads_left > 0) else {
                return Vec::new();
            };
            *reads_left -= 1;
            let Ok(node) = self.reader.node(link, level).await else { return Vec::new() };
            links = (entry_index(at, level)..NODE_ENTRIES).map(|index| node.entry(index)).collect();
        }
        links
    }
}
