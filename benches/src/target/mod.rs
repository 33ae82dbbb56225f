//! What is measured: a daemon that serves one disk on a vhost-user socket.

pub mod null;
pub mod parallax;
pub mod storage_daemon;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::disk::Disk;
use crate::load::{Load, Report};
use crate::place::root;
use crate::process::Daemon;

/// A running daemon with a disk.
pub trait Target {
    /// For rows: `parallax`, `qsd-raw`, `qsd-qcow2`.
    fn name(&self) -> &str;
    /// Size of its log, for rows.
    fn log(&self) -> String {
        "-".into()
    }
    /// Where the disk is served.
    fn socket(&self) -> &Path;
    /// The process.
    fn daemon(&self) -> &Daemon;
    /// Replace the disk by an empty one of the same size. No front end is connected.
    ///
    /// # Errors
    /// Whatever the daemon answers.
    fn empty(&mut self) -> io::Result<()>;
}

/// A report with the daemon's CPU time per I/O.
#[derive(Clone, Debug)]
pub struct Measured {
    /// What the client saw.
    pub report: Report,
    /// CPU time of the daemon per read or write, microseconds.
    pub cpu_us_per_io: f64,
}

/// Connect to `target`, run `load`, and disconnect.
///
/// # Errors
/// As [`crate::load::run`].
pub fn measure(target: &dyn Target, load: &Load) -> io::Result<Measured> {
    measure_at(target.socket(), target.daemon(), load)
        .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", target.name())))
}

/// [`measure`], for a daemon with more than one disk.
///
/// # Errors
/// As [`crate::load::run`].
pub fn measure_at(socket: &Path, daemon: &Daemon, load: &Load) -> io::Result<Measured> {
    let memory_bytes = (load.depth * load.block_bytes).next_multiple_of(1 << 20);
    let mut disk = Disk::connect_within(socket, 1, memory_bytes, Duration::from_secs(10))?;
    let before = daemon.cpu_ns();
    let report = crate::load::run(&mut disk, load, &AtomicBool::new(false))?;
    let cpu_ns = daemon.cpu_ns().saturating_sub(before);
    let cpu_us_per_io = cpu_ns as f64 / 1e3 / report.ios.max(1) as f64;
    Ok(Measured { report, cpu_us_per_io })
}

/// One of our programs, as `make bench` builds it, or from the folder `PARALLAX_BIN_DIR` (another build to compare).
fn binary(name: &str) -> io::Result<PathBuf> {
    let dir =
        std::env::var_os("PARALLAX_BIN_DIR").map_or_else(|| root().join("target/release"), PathBuf::from);
    let path = dir.join(name);
    if path.exists() {
        return Ok(path);
    }
    Err(io::Error::other(format!("{} is not there: run it through `make bench`", path.display())))
}
