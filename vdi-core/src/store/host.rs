//! The host record: claims with how far they are used, and the log this shard has.

use super::Store;
use crate::buffer::AlignedBuf;
use crate::error::{Error, Result};
use crate::format::host::HostLog;
use crate::format::superblock::Superblock;
use crate::limits::COUNTER_MAX;
use crate::units::Generation;

impl Store {
    /// Write the host record as things stand now, to the slot not written last. Durable with the next
    /// flush; if the other slot is not durable yet, it is flushed first: a crash may tear only one.
    pub async fn write_host_record(&self) -> Result<()> {
        let _turn = self.0.host_lock.lock().await;
        if self.0.host_flushed.get() < self.0.host_written.get() {
            self.flush().await?;
        }
        let (block, copy, generation) = {
            let mut host = self.0.host.borrow_mut();
            host.generation = Generation(host.generation.0 + 1);
            host.claims = self.0.claims.borrow().iter().map(|c| c.claim).collect();
            let copy = host.generation.0 % 2;
            (host.encode(self.slot(), copy, self.uuid()), copy, host.generation.0)
        };
        let offset = host_offset(self.superblock(), self.slot(), copy);
        let written = self.0.device.write(offset, AlignedBuf::copy_of(&block)).await;
        match written {
            Ok(()) => self.0.host_written.set(generation),
            // The next attempt must go to this same slot: the other one holds the last good record.
            Err(_) => self.0.host.borrow_mut().generation = Generation(generation - 1),
        }
        written
    }
    /// The log this shard has in the store.
    #[must_use]
    pub fn log(&self) -> Option<HostLog> {
        self.0.host.borrow().logs.first().copied()
    }
    /// Name this shard's log, durably, before it is written; None when it needs it no more. Both copies say so before
    /// anybody relies on it: with either of them lost, the other never leads to another log, or to none.
    pub async fn set_log(&self, log: Option<HostLog>) -> Result<()> {
        self.0.host.borrow_mut().logs = log.into_iter().collect();
        for _copy in 0..2 {
            self.write_host_record().await?;
            self.flush().await?;
        }
        Ok(())
    }
    /// Host records from now on are newer than `generation`, on which VDI records rely: it was lost if it is above
    /// the newest one found, and no later one may be taken for it.
    pub(super) fn not_before(&self, generation: Generation) {
        let mut host = self.0.host.borrow_mut();
        if generation <= host.generation {
            return;
        }
        let detail = format!(
            "VDI records rely on generation {}, the newest one found is {}; what it has claimed counts as used",
            generation.0, host.generation.0
        );
        self.warn(Error::corrupt("host record", format!("host slot {}", self.slot()), detail));
        if generation.0 < COUNTER_MAX / 2 {
            // The next one still goes to the copy that is not the newest one found.
            host.generation.0 = generation.0 + (generation.0 ^ host.generation.0) % 2;
        }
    }
}

pub(super) fn host_offset(sb: &Superblock, slot: u16, copy: u64) -> u64 {
    Superblock::system_offset(u64::from(sb.hosts_start) + u64::from(slot) * 2 + copy)
}
