//! Opening the store and the logs, and recovering what the logs hold.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use vdi_core::clock::Clock;
use vdi_core::device::create::create_sparse;
use vdi_core::device::{DeviceHandle, Opened};
use vdi_core::engine::{Engine, EngineOptions, Env};
use vdi_core::executor::Executor;
use vdi_core::format::log_head::{SLOT_BYTES, SLOTS, identify, slot_offset_bytes};
use vdi_core::log::StagingMemory;
use vdi_core::store::Store;
use vdi_core::units::Uuid;

use super::{failed, staged};
use crate::config::Config;
use crate::control::api::error::{Code, ErrorBody, Result};
use crate::control::api::log_path::{default_log_path, shard_log_path};
use crate::control::api::run_dir::RunDir;
use crate::control::api::size::human;
use crate::shard::devices::{Devices, open_for_shard, open_locked};
use crate::shard::{Place, ShardOptions, staging};
use crate::vhost::SocketAccess;

/// What the home shard has opened, and what the others open after it.
pub(super) struct OpenedHome {
    pub(super) engine: Engine,
    /// The home shard's; [`OpenedHome::options_of`] has those of the others.
    pub(super) options: ShardOptions,
    /// The store once more for each of the others, in order.
    pub(super) files: Vec<Opened>,
    pub(super) logs: Logs,
    pub(super) engine_options: EngineOptions,
}

impl OpenedHome {
    pub(super) fn options_of(&self, shard: u16) -> ShardOptions {
        let log_path = self.logs.path(shard).display().to_string();
        let staging = self.logs.staging_path(&self.options.run_dir, shard);
        ShardOptions { log_path, staging, ..self.options.clone() }
    }
}

/// Where the logs are and what they must be.
#[derive(Clone)]
pub(super) struct Logs {
    first: PathBuf,
    log_bytes: u64,
    discard: bool,
    store_url: String,
    store: Uuid,
    /// Those that the store names, by shard.
    named: BTreeMap<u16, Uuid>,
}

/// Open the store as the home shard, recover its log, and take over what shards had that are not served any more.
pub(super) fn open_home(
    config: &Config,
    place: &Place,
    executor: &Executor,
    clock: &Rc<dyn Clock>,
) -> Result<OpenedHome> {
    let file = open_locked(&config.store)?;
    let mut devices = Devices::new(executor.clone(), Rc::clone(clock))?;
    let again = (1..config.shards).map(|shard| open_for_shard(&file, shard));
    let files = again.collect::<vdi_core::Result<_>>()?;
    let store = devices.adopt(file)?;
    let logs = find_logs(config, &devices, &store)?;
    logs.check_place(config.shards)?;
    logs.check_staged(&config.run_dir)?;
    let log = logs.open(&mut devices, 0)?;
    let options = engine_options(config);
    let staging = |shard, log: &DeviceHandle| {
        let path = logs.staging_path(&config.run_dir, shard);
        staging::open(&path, log.info().len_bytes, options.staging_bytes)
    };
    let (env, peers) = (env(executor, clock, staging(0, &log)?)?, place.engines.clone());
    let (e, s) = (env.clone(), store.clone());
    let engine = devices.run(async move { Engine::open_home(e, s, log, options, peers).await })?;
    report_recovery(&engine, 0);
    let home = engine.clone();
    let all = devices.run(async move { home.store().other_shards().await })?;
    for shard in all.into_iter().filter(|s| *s >= config.shards) {
        let log = logs.open(&mut devices, shard)?;
        tracing::info!(shard, "taking over what this shard has: it is not served any more");
        let e = Env { staging: staging(shard, &log)?, ..env.clone() };
        let (home, s) = (engine.clone(), store.clone());
        devices.run(async move { home.take_over(shard, e, (s, log), options).await })?;
        // The head of the log says that it has left its staging memory.
        for path in [logs.staging_path(&config.run_dir, shard), logs.path(shard)] {
            match std::fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!(error = %e, "{} is not needed any more and could not be removed", path.display());
                }
                _ => {}
            }
        }
    }
    let shard_options = ShardOptions {
        run_dir: config.run_dir.clone(),
        access: SocketAccess { group: config.socket_group },
        reorder_seed: config.reorder_seed,
        null_disks: config.null_disks,
        store_url: config.store.clone(),
        log_path: logs.path(0).display().to_string(),
        staging: logs.staging_path(&config.run_dir, 0),
        cache_bytes: options.cache_bytes as u64,
    };
    Ok(OpenedHome { engine, options: shard_options, files, logs, engine_options: options })
}

