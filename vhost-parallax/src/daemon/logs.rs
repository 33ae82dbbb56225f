//! Where the logs are: in files of this host, side by side, or in extents of the store.

use std::collections::BTreeMap;
use std::ops::Range;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use vdi_core::device::DeviceHandle;
use vdi_core::device::create::create_sparse;
use vdi_core::format::host::HostLog;
use vdi_core::format::log_head::{SLOT_BYTES, SLOTS, identify, slot_offset_bytes};
use vdi_core::store::Store;
use vdi_core::units::Uuid;

use super::{failed, staged};
use crate::config::{Config, LogPlace};
use crate::control::api::error::{Code, ErrorBody, Result};
use crate::control::api::log_path::{default_log_path, shard_log_path};
use crate::control::api::run_dir::RunDir;
use crate::control::api::size::human;
use crate::shard::devices::{Devices, open_locked};

/// Where the logs are and what they must be.
#[derive(Clone)]
pub(super) struct Logs {
    place: LogPlace,
    log_bytes: u64,
    shards: u16,
    discard: bool,
    store_url: String,
    store: Uuid,
    /// Those that the store names, by shard.
    named: BTreeMap<u16, HostLog>,
    /// The log extents of the store, by shard.
    inside: BTreeMap<u16, Vec<Range<u64>>>,
}

