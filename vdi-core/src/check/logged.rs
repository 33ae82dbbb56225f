//! What only the logs have: acknowledged, not in any tree yet, and so nowhere else.

use std::collections::BTreeMap;

use super::owners::Owners;
use super::{Check, Hurt};
use crate::buffer::crc32c;
use crate::device::DeviceHandle;
use crate::error::{Error, Result};
use crate::format::catalogue::ExtentKind;
use crate::format::record::{Body, Record};
use crate::format::succession::{Position, Snapshots};
use crate::format::vdi_record::VdiRecord;
use crate::tree::walk::BlockSet;
use crate::units::{BLOCK_SIZE, BlockAddr, Epoch, SegmentSeq, VdiId, VdiSeq, VirtualBlock};

/// What the tree of a VDI has of the log.
pub(super) struct Applied {
    name: String,
    seq: VdiSeq,
    epoch: Epoch,
    lease_epoch: u64,
    capacity_blocks: u64,
    snapshots: Labels,
}

/// The label of each snapshot, empty for none.
#[derive(Clone, Default)]
pub(super) struct Labels(pub BTreeMap<Epoch, String>);

impl Snapshots for Labels {
    fn has(&self, epoch: Epoch) -> bool {
        self.0.contains_key(&epoch)
    }
    fn is_taken(&self, label: &str) -> bool {
        self.0.values().any(|l| l == label)
    }
}

impl Applied {
    pub fn of(name: &str, record: &VdiRecord, capacity_blocks: u64, snapshots: Labels) -> Applied {
        let VdiRecord { applied, epoch, lease_epoch, .. } = *record;
        Applied { name: name.to_owned(), seq: applied.seq, epoch, lease_epoch, capacity_blocks, snapshots }
    }
    /// Which block of the store one of `records` names that a tree has, or another record of those that wait.
    fn taken<'a>(
        &self,
        records: impl Iterator<Item = &'a Record>,
        owners: &Owners,
        pending: &mut BlockSet,
    ) -> Option<String> {
        for record in records.filter(|r| r.seq > self.seq) {
            let Body::WriteOut { runs, .. } = &record.body else { continue };
            for addr in runs.iter().flat_map(|(start, blocks)| (0..u64::from(*blocks)).map(|n| start.plus(n)))
            {
                if owners.has(addr) || pending.insert(addr) == Some(false) {
                    return Some(format!(
                        "record {} names {addr}, which is used by something else",
                        record.seq.0
                    ));
                }
            }
        }
        None
    }
    /// Why a daemon cannot replay `records`, which are in order.
    fn complaint<'a>(&self, records: impl Iterator<Item = &'a Record>) -> Option<String> {
        let Applied { lease_epoch, capacity_blocks, .. } = *self;
        let (mut seq, mut epoch, mut snapshots) = (self.seq, self.epoch, self.snapshots.clone());
        for record in records.filter(|r| r.seq > self.seq) {
            let position = Position { seq, epoch, lease_epoch, capacity_blocks, snapshots: &snapshots };
            if let Err(detail) = position.check(record) {
                return Some(detail);
            }
            seq = record.seq;
            match &record.body {
                Body::Snapshot { label, .. } => {
                    snapshots.0.insert(epoch, label.clone());
                    epoch = epoch.next();
                }
                Body::Label { snapshot, label } => {
                    snapshots.0.insert(*snapshot, label.clone());
                }
                Body::RemoveSnapshot { snapshot } => {
                    snapshots.0.remove(snapshot);
                }
                Body::Write { .. }
                | Body::WriteOut { .. }
                | Body::Discard { .. }
                | Body::WriteZeroes { .. } => {}
            }
        }
        None
    }
}

const ORDER_HINT: &str = "writes between them are lost, or the VDI record is an old one: the daemon holds the VDI until it is \
                          rolled back or restored";
const TWICE_HINT: &str = "one of the two has the other's data: compare both with a backup; the daemon holds the VDI until it is \
                          rolled back or restored";
const HINT: &str = "what the guest wrote there last is lost: restore the range from a snapshot or a backup";

