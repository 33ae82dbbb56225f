//! What a clone is made of, and the forest of VDIs and snapshots that clones make.

use super::Engine;
use super::VdiInfo;
use super::snapshots::gone;
use crate::error::Result;
use crate::format::vdi_record::{Applied, SnapshotLogHead, VdiRecord};
use crate::sabotage::{Bug, seeded_bug};
use crate::units::{Epoch, Generation, VdiId};
use crate::vdi::SnapshotInfo;

/// One VDI of the forest.
#[derive(Clone, Debug)]
pub struct TreeVdi {
    /// The VDI.
    pub vdi: VdiInfo,
    /// The VDI and snapshot it was cloned from. The VDI may be deleted since.
    pub parent: Option<(VdiId, Epoch)>,
    /// Its snapshots, oldest first.
    pub snapshots: Vec<SnapshotInfo>,
}

impl Engine {
    /// The record of a clone of `source`, and the snapshot it is a clone of: `epoch`, or one taken now.
    pub(super) async fn record_for_clone(
        &self,
        source: &str,
        epoch: Option<Epoch>,
    ) -> Result<(VdiRecord, Epoch)> {
        let vdi = self.open_vdi(source).await?;
        let epoch = match epoch {
            Some(epoch) => vdi.find_snapshot(epoch)?.epoch,
            None => vdi.snapshot(None).await?.epoch,
        };
        if vdi.durable_snapshot(epoch).is_none() {
            self.checkpoint_snapshot(&vdi, epoch).await?;
        }
        let from = vdi.durable_snapshot(epoch).ok_or_else(|| gone(source, epoch))?;
        let record = VdiRecord {
            id: VdiId(0),
            lease_epoch: 1,
            generation: Generation(0),
            size_bytes: from.size_bytes,
            root: from.root.addr,
            root_crc: from.root.crc,
            depth: from.root.depth,
            root_birth: from.root.birth,
            // Everything the snapshot shows is shared: only what the clone writes itself is its own.
            epoch: epoch.next(),
            threshold: if seeded_bug(Bug::CloneOwnsParent) { Epoch(0) } else { epoch },
            snapshots: SnapshotLogHead::default(),
            applied: Applied::default(),
            parent: Some((vdi.id(), epoch)),
            data_blocks: vdi.record().data_blocks,
            host_generation: Generation(0),
        };
        Ok((record, epoch))
    }
    /// Fails unless `source` still has that snapshot.
    pub(super) async fn has_snapshot(&self, source: &str, epoch: Epoch) -> Result<()> {
        self.open_vdi(source).await?.find_snapshot(epoch).map(|_| ())
    }
    /// Every VDI with its snapshots and where it came from, by name.
    pub async fn tree(&self) -> Result<Vec<TreeVdi>> {
        let mut out = Vec::new();
        for entry in self.store().vdis() {
            let vdi = match self.open_entry(&entry).await {
                Ok(vdi) => vdi,
                Err(e) => {
                    let vdi = VdiInfo::unreadable(&entry, &e);
                    out.push(TreeVdi { vdi, parent: None, snapshots: Vec::new() });
                    continue;
                }
            };
            out.push(TreeVdi {
                vdi: VdiInfo::of(&entry, &vdi),
                parent: vdi.record().parent,
                snapshots: vdi.snapshots(),
            });
        }
        Ok(out)
    }
}