impl Logs {
    /// # Errors
    /// Those of the store; `bad_request` where there can be no log.
    pub(super) fn find(config: &Config, devices: &Devices, store: &DeviceHandle) -> Result<Logs> {
        let device = store.clone();
        let (store, named, inside) = devices.run(async move {
            let open = Store::open(device).await?;
            vdi_core::Result::Ok((open.uuid(), open.logs().await?, open.logs_inside()))
        })?;
        let mut logs = Logs {
            place: LogPlace::Store,
            log_bytes: config.log_bytes,
            shards: config.shards,
            discard: config.discard_log,
            store_url: config.store.clone(),
            store,
            named,
            inside,
        };
        logs.place = match &config.log {
            Some(place) => place.clone(),
            None if logs.named.keys().any(|shard| logs.is_inside(*shard)) => LogPlace::Store,
            None => {
                let is_root = rustix::process::geteuid().is_root();
                let env = |key: &str| std::env::var_os(key);
                LogPlace::File(default_log_path(&store.to_string(), env, is_root)?)
            }
        };
        logs.check_place(config.shards)?;
        Ok(logs)
    }
    /// What to call the log of `shard`: what one types after --log, where that is possible.
    pub(super) fn shown(&self, shard: u16) -> String {
        self.file(shard).map_or_else(|| "store".to_owned(), |path| path.display().to_string())
    }
    /// The file or device of the log of `shard`; None when it is in the store, or is to be. A log does not move: `--log` is for new
    /// ones, and for those that are in files.
    pub(super) fn file(&self, shard: u16) -> Option<PathBuf> {
        match &self.place {
            LogPlace::File(first) if !self.is_inside(shard) => Some(shard_log_path(first, shard)),
            _ => None,
        }
    }
    /// Where the staging memory of `shard` is. Of this store: another one served from the same run directory meanwhile
    /// must not lose what this one staged.
    pub(super) fn staging_path(&self, run_dir: &RunDir, shard: u16) -> PathBuf {
        run_dir.staging_dir().join(format!("{}.{shard}", self.store))
    }
    /// Refuse to start a log when another one cannot be: it needs what was staged, and that is not there.
    pub(super) fn check_staged(
        &self,
        run_dir: &RunDir,
        devices: &Devices,
        store: &DeviceHandle,
    ) -> Result<()> {
        for (shard, log) in self.named.iter().filter(|_| !self.discard) {
            let head = match (self.file(*shard), self.device_inside(store, *shard)) {
                (Some(path), _) => staged::head_of_file(&path, log.uuid),
                (None, Some(device)) => {
                    let uuid = log.uuid;
                    devices.run(async move { staged::head_of_device(&device, uuid).await })
                }
                (None, None) => None,
            };
            staged::check(&self.shown(*shard), log.uuid, head, &self.staging_path(run_dir, *shard))?;
        }
        Ok(())
    }
    /// Several shards have several logs, side by side; and none is elsewhere than somebody says.
    fn check_place(&self, shards: u16) -> Result<()> {
        let LogPlace::File(first) = &self.place else { return Ok(()) };
        if !self.named.is_empty() && self.named.keys().all(|shard| self.is_inside(*shard)) {
            return Err(ErrorBody::bad_request(
                format!("the log of store {} is in the store, not at {}", self.store_url, first.display()),
                "leave --log out, or give --log store",
            ));
        }
        let device = first.metadata().is_ok_and(|m| m.file_type().is_block_device());
        if device && shards > 1 {
            return Err(ErrorBody::bad_request(
                format!("{shards} shards need a log each; {} is one block device", first.display()),
                "give --log a file: the logs of the other shards are made beside it",
            ));
        }
        Ok(())
    }
    /// Whether the log that the store names for `shard` is the one in its log extents: their length says so even when its
    /// head is damaged.
    fn is_inside(&self, shard: u16) -> bool {
        let len = |stretches: &Vec<Range<u64>>| stretches.iter().map(|s| s.end - s.start).sum::<u64>();
        let named = self.named.get(&shard).map(|log| log.bytes);
        named.is_some() && self.inside.get(&shard).map(len) == named
    }
    fn device_inside(&self, store: &DeviceHandle, shard: u16) -> Option<DeviceHandle> {
        let stretches = self.inside.get(&shard)?.clone();
        let name = format!("log of shard {shard} in {}", store.info().name);
        Some(store.joined(name, stretches))
    }
    /// Shards with log extents that no log is in or comes to: what an interrupted start leased, or a log that was given up.
    pub(super) fn left_over(&self, shards: u16) -> Vec<u16> {
        let used = |shard: u16| self.is_inside(shard) || self.place == LogPlace::Store && shard < shards;
        self.inside.keys().copied().filter(|shard| !used(*shard)).collect()
    }
    /// See that there is room in the store for the log of `shard`, if that is where it belongs; `open` gives the store.
    pub(super) fn lease<F: Future<Output = vdi_core::Result<Store>> + 'static>(
        &mut self,
        devices: &Devices,
        shard: u16,
        open: impl FnOnce() -> F,
    ) -> Result<()> {
        let is_made = self.named.contains_key(&shard) && (!self.discard || self.is_inside(shard));
        if self.place != LogPlace::Store || is_made {
            return Ok(());
        }
        let (opening, bytes, shards) = (open(), self.log_bytes, u64::from(self.shards));
        let elsewhere: u64 = self.named.iter().filter(|(n, _)| **n != shard).map(|(_, log)| log.bytes).sum();
        tracing::info!("making the log of shard {shard} in the store ({})", human(bytes));
        self.inside = devices.run(async move {
            let store = opening.await?;
            // Some of each kind for every shard, and what other logs may have promised to writes.
            let kept = 2 * shards + elsewhere.div_ceil(store.geometry().extent_bytes());
            store.lease_log(shard, bytes, kept).await?;
            vdi_core::Result::Ok(store.logs_inside())
        })?;
        Ok(())
    }
    /// Open the log of `shard`; make it if the store never named one.
    pub(super) fn open(
        &self,
        devices: &mut Devices,
        store: &DeviceHandle,
        shard: u16,
    ) -> Result<DeviceHandle> {
        let named = self.named.get(&shard).copied();
        let Some(path) = self.file(shard) else {
            let there = self.discard || named.is_none() || self.is_inside(shard);
            return match self.device_inside(store, shard).filter(|_| there) {
                Some(device) => Ok(device),
                None => Err(self.missing(named, "in its log extents", "give its place with --log PATH")),
            };
        };
        self.make(&path, named)?;
        let shown = path.display().to_string();
        let log = devices.adopt(open_locked(&shown)?)?;
        if named.is_none() && !self.discard {
            let (log, store) = (log.clone(), self.store);
            devices.run(async move { check_unused(&log, &shown, store).await })?;
        }
        Ok(log)
    }
    /// Make the log file if the store never had this log; refuse when its log is not there.
    fn make(&self, path: &Path, named: Option<HostLog>) -> Result<()> {
        if path.symlink_metadata().is_ok() {
            return Ok(());
        }
        let shown = path.display();
        if named.is_some() && !self.discard {
            return Err(self.missing(named, &format!("at {shown}"), "give its place with --log"));
        }
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(|e| failed(format!("make {}", dir.display()), &e))?;
        }
        tracing::info!("making the log {shown} ({})", human(self.log_bytes));
        // The engine writes it once in full before it is the store's log.
        create_sparse(path, self.log_bytes).map_err(Into::into)
    }
    fn missing(&self, named: Option<HostLog>, where_: &str, hint: &str) -> ErrorBody {
        let uuid = named.map(|log| format!(" {}", log.uuid)).unwrap_or_default();
        ErrorBody::new(
            Code::LogMissing,
            format!("the log{uuid} of store {} is not {where_}", self.store_url),
            format!(
                "{hint}; --discard-log gives up what only that log holds, and the VDIs go back to their last checkpoint"
            ),
        )
    }
}

/// A store without a log gets this one, which must not be somebody else's.
async fn check_unused(device: &DeviceHandle, shown: &str, store: Uuid) -> Result<()> {
    for slot in 0..SLOTS {
        let bytes = device.read(slot_offset_bytes(slot), SLOT_BYTES).await?;
        let ours = identify(&bytes, slot).is_some_and(|(_, of)| of == store);
        if !ours && bytes.iter().any(|b| *b != 0) {
            return Err(ErrorBody::new(
                Code::WrongStore,
                format!("{shown} is not empty and not a log of this store"),
                "give another place with --log; --discard-log overwrites what is there",
            ));
        }
    }
    Ok(())
}
