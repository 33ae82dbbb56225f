//! What concerns more than one shard, done from the home shard: it has the registry. With one shard it is all of
//! them.
//!
//! A VDI belongs to one shard, which the registry names: its records are in that shard's log only. It changes
//! shard while nobody uses it, when its record says that everything is applied.

use super::collect::{Collected, Marked, Scope};
use super::lifecycle::check_name;
use super::{Engine, Peers, VdiInfo, no_vdi};
use crate::error::{Error, ErrorKind, Result};
use crate::format::registry::RegistryEntry;
use crate::log::VdiGeneration;
use crate::sabotage::{Bug, seeded_bug};
use crate::store::{Freed, HOME_SLOT, Store};
use crate::units::{Epoch, Generation, SegmentSeq, VdiId, VdiSeq};
use crate::vdi::{Logged, Vdi};

/// What a log knows of a VDI that is not its shard's: it was, before it changed shard or was deleted; or it should be, and
/// the registry has lost that it changed shard.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stranger {
    least: VdiGeneration,
    /// Its last record in the log.
    pub last: VdiSeq,
}

impl Stranger {
    /// The log's head remembers this of it.
    pub fn remembered(least: VdiGeneration) -> Stranger {
        Stranger { least, last: VdiSeq(0) }
    }
    /// What two logs know.
    pub fn join(&mut self, other: Stranger) {
        (self.least, self.last) = (self.least.max(other.least), self.last.max(other.last));
    }
    /// The log has records of it.
    pub fn logged(vdi: VdiId) -> Stranger {
        Stranger::remembered(VdiGeneration { vdi, lease_epoch: 0, generation: Generation(0) })
    }
}

