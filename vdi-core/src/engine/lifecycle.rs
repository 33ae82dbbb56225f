//! Creating, opening, deleting, handing on and resizing VDIs: the part of it that concerns one shard.

use super::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::format::registry::RegistryEntry;
use crate::format::vdi_record::{Applied, SnapshotLogHead, VdiRecord};
use crate::limits::NAME_BYTES_MAX;
use crate::log::VdiGeneration;
use crate::sabotage::{Bug, Point, crash_point, seeded_bug};
use crate::store::{FoundRecord, HOME_SLOT, Need};
use crate::tree::Root;
use crate::tree::snapshots::SnapshotLog;
use crate::units::{Epoch, Generation, SegmentSeq, VdiId};
use crate::vdi::{Vdi, check_size};

use super::shards::unsure;
use super::{VdiInfo, no_vdi};

impl Engine {
    /// Create an empty VDI.
    pub async fn create(&self, name: &str, size_bytes: u64) -> Result<VdiInfo> {
        check_name(name)?;
        check_size(size_bytes)?;
        let depth = VdiRecord::depth_for(size_bytes);
        let record = self.blank_record(size_bytes, depth);
        self.add(name, record, async { Ok(()) }).await?;
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
    /// On the home shard: register a new VDI with this record, durably. `still_valid` is asked under the registry
    /// lock, which collection takes too.
    pub(super) async fn add(
        &self,
        name: &str,
        mut record: VdiRecord,
        still_valid: impl Future<Output = Result<()>>,
    ) -> Result<()> {
        let store = self.store();
        let _registry = store.lock_registry().await;
        if store.find_vdi_anywhere(name).is_some() {
            return Err(Error::new(
                ErrorKind::Exists,
                format!("a VDI named '{name}' exists already"),
                "choose another name, or delete that VDI first",
            ));
        }
        still_valid.await?;
        // Two record slots, and room for the first root.
        let need = Need { data: 0, metadata: 4 };
        while !store.try_reserve(need) {
            if !store.ask_for_room().await {
                return Err(store.no_space());
            }
        }
        store.unreserve(need);
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
        let added = store.add_vdi(record.id, name, slots, self.0.env.clock.wall_ns()).await;
        if let Err(e) = &added
            && let Some(entry) = store.find_vdi_id(record.id)
            && let Ok(vdi) = self.open_entry(&entry).await
        {
            vdi.hold_until_restart(unsure(e, name));
        }
        added
    }
    /// The VDI. Whoever was shown one of its records must never be shown the one before, so the log's head knows it first.
    pub(super) async fn open_entry(&self, entry: &RegistryEntry) -> Result<Vdi> {
        let open = self.0.vdis.borrow().get(&entry.id).cloned();
        if let Some(vdi) = open {
            return Ok(vdi);
        }
        let _turn = self.0.opening.lock().await;
        self.open_in_turn(entry, async |newer| self.0.shared.log.trim(SegmentSeq(0), &[newer]).await).await
    }
    /// As [`Engine::open_entry`], before anybody is shown anything: what the log's head must know by then is added to
    /// `newer`.
    pub(super) async fn open_at_start(
        &self,
        entry: &RegistryEntry,
        newer: &mut Vec<VdiGeneration>,
    ) -> Result<Vdi> {
        self.open_in_turn(entry, async |g| {
            newer.push(g);
            Ok(())
        })
        .await
    }
    /// `remember` is told of a record newer than the log's head knows.
    async fn open_in_turn(
        &self,
        entry: &RegistryEntry,
        remember: impl AsyncFnOnce(VdiGeneration) -> Result<()>,
    ) -> Result<Vdi> {
        // First: one that shows an older record is open, and stranded too.
        if let Some(v) = self.0.vdis.borrow().get(&entry.id) {
            return Ok(v.clone());
        }
        if self.0.away.borrow().contains(&entry.id) {
            return Err(Error::new(
                ErrorKind::Busy,
                format!("VDI '{}' is on its way to another shard", entry.name),
                "try again in a moment",
            ));
        }
        if let Some(s) = self.0.stranded.borrow().get(&entry.id) {
            return Err(s.error());
        }
        if self.store().find_vdi_id(entry.id).is_none() {
            // Whoever asks has an entry of before.
            return Err(no_vdi(&entry.name));
        }
        let store = self.store();
        let least = self.least_record(entry.id);
        let found = store.read_record(entry, (least.lease_epoch, least.generation)).await?;
        let FoundRecord { record, has_older, doubtful } = found;
        let snapshots = match SnapshotLog::load(store, entry.id, record.snapshots, record.epoch).await {
            Ok(snapshots) => snapshots,
            Err(e) => {
                let e = e.context(format!("the snapshots of VDI '{}'", entry.name));
                if e.kind() != ErrorKind::Corrupt {
                    return Err(e);
                }
                // Its present state does not need them.
                SnapshotLog::damaged(entry.id, record.snapshots, e)
            }
        };
        let vdi = Vdi::new(self.0.shared.clone(), &entry.name, entry.slots, record, snapshots);
        if let Some(why) = doubtful {
            // What cannot be read now may be newer, and be read once this one was written on.
            if vdi.take_back(record.generation).await.is_err() {
                vdi.hold_until_restart(why.context(format!("the record of VDI '{}'", entry.name)));
            }
        }
        let record = vdi.record();
        let found = (record.lease_epoch, record.generation);
        if found > (least.lease_epoch, least.generation) {
            if has_older {
                let (lease_epoch, generation) = found;
                remember(VdiGeneration { vdi: entry.id, lease_epoch, generation }).await?;
            }
            // The next trim drops from the log what only this record makes needless.
            self.0.remembered.borrow_mut().insert(entry.id, found);
        }
        let is_stale = found < (least.lease_epoch, least.generation);
        if is_stale && !seeded_bug(Bug::StaleRecordTrusted) {
            let detail = least.complaint(record.generation);
            let why = Error::corrupt("VDI record", format!("VDI '{}'", entry.name), detail);
            if least.is_lost() { vdi.hold(why) } else { vdi.hold_as_superseded(why) }
        }
        if let Some(why) = self.0.poisoned.borrow().as_ref() {
            vdi.hold_until_restart(why.duplicate());
        }
        self.0.vdis.borrow_mut().insert(entry.id, vdi.clone());
        Ok(vdi)
    }
    /// The VDI is to be deleted: check that it may be, and let nobody use it from now on.
    pub(super) async fn retire(&self, entry: &RegistryEntry, recursive: bool) -> Result<()> {
        // A VDI whose record cannot be read can still be deleted.
        let Ok(vdi) = self.open_entry(entry).await else { return Ok(()) };
        let snapshots = match vdi.check_snapshots() {
            Ok(()) => vdi.snapshots().len().to_string(),
            Err(_) => "unreadable".to_owned(),
        };
        if snapshots != "0" && !recursive {
            return Err(Error::new(
                ErrorKind::Busy,
                format!("VDI '{}' has {snapshots} snapshots", entry.name),
                "use -r to delete them too; clones made from them stay",
            ));
        }
        vdi.retire().await;
        Ok(())
    }
    /// What [`Engine::retire`] began is over: the VDI is gone from the registry, or perhaps not: then it is held.
    pub(super) async fn retired(&self, id: VdiId, unsure: Option<Error>) {
        let vdi = self.0.vdis.borrow().get(&id).cloned();
        if let Some(why) = unsure {
            if let Some(vdi) = vdi {
                vdi.unretire();
                vdi.hold_until_restart(why);
            }
            return;
        }
        let _round = self.0.round.lock().await;
        if let Some(vdi) = vdi {
            vdi.forget_all().await;
        }
        self.forget_vdi(id);
        // Its records may be what others wait for.
        self.0.shared.pressure.request();
    }
    /// Nothing of the VDI is this shard's any more.
    fn forget_vdi(&self, id: VdiId) {
        self.0.vdis.borrow_mut().remove(&id);
        self.0.remembered.borrow_mut().remove(&id);
        self.forget_held(id);
        self.0.shared.log.forget(id);
        if self.store().slot() != HOME_SLOT {
            self.store().disown_vdi(id);
        }
    }
    /// Bring everything of a VDI that nobody uses into its tree, and forget it: another shard gets it. Returns which
    /// record it will find.
    pub(super) async fn let_go(&self, entry: &RegistryEntry) -> Result<VdiGeneration> {
        let vdi = self.open_entry(entry).await?;
        vdi.retire().await;
        let left = self.take_leave(&vdi).await;
        if left.is_err() {
            vdi.unretire();
        }
        left
    }
    async fn take_leave(&self, vdi: &Vdi) -> Result<VdiGeneration> {
        let unsettled = || !vdi.is_settled() && !seeded_bug(Bug::MovedUnsettled);
        if unsettled() {
            self.checkpoint_for(vdi).await?;
        }
        let _round = self.0.round.lock().await;
        let _turn = vdi.lock_turn().await;
        if let Some(why) = vdi.held() {
            return Err(why.context(format!("VDI '{}' is held", vdi.name())));
        }
        if unsettled() {
            return Err(Error::new(
                ErrorKind::Busy,
                format!("VDI '{}' is in use", vdi.name()),
                "try again when nothing uses it",
            ));
        }
        let record = self.note_record(vdi);
        self.forget_vdi(vdi.id());
        // Until the registry has moved it, whoever lists the disks still finds it here.
        if !seeded_bug(Bug::OpenedOnTheWay) {
            self.0.away.borrow_mut().insert(vdi.id());
        }
        Ok(record)
    }
    /// A VDI that was let go is this shard's from now on, with a record not older than `least`; held if that is not
    /// certain.
    pub(super) async fn take_in(
        &self,
        entry: RegistryEntry,
        least: VdiGeneration,
        unsure: Option<Error>,
    ) -> Result<()> {
        if self.store().slot() != HOME_SLOT {
            self.store().adopt_vdi(entry.clone());
        }
        self.0.remembered.borrow_mut().insert(entry.id, (least.lease_epoch, least.generation));
        let remembered = self.0.shared.log.trim(SegmentSeq(0), &[least]).await;
        self.0.away.borrow_mut().remove(&entry.id);
        remembered?;
        // One that cannot be opened is held; whoever uses it hears why.
        if let (Ok(vdi), Some(why)) = (self.open_entry(&entry).await, unsure) {
            vdi.hold_until_restart(why);
        }
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
