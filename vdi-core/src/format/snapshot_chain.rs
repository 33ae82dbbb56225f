//! What a chain of snapshot-log blocks means: verifies that it is one, and replays its records. Does no
//! I/O: the engine and the checker each read in their own way.

use std::collections::BTreeMap;

use super::snapshot_log::{BlockLink, Snapshot, SnapshotBlock, SnapshotRecord};
use super::vdi_record::SnapshotLogHead;
use crate::error::{Error, Result};
use crate::limits::SNAPSHOT_RECORDS_MAX;
use crate::units::{BlockAddr, Epoch};

/// The snapshots there are after a series of records.
#[derive(Clone, Default, Debug)]
pub struct SnapshotList {
    live: BTreeMap<Epoch, Snapshot>,
    newest: Epoch,
}

impl SnapshotList {
    /// Take in the next record. Fails, with a reason, on one that cannot follow.
    pub fn apply(&mut self, record: SnapshotRecord) -> std::result::Result<(), String> {
        let missing = |epoch: Epoch| format!("a record concerns snapshot {}, which is not there", epoch.0);
        match record {
            SnapshotRecord::Taken(s) if s.epoch <= self.newest => {
                return Err(format!("snapshot {} follows snapshot {}", s.epoch.0, self.newest.0));
            }
            SnapshotRecord::Taken(s) => {
                self.newest = s.epoch;
                self.live.insert(s.epoch, s);
            }
            SnapshotRecord::Labelled { snapshot, label } => {
                self.live.get_mut(&snapshot).ok_or_else(|| missing(snapshot))?.label = label;
            }
            SnapshotRecord::Removed { snapshot } => {
                self.live.remove(&snapshot).ok_or_else(|| missing(snapshot))?;
            }
        }
        Ok(())
    }
    /// The snapshots, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Snapshot> {
        self.live.values()
    }
    /// The snapshot of `epoch`.
    #[must_use]
    pub fn get(&self, epoch: Epoch) -> Option<&Snapshot> {
        self.live.get(&epoch)
    }
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.live.len()
    }
    /// True when there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }
    /// Whether `records` can follow, without taking them in.
    pub fn check(&self, records: &[SnapshotRecord]) -> std::result::Result<(), String> {
        // Only what the records name matters: a list of many thousands is not copied.
        let mut small = SnapshotList { live: BTreeMap::new(), newest: self.newest };
        for record in records {
            if let SnapshotRecord::Labelled { snapshot, .. } | SnapshotRecord::Removed { snapshot } = record
                && let Some(s) = self.live.get(snapshot)
            {
                small.live.insert(*snapshot, s.clone());
            }
        }
        records.iter().try_for_each(|r| small.apply(r.clone()))
    }
}

/// A chain being read, newest block first; does no I/O, so that the checker reads in its own way.
pub struct SnapshotChain {
    next: Option<BlockLink>,
    records_left: u64,
    blocks: Vec<(BlockAddr, SnapshotBlock)>,
}

impl SnapshotChain {
    /// The chain that `head` names.
    pub fn new(head: SnapshotLogHead) -> Result<SnapshotChain> {
        let records_left = u64::from(head.count);
        if records_left > SNAPSHOT_RECORDS_MAX || head.addr.is_none() != (records_left == 0) {
            let detail = format!("the VDI record promises {records_left} records there");
            return Err(Error::corrupt("snapshot log", head.addr, detail));
        }
        let next = (records_left > 0).then_some(BlockLink { addr: head.addr, crc: head.crc });
        Ok(SnapshotChain { next, records_left, blocks: Vec::new() })
    }
    /// The block to read, verify and [`SnapshotChain::push`] next; None when all are read.
    #[must_use]
    pub fn next_link(&self) -> Option<BlockLink> {
        self.next
    }
    /// Take in the block that [`SnapshotChain::next_link`] named.
    pub fn push(&mut self, block: SnapshotBlock) -> Result<()> {
        let link = self.next.take().expect("pushed once per link");
        let through = block.records_before + block.records.len() as u64;
        if through != self.records_left {
            let detail = format!("it ends with record {through}, expected {}", self.records_left);
            return Err(Error::corrupt("snapshot log", link.addr, detail));
        }
        self.records_left = block.records_before;
        self.next = block.predecessor;
        self.blocks.push((link.addr, block));
        Ok(())
    }
    /// The list, and the blocks it lies in, oldest first, once all is read. `now` is the epoch of the disk.
    pub fn finish(mut self, now: Epoch) -> Result<(SnapshotList, Vec<(BlockAddr, SnapshotBlock)>)> {
        assert!(self.next.is_none(), "finished before the oldest block");
        self.blocks.reverse();
        let mut list = SnapshotList::default();
        for (addr, block) in &self.blocks {
            for record in &block.records {
                list.apply(record.clone()).map_err(|e| Error::corrupt("snapshot log", addr, e))?;
            }
        }
        if let Some((addr, _)) = self.blocks.last().filter(|_| list.newest >= now) {
            let detail =
                format!("it ends with epoch {}, the VDI record is of epoch {}", list.newest.0, now.0);
            return Err(Error::corrupt("snapshot log", addr, detail));
        }
        Ok((list, self.blocks))
    }
}