impl Engine {
    /// The shard that has the VDI called `name`.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn owner(&self, name: &str) -> Result<u16> {
        Ok(self.entry(name)?.host)
    }
    fn entry(&self, name: &str) -> Result<RegistryEntry> {
        self.store().find_vdi_anywhere(name).ok_or_else(|| no_vdi(name))
    }
    /// All of them, the home shard first.
    pub(super) fn all(&self) -> impl Iterator<Item = u16> + use<> {
        let others = self.0.peers.as_ref().map(Peers::others);
        std::iter::once(HOME_SLOT).chain(others.into_iter().flatten())
    }
    /// Run `work` on the engine of `shard`.
    ///
    /// # Errors
    /// `Poisoned` when that shard has ended.
    pub async fn on<T, W>(&self, shard: u16, work: impl FnOnce(Engine) -> W + Send + 'static) -> Result<T>
    where
        T: Send + 'static,
        W: Future<Output = T> + 'static,
    {
        match &self.0.peers {
            Some(peers) if shard != HOME_SLOT => peers.ask(shard, work).await,
            _ if shard == HOME_SLOT => Ok(work(self.clone()).await),
            _ => Err(Error::new(
                ErrorKind::Unsupported,
                format!("what belongs to shard {shard} is not served by this daemon"),
                "start the daemon again: it takes over what other shards have",
            )),
        }
    }
    /// Make `new` from a snapshot of `source`; without one, from a snapshot taken now. It is the home shard's until
    /// it is moved.
    pub async fn clone_vdi(&self, source: &str, epoch: Option<Epoch>, new: &str) -> Result<VdiInfo> {
        check_name(new)?;
        let shard = self.owner(source)?;
        let name = source.to_owned();
        let (record, epoch) =
            self.on(shard, move |e| async move { e.record_for_clone(&name, epoch).await }).await??;
        let name = source.to_owned();
        let is_there = self.on(shard, move |e| async move { e.has_snapshot(&name, epoch).await });
        self.add(new, record, async move { is_there.await? }).await?;
        self.show(new).await
    }
    /// Delete a VDI; with snapshots only if `recursive`. Its blocks come back with the next collection.
    pub async fn delete(&self, name: &str, recursive: bool) -> Result<()> {
        let _turn = self.0.between.lock().await;
        let entry = self.entry(name)?;
        let (shard, id) = (entry.host, entry.id);
        self.on(shard, move |e| async move { e.retire(&entry, recursive).await }).await??;
        let removed = {
            let _registry = self.store().lock_registry().await;
            self.store().remove_vdi(id).await
        };
        let unsure = removed.as_ref().err().map(|e| unsure(e, name));
        self.on(shard, move |e| async move { e.retired(id, unsure).await }).await?;
        self.reclaimable_changed();
        removed
    }
    /// Give the VDI to shard `to`. Nobody may use it meanwhile.
    ///
    /// # Errors
    /// `NoSpace` when that shard would have no room for what frees space; why the VDI is held, if so; those of a checkpoint.
    pub async fn move_vdi(&self, name: &str, to: u16) -> Result<()> {
        let _turn = self.0.between.lock().await;
        let entry = self.entry(name)?;
        if entry.host == to {
            return Ok(());
        }
        if !self.on(to, |e| async move { e.finds_room(Store::can_free).await }).await? {
            return Err(self.store().no_space());
        }
        let leaving = entry.clone();
        let least = self.on(entry.host, move |e| async move { e.let_go(&leaving).await }).await??;
        if to == HOME_SLOT {
            // The registry has it here before it is taken in.
            self.0.away.borrow_mut().insert(entry.id);
        }
        let moved = {
            let _registry = self.store().lock_registry().await;
            self.store().move_vdi(entry.id, to).await
        };
        let owner = if moved.is_ok() { to } else { entry.host };
        let unsure = moved.as_ref().err().map(|e| unsure(e, name));
        let arriving = RegistryEntry { host: owner, ..entry };
        self.on(owner, move |e| async move { e.take_in(arriving, least, unsure).await }).await??;
        moved
    }
    /// Mark from the roots of all shards, then free what was not reached; with `dry_run` only say how much that is.
    /// Checkpoints, resizes and out-of-line writes wait meanwhile; guests go on as long as the logs have room.
    ///
    /// # Errors
    /// `Corrupt` when a tree cannot be read in full: what it might reach is unknown, so nothing is freed.
    pub async fn collect(&self, dry_run: bool) -> Result<Collected> {
        let _turn = self.0.between.lock().await;
        for shard in self.all() {
            self.on(shard, |e| async move { e.checkpoint_round().await }).await??;
        }
        let started = self.0.env.clock.now_ns();
        let collected = {
            let _registry = self.store().lock_registry().await;
            let marked = self.mark_all(Scope::Running).await;
            self.sweep_all(marked, move |e, dead| {
                if !dry_run {
                    e.store().quarantine(dead, e.shared().log.newest());
                }
            })
            .await?
        };
        self.note_reclaimable(if dry_run { collected.dead_bytes } else { 0 });
        if !dry_run {
            // What was swept leaves the quarantine with the next trim.
            for shard in self.all() {
                self.on(shard, |e| async move { e.checkpoint_round().await }).await??;
            }
        }
        Ok(Collected { ns: self.0.env.clock.now_ns() - started, ..collected })
    }
    /// All shards are open, and nothing is open to guests yet: see to it that every promise that the logs repeat
    /// can be kept. What checkpoints had allocated when the daemon died leaks until the next collection; on a full
    /// store that may be the promised room, and a collection needs a checkpoint: so it is looked for here.
    ///
    /// # Errors
    /// When a shard has ended, or its log has failed. A tree that cannot be read is no error: the checkpoint will say what is wrong.
    pub async fn settle(&self) -> Result<()> {
        self.compare_logs().await?;
        let mut short = false;
        for shard in self.all() {
            short |= !self.on(shard, |e| async move { e.has_room_for_promises().await }).await?;
        }
        if short && !seeded_bug(Bug::LeaksStay) {
            let marked = self.mark_all(Scope::Recovered).await;
            let _ = self.sweep_all(marked, |e, dead| e.store().give_back_unreachable(dead)).await;
        }
        for shard in self.all() {
            self.on(shard, |e| async move { e.recovered().await }).await??;
        }
        Ok(())
    }
    /// Tell the shard of each VDI what the logs of others know of it; then they may forget it.
    async fn compare_logs(&self) -> Result<()> {
        for shard in self.all() {
            let strangers = self.on(shard, |e| async move { e.0.strangers.take() }).await?;
            for (id, stranger) in strangers {
                let entry = self.store().known_vdis().into_iter().find(|e| e.id == id);
                if entry.is_none() && self.store().may_have(id) {
                    // Its entry may be a damaged one.
                    continue;
                }
                // Of a shard that was taken over the home shard may be told what concerns itself.
                let own = entry.as_ref().is_some_and(|e| e.host == shard);
                if let Some(entry) = entry.filter(|_| !seeded_bug(Bug::OtherLogsForgotten)) {
                    self.on(entry.host, move |e| async move { e.hear_of(&entry, stranger).await }).await??;
                }
                if own {
                    continue;
                }
                self.on(shard, move |e| async move { e.forget_stranger(id) }).await?;
            }
        }
        Ok(())
    }
    /// Another shard has the VDI, or nobody.
    fn forget_stranger(&self, id: VdiId) {
        self.0.remembered.borrow_mut().remove(&id);
        self.forget_held(id);
        self.shared().log.forget(id);
    }
    /// The log of another shard knows that of a VDI of this one: its record and its last change must not be older.
    async fn hear_of(&self, entry: &RegistryEntry, other: Stranger) -> Result<()> {
        let vdi = self.open_entry(entry).await;
        let mut least = self.least_record(entry.id).max(other.least);
        let version = |v: &Vdi| (v.record().lease_epoch, v.record().generation);
        // An older record may just have been misread; a restart looks again.
        let is_newest = |v: &Vdi| version(v) >= (least.lease_epoch, least.generation);
        if vdi.as_ref().is_ok_and(|v| is_newest(v) && v.records_through().1 < other.last) {
            // What that log alone has of it is never put back.
            least = VdiGeneration::lost(entry.id);
        }
        self.0.remembered.borrow_mut().insert(entry.id, (least.lease_epoch, least.generation));
        self.shared().log.trim(SegmentSeq(0), &[least]).await?;
        // Whoever opens one that cannot be opened hears why.
        let Ok(vdi) = vdi else { return Ok(()) };
        if version(&vdi) < (least.lease_epoch, least.generation) {
            let detail =
                "the log of another shard knows a later state: the registry has lost that it changed shard";
            vdi.hold_as_superseded(Error::corrupt("VDI record", format!("VDI '{}'", entry.name), detail));
        }
        Ok(())
    }
    /// The VDIs of shard `slot`, whose engine is `leaving`, become the home shard's.
    pub(super) async fn inherit_vdis(&self, slot: u16, leaving: &Engine) -> Result<()> {
        let store = self.store();
        let _registry = store.lock_registry().await;
        for entry in store.known_vdis().into_iter().filter(|e| e.host == slot) {
            let mut logged = Logged::default();
            let least = match leaving.open_entry(&entry).await {
                Ok(vdi) if vdi.held().is_none() => {
                    logged = vdi.take_logged();
                    leaving.let_go(&entry).await?
                }
                // It can be held, or not be opened, here as well as there.
                _ => leaving.least_record(entry.id),
            };
            store.move_vdi(entry.id, HOME_SLOT).await?;
            let arriving = RegistryEntry { host: HOME_SLOT, ..entry };
            self.take_in(arriving.clone(), least, None).await?;
            if let Ok(vdi) = self.open_entry(&arriving).await {
                vdi.give_logged(logged);
            }
        }
        Ok(())
    }
    /// Stop what changes trees on all shards, and mark what their roots reach.
    async fn mark_all(&self, scope: Scope) -> Result<Marked> {
        let mut parts = Vec::new();
        for shard in self.all() {
            self.on(shard, |e| async move { e.pause_for_mark().await }).await??;
            if seeded_bug(Bug::MarkBeforeMessages) {
                parts.push(self.on(shard, move |e| async move { e.part_for_mark(scope) }).await?);
            }
        }
        if seeded_bug(Bug::MarkBeforeMessages) {
            return self.mark(parts).await;
        }
        for shard in self.all() {
            // Asked by message, also of this shard: blocks that a round of another freed are on their way.
            let part = move |e: Engine| async move { e.part_for_mark(scope) };
            parts.push(match &self.0.peers {
                Some(peers) => peers.ask(shard, part).await?,
                None => part(self.clone()).await,
            });
        }
        self.mark(parts).await
    }
    /// Give each shard the dead blocks of its extents, and let them all go on.
    async fn sweep_all(
        &self,
        marked: Result<Marked>,
        sweep: impl Fn(&Engine, Freed) + Copy + Send + 'static,
    ) -> Result<Collected> {
        let (mut dead, result) = match marked {
            Ok(m) => (m.dead, Ok(m.collected)),
            Err(e) => (Vec::new(), Err(e)),
        };
        for shard in self.all() {
            let at = dead.iter().position(|(s, _)| *s == shard);
            let dead = at.map(|i| dead.swap_remove(i).1);
            let done = self.on(shard, move |e| async move {
                if let Some(dead) = dead {
                    sweep(&e, dead);
                }
                e.end_mark();
            });
            // One that has ended needs nothing.
            let _ended = done.await;
        }
        result
    }
}

/// The registry could not be written, so what it says of the VDI is open: nothing may be acknowledged that another
/// shard, or nobody, would look for after a restart.
pub(super) fn unsure(e: &Error, name: &str) -> Error {
    Error::new(
        ErrorKind::Poisoned,
        format!("what became of VDI '{name}' in the registry is not known: {}", e.message()),
        "restart the daemon, which finds out",
    )
}
