//! The host record: claims with how far they are used, and the logs this host has.

use super::{HOST_SLOT, Store};
use crate::buffer::AlignedBuf;
use crate::error::Result;
use crate::format::host::HostLog;
use crate::format::superblock::Superblock;
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
            (host.encode(HOST_SLOT, copy, self.uuid()), copy, host.generation.0)
        };
        let offset = host_offset(self.superblock(), HOST_SLOT, copy);
        let written = self.0.device.write(offset, AlignedBuf::copy_of(&block)).await;
        match written {
            Ok(()) => self.0.host_written.set(generation),
            // The next attempt must go to this same slot: the other one holds the last good record.
            Err(_) => self.0.host.borrow_mut().generation = Generation(generation - 1),
        }
        written
    }
    /// The logs this host has in the store.
    #[must_use]
    pub fn logs(&self) -> Vec<HostLog> {
        self.0.host.borrow().logs.clone()
    }
    /// Name this host's logs, durably, before any of them is written.
    pub async fn set_logs(&self, logs: Vec<HostLog>) -> Result<()> {
        self.0.host.borrow_mut().logs = logs;
        self.write_host_record().await?;
        self.flush().await
    }
}

pub(super) fn host_offset(sb: &Superblock, slot: u16, copy: u64) -> u64 {
    Superblock::system_offset(u64::from(sb.hosts_start) + u64::from(slot) * 2 + copy)
}
