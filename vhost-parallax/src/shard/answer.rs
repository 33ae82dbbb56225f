//! What the engine says, in the words of the control socket.

use std::collections::BTreeMap;

use vdi_core::engine;
use vdi_core::units::{BLOCK_BYTES, VdiId};
use vdi_core::vdi::SnapshotInfo as EngineSnapshot;

use super::World;
use crate::control::api::status::{CacheStatus, DaemonStatus, LogStatus, StoreStatus, VdiCounts};
use crate::control::api::{Origin, SnapshotInfo, Status, Tree, TreeNode, VdiInfo};

const NS_PER_MS: u64 = 1_000_000;
const NS_PER_S: u64 = 1_000_000_000;

/// Names by identity, to say where clones come from.
pub(super) struct Names(BTreeMap<VdiId, String>);

pub(super) fn snapshot(s: &EngineSnapshot) -> SnapshotInfo {
    SnapshotInfo {
        epoch: s.epoch.0,
        label: s.label.clone(),
        time_unix_ms: s.wall_ns / NS_PER_MS,
        size_bytes: s.size_bytes,
        pending: s.pending,
    }
}

impl World {
    /// The names of all VDIs.
    pub(super) fn names(&self) -> Names {
        Names(self.engine.store().vdis().into_iter().map(|e| (e.id, e.name)).collect())
    }
    pub(super) fn vdi_info(&self, vdi: &engine::VdiInfo, names: &Names) -> VdiInfo {
        VdiInfo {
            name: vdi.name.clone(),
            id: vdi.id.to_string(),
            size_bytes: vdi.size_bytes,
            created_unix_ms: vdi.created_ns / NS_PER_MS,
            mapped_bytes: vdi.mapped_bytes,
            epoch: vdi.epoch.0,
            snapshots: vdi.snapshots as u64,
            origin: origin(vdi, names),
            attached: self.disk(&vdi.name).map(|d| d.info()),
            held: self.trouble(vdi),
        }
    }
    /// Why a disk takes no I/O: the engine holds it, or its guest broke it.
    fn trouble(&self, vdi: &engine::VdiInfo) -> Option<String> {
        let broken = || self.disk(&vdi.name)?.device.broken().map(|e| e.message().to_owned());
        vdi.held.clone().or_else(broken)
    }
    pub(super) fn tree(&self, nodes: &[engine::TreeVdi]) -> Tree {
        let names = self.names();
        let node = |n: &engine::TreeVdi| TreeNode {
            name: n.vdi.name.clone(),
            id: n.vdi.id.to_string(),
            size_bytes: n.vdi.size_bytes,
            attached: self.disk(&n.vdi.name).is_some(),
            origin: origin(&n.vdi, &names),
            snapshots: n.snapshots.iter().map(snapshot).collect(),
        };
        Tree { nodes: nodes.iter().map(node).collect() }
    }
    pub(super) async fn status(&self) -> vdi_core::Result<Status> {
        let reclaimable = self.engine.reclaimable();
        let s = self.engine.status();
        let vdis = self.engine.list().await?;
        let disks = self.disks.borrow();
        Ok(Status {
            daemon: DaemonStatus {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                pid: std::process::id(),
                uptime_s: (self.clock.now_ns() - self.started_ns) / NS_PER_S,
                shards: 1,
            },
            store: StoreStatus {
                url: self.options.store_url.clone(),
                uuid: s.store.to_string(),
                size_bytes: s.space.total_bytes,
                used_bytes: s.space.data_bytes + s.space.metadata_bytes,
                free_bytes: s.space.free_bytes,
                reclaimable_bytes: reclaimable.map(|r| r.bytes),
                reclaimable_unix_ms: reclaimable.map(|r| r.wall_ns / NS_PER_MS),
                io_mode: s.store_device.1,
            },
            log: LogStatus {
                path: self.options.log_path.clone(),
                uuid: s.log.to_string(),
                size_bytes: s.log_stats.ring_bytes,
                used_bytes: s.log_stats.used_bytes,
                incarnation: self.engine.shared().log.incarnation().0,
                checkpoints: s.checkpoints.rounds,
                segments_written: s.log_stats.segments_written,
                io_mode: s.log_device.1,
            },
            cache: CacheStatus {
                used_bytes: self.engine.shared().cache.len() as u64 * BLOCK_BYTES,
                size_bytes: self.options.cache_bytes,
                hits: s.cache_hits,
                misses: s.cache_misses,
            },
            vdis: VdiCounts {
                total: vdis.len() as u64,
                snapshots: vdis.iter().map(|v| v.snapshots as u64).sum(),
                attached: disks.len() as u64,
                connected: disks.values().filter(|d| d.device.is_connected()).count() as u64,
                held: s.held.len() as u64,
            },
        })
    }
}

fn origin(vdi: &engine::VdiInfo, names: &Names) -> Option<Origin> {
    let (id, epoch) = vdi.parent?;
    Some(Origin { id: id.to_string(), vdi: names.0.get(&id).cloned(), epoch: epoch.0 })
}
