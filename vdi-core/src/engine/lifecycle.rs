//! Creating, opening, deleting and resizing VDIs.

use super::{Engine, no_vdi};
use crate::error::{Error, ErrorKind, Result};
use crate::format::registry::RegistryEntry;
use crate::format::vdi_record::{Applied, SnapshotLogHead, VdiRecord};
use crate::limits::NAME_BYTES_MAX;
use crate::sabotage::{Bug, Point, crash_point, seeded_bug};
use crate::tree::Root;
use crate::tree::snapshots::SnapshotLog;
use crate::units::{Epoch, Generation, VdiId};
use crate::vdi::{Vdi, check_size};

use super::VdiInfo;

impl Engine {
    /// Create an empty VDI.
    pub async fn create(&self, name: &str, size_bytes: u64) -> Result<VdiInfo> {
        check_name(name)?;
        check_size(size_bytes)?;
        let depth = VdiRecord::depth_for(size_bytes);
        let record = self.blank_record(size_bytes, depth);
        self.add(name, record, || Ok(())).await?;
        self.show(name).await
    }
    /// A record of epoch 1 and an empty tree; identity and generation come with [`Engine::add`].
    fn blank_record(&self, size_bytes: u64, depth: u8) -> VdiRecord {
        let root = Root::empty(depth);
        VdiRecord {
            id: VdiId(0),
            lease_epoch: 1,
            generation: Generation(0),
            size_bytes,
            root: root.addr,
            root_crc: root.crc,
            depth,
            root_birth: root.birth,
            epoch: Epoch(1),
            threshold: Epoch(0),
            snapshots: SnapshotLogHead::default(),
            applied: Applied::default(),
            parent: None,
            data_blocks: 0,
            host_generation: Generation(0),
        }
    }
    /// Register a new VDI with this record, durably. `still_valid` is asked under the registry lock,
    /// which collection takes too.
    pub(super) async fn add(
        &self,
        name: &str,
        mut record: VdiRecord,
        still_valid: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let store = self.store();
        let _registry = store.lock_registry().await;
        if store.find_vdi(name).is_some() {
            return Err(Error::new(
                ErrorKind::Exists,
                format!("a VDI named '{name}' exists already"),
                "choose another name, or delete that VDI first",
            ));
        }
        still_valid()?;
        // Two record slots, and room for the first root.
        store.reserve(crate::store::Need { data: 0, metadata: 4 })?;
        store.unreserve(crate::store::Need { data: 0, metadata: 4 });
        let (slots, generation) = store.allocate_record().await?;
        record.id = VdiId(self.0.env.uuid().0);
        record.generation = generation;
        store.write_host_record().await?;
        store.flush().await?;
        store.write_record(slots, &record).await?;
        if !seeded_bug(Bug::RegistryBeforeRecord) {
            store.flush().await?;
        }
        crash_point(Point::RecordBeforeRegistry);
        store.add_vdi(record.id, name, slots, self.0.env.clock.wall_ns()).await
    }
    pub(super) async fn open_entry(&self, entry: &RegistryEntry) -> Result<Vdi> {
        if let Some(v) = self.0.vdis.borrow().get(&entry.id) {
            return Ok(v.clone());
        }
        let _turn = self.0.opening.lock().await;
        if let Some(s) = self.0.stranded.borrow().get(&entry.id) {
            return Err(s.error());
        }
        if let Some(v) = self.0.vdis.borrow().get(&entry.id) {
            return Ok(v.clone());
        }
        let store = self.store();
        let record = store.read_record(entry).await?;
        let snapshots = SnapshotLog::load(store, entry.id, record.snapshots)
            .await
            .map_err(|e| e.context(format!("VDI '{}'", entry.name)))?;
        let vdi = Vdi::new(self.0.shared.clone(), &entry.name, entry.slots, record, snapshots);
        if let Some(least) = self.0.remembered.borrow().get(&entry.id)
            && (record.lease_epoch, record.generation) < *least
            && !seeded_bug(Bug::StaleRecordTrusted)
        {
            vdi.hold(Error::corrupt(
                "VDI record",
                format!("VDI '{}'", entry.name),
                format!("generation {} is older than {}, which was durable", record.generation.0, least.1.0),
            ));
        }
        if let Some(why) = self.0.poisoned.borrow().as_ref() {
            vdi.hold(why.duplicate());
        }
        self.0.vdis.borrow_mut().insert(entry.id, vdi.clone());
        Ok(vdi)
    }
    /// Delete a VDI; with snapshots only if `recursive`. Its blocks come back with the next collection.
    pub async fn delete(&self, name: &str, recursive: bool) -> Result<()> {
        let entry = self.store().find_vdi(name).ok_or_else(|| no_vdi(name))?;
        // A VDI whose record cannot be read can still be deleted.
        let vdi = self.open_entry(&entry).await.ok();
        if let Some(vdi) = &vdi {
            let snapshots = vdi.snapshots().len();
            if snapshots > 0 && !recursive {
                return Err(Error::new(
                    ErrorKind::Busy,
                    format!("VDI '{name}' has {snapshots} snapshots"),
                    "use -r to delete them too; clones made from them stay",
                ));
            }
        }
        if let Some(vdi) = &vdi {
            // Before the round: a request on its way may need one to find room.
            vdi.retire().await;
        }
        let _round = self.0.round.lock().await;
        let removed = {
            let _registry = self.store().lock_registry().await;
            self.store().remove_vdi(entry.id).await
        };
        match (vdi, removed) {
            (Some(vdi), Ok(())) => vdi.forget_all().await,
            (Some(vdi), Err(e)) => {
                vdi.unretire();
                return Err(e);
            }
            (None, removed) => removed?,
        }
        self.0.vdis.borrow_mut().remove(&entry.id);
        self.0.remembered.borrow_mut().remove(&entry.id);
        self.forget_held(entry.id);
        self.0.shared.log.forget(entry.id);
        self.reclaimable_changed();
        // Its records may be what others wait for.
        self.0.shared.pressure.request();
        Ok(())
    }
    /// Change the size; smaller only with `force`.
    pub async fn resize(&self, name: &str, size_bytes: u64, force: bool) -> Result<VdiInfo> {
        let vdi = self.open_vdi(name).await?;
        vdi.resize(size_bytes, force).await?;
        self.remember_record(&vdi).await?;
        self.show(name).await
    }
}

/// A name a VDI can have.
pub(super) fn check_name(name: &str) -> Result<()> {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if first && plain && name.len() <= NAME_BYTES_MAX {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::BadRequest,
        format!("'{}' is no VDI name", name.chars().take(80).collect::<String>()),
        "use 1 to 63 letters, digits, dots, underscores or dashes, starting with a letter or digit",
    ))
}