/// Memory is shared out among the shards.
fn engine_options(config: &Config) -> EngineOptions {
    let all = EngineOptions::default();
    let shards = usize::from(config.shards);
    EngineOptions {
        discard_log: config.discard_log,
        late_checkpoints: config.late_checkpoints,
        cache_bytes: all.cache_bytes / shards,
        staging_bytes: all.staging_bytes / shards,
        ..all
    }
}

pub(super) fn env(executor: &Executor, clock: &Rc<dyn Clock>, staging: StagingMemory) -> Result<Env> {
    Ok(Env { executor: executor.clone(), clock: Rc::clone(clock), entropy: entropy()?, staging })
}

pub(super) fn report_recovery(engine: &Engine, shard: u16) {
    let status = engine.status();
    for warning in &status.warnings {
        tracing::warn!("{warning}");
    }
    let r = status.recovery;
    tracing::info!(
        shard,
        segments = r.segments,
        records = r.records,
        findings = r.findings,
        ms = r.ns / 1_000_000,
        "recovered from the log"
    );
}

fn find_logs(config: &Config, devices: &Devices, store: &DeviceHandle) -> Result<Logs> {
    let store = store.clone();
    let (uuid, named) = devices.run(async move {
        let open = Store::open(store).await?;
        vdi_core::Result::Ok((open.uuid(), open.logs().await?))
    })?;
    let first = match &config.log {
        Some(path) => PathBuf::from(path),
        None => {
            let is_root = rustix::process::geteuid().is_root();
            default_log_path(&uuid.to_string(), |key| std::env::var_os(key), is_root)?
        }
    };
    Ok(Logs {
        first,
        log_bytes: config.log_bytes,
        discard: config.discard_log,
        store_url: config.store.clone(),
        store: uuid,
        named: named.into_iter().map(|(shard, log)| (shard, log.uuid)).collect(),
    })
}

impl Logs {
    /// Where the log of `shard` is.
    pub(super) fn path(&self, shard: u16) -> PathBuf {
        shard_log_path(&self.first, shard)
    }
    /// Where the staging memory of `shard` is. Of this store: another one served from the same run directory meanwhile
    /// must not lose what this one staged.
    fn staging_path(&self, run_dir: &RunDir, shard: u16) -> PathBuf {
        run_dir.staging_dir().join(format!("{}.{shard}", self.store))
    }
    fn check_staged(&self, run_dir: &RunDir) -> Result<()> {
        let named = self.named.iter().filter(|_| !self.discard);
        named.clone().try_for_each(|(shard, log)| {
            staged::check(&self.path(*shard), *log, &self.staging_path(run_dir, *shard))
        })
    }
    /// Several shards have several logs, side by side.
    fn check_place(&self, shards: u16) -> Result<()> {
        let device = self.first.metadata().is_ok_and(|m| m.file_type().is_block_device());
        if device && shards > 1 {
            return Err(ErrorBody::bad_request(
                format!("{shards} shards need a log each; {} is one block device", self.first.display()),
                "give --log a file: the logs of the other shards are made beside it",
            ));
        }
        Ok(())
    }
    /// Open the log of `shard`; make it if the store never named one.
    pub(super) fn open(&self, devices: &mut Devices, shard: u16) -> Result<DeviceHandle> {
        let path = self.path(shard);
        let named = self.named.get(&shard).copied();
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
    fn make(&self, path: &Path, named: Option<Uuid>) -> Result<()> {
        if path.symlink_metadata().is_ok() {
            return Ok(());
        }
        let shown = path.display();
        if let Some(uuid) = named.filter(|_| !self.discard) {
            return Err(ErrorBody::new(
                Code::LogMissing,
                format!("the log {uuid} of store {} is not at {shown}", self.store_url),
                "give its place with --log; --discard-log gives up what only that log holds, and the VDIs go \
                 back to their last checkpoint",
            ));
        }
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(|e| failed(format!("make {}", dir.display()), &e))?;
        }
        tracing::info!("making the log {shown} ({})", human(self.log_bytes));
        // The engine writes it once in full before it is the store's log.
        create_sparse(path, self.log_bytes).map_err(Into::into)
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

/// Random bits for identities, from the system.
fn entropy() -> Result<Rc<dyn Fn() -> u64>> {
    let source = File::open("/dev/urandom").map_err(|e| failed("open /dev/urandom".to_owned(), &e))?;
    let source = RefCell::new(source);
    Ok(Rc::new(move || {
        let mut bytes = [0; 8];
        source.borrow_mut().read_exact(&mut bytes).expect("the system's random source never ends");
        u64::from_le_bytes(bytes)
    }))
}
