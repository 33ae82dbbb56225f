//! The VDI registry in memory and its compare-and-swap on disk.

use super::{HOST_SLOT, Store};
use crate::error::{Error, ErrorKind, Result};
use crate::format::registry::{self, RegistryEntry};
use crate::sabotage::{Point, crash_point};
use crate::units::{BlockAddr, Generation, VdiId};

/// One registry sector as last seen.
pub(super) struct Slot {
    pub entry: Option<RegistryEntry>,
    pub generation: Generation,
    /// Its sector did not verify: never used for a new VDI.
    pub damaged: bool,
}

#[derive(Default)]
pub(super) struct Registry {
    pub slots: Vec<Slot>,
}

impl Store {
    /// Every live VDI, by name.
    #[must_use]
    pub fn vdis(&self) -> Vec<RegistryEntry> {
        let registry = self.0.registry.borrow();
        let mut all: Vec<_> = registry.slots.iter().filter_map(|s| s.entry.clone()).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }
    /// The VDI called `name`.
    #[must_use]
    pub fn find_vdi(&self, name: &str) -> Option<RegistryEntry> {
        self.0
            .registry
            .borrow()
            .slots
            .iter()
            .filter_map(|s| s.entry.as_ref())
            .find(|e| e.name == name)
            .cloned()
    }
    /// The VDI with this id.
    #[must_use]
    pub fn find_vdi_id(&self, id: VdiId) -> Option<RegistryEntry> {
        self.0.registry.borrow().slots.iter().filter_map(|s| s.entry.as_ref()).find(|e| e.id == id).cloned()
    }
    /// Add a VDI durably. Its record must be durable already. The caller holds the registry lock.
    pub async fn add_vdi(&self, id: VdiId, name: &str, slots: [BlockAddr; 2], created_ns: u64) -> Result<()> {
        if self.find_vdi(name).is_some() {
            return Err(Error::new(
                ErrorKind::Exists,
                format!("a VDI named '{name}' exists already"),
                "choose another name, or delete that VDI first",
            ));
        }
        let free = self.0.registry.borrow().slots.iter().position(|s| s.entry.is_none() && !s.damaged);
        let Some(index) = free else {
            return Err(Error::new(
                ErrorKind::NoSpace,
                format!("the registry is full: {} VDIs", self.superblock().registry_entries),
                "delete VDIs that are no longer needed",
            ));
        };
        let entry = RegistryEntry { id, name: name.to_owned(), host: HOST_SLOT, slots, created_ns };
        self.swap_registry(index, Some(entry)).await
    }
    /// Remove a VDI durably; its blocks become the collector's. The caller holds the registry lock.
    pub async fn remove_vdi(&self, id: VdiId) -> Result<()> {
        let index = {
            let registry = self.0.registry.borrow();
            registry.slots.iter().position(|s| s.entry.as_ref().is_some_and(|e| e.id == id))
        };
        match index {
            Some(index) => self.swap_registry(index, None).await,
            None => Ok(()),
        }
    }
    /// Hold the registry lock: create, rename and delete.
    pub async fn lock_registry(&self) -> crate::executor::TaskGuard {
        self.0.lease.lock_registry().await
    }
    async fn swap_registry(&self, index: usize, entry: Option<RegistryEntry>) -> Result<()> {
        let generation = Generation(self.0.registry.borrow().slots[index].generation.0 + 1);
        let bytes = registry::encode(index as u32, entry.as_ref(), self.uuid(), generation);
        let start = u64::from(self.superblock().registry_start);
        self.write_system_sector(start, index as u32, &bytes).await?;
        crash_point(Point::RegistryWritten);
        self.flush().await?;
        let mut registry = self.0.registry.borrow_mut();
        let slot = &mut registry.slots[index];
        slot.entry = entry;
        slot.generation = generation;
        Ok(())
    }
}
