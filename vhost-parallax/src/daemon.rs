//! The daemon from start to end: run directory, lock, store, log, recovery, shard, control socket, signals.
//!
//! Order, and why: the run directory's lock first, so that no other daemon's sockets are touched; the
//! store's and the log's locks before either is read; attachments served again before the control socket
//! listens, so that whoever can ask finds them there.

use std::cell::RefCell;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use vdi_core::clock::{Clock, SystemClock};
use vdi_core::device::DeviceHandle;
use vdi_core::device::create::create_sparse;
use vdi_core::engine::{Engine, EngineOptions, Env};
use vdi_core::executor::Executor;
use vdi_core::format::log_head::{SLOT_BYTES, SLOTS, identify, slot_offset_bytes};
use vdi_core::store::Store;
use vdi_core::units::Uuid;

use crate::config::Config;
use crate::control::api::error::{Code, ErrorBody, Result};
use crate::control::api::log_path::default_log_path;
use crate::control::api::run_dir::RunDir;
use crate::control::api::size::human;
use crate::control::server::access::Access;
use crate::control::server::{Server, ServerConfig};
use crate::shard::devices::Devices;
use crate::shard::{Shard, ShardOptions, Stop, attached_file, shard};
use crate::vhost::SocketAccess;

/// Run the daemon until SIGTERM or SIGINT.
///
/// # Errors
/// Whatever keeps it from starting.
pub fn run(config: &Config) -> Result<()> {
    raise_descriptor_limit();
    let _lock = prepare_run_dir(&config.run_dir, config.socket_group)?;
    let attached = attached_file::load(&config.run_dir.attached_json())?;
    let executor = Executor::new();
    let clock: Rc<dyn Clock> = Rc::new(SystemClock);
    let (engine, log_path) = open_engine(config, &executor, &clock)?;
    let options = ShardOptions {
        run_dir: config.run_dir.clone(),
        access: SocketAccess { group: config.socket_group },
        reorder_seed: config.reorder_seed,
        store_url: config.store.clone(),
        log_path,
        cache_bytes: EngineOptions::default().cache_bytes as u64,
    };
    let (mut shard, ends) = shard(engine, executor, clock, options)?;
    stop_on_signals(ends.stop)?;
    shard.restore(attached.into_iter().chain(config.attach.iter().cloned()).collect());
    let server = Server::start(
        ServerConfig {
            socket: config.run_dir.control_socket()?,
            access: Access::of_process(config.control_group.clone()),
            deadlines: Default::default(),
        },
        ends.commands,
    )?;
    tracing::info!(store = config.store, run_dir = %config.run_dir.path().display(), "ready");
    Shard::run(shard);
    server.stop();
    tracing::info!("stopped");
    Ok(())
}

fn failed(what: String, e: &std::io::Error) -> ErrorBody {
    let error = vdi_core::Error::io(what, e.raw_os_error().unwrap_or(libc::EIO));
    error.into()
}

/// Make the run directory, take its lock, clear stale sockets away. The lock lasts as long as the file.
fn prepare_run_dir(run_dir: &RunDir, group: Option<u32>) -> Result<File> {
    let dir = run_dir.vdi_dir();
    std::fs::create_dir_all(&dir).map_err(|e| failed(format!("make {}", dir.display()), &e))?;
    let lock = lock(&run_dir.lock())?;
    let shown = dir.display();
    if group.is_some() {
        std::os::unix::fs::chown(&dir, None, group)
            .map_err(|e| failed(format!("give {shown} to its group"), &e))?;
    }
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o750))
        .map_err(|e| failed(format!("set the mode of {shown}"), &e))?;
    let entries = std::fs::read_dir(&dir).map_err(|e| failed(format!("list {shown}"), &e))?;
    for entry in entries.flatten() {
        if entry.path().extension().is_some_and(|e| e == "sock") {
            let _stale = std::fs::remove_file(entry.path());
        }
    }
    Ok(lock)
}

