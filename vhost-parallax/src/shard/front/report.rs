//! What all shards together say: lists, the forest, `status`.

use super::Front;
use crate::control::api::error::Result;
use crate::control::api::status::{CacheStatus, DaemonStatus, LogStatus, StoreStatus, VdiCounts};
use crate::control::api::{Origin, Status, Tree, VdiInfo, VdiName};

const NS_PER_MS: u64 = 1_000_000;
const NS_PER_S: u64 = 1_000_000_000;

/// What one shard adds to `status`.
#[derive(Default)]
pub(in crate::shard) struct Part {
    pub(in crate::shard) used_bytes: u64,
    pub(in crate::shard) free_bytes: u64,
    pub(in crate::shard) log: LogStatus,
    pub(in crate::shard) cache: CacheStatus,
    pub(in crate::shard) vdis: VdiCounts,
}

impl Front {
    pub(super) async fn show(&self, vdi: &VdiName) -> Result<VdiInfo> {
        let v = vdi.clone();
        let info = self.on(vdi, |w| async move { w.show(&v).await }).await?;
        Ok(self.with_origin(info))
    }
    pub(super) async fn list(&self) -> Result<Vec<VdiInfo>> {
        let lists = self.on_all(|w| async move { w.list().await }).await?;
        let mut all: Vec<VdiInfo> = lists.into_iter().flatten().map(|info| self.with_origin(info)).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }
    pub(super) async fn tree(&self) -> Result<Tree> {
        let trees = self.on_all(|w| async move { w.tree().await }).await?;
        let mut nodes: Vec<_> = trees.into_iter().flat_map(|t| t.nodes).collect();
        nodes.iter_mut().for_each(|n| self.name_origin(n.origin.as_mut()));
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Tree { nodes })
    }
    pub(super) fn with_origin(&self, mut info: VdiInfo) -> VdiInfo {
        self.name_origin(info.origin.as_mut());
        info
    }
    /// Say what the VDI is called that something was cloned from: only the home shard knows all names.
    fn name_origin(&self, origin: Option<&mut Origin>) {
        let Some(origin) = origin else { return };
        let all = self.home.engine.store().known_vdis();
        origin.vdi = all.into_iter().find(|e| e.id.to_string() == origin.id).map(|e| e.name);
    }
    pub(super) async fn status(&self) -> Result<Status> {
        let mut parts = self.on_all(|w| async move { Ok(w.part_of_status().await?) }).await?;
        let home = parts.remove(0);
        let (reclaimable, engine) = (self.home.engine.reclaimable(), self.home.engine.status());
        let all = || std::iter::once(&home).chain(&parts);
        let sum = |of: fn(&Part) -> u64| all().map(of).sum::<u64>();
        Ok(Status {
            daemon: DaemonStatus {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                pid: std::process::id(),
                uptime_s: (self.home.clock.now_ns() - self.home.started_ns) / NS_PER_S,
                shards: self.shards.into(),
            },
            store: StoreStatus {
                url: self.home.options.store_url.clone(),
                uuid: engine.store.to_string(),
                size_bytes: engine.space.total_bytes,
                used_bytes: sum(|p| p.used_bytes),
                free_bytes: sum(|p| p.free_bytes),
                log_bytes: self.home.engine.store().log_bytes(),
                reclaimable_bytes: reclaimable.map(|r| r.bytes),
                reclaimable_unix_ms: reclaimable.map(|r| r.wall_ns / NS_PER_MS),
                io_mode: engine.store_device.1,
            },
            cache: CacheStatus {
                used_bytes: sum(|p| p.cache.used_bytes),
                size_bytes: sum(|p| p.cache.size_bytes),
                hits: sum(|p| p.cache.hits),
                misses: sum(|p| p.cache.misses),
            },
            vdis: VdiCounts {
                total: sum(|p| p.vdis.total),
                snapshots: sum(|p| p.vdis.snapshots),
                attached: sum(|p| p.vdis.attached),
                connected: sum(|p| p.vdis.connected),
                held: sum(|p| p.vdis.held),
            },
            log: home.log,
            other_logs: parts.into_iter().map(|p| p.log).collect(),
        })
    }
}
