//! What the engine says, in the words of the control socket.

use vdi_core::engine;
use vdi_core::latency::{Layer, Measured, Times};
use vdi_core::units::BLOCK_BYTES;
use vdi_core::vdi::SnapshotInfo as EngineSnapshot;

use super::World;
use super::front::Part;
use crate::control::api::status::{CacheStatus, LogStatus, VdiCounts};
use crate::control::api::{LatencyReport, LayerLatency, Origin, SnapshotInfo, Tree, TreeNode, VdiInfo};

const NS_PER_MS: u64 = 1_000_000;

pub(super) fn snapshot(s: &EngineSnapshot) -> SnapshotInfo {
    SnapshotInfo {
        epoch: s.epoch.0,
        label: s.label.clone(),
        time_unix_ms: s.wall_ns / NS_PER_MS,
        size_bytes: s.size_bytes,
        pending: s.pending,
    }
}

pub(super) fn latency(measured: &Measured) -> LatencyReport {
    let layer = |(layer, times): (&Layer, &Times)| LayerLatency {
        layer: layer.name().to_owned(),
        count: times.len(),
        mean_ns: times.mean() as u64,
        p50_ns: times.value_at_quantile(0.5),
        p99_ns: times.value_at_quantile(0.99),
        p999_ns: times.value_at_quantile(0.999),
        max_ns: times.max(),
    };
    LatencyReport {
        enabled: measured.on,
        lasted_ms: measured.lasted_ns / NS_PER_MS,
        layers: Layer::ALL.iter().zip(&measured.times).map(layer).collect(),
    }
}

impl World {
    pub(super) fn vdi_info(&self, vdi: &engine::VdiInfo) -> VdiInfo {
        VdiInfo {
            name: vdi.name.clone(),
            id: vdi.id.to_string(),
            size_bytes: vdi.size_bytes,
            created_unix_ms: vdi.created_ns / NS_PER_MS,
            mapped_bytes: vdi.mapped_bytes,
            epoch: vdi.epoch.0,
            snapshots: vdi.snapshots as u64,
            origin: origin(vdi),
            attached: self.disk(&vdi.name).map(|d| d.info()),
            held: self.trouble(vdi),
        }
    }
    /// Why a disk takes no I/O: the engine holds it, or its guest broke it.
    fn trouble(&self, vdi: &engine::VdiInfo) -> Option<String> {
        let broken = || self.disk(&vdi.name)?.device.broken().map(|e| e.message().to_owned());
        vdi.held.clone().or_else(broken)
    }
    pub(super) async fn tree(&self) -> crate::control::api::error::Result<Tree> {
        let node = |n: &engine::TreeVdi| TreeNode {
            name: n.vdi.name.clone(),
            id: n.vdi.id.to_string(),
            size_bytes: n.vdi.size_bytes,
            attached: self.disk(&n.vdi.name).is_some(),
            origin: origin(&n.vdi),
            snapshots: n.snapshots.iter().map(snapshot).collect(),
        };
        Ok(Tree { nodes: self.engine.tree().await?.iter().map(node).collect() })
    }
    /// What this shard adds to `status`.
    pub(super) async fn part_of_status(&self) -> vdi_core::Result<Part> {
        let s = self.engine.status();
        let vdis = self.engine.list().await?;
        let disks = self.disks.borrow();
        Ok(Part {
            used_bytes: s.space.data_bytes + s.space.metadata_bytes,
            free_bytes: s.space.free_bytes,
            log: LogStatus {
                path: self.options.log_path.clone(),
                uuid: s.log.to_string(),
                size_bytes: s.log_stats.ring_bytes,
                used_bytes: s.log_stats.used_bytes,
                incarnation: self.engine.shared().log.incarnation().0,
                checkpoints: s.checkpoints.rounds,
                segments_written: s.log_stats.segments_written,
                io_mode: s.log_device.1,
                staged_in: s.not_staged.is_none().then(|| self.options.staging.display().to_string()),
                not_staged: s.not_staged,
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

/// Where a clone comes from; what that is called the home shard knows.
fn origin(vdi: &engine::VdiInfo) -> Option<Origin> {
    let (id, epoch) = vdi.parent?;
    Some(Origin { id: id.to_string(), vdi: None, epoch: epoch.0 })
}
