//! Opening the store and the logs, and recovering what the logs hold.

use std::cell::RefCell;
use std::fs::File;
use std::io::Read;
use std::rc::Rc;

use vdi_core::clock::Clock;
use vdi_core::device::{DeviceHandle, Opened};
use vdi_core::engine::{Engine, EngineOptions, Env};
use vdi_core::executor::Executor;
use vdi_core::log::StagingMemory;
use vdi_core::store::Store;

use super::failed;
use super::logs::Logs;
use crate::config::Config;
use crate::control::api::error::Result;
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
        let log_path = self.logs.shown(shard);
        let staging = self.logs.staging_path(&self.options.run_dir, shard);
        ShardOptions { log_path, staging, ..self.options.clone() }
    }
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
    let mut logs = Logs::find(config, &devices, &store)?;
    logs.check_staged(&config.run_dir, &devices, &store)?;
    let alone = store.clone();
    logs.lease(&devices, 0, || async move { Store::open(alone).await })?;
    let log = logs.open(&mut devices, &store, 0)?;
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
        let log = logs.open(&mut devices, &store, shard)?;
        tracing::info!(shard, "taking over what this shard has: it is not served any more");
        let e = Env { staging: staging(shard, &log)?, ..env.clone() };
        let (home, s) = (engine.clone(), store.clone());
        devices.run(async move { home.take_over(shard, e, (s, log), options).await })?;
        // The head of the log says that it has left its staging memory.
        for path in std::iter::once(logs.staging_path(&config.run_dir, shard)).chain(logs.file(shard)) {
            match std::fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!(error = %e, "{} is not needed any more and could not be removed", path.display());
                }
                _ => {}
            }
        }
    }
    for shard in logs.left_over(config.shards) {
        let home = engine.clone();
        devices.run(async move { home.store().return_log(shard).await })?;
    }
    for shard in 1..config.shards {
        let home = engine.clone();
        logs.lease(&devices, shard, || async move { Ok(home.store().clone()) })?;
    }
    let shard_options = ShardOptions {
        run_dir: config.run_dir.clone(),
        access: SocketAccess { group: config.socket_group },
        reorder_seed: config.reorder_seed,
        null_disks: config.null_disks,
        store_url: config.store.clone(),
        log_path: logs.shown(0),
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
        null_store: config.null_store,
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
