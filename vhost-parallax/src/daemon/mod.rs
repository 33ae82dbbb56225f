//! The daemon from start to end: run directory, lock, store, logs, recovery, shards, control socket, signals.
//!
//! Order, and why: the run directory's lock first, so that no other daemon's sockets are touched; the
//! store's and the logs' locks before any is read; attachments served again before the control socket
//! listens, so that whoever can ask finds them there.

mod logs;
mod open;
mod others;
mod staged;

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::rc::Rc;

use vdi_core::clock::{Clock, SystemClock};
use vdi_core::executor::Executor;

use crate::config::Config;
use crate::control::api::error::{Code, ErrorBody, Result};
use crate::control::api::run_dir::RunDir;
use crate::control::server::access::Access;
use crate::control::server::{Prepared, ServerConfig};
use crate::shard::{Stop, attached_file, home_shard, places};

/// Run the daemon until SIGTERM or SIGINT.
///
/// # Errors
/// Whatever keeps it from starting.
pub fn run(config: &Config) -> Result<()> {
    raise_descriptor_limit();
    let _lock = prepare_run_dir(&config.run_dir, config.socket_group)?;
    // What is wrong with it must come to light before a log is started: from then on that needs this run directory.
    let server = Prepared::new(ServerConfig {
        socket: config.run_dir.control_socket()?,
        access: Access::of_process(config.control_group.clone()),
        deadlines: Default::default(),
    })?;
    let attached = attached_file::load(&config.run_dir.attached_json())?;
    let mut places = places(config.shards)?.into_iter();
    let place = places.next().expect("there is a home shard");
    let executor = Executor::new();
    let clock: Rc<dyn Clock> = Rc::new(SystemClock);
    let mut opened = open::open_home(config, &place, &executor, &clock)?;
    let (options, home_wake) = (opened.options.clone(), place.waker());
    let (mut shard, ends) = home_shard(place, opened.engine.clone(), executor, clock, options)?;
    let others = others::start(&mut opened, places, &home_wake)?;
    let others = others.wait_until_open(&mut shard)?;
    let engine = opened.engine.clone();
    shard.run_one(async move { engine.settle().await })?;
    stop_on_signals(ends.stop)?;
    shard.restore(attached.into_iter().chain(config.attach.iter().cloned()).collect());
    let server = server.serve(ends.commands)?;
    tracing::info!(store = config.store, run_dir = %config.run_dir.path().display(), "ready");
    let home_left = shard.run();
    server.stop();
    if others.join() && home_left {
        tracing::info!("stopped");
        return Ok(());
    }
    Err(ErrorBody::new(
        Code::Io,
        format!("acknowledged writes are in {} only", config.run_dir.path().display()),
        "keep it, see to the log's device, and start the daemon again with the same --run-dir; a reboot loses them",
    ))
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
