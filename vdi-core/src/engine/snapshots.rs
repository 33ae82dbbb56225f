//! Snapshots by VDI name.

use super::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::units::Epoch;
use crate::vdi::{SnapshotInfo, Vdi};

impl Engine {
    /// Take a snapshot of a VDI, attached or not.
    pub async fn snapshot(&self, name: &str, label: Option<&str>) -> Result<SnapshotInfo> {
        self.open_vdi(name).await?.snapshot(label).await
    }
    /// The snapshots of a VDI, oldest first.
    pub async fn snapshots(&self, name: &str) -> Result<Vec<SnapshotInfo>> {
        let vdi = self.open_vdi(name).await?;
        vdi.check_snapshots()?;
        Ok(vdi.snapshots())
    }
    /// Name a snapshot, or take its name away.
    pub async fn label(&self, name: &str, epoch: Epoch, label: Option<&str>) -> Result<SnapshotInfo> {
        let vdi = self.open_vdi(name).await?;
        vdi.label(epoch, label).await?;
        vdi.find_snapshot(epoch)
    }
    /// Remove a snapshot; its blocks come back with the next collection.
    pub async fn remove_snapshot(&self, name: &str, epoch: Epoch) -> Result<()> {
        self.open_vdi(name).await?.remove_snapshot(epoch).await?;
        self.reclaimable_changed();
        Ok(())
    }
    /// Return a VDI to one of its snapshots. The present state is snapshotted first, and later snapshots
    /// stay; returns the snapshot of the present state. The caller sees to it that no front end is connected.
    pub async fn rollback(&self, name: &str, epoch: Epoch) -> Result<SnapshotInfo> {
        let vdi = self.open_vdi(name).await?;
        vdi.find_snapshot(epoch)?;
        let _still = vdi.keep_in_place().await;
        let kept = vdi.snapshot(None).await?;
        self.checkpoint_snapshot(&vdi, epoch).await?;
        vdi.roll_back_to(epoch).await?;
        self.remember_record(&vdi).await?;
        Ok(SnapshotInfo { pending: false, ..kept })
    }
    /// See to it that everything through a snapshot is in the tree.
    pub(super) async fn checkpoint_snapshot(&self, vdi: &Vdi, epoch: Epoch) -> Result<()> {
        if vdi.durable_snapshot(epoch).is_none() || vdi.oldest_segment().is_some() {
            self.checkpoint_for(vdi).await?;
        }
        if let Some(why) = vdi.held() {
            return Err(why);
        }
        Ok(())
    }
}

pub(super) fn gone(name: &str, epoch: Epoch) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("snapshot {} of VDI '{name}' was removed meanwhile", epoch.0),
        "list the snapshots with 'parallax snapshot ls VDI' and choose another",
    )
}
