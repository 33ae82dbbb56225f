//! What the engine tells about itself.

use super::{Engine, Recovery, no_vdi};
use crate::error::{Error, Result};
use crate::format::registry::RegistryEntry;
use crate::store::SpaceReport;
use crate::units::{BLOCK_BYTES, Epoch, Uuid, VdiId};
use crate::vdi::Vdi;

/// A VDI as a list shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VdiInfo {
    /// Its identity.
    pub id: VdiId,
    /// Its name.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
    /// Bytes of data that it and its snapshots hold: see [`VdiRecord::data_blocks`](crate::format::vdi_record::VdiRecord).
    pub mapped_bytes: u64,
    /// Current epoch.
    pub epoch: Epoch,
    /// How many snapshots it has.
    pub snapshots: usize,
    /// The VDI and snapshot it was cloned from.
    pub parent: Option<(VdiId, Epoch)>,
    /// When it was created, wall clock ns.
    pub created_ns: u64,
    /// Why it takes no writes, if so.
    pub held: Option<String>,
}

impl VdiInfo {
    pub(super) fn of(entry: &RegistryEntry, vdi: &Vdi) -> VdiInfo {
        let record = vdi.record();
        VdiInfo {
            id: entry.id,
            name: entry.name.clone(),
            size_bytes: vdi.size_bytes(),
            mapped_bytes: record.data_blocks.saturating_mul(BLOCK_BYTES),
            epoch: vdi.epoch(),
            snapshots: vdi.snapshots().len(),
            parent: record.parent,
            created_ns: entry.created_ns,
            held: vdi.held_reason(),
        }
    }
    pub(super) fn unreadable(entry: &RegistryEntry, why: &Error) -> VdiInfo {
        VdiInfo {
            id: entry.id,
            name: entry.name.clone(),
            size_bytes: 0,
            mapped_bytes: 0,
            epoch: Epoch(0),
            snapshots: 0,
            parent: None,
            created_ns: entry.created_ns,
            held: Some(format!("{}; {}", why.message(), why.hint())),
        }
    }
}

/// Checkpoints since start.
#[derive(Clone, Copy, Debug, Default)]
pub struct CheckpointStats {
    /// Rounds that ended well.
    pub rounds: u64,
    /// Rounds that failed.
    pub failures: u64,
    /// Blocks freed by them.
    pub freed_blocks: u64,
    /// Duration of the last one, ns.
    pub last_ns: u64,
    /// Longest so far, ns.
    pub longest_ns: u64,
}

/// The state of the engine.
#[derive(Clone, Debug)]
pub struct Status {
    /// Identity of the store.
    pub store: Uuid,
    /// Device or path of the store, and how I/O is done.
    pub store_device: (String, String),
    /// Identity of the log.
    pub log: Uuid,
    /// Device or path of the log, and how I/O is done.
    pub log_device: (String, String),
    /// Bytes of an extent.
    pub extent_bytes: u64,
    /// Room in the store.
    pub space: SpaceReport,
    /// What the log is doing.
    pub log_stats: crate::log::Stats,
    /// Lookups of tree nodes answered from memory, and not.
    pub cache_hits: u64,
    /// See `cache_hits`.
    pub cache_misses: u64,
    /// Why writes are not acknowledged before they are in the log; None where they are, being staged.
    pub not_staged: Option<String>,
    /// Log data in memory, bytes.
    pub staging_bytes: u64,
    /// Checkpoints.
    pub checkpoints: CheckpointStats,
    /// VDIs in the registry.
    pub vdis: usize,
    /// VDIs that take no writes, with the reason.
    pub held: Vec<(String, String)>,
    /// Damage found at open and worked around.
    pub warnings: Vec<String>,
    /// What the last recovery did.
    pub recovery: Recovery,
}

impl Engine {
    /// Every VDI, by name.
    pub async fn list(&self) -> Result<Vec<VdiInfo>> {
        let mut out = Vec::new();
        for entry in self.store().vdis() {
            out.push(match self.open_entry(&entry).await {
                Ok(vdi) => VdiInfo::of(&entry, &vdi),
                Err(e) => VdiInfo::unreadable(&entry, &e),
            });
        }
        Ok(out)
    }
    /// One VDI.
    pub async fn show(&self, name: &str) -> Result<VdiInfo> {
        let entry = self.store().find_vdi(name).ok_or_else(|| no_vdi(name))?;
        let vdi = self.open_entry(&entry).await?;
        Ok(VdiInfo::of(&entry, &vdi))
    }
    /// VDIs that take no writes, and why.
    pub(super) fn held(&self) -> Vec<(String, String)> {
        let (vdis, stranded) = (self.0.vdis.borrow(), self.0.stranded.borrow());
        let held = vdis.values().filter_map(|v| Some((v.name(), v.held_reason()?)));
        // One that shows an older record is open all the same.
        let stranded = stranded.iter().filter(|(id, _)| !vdis.contains_key(id));
        held.chain(stranded.map(|(_, s)| (s.name.clone(), s.error().message().to_owned()))).collect()
    }
    /// The state of the engine.
    #[must_use]
    pub fn status(&self) -> Status {
        let shared = &self.0.shared;
        let named = |d: &crate::device::DeviceHandle| (d.info().name.clone(), d.info().mode.clone());
        Status {
            store: shared.store.uuid(),
            store_device: named(shared.store.device()),
            log: shared.log.uuid(),
            log_device: named(shared.log.device()),
            extent_bytes: shared.store.geometry().extent_bytes(),
            space: shared.store.space(),
            log_stats: shared.log.stats(),
            cache_hits: shared.cache.hits(),
            cache_misses: shared.cache.misses(),
            not_staged: self.0.env.staging.outlives.clone().err(),
            staging_bytes: shared.staging.bytes() as u64,
            checkpoints: self.0.stats.get(),
            vdis: shared.store.vdis().len(),
            held: self.held(),
            warnings: shared.store.warnings(),
            recovery: self.0.recovery.get(),
        }
    }
}
