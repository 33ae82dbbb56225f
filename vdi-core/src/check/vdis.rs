//! VDI records, snapshot logs and trees: everything that names blocks.

use std::rc::Rc;

use super::Check;
use super::hurt::Damage;
use super::logged::{Applied, Labels};
use super::owners::Use;
use super::system::slot_name;
use crate::error::{Error, Result};
use crate::format::catalogue::ExtentKind;
use crate::format::node::{Entry, Node, Root};
use crate::format::registry::RegistryEntry;
use crate::format::snapshot_chain::{SnapshotChain, SnapshotList};
use crate::format::snapshot_log::SnapshotBlock;
use crate::format::vdi_record::{self, VdiRecord};
use crate::limits::COUNTER_MAX;
use crate::tree::walk::{Place, Step, Walk};
use crate::units::{BlockAddr, Epoch, VirtualBlock};

const SLOT_HINT: &str = "the other slot holds the newest record; 'parallax check -r all' empties this one";
const RECORD_HINT: &str = "the VDI may have gone back to an earlier state: compare it with a backup";
const TREE_HINT: &str = "restore the ranges named from a snapshot or a backup, or discard them";
const TWICE_HINT: &str = "copy what is still good out of the VDIs concerned, then delete them";

/// One root to walk.
#[derive(Clone)]
pub(super) struct Tree {
    pub vdi: Rc<str>,
    /// None for the present state.
    pub snapshot: Option<Epoch>,
    pub root: Root,
    /// Blocks born later belong to this tree alone.
    pub threshold: Epoch,
}

impl Check {
    /// Everything that the registry's VDIs name.
    pub(super) async fn vdis(&mut self) {
        for entry in std::mem::take(&mut self.system.vdis) {
            if let Some((record, root)) = self.record(&entry).await {
                let labels = self.snapshots_of(&entry, &record).await;
                let capacity_blocks = root.verify().map_or(0, |()| root.capacity_blocks());
                let applied = Applied::of(&entry.name, &record, capacity_blocks, labels);
                self.applied.insert(record.id, applied);
            }
        }
        self.system.doubt_claims(self.relied_on, &mut self.report);
        for tree in self.trees.clone() {
            self.tree(&tree).await;
        }
        self.mend_slots().await;
        self.report.counts.nodes = self.owners.nodes_total();
        self.report.counts.data_blocks = self.owners.data_total();
    }

    async fn record(&mut self, entry: &RegistryEntry) -> Option<(VdiRecord, Root)> {
        let mut best: Option<VdiRecord> = None;
        let mut damaged = None;
        for slot in entry.slots {
            self.alone(slot, &slot_name(&entry.name, slot));
            let found = self.slot(entry, slot).await;
            if let Ok(Some(r)) = &found {
                self.relied_on = self.relied_on.max(r.host_generation);
            }
            match found {
                Ok(Some(r)) if best.is_none_or(|b| version(&b) < version(&r)) => best = Some(r),
                Ok(_) => {}
                Err(e) => damaged = Some((slot, e.context(format!("VDI '{}'", entry.name)))),
            }
        }
        // A disk that changed shard is remembered by the logs of both.
        let theirs = self.remembered.iter().filter(|g| g.vdi == entry.id);
        let remembered = theirs.max_by_key(|g| (g.lease_epoch, g.generation)).copied();
        let newest = remembered.map(|g| (g.lease_epoch, g.generation));
        match &damaged {
            Some((slot, e)) if best.is_some_and(|r| newest == Some(version(&r))) => {
                self.report.corrupt(e, SLOT_HINT);
                self.damaged_slots.push((entry.name.clone(), *slot));
            }
            Some((slot, e)) => {
                self.report.blind(e, RECORD_HINT);
                self.mend_flipped_slot(entry, *slot).await;
            }
            None => {}
        }
        let Some(record) = best else {
            let error =
                Error::corrupt("VDI record", slot_name(&entry.name, entry.slots[0]), "neither slot is valid");
            self.report
                .blind(&error, "restore the VDI from a backup; its blocks are kept until it is deleted");
            return None;
        };
        for (count, most) in
            [(record.generation.0.max(record.applied.seq.0), COUNTER_MAX), (record.epoch.0, Epoch::MAX.0 / 2)]
        {
            self.report.near_its_end("VDI record", format!("VDI '{}'", entry.name), count, most);
        }
        if let Some(least) = remembered.filter(|_| newest > Some(version(&record))) {
            let detail = least.complaint(record.generation);
            let error = Error::corrupt("VDI record", slot_name(&entry.name, entry.slots[0]), detail);
            self.report.blind(&error, RECORD_HINT);
        }
        let root =
            Root { addr: record.root, crc: record.root_crc, birth: record.root_birth, depth: record.depth };
        self.add_tree(&Rc::from(entry.name.as_str()), None, root, record.threshold);
        Some((record, root))
    }

