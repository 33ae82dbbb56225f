//! The list of a VDI's snapshots, on disk as a chain of blocks and in memory as a map.
//!
//! Many snapshots share a block: appending rewrites the newest block, as long as there is room in it,
//! to a new address. Blocks of the list are named by one VDI record alone, never by a snapshot or a
//! clone, so a replaced one is always free once the record that names its successor is durable.
//!
//! Invariants: block `n` of the chain says how many records come before it, so a chain that loops or
//! skips is found; memory and disk change together or not at all; the chain holds at most about twice
//! as many records as it needs, or it is written anew.

use std::rc::Rc;

use smallvec::smallvec;

use crate::buffer::{AlignedBuf, IoBuf};
use crate::error::{Error, ErrorKind, Result};
use crate::format::snapshot_chain::SnapshotChain;
pub use crate::format::snapshot_chain::SnapshotList;
use crate::format::snapshot_log::{BlockLink, RECORDS_BYTES_MAX, SnapshotBlock};
pub use crate::format::snapshot_log::{Snapshot, SnapshotRecord};
use crate::format::vdi_record::SnapshotLogHead;
use crate::limits::{CHECKPOINT_WRITE_BYTES_MAX, SNAPSHOT_RECORDS_MAX};
use crate::store::{ExtentKind, Run, Store};
use crate::units::{BLOCK_SIZE, BlockAddr, Epoch, VdiId};

/// Records beyond twice the snapshots before a list is written anew.
const SLACK_RECORDS: u64 = 256;

/// A snapshot list and where it lies.
#[derive(Clone, Debug)]
pub struct SnapshotLog {
    vdi: VdiId,
    head: SnapshotLogHead,
    list: SnapshotList,
    /// Addresses of all blocks, oldest first.
    blocks: Vec<BlockAddr>,
    /// The newest block as it is on disk.
    newest: Option<SnapshotBlock>,
    /// Why the list on disk cannot be read: then this one is empty, and stays so.
    damage: Option<Rc<Error>>,
}

/// What an append changed on disk, for the VDI record and the reuse rule.
#[derive(Debug)]
pub struct AppendedSnapshots {
    /// What the VDI record must name from now on.
    pub head: SnapshotLogHead,
    /// Blocks that the list no longer uses once that record is durable.
    pub freed: Vec<BlockAddr>,
}

