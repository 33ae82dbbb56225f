//! What the control socket wants of one VDI, executed on the shard that has it.

use vdi_core::units::Epoch;

use super::World;
use super::answer::snapshot;
use crate::control::api::error::{Code, ErrorBody, Result};
use crate::control::api::{Label, SnapshotInfo, SnapshotSelector, VdiInfo, VdiName};

impl World {
    pub(super) async fn show(&self, vdi: &VdiName) -> Result<VdiInfo> {
        Ok(self.vdi_info(&self.engine.show(vdi.as_str()).await?))
    }
    pub(super) async fn list(&self) -> Result<Vec<VdiInfo>> {
        Ok(self.engine.list().await?.iter().map(|v| self.vdi_info(v)).collect())
    }
    pub(super) async fn snapshot(&self, vdi: &VdiName, label: Option<&Label>) -> Result<SnapshotInfo> {
        Ok(snapshot(&self.engine.snapshot(vdi.as_str(), label.map(Label::as_str)).await?))
    }
    pub(super) async fn snapshots(&self, vdi: &VdiName) -> Result<Vec<SnapshotInfo>> {
        Ok(self.engine.snapshots(vdi.as_str()).await?.iter().map(snapshot).collect())
    }
    pub(super) async fn epoch(&self, vdi: &VdiName, which: &SnapshotSelector) -> Result<Epoch> {
        which.resolve(vdi, &self.snapshots(vdi).await?)
    }
    pub(super) async fn label(
        &self,
        vdi: &VdiName,
        which: &SnapshotSelector,
        label: Option<&Label>,
    ) -> Result<SnapshotInfo> {
        let epoch = self.epoch(vdi, which).await?;
        Ok(snapshot(&self.engine.label(vdi.as_str(), epoch, label.map(Label::as_str)).await?))
    }
    pub(super) async fn remove_snapshot(&self, vdi: &VdiName, which: &SnapshotSelector) -> Result<()> {
        let epoch = self.epoch(vdi, which).await?;
        self.engine.remove_snapshot(vdi.as_str(), epoch).await.map_err(Into::into)
    }
    pub(super) async fn roll_back(&self, vdi: &VdiName, which: &SnapshotSelector) -> Result<SnapshotInfo> {
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
    pub(super) async fn resize(&self, vdi: &VdiName, size_bytes: u64, force: bool) -> Result<VdiInfo> {
        let info = self.engine.resize(vdi.as_str(), size_bytes, force).await?;
        if let Some(disk) = self.disk(vdi.as_str()) {
            disk.device.resize(info.size_bytes);
        }
        Ok(self.vdi_info(&info))
    }
}