    /// The record in one slot; None when the slot was never written by this VDI.
    async fn slot(&self, entry: &RegistryEntry, slot: BlockAddr) -> Result<Option<VdiRecord>> {
        let bytes = self.reader.metadata(slot).await?;
        let bad = |detail: &str| Error::corrupt("VDI record", slot_name(&entry.name, slot), detail);
        match VdiRecord::verify(&bytes, slot, self.reader.superblock.uuid) {
            // A former owner of the block may have left its record.
            Ok(r) if r.id != entry.id => Ok(None),
            Ok(_) if bytes[vdi_record::BYTES..].iter().any(|b| *b != 0) => {
                Err(bad("there is something behind it"))
            }
            Ok(r) => Ok(Some(r)),
            Err(_) if bytes.iter().all(|b| *b == 0) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Returns the label of each.
    async fn snapshots_of(&mut self, entry: &RegistryEntry, record: &VdiRecord) -> Labels {
        let list = match self.snapshot_list(record).await {
            Ok(list) => list,
            Err(e) => {
                let hint = "the snapshots of the VDI cannot be listed; its present state is not affected";
                self.report.blind(&e.context(format!("VDI '{}'", entry.name)), hint);
                return Labels::default();
            }
        };
        let name = Rc::from(entry.name.as_str());
        self.report.counts.snapshots += list.len() as u64;
        for s in list.iter() {
            if s.epoch > record.threshold || s.epoch >= record.epoch {
                let detail = format!(
                    "snapshot {} of '{name}' is not protected: threshold {}, epoch {}",
                    s.epoch.0, record.threshold.0, record.epoch.0
                );
                let error = Error::corrupt("VDI record", slot_name(&entry.name, entry.slots[0]), detail);
                self.report.corrupt(&error, "clone the snapshot now: its blocks may be overwritten");
            }
            self.add_tree(&name, Some(s.epoch), s.root, Epoch::MAX);
        }
        Labels(list.iter().map(|s| (s.epoch, s.label.clone())).collect())
    }

    async fn snapshot_list(&mut self, record: &VdiRecord) -> Result<SnapshotList> {
        let mut chain = SnapshotChain::new(record.snapshots)?;
        while let Some(link) = chain.next_link() {
            let bytes = self.reader.metadata(link.addr).await?;
            let block = SnapshotBlock::verify(&bytes, link, record.id, self.reader.superblock.uuid)?;
            self.alone(link.addr, &format!("{} (snapshot log of VDI {})", link.addr, record.id));
            chain.push(block)?;
        }
        chain.finish(record.epoch).map(|(list, _)| list)
    }

    fn add_tree(&mut self, vdi: &Rc<str>, snapshot: Option<Epoch>, root: Root, threshold: Epoch) {
        match root.verify() {
            Ok(()) => self.trees.push(Tree { vdi: Rc::clone(vdi), snapshot, root, threshold }),
            Err(e) => {
                self.report.blind(&e.context(format!("VDI '{vdi}'")), TREE_HINT);
            }
        }
    }

    /// Propose to empty damaged slots, now that everything that names blocks is known: a block that was handed out
    /// twice may be somebody else's node, and one that nothing is seen to use may be below what cannot be read.
    async fn mend_slots(&mut self) {
        for (name, slot) in std::mem::take(&mut self.damaged_slots) {
            let disputed = self.owners.is_disputed(slot) || self.logged.contains(slot);
            if !disputed && !self.report.incomplete {
                self.mend_slot(&name, slot).await;
            }
        }
    }

    /// Note that one record or snapshot log, and nothing else, uses `addr`.
    fn alone(&mut self, addr: BlockAddr, what: &str) {
        if let Use::Conflict(why) = self.owners.single(addr) {
            self.report.corrupt(&Error::corrupt("block", what, why), TWICE_HINT);
        }
    }

    async fn tree(&mut self, tree: &Tree) {
        let mut twice: Vec<(Place, &'static str)> = Vec::new();
        let mut walk = {
            let owners = &mut self.owners;
            Walk::new(&tree.root, |p| enter(owners, tree, p, &mut twice))
        };
        loop {
            let owners = &mut self.owners;
            let step = walk.next(&self.reader, |p| enter(owners, tree, p, &mut twice)).await;
            for (place, why) in twice.drain(..) {
                // What is below it is not visited, and need not be what another way leads to.
                self.report.incomplete = true;
                let error = Error::corrupt("tree node", place.link.addr, why);
                self.damaged(&error.context(tree_name(tree)), TWICE_HINT, Damage::node(&place));
            }
            match step {
                None => break,
                Some(Step::Damaged(place, error)) => {
                    self.report.incomplete = true;
                    self.damaged(&error, TREE_HINT, Damage::node(&place));
                }
                Some(Step::Leaf(place, node)) => {
                    let fresh = self.leaf(tree, &place, &node);
                    if self.options.data {
                        self.verify_data(fresh).await;
                    }
                }
            }
        }
    }

    /// Note the data blocks of a leaf; returns those seen for the first time, with their virtual block.
    fn leaf(&mut self, tree: &Tree, place: &Place, node: &Node) -> Vec<(VirtualBlock, Entry)> {
        let mut fresh = Vec::new();
        for (i, entry) in node.entries() {
            let at = VirtualBlock(place.at.0 + i as u64);
            if let Err(e) = self.reader.offset_bytes(entry.addr, ExtentKind::Data) {
                self.damaged(&e, TREE_HINT, Damage::data(at, entry.addr));
                continue;
            }
            match self.owners.data(entry.addr, entry.birth > tree.threshold) {
                Use::New => fresh.push((at, entry)),
                Use::Conflict(why) => {
                    let error = Error::corrupt("data block", entry.addr, why);
                    self.damaged(&error.context(tree_name(tree)), TWICE_HINT, Damage::data(at, entry.addr));
                }
                Use::Shared | Use::Otherwise | Use::Outside => {}
            }
        }
        fresh
    }
}

fn version(r: &VdiRecord) -> (u64, crate::units::Generation) {
    (r.lease_epoch, r.generation)
}

fn tree_name(tree: &Tree) -> String {
    match tree.snapshot {
        Some(epoch) => format!("in {}@{}", tree.vdi, epoch.0),
        None => format!("in {}", tree.vdi),
    }
}

/// Whether to read the node at `place`: not when another root led to it already.
fn enter(
    owners: &mut super::Owners,
    tree: &Tree,
    place: &Place,
    twice: &mut Vec<(Place, &'static str)>,
) -> bool {
    match owners.node(&place.link, place.level, place.link.birth > tree.threshold) {
        Use::Shared => false,
        // The node must be what this way there says, too.
        Use::Otherwise => true,
        Use::Conflict(why) => {
            twice.push((*place, why));
            false
        }
        // Reading a block that is not there gives the error.
        Use::New | Use::Outside => true,
    }
}