impl SnapshotLog {
    /// A list without snapshots, which needs no block.
    #[must_use]
    pub fn empty(vdi: VdiId) -> SnapshotLog {
        let (list, head) = (SnapshotList::default(), SnapshotLogHead::default());
        SnapshotLog { vdi, head, list, blocks: Vec::new(), newest: None, damage: None }
    }
    /// The list that `head` names, which cannot be read because of `damage`. The disk can be used without it.
    #[must_use]
    pub fn damaged(vdi: VdiId, head: SnapshotLogHead, damage: Error) -> SnapshotLog {
        SnapshotLog { head, damage: Some(Rc::new(damage)), ..SnapshotLog::empty(vdi) }
    }
    /// An error when the list on disk cannot be read.
    pub fn check(&self) -> Result<()> {
        self.damage.as_ref().map_or(Ok(()), |e| Err(e.duplicate()))
    }
    /// Read the list that `head` names, of a disk in epoch `now`.
    ///
    /// # Errors
    /// `Corrupt` when a block is not what its successor vouches for, or the records make no sense.
    pub async fn load(store: &Store, vdi: VdiId, head: SnapshotLogHead, now: Epoch) -> Result<SnapshotLog> {
        let mut chain = SnapshotChain::new(head)?;
        while let Some(link) = chain.next_link() {
            let bytes = store.read_blocks(link.addr, 1).await?;
            chain.push(SnapshotBlock::verify(&bytes, link, vdi, store.uuid())?)?;
        }
        let (list, mut blocks) = chain.finish(now)?;
        let addrs = blocks.iter().map(|(addr, _)| *addr).collect();
        Ok(SnapshotLog {
            vdi,
            head,
            list,
            blocks: addrs,
            newest: blocks.pop().map(|(_, block)| block),
            damage: None,
        })
    }
    /// The snapshots.
    #[must_use]
    pub fn list(&self) -> &SnapshotList {
        &self.list
    }
    /// What the VDI record must name.
    #[must_use]
    pub fn head(&self) -> SnapshotLogHead {
        self.head
    }
    /// Every block of the list, oldest first: the collector marks them, a deleted VDI frees them.
    #[must_use]
    pub fn blocks(&self) -> &[BlockAddr] {
        &self.blocks
    }
    /// Append `records`, writing one new block (more only for a long batch or when the list is written anew).
    /// All blocks are written, none flushed, when this returns; `birth` is the current epoch. What is allocated and stays so
    /// is told to `allocated`.
    ///
    /// # Errors
    /// `TooLarge` at the bound of the list; `Corrupt` when it cannot be read; `NoSpace` and device errors from the
    /// store. The list is then unchanged, in memory and on disk. Panics on records that cannot follow: the engine checks requests.
    pub async fn append(
        &mut self,
        store: &Store,
        records: Vec<SnapshotRecord>,
        birth: Epoch,
        mut allocated: impl FnMut(Run),
    ) -> Result<AppendedSnapshots> {
        self.check()?;
        if records.is_empty() {
            return Ok(AppendedSnapshots { head: self.head, freed: Vec::new() });
        }
        self.list.check(&records).expect("requests are checked before they become records");
        let anew = self.plan_anew(&records);
        let mut taken = Vec::new();
        let mut written = match &anew {
            Some(plan) => Some(self.write(store, plan, &mut |run| taken.push(run)).await),
            None => None,
        };
        // Only one block was promised; a list that is longer than it need be is no reason to fail.
        let plan = match anew {
            Some(plan) if !matches!(&written, Some(Err(e)) if e.kind() == ErrorKind::NoSpace) => {
                taken.into_iter().for_each(&mut allocated);
                plan
            }
            _ => {
                // The promised one may be among them.
                store.give_back_unreachable(taken.into_iter().collect());
                written = None;
                self.plan(&records)
            }
        };
        if plan.records_total() > SNAPSHOT_RECORDS_MAX {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("the VDI has {} snapshots, no more fit", self.list.len()),
                "remove snapshots that are no longer needed",
            ));
        }
        let (links, newest) = match written {
            Some(written) => written?,
            None => self.write(store, &plan, &mut allocated).await?,
        };
        for record in records {
            self.list.apply(record).expect("checked above");
        }
        let freed = self.blocks.split_off(plan.blocks_kept);
        self.blocks.extend(links.iter().map(|l| l.addr));
        let count = plan.records_total() as u32;
        let head = links.last().map(|l| SnapshotLogHead { addr: l.addr, crc: l.crc, count, birth });
        self.head = head.unwrap_or_default();
        self.newest = newest;
        Ok(AppendedSnapshots { head: self.head, freed })
    }

    /// The list written anew, when it is much longer than it need be.
    fn plan_anew(&self, records: &[SnapshotRecord]) -> Option<Plan> {
        let total = u64::from(self.head.count) + records.len() as u64;
        let count = |what: fn(&SnapshotRecord) -> bool| records.iter().filter(|r| what(r)).count();
        let live = self.list.len() + count(|r| matches!(r, SnapshotRecord::Taken(_)))
            - count(|r| matches!(r, SnapshotRecord::Removed { .. }));
        let longest = (2 * live as u64 + SLACK_RECORDS).min(SNAPSHOT_RECORDS_MAX);
        if live > 0 && total <= longest {
            return None;
        }
        let mut list = self.list.clone();
        for record in records {
            list.apply(record.clone()).expect("checked by the caller");
        }
        let records = list.iter().cloned().map(SnapshotRecord::Taken).collect();
        Some(Plan { blocks_kept: 0, predecessor: None, records_before: 0, records })
    }
    fn plan(&self, records: &[SnapshotRecord]) -> Plan {
        let Some(newest) = &self.newest else {
            return Plan { blocks_kept: 0, predecessor: None, records_before: 0, records: records.to_vec() };
        };
        let bytes: usize = newest.records.iter().map(SnapshotRecord::encoded_bytes).sum();
        if bytes + records[0].encoded_bytes() > RECORDS_BYTES_MAX {
            let link = BlockLink { addr: self.head.addr, crc: self.head.crc };
            let records_before = u64::from(self.head.count);
            let (blocks_kept, records) = (self.blocks.len(), records.to_vec());
            return Plan { blocks_kept, predecessor: Some(link), records_before, records };
        }
        Plan {
            blocks_kept: self.blocks.len() - 1,
            predecessor: newest.predecessor,
            records_before: newest.records_before,
            records: newest.records.iter().chain(records).cloned().collect(),
        }
    }

    async fn write(
        &self,
        store: &Store,
        plan: &Plan,
        allocated: &mut impl FnMut(Run),
    ) -> Result<(Vec<BlockLink>, Option<SnapshotBlock>)> {
        let mut blocks = plan.split();
        let mut links = Vec::new();
        let mut done = 0;
        while done < blocks.len() {
            let want = (blocks.len() - done).min(CHECKPOINT_WRITE_BYTES_MAX / BLOCK_SIZE) as u32;
            let run = store.allocate(ExtentKind::Metadata, want).await?;
            allocated(run);
            let mut buf = AlignedBuf::zeroed(run.blocks as usize * BLOCK_SIZE);
            for (i, chunk) in buf.chunks_exact_mut(BLOCK_SIZE).enumerate() {
                let block = &mut blocks[done + i];
                block.predecessor = links.last().copied().or(plan.predecessor);
                let (bytes, link) = block.encode(run.start.plus(i as u64), self.vdi, store.uuid());
                chunk.copy_from_slice(&bytes);
                links.push(link);
            }
            store.write_blocks(run.start, smallvec![IoBuf::Owned(buf)]).await?;
            done += run.blocks as usize;
        }
        Ok((links, blocks.pop()))
    }
}

/// What an append writes.
struct Plan {
    /// Blocks of the old chain that stay.
    blocks_kept: usize,
    /// The newest of them.
    predecessor: Option<BlockLink>,
    /// Records in them.
    records_before: u64,
    /// Records to write after them; none when no snapshot is left.
    records: Vec<SnapshotRecord>,
}

impl Plan {
    fn records_total(&self) -> u64 {
        self.records_before + self.records.len() as u64
    }
    fn split(&self) -> Vec<SnapshotBlock> {
        let mut blocks: Vec<SnapshotBlock> = Vec::new();
        let mut room = 0;
        for (before, record) in (self.records_before..).zip(&self.records) {
            let bytes = record.encoded_bytes();
            if bytes > room {
                blocks.push(SnapshotBlock { predecessor: None, records_before: before, records: Vec::new() });
                room = RECORDS_BYTES_MAX;
            }
            room -= bytes;
            blocks.last_mut().expect("just pushed").records.push(record.clone());
        }
        blocks
    }
}

#[cfg(test)]
mod tests;
