//! Which disks, and which ranges of them, damage in a tree hurts.
//!
//! Shared subtrees are walked once, under the first root that leads there. A block lies at the same
//! virtual place in every tree that shares it, so each root is followed down to that place, and no
//! further: a few reads for each pair of damage and root.

use super::vdis::Tree;
use super::{Check, Hurt, Severity};
use crate::format::node::{Entry, entry_blocks, entry_index};
use crate::tree::walk::{NodeSource, Place};
use crate::units::{BlockAddr, VirtualBlock};

/// Nodes read in all; beyond, only the first tree found is known.
const READS_MAX: u64 = 1 << 16;
/// Disks named for one finding at most.
const HURT_MAX: usize = 256;

/// A node or data block that cannot be used.
pub(super) struct Damage {
    finding: usize,
    /// Height above the data: 0 a data block, 1 a leaf, ...
    height: u8,
    at: VirtualBlock,
    addr: BlockAddr,
}

impl Damage {
    pub fn node(place: &Place) -> Damage {
        Damage { finding: 0, height: place.level + 1, at: place.at, addr: place.link.addr }
    }
    /// The same, as the reason for a finding.
    pub fn of(self, finding: usize) -> Damage {
        Damage { finding, ..self }
    }
    pub fn data(at: VirtualBlock, addr: BlockAddr) -> Damage {
        Damage { finding: 0, height: 0, at, addr }
    }
}

impl Check {
    /// Name, for every damage found, the disks and ranges it hurts.
    pub(super) async fn who_is_hurt(&mut self) {
        let mut reads_left = READS_MAX;
        for damage in std::mem::take(&mut self.damage) {
            for tree in &self.trees {
                let hurt = &self.report.findings[damage.finding].hurt;
                if reads_left == 0 || hurt.len() >= HURT_MAX {
                    break;
                }
                if self.reaches(tree, &damage, &mut reads_left).await {
                    let hurt = Hurt {
                        vdi: tree.vdi.to_string(),
                        snapshot: tree.snapshot,
                        first: damage.at,
                        blocks: entry_blocks(damage.height),
                    };
                    self.report.findings[damage.finding].hurt.push(hurt);
                }
            }
        }
        if reads_left == 0 {
            let message = "so much is damaged that not every VDI and snapshot hurt is named".to_owned();
            self.report.add(Severity::Note, message, "treat all VDIs of the store as damaged");
        }
    }
    /// Whether `tree` has the damaged block at its place.
    async fn reaches(&self, tree: &Tree, damage: &Damage, reads_left: &mut u64) -> bool {
        let mut link: Option<Entry> = tree.root.entry();
        let mut height = tree.root.depth;
        if damage.at.0 >= tree.root.capacity_blocks() || height < damage.height {
            return false;
        }
        while height > damage.height {
            let Some(entry) = link.filter(|_| *reads_left > 0) else { return false };
            *reads_left -= 1;
            height -= 1;
            match self.reader.node(entry, height).await {
                Ok(node) => link = node.entry(entry_index(damage.at, height)),
                Err(_) => return false,
            }
        }
        link.is_some_and(|entry| entry.addr == damage.addr)
    }
}
