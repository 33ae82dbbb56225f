//! The VDI registry in memory and its compare-and-swap on disk. The home shard has all of it; the others know their
//! own VDIs.

use super::{HOME_SLOT, Store};
use crate::error::{Error, ErrorKind, Result};
use crate::format::registry::{self, RegistryEntry};
use crate::sabotage::{Bug, Point, crash_point, seeded_bug};
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
    /// The home shard found a sector of it damaged: there may be VDIs that nobody knows.
    pub misses_some: bool,
}

impl Registry {
    /// Just these.
    pub fn of(vdis: Vec<RegistryEntry>, misses_some: bool) -> Registry {
        let slot = |e| Slot { entry: Some(e), generation: Generation(0), damaged: false };
        Registry { slots: vdis.into_iter().map(slot).collect(), misses_some }
    }
    fn index(&self, id: VdiId) -> Option<usize> {
        self.slots.iter().position(|s| s.entry.as_ref().is_some_and(|e| e.id == id))
    }
}

impl Store {
    /// Every live VDI of this shard, by name.
    #[must_use]
    pub fn vdis(&self) -> Vec<RegistryEntry> {
        let slot = self.slot();
        self.known_vdis().into_iter().filter(|e| e.host == slot).collect()
    }
    /// Every live VDI of all shards, by name, as far as this shard knows: the home shard does.
    #[must_use]
    pub fn known_vdis(&self) -> Vec<RegistryEntry> {
        let registry = self.0.registry.borrow();
        let mut all: Vec<_> = registry.slots.iter().filter_map(|s| s.entry.clone()).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }
    /// The VDI of this shard called `name`.
    #[must_use]
    pub fn find_vdi(&self, name: &str) -> Option<RegistryEntry> {
        self.find_known(|e| e.name == name).filter(|e| e.host == self.slot())
    }
    /// The VDI of this shard with this id.
    #[must_use]
    pub fn find_vdi_id(&self, id: VdiId) -> Option<RegistryEntry> {
        self.find_known(|e| e.id == id).filter(|e| e.host == self.slot())
    }
    /// The VDI of any shard called `name`, for the home shard.
    #[must_use]
    pub fn find_vdi_anywhere(&self, name: &str) -> Option<RegistryEntry> {
        self.find_known(|e| e.name == name)
    }
    fn find_known(&self, is: impl Fn(&RegistryEntry) -> bool) -> Option<RegistryEntry> {
        self.0.registry.borrow().slots.iter().filter_map(|s| s.entry.as_ref()).find(|e| is(e)).cloned()
    }
    /// Whether a VDI of this shard may have this id: it is known, or its entry may be among those that are damaged.
    #[must_use]
    pub fn may_have(&self, id: VdiId) -> bool {
        self.0.registry.borrow().misses_some || self.find_vdi_id(id).is_some()
    }
    /// An error when a sector of the registry is damaged: what the VDI of that entry needs cannot be told from what
    /// nobody needs.
    pub fn check_knows_all_vdis(&self) -> Result<()> {
        if !self.0.registry.borrow().misses_some || seeded_bug(Bug::MarkMissesUnknown) {
            return Ok(());
        }
        Err(Error::corrupt(
            "registry",
            "the start of the daemon",
            "an entry is damaged, and its VDI needs its blocks",
        ))
    }
    /// Add a VDI durably. Its record must be durable already. The caller holds the registry lock. When the device fails,
    /// the VDI is there, and whether a restart finds it is not known.
    pub async fn add_vdi(&self, id: VdiId, name: &str, slots: [BlockAddr; 2], created_ns: u64) -> Result<()> {
        if self.find_vdi_anywhere(name).is_some() {
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
        let entry = RegistryEntry { id, name: name.to_owned(), host: HOME_SLOT, slots, created_ns };
        let added = self.swap_registry(index, Some(entry.clone())).await;
        if added.is_err() {
            // The device may have it all the same: its name and its blocks are taken.
            self.0.registry.borrow_mut().slots[index].entry = Some(entry);
        }
        added
    }
    /// Remove a VDI durably; its blocks become the collector's. The caller holds the registry lock.
    pub async fn remove_vdi(&self, id: VdiId) -> Result<()> {
        let found = self.0.registry.borrow().index(id);
        match found {
            Some(index) => self.swap_registry(index, None).await,
            None => Ok(()),
        }
    }
    /// Give a VDI to the shard in `slot`, durably: its records go to that shard's log from now on. The caller holds
    /// the registry lock, and no log holds anything of the VDI that its record has not.
    pub async fn move_vdi(&self, id: VdiId, slot: u16) -> Result<()> {
        let found = {
            let registry = self.0.registry.borrow();
            registry.index(id).and_then(|i| Some((i, registry.slots[i].entry.clone()?)))
        };
        match found {
            Some((index, entry)) => {
                self.swap_registry(index, Some(RegistryEntry { host: slot, ..entry })).await
            }
            None => Ok(()),
        }
    }
    /// For a shard that is not the home shard: `entry` is its own from now on.
    pub fn adopt_vdi(&self, entry: RegistryEntry) {
        assert!(self.slot() != HOME_SLOT && entry.host == self.slot(), "the home shard has the registry");
        self.disown_vdi(entry.id);
        let adopted = Slot { entry: Some(entry), generation: Generation(0), damaged: false };
        self.0.registry.borrow_mut().slots.push(adopted);
    }
    /// For a shard that is not the home shard: the VDI is not its own any more.
    pub fn disown_vdi(&self, id: VdiId) {
        assert!(self.slot() != HOME_SLOT, "the home shard has the registry");
        self.0.registry.borrow_mut().slots.retain(|s| s.entry.as_ref().is_none_or(|e| e.id != id));
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