fn lock(path: &Path) -> Result<File> {
    let shown = path.display();
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|e| failed(format!("open {shown}"), &e))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            let _unknown = file.read_to_string(&mut holder);
            return Err(ErrorBody::new(
                Code::Busy,
                format!("another daemon (process {}) uses the run directory of {shown}", holder.trim()),
                "stop that daemon, or give this one a directory of its own with --run-dir",
            ));
        }
        Err(e) => return Err(failed(format!("lock {shown}"), &e.into())),
    }
    let written = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    written.map_err(|e| failed(format!("write {shown}"), &e))?;
    Ok(file)
}

/// Open store and log and recover what the log holds; also says where the log is.
fn open_engine(config: &Config, executor: &Executor, clock: &Rc<dyn Clock>) -> Result<(Engine, String)> {
    let mut devices = Devices::new(executor.clone(), Rc::clone(clock))?;
    let store = devices.open(&config.store)?;
    let (uuid, named) = {
        let store = store.clone();
        devices.run(async move {
            let open = Store::open(store).await?;
            vdi_core::Result::Ok((open.uuid(), open.logs().first().map(|l| l.uuid)))
        })?
    };
    let path = match &config.log {
        Some(path) => PathBuf::from(path),
        None => {
            let is_root = rustix::process::geteuid().is_root();
            default_log_path(&uuid.to_string(), |key| std::env::var_os(key), is_root)?
        }
    };
    make_log(config, &path, named)?;
    let shown = path.display().to_string();
    let log = devices.open(&shown)?;
    if named.is_none() && !config.discard_log {
        let (log, shown) = (log.clone(), shown.clone());
        devices.run(async move { check_unused(&log, &shown, uuid).await })?;
    }
    let env = Env { executor: executor.clone(), clock: Rc::clone(clock), entropy: entropy()? };
    let options = EngineOptions {
        discard_log: config.discard_log,
        late_checkpoints: config.late_checkpoints,
        ..EngineOptions::default()
    };
    let engine = devices.run(async move { Engine::open(env, store, log, options).await })?;
    let status = engine.status();
    for warning in &status.warnings {
        tracing::warn!("{warning}");
    }
    let r = status.recovery;
    tracing::info!(
        segments = r.segments,
        records = r.records,
        findings = r.findings,
        ms = r.ns / 1_000_000,
        "recovered from the log"
    );
    Ok((engine, shown))
}

/// Make the log file if the store never had a log; refuse when its log is not there.
fn make_log(config: &Config, path: &Path, named: Option<Uuid>) -> Result<()> {
    if path.symlink_metadata().is_ok() {
        return Ok(());
    }
    let shown = path.display();
    if let Some(uuid) = named.filter(|_| !config.discard_log) {
        return Err(ErrorBody::new(
            Code::LogMissing,
            format!("the log {uuid} of store {} is not at {shown}", config.store),
            "give its place with --log; --discard-log gives up what only that log holds, and the VDIs go \
             back to their last checkpoint",
        ));
    }
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(|e| failed(format!("make {}", dir.display()), &e))?;
    }
    tracing::info!("making the log {shown} ({})", human(config.log_bytes));
    // The engine writes it once in full before it is the store's log.
    create_sparse(path, config.log_bytes).map_err(Into::into)
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

/// Each disk takes a socket and two descriptors per queue.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(e) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(error = %e, "the limit of open files stays as it is");
    }
}

/// SIGTERM and SIGINT end the daemon in good order.
fn stop_on_signals(stop: Stop) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| failed("start a thread for signals".to_owned(), &e))?;
    // Registered before this returns: a signal from now on ends the daemon in good order.
    let (mut term, mut int) = {
        let _inside = runtime.enter();
        let register = |kind| signal(kind).map_err(|e| failed("listen for signals".to_owned(), &e));
        (register(SignalKind::terminate())?, register(SignalKind::interrupt())?)
    };
    let wait = move || {
        runtime.block_on(async {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
        });
        stop.ask();
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(wait)
        .map(drop)
        .map_err(|e| failed("start a thread for signals".to_owned(), &e))
}
