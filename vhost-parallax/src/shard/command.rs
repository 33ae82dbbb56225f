//! The commands of the control socket, executed on the engine.

use std::rc::Rc;

use vdi_core::ErrorKind;
use vdi_core::units::Epoch;

use super::World;
use super::answer::snapshot;
use super::attached_file::Attachment;
use crate::control::api::command::Command;
use crate::control::api::error::{Code, ErrorBody, Result};
use crate::control::api::{CollectReport, SnapshotInfo, SnapshotSelector, VdiInfo, VdiName};

/// Execute `command` and answer it.
pub(super) async fn run(world: Rc<World>, command: Command) {
    let w = &*world;
    match command {
        Command::Create { name, size_bytes, reply } => reply.answer(w.create(&name, size_bytes).await),
        Command::Delete { vdi, recursive, reply } => reply.answer(w.delete(&vdi, recursive).await),
        Command::List { reply } => reply.answer(w.list().await),
        Command::Show { vdi, reply } => reply.answer(w.show(&vdi).await),
        Command::Attach { vdi, num_queues, read_only, reply } => {
            let wanted = Attachment { vdi: vdi.as_str().to_owned(), num_queues, read_only };
            reply.answer(w.attach(wanted).await);
        }
        Command::Detach { vdi, force, reply } => reply.answer(w.detach(&vdi, force).await),
        Command::Snapshot { vdi, label, reply } => {
            let label = label.as_ref().map(|l| l.as_str());
            reply.answer(w.engine.snapshot(vdi.as_str(), label).await.map(|s| snapshot(&s)));
        }
        Command::Snapshots { vdi, reply } => reply.answer(w.snapshots(&vdi).await),
        Command::Label { vdi, snapshot: which, label, reply } => {
            let label = label.as_ref().map(|l| l.as_str());
            reply.answer(w.label(&vdi, &which, label).await);
        }
        Command::RemoveSnapshot { vdi, snapshot: which, reply } => {
            reply.answer(w.remove_snapshot(&vdi, &which).await);
        }
        Command::Clone { source, snapshot: which, name, reply } => {
            reply.answer(w.clone_vdi(&source, which.as_ref(), &name).await);
        }
        Command::Rollback { vdi, snapshot: which, reply } => reply.answer(w.roll_back(&vdi, &which).await),
        Command::Resize { vdi, size_bytes, force, reply } => {
            reply.answer(w.resize(&vdi, size_bytes, force).await);
        }
        Command::Tree { reply } => reply.answer(w.engine.tree().await.map(|nodes| w.tree(&nodes))),
        Command::Status { reply } => reply.answer(w.status().await),
        Command::Collect { dry_run, reply } => reply.answer(w.collect(dry_run).await),
        Command::Checkpoint { reply } => reply.answer(w.engine.checkpoint().await),
    }
}

impl World {
    async fn show(&self, vdi: &VdiName) -> Result<VdiInfo> {
        let info = self.engine.show(vdi.as_str()).await?;
        Ok(self.vdi_info(&info, &self.names()))
    }
    async fn list(&self) -> Result<Vec<VdiInfo>> {
        let names = self.names();
        Ok(self.engine.list().await?.iter().map(|v| self.vdi_info(v, &names)).collect())
    }
    async fn create(&self, name: &VdiName, size_bytes: u64) -> Result<VdiInfo> {
        match self.engine.create(name.as_str(), size_bytes).await {
            Ok(info) => Ok(self.vdi_info(&info, &self.names())),
            Err(e) if e.kind() == ErrorKind::Exists => {
                // The same once more is a success, as long as it is the same: empty of history, no clone.
                let there = self.show(name).await?;
                if there.size_bytes == size_bytes && there.origin.is_none() {
                    return Ok(there);
                }
                Err(e.into())
            }
            Err(e) => Err(e.into()),
        }
    }
    async fn delete(&self, vdi: &VdiName, recursive: bool) -> Result<()> {
        let _turn = self.lifecycle.lock().await;
        if self.disk(vdi.as_str()).is_some() {
            return Err(ErrorBody::new(
                Code::Busy,
                format!("VDI '{vdi}' is attached"),
                format!("'parallax detach {vdi}' first"),
            ));
        }
        self.engine.delete(vdi.as_str(), recursive).await.map_err(Into::into)
    }
    async fn snapshots(&self, vdi: &VdiName) -> Result<Vec<SnapshotInfo>> {
        Ok(self.engine.snapshots(vdi.as_str()).await?.iter().map(snapshot).collect())
    }
    async fn epoch(&self, vdi: &VdiName, which: &SnapshotSelector) -> Result<Epoch> {
        which.resolve(vdi, &self.snapshots(vdi).await?)
    }
    async fn label(
        &self,
        vdi: &VdiName,
        which: &SnapshotSelector,
        label: Option<&str>,
    ) -> Result<SnapshotInfo> {
        let epoch = self.epoch(vdi, which).await?;
        Ok(snapshot(&self.engine.label(vdi.as_str(), epoch, label).await?))
    }
    async fn remove_snapshot(&self, vdi: &VdiName, which: &SnapshotSelector) -> Result<()> {
        let epoch = self.epoch(vdi, which).await?;
        self.engine.remove_snapshot(vdi.as_str(), epoch).await.map_err(Into::into)
    }
    async fn clone_vdi(
        &self,
        source: &VdiName,
        which: Option<&SnapshotSelector>,
        name: &VdiName,
    ) -> Result<VdiInfo> {
        let epoch = match which {
            Some(which) => Some(self.epoch(source, which).await?),
            None => None,
        };
        let info = self.engine.clone_vdi(source.as_str(), epoch, name.as_str()).await?;
        Ok(self.vdi_info(&info, &self.names()))
    }
    async fn roll_back(&self, vdi: &VdiName, which: &SnapshotSelector) -> Result<SnapshotInfo> {
        let _turn = self.lifecycle.lock().await;
        let epoch = self.epoch(vdi, which).await?;
        let disk = self.disk(vdi.as_str());
        if disk.as_ref().is_some_and(|d| d.device.is_connected()) {
            return Err(ErrorBody::new(
                Code::Busy,
                format!("a front end is connected to VDI '{vdi}'"),
                "stop the guest first: its disk would change under it",
            ));
        }
        let set_closed = |closed| disk.iter().for_each(|d| d.closed.set(closed));
        set_closed(true);
        let result = self.engine.rollback(vdi.as_str(), epoch).await;
        set_closed(false);
        let kept = result?;
        if let Some(disk) = &disk {
            disk.device.resize(disk.vdi.size_bytes());
        }
        Ok(snapshot(&kept))
    }
    async fn resize(&self, vdi: &VdiName, size_bytes: u64, force: bool) -> Result<VdiInfo> {
        let info = self.engine.resize(vdi.as_str(), size_bytes, force).await?;
        if let Some(disk) = self.disk(vdi.as_str()) {
            disk.device.resize(info.size_bytes);
        }
        Ok(self.vdi_info(&info, &self.names()))
    }
    async fn collect(&self, dry_run: bool) -> Result<CollectReport> {
        let found = self.engine.collect(dry_run).await?;
        Ok(CollectReport { dry_run, freed_bytes: found.dead_bytes, live_bytes: found.live_bytes })
    }
}