impl Check {
    /// The records of a VDI that its tree does not have yet follow one another, from the last one that it has on.
    pub(super) fn logged_order(&mut self) {
        let mut wrong = Vec::new();
        for (_, scan) in &self.scans {
            let mut by_vdi: BTreeMap<VdiId, BTreeMap<VdiSeq, &Record>> = BTreeMap::new();
            let mut twice: BTreeMap<VdiId, String> = BTreeMap::new();
            for (_, _, record, _) in scan.records() {
                // Of copies the last counts, as in a replay.
                let before = by_vdi.entry(record.vdi).or_default().insert(record.seq, record);
                if before.is_some() && !record.copy {
                    twice
                        .entry(record.vdi)
                        .or_insert_with(|| format!("record {} is there twice", record.seq.0));
                }
            }
            for (vdi, records) in by_vdi {
                let Some(applied) = self.applied.get(&vdi) else { continue };
                let place = || format!("records of VDI '{}'", applied.name);
                let disorder = twice.remove(&vdi).or_else(|| applied.complaint(records.values().copied()));
                if let Some(detail) = disorder {
                    wrong.push((place(), detail, ORDER_HINT));
                } else if let Some(detail) =
                    applied.taken(records.into_values(), &self.owners, &mut self.pending)
                {
                    wrong.push((place(), detail, TWICE_HINT));
                }
            }
        }
        for (place, detail, hint) in wrong {
            self.report.blind(&Error::corrupt("log", place, detail), hint);
        }
    }
    /// Compare the data of records that no tree has yet, in the logs or where they will stay, with their checksums.
    pub(super) async fn logged_data(&mut self) {
        if !self.options.data {
            return;
        }
        for (device, scan) in std::mem::take(&mut self.scans) {
            let mut counted: Vec<&Record> = Vec::new();
            for (segment, _, record, first_block) in scan.records() {
                let Some(name) = self.waits(record) else { continue };
                let (at, blocks, wrong) = match &record.body {
                    Body::Write { at, crcs } if !crcs.is_empty() => {
                        let Some(offset_bytes) = segment.block_offset(first_block) else { continue };
                        (at, crcs.len(), wrong_blocks(&device, offset_bytes, crcs).await)
                    }
                    Body::WriteOut { at, runs, crcs } => (at, crcs.len(), self.wrong_out(runs, crcs).await),
                    _ => continue,
                };
                let wrong = wrong.unwrap_or_else(|_| (0..blocks as u64).collect());
                // A copy of what counts says nothing new: damage since then is damage.
                let known = |r: &&Record| (r.vdi, r.seq) == (record.vdi, record.seq) && r.body == record.body;
                let certain =
                    segment.seq() <= scan.durable_through() || record.copy && counted.iter().rev().any(known);
                if matches!(record.body, Body::WriteOut { .. }) && !certain && !wrong.is_empty() {
                    // Nothing says that they reached the store: a replay ends here.
                    break;
                }
                counted.push(record);
                self.report.counts.data_blocks_verified += blocks as u64;
                for n in wrong {
                    self.logged_wrong(&name, VirtualBlock(at.0.saturating_add(n)), segment.seq());
                }
            }
        }
    }
    /// As [`wrong_blocks`], of data at their final place.
    async fn wrong_out(&self, runs: &[(BlockAddr, u32)], crcs: &[u32]) -> Result<Vec<u64>> {
        let mut wrong = Vec::new();
        let mut done = 0;
        for (start, blocks) in runs {
            let end = crcs.len().min(done + *blocks as usize);
            let offset = |n: usize| self.reader.offset_bytes(start.plus(n as u64), ExtentKind::Data);
            let bytes = ((end - done) * BLOCK_SIZE) as u64;
            match (offset(0), offset((end - done).saturating_sub(1))) {
                (Ok(first), Ok(last)) if last + BLOCK_SIZE as u64 == first + bytes => {
                    let of_run = wrong_blocks(&self.reader.device, first, &crcs[done..end]).await?;
                    wrong.extend(of_run.into_iter().map(|n| n + done as u64));
                }
                _ => wrong.extend(done as u64..end as u64),
            }
            done = end;
        }
        Ok(wrong)
    }
    /// The name of the record's VDI when its tree does not have the record yet.
    fn waits(&self, record: &Record) -> Option<String> {
        let applied = self.applied.get(&record.vdi)?;
        (applied.seq < record.seq).then(|| applied.name.clone())
    }
    fn logged_wrong(&mut self, name: &str, first: VirtualBlock, segment: SegmentSeq) {
        let detail = format!("its data for block {} of VDI '{name}' are not what was written", first.0);
        let error = Error::corrupt("log", format!("segment {}", segment.0), detail);
        if let Some(finding) = self.report.corrupt(&error, HINT) {
            let hurt = Hurt { vdi: name.to_owned(), snapshot: None, first, blocks: 1 };
            self.report.findings[finding].hurt.push(hurt);
        }
    }
}

/// Which of the blocks at `offset_bytes` are not as `crcs` say.
async fn wrong_blocks(device: &DeviceHandle, offset_bytes: u64, crcs: &[u32]) -> Result<Vec<u64>> {
    let bytes = device.read(offset_bytes, crcs.len() * BLOCK_SIZE).await?;
    let blocks = (0..).zip(bytes.chunks_exact(BLOCK_SIZE)).zip(crcs);
    Ok(blocks.filter(|((_, block), crc)| crc32c(block) != **crc).map(|((n, _), _)| n).collect())
}
