//! Reading and writing VDI records in their two slots.

use smallvec::smallvec;

use super::{ExtentKind, Store};
use crate::buffer::{AlignedBuf, IoBuf};
use crate::error::{Error, ErrorKind, Result};
use crate::executor::{LocalFuture, join_all};
use crate::format::registry::RegistryEntry;
use crate::format::vdi_record::VdiRecord;
use crate::limits::COUNTER_MAX;
use crate::sabotage::{Bug, seeded_bug};
use crate::units::{BlockAddr, Generation};

/// Records read at once at start.
const READS_AT_ONCE: usize = 32;

/// How new the host record must be.
pub(super) struct ReliedOn {
    /// The newest one that a VDI record relies on.
    pub generation: Generation,
    /// Every VDI record was asked.
    pub complete: bool,
}

/// The record of a VDI as its slots have it.
#[derive(Debug)]
pub struct FoundRecord {
    /// The newest.
    pub record: VdiRecord,
    /// The other slot has, or may have, an older one of the same VDI: should this one be lost, that is what is found.
    pub has_older: bool,
    /// The other slot could not be read, or was read as no record: there may be a newer one, on which nothing relies.
    pub doubtful: Option<Error>,
}

impl Store {
    /// Two metadata blocks for a new record, and the first generation it may carry: generations never
    /// restart, so it is above whatever a former record left in these blocks.
    pub async fn allocate_record(&self) -> Result<([BlockAddr; 2], Generation)> {
        let mut slots = [BlockAddr::NONE; 2];
        let mut generation = Generation(0);
        for slot in &mut slots {
            *slot = self.allocate(ExtentKind::Metadata, 1).await?.start;
            let block = self.read_blocks(*slot, 1).await?;
            match VdiRecord::verify(&block, *slot, self.uuid()) {
                Ok(old) if old.generation.0 < COUNTER_MAX / 2 => generation = generation.max(old.generation),
                // A slot not written yet must look like one, or damage to a written one would too.
                _ if block.iter().any(|b| *b != 0) => {
                    self.write_blocks(*slot, smallvec![IoBuf::Owned(AlignedBuf::block())]).await?;
                }
                _ => {}
            }
        }
        Ok((slots, Generation(generation.0 + 1)))
    }
    /// The newest valid record of a VDI, which should be no older than `least`, a lease epoch and generation. An older
    /// one is returned only if the device could read both slots: else the newer one may be in the other.
    ///
    /// # Errors
    /// Those of the device; `Corrupt` when no slot holds a record of the VDI.
    pub async fn read_record(&self, entry: &RegistryEntry, least: (u64, Generation)) -> Result<FoundRecord> {
        let mut best: Option<VdiRecord> = None;
        let mut valid = 0;
        let (mut blank, mut damaged, mut unread) = (None, None, None);
        for slot in entry.slots {
            let block = match self.read_blocks(slot, 1).await {
                Ok(b) => b,
                Err(e) => {
                    unread = Some(e);
                    continue;
                }
            };
            match VdiRecord::verify(&block, slot, self.uuid()) {
                // A former owner of a reused block may have left a valid record: it is not ours.
                Ok(r) if r.id != entry.id => {}
                Ok(r)
                    if best.is_none_or(|b| (b.lease_epoch, b.generation) < (r.lease_epoch, r.generation))
                        || seeded_bug(Bug::OldSlotWins) =>
                {
                    valid += 1;
                    best = Some(r);
                }
                Ok(_) => valid += 1,
                Err(e) if block.iter().all(|b| *b == 0) => blank = Some(e),
                Err(e) => damaged = Some(e),
            }
        }
        let is_old = best.is_none_or(|b| (b.lease_epoch, b.generation) < least);
        if let Some(e) = unread.take_if(|_| is_old) {
            return Err(e.context(format!("the record of VDI '{}'", entry.name)));
        }
        if let Some(record) = best {
            let doubtful = unread.or(damaged).filter(|_| !is_old);
            return Ok(FoundRecord { record, has_older: valid > 1 || doubtful.is_some(), doubtful });
        }
        let cause = damaged.or(blank).map(|e| e.message().to_owned());
        let cause = cause.unwrap_or_else(|| "both slots hold another VDI".to_owned());
        Err(Error::new(
            ErrorKind::Corrupt,
            format!("VDI '{}' has no valid record: {cause}", entry.name),
            "run 'parallax check' on the store; restore the VDI from a backup",
        ))
    }
    /// The newest host record that a VDI record relies on: what an older one calls unused, a tree may name. With a
    /// `certain` newest host record only a lost write of it can show here, and it is looked for only where each record
    /// was written by this shard: those of others count otherwise. Reads the records of all VDIs, some at once.
    pub(super) async fn host_record_relied_on(&self, certain: bool) -> ReliedOn {
        let mut found = ReliedOn { generation: Generation(0), complete: false };
        let alone = self.0.home.is_none() && self.known_vdis().iter().all(|e| e.host == self.slot());
        let whole = !self.0.registry.borrow().misses_some;
        if !alone || !(whole || certain) {
            // Blocks of this shard may be named by a VDI that another has by now.
            return found;
        }
        found.complete = whole;
        let slots: Vec<BlockAddr> = self.vdis().into_iter().flat_map(|e| e.slots).collect();
        for some in slots.chunks(READS_AT_ONCE) {
            let read = |slot: &BlockAddr| {
                Box::pin(self.read_blocks(*slot, 1)) as LocalFuture<'_, Result<AlignedBuf>>
            };
            let blocks = join_all(some.iter().map(read).collect()).await;
            for (slot, block) in some.iter().zip(blocks) {
                match block.map(|block| VdiRecord::verify(&block, *slot, self.uuid())) {
                    Ok(Ok(r)) => found.generation = found.generation.max(r.host_generation),
                    // A record that was being written, or rotted: what it alone named is lost with it.
                    Ok(Err(_)) => {}
                    // One that cannot be read speaks for the worst.
                    Err(_) => found.complete = false,
                }
            }
        }
        found
    }
    /// Write a record to the slot its generation selects; durable with the next flush, which must come
    /// before the next write of the same record.
    pub async fn write_record(&self, slots: [BlockAddr; 2], record: &VdiRecord) -> Result<()> {
        let slot = slots[(record.generation.0 % 2) as usize];
        let record = VdiRecord { host_generation: Generation(self.0.host_flushed.get()), ..*record };
        let block = record.encode(slot, self.uuid());
        let offset = self.offset_bytes(slot, 1)?;
        self.0.device.write(offset, AlignedBuf::copy_of(&block)).await
    }
}
