//! What is measured: a daemon that serves one disk on a vhost-user socket.

pub mod null;
pub mod parallax;
pub mod storage_daemon;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::disk::Disk;
use crate::load::{Load, Order, Report};
use crate::place::root;
use crate::process::Daemon;

/// What the blocks held before a load writes or reads them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fill {
    /// Nothing: the disk is new.
    FirstWrite,
    /// Data of the disk's own, written in order just before.
    InOrder,
    /// Data of the disk's own, each block overwritten at random since it was written in order.
    Scattered,
    /// Data of the disk's own, whatever was done to it.
    Overwrite,
    /// Data of the disk's own, and a snapshot was taken since.
    Snapshot,
    /// Data of the disk that this one was cloned from.
    Clone,
}

impl Fill {
    /// For rows.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Fill::FirstWrite => "first-write",
            Fill::InOrder => "in-order",
            Fill::Scattered => "scattered",
            Fill::Overwrite => "overwrite",
            Fill::Snapshot => "snapshot",
            Fill::Clone => "clone",
        }
    }
}

/// A running daemon with a disk.
pub trait Target {
    /// For rows: `parallax`, `qsd-raw`, `qsd-qcow2` and so on.
    fn name(&self) -> &str;
    /// Size of its log, for rows.
    fn log(&self) -> String {
        "-".into()
    }
    /// Where the disk is served.
    fn socket(&self) -> &Path;
    /// The process.
    fn daemon(&self) -> &Daemon;
    /// Serve a disk that is filled so; false when the target has no such thing. No front end is connected.
    ///
    /// # Errors
    /// Whatever the daemon answers.
    fn prepare(&mut self, fill: Fill) -> io::Result<bool>;
}

/// A report with the daemon's CPU time per I/O.
#[derive(Clone, Debug)]
pub struct Measured {
    /// What the client saw.
    pub report: Report,
    /// CPU time of the daemon per read or write, microseconds.
    pub cpu_us_per_io: f64,
}

/// Write a disk of `size_bytes` as `fill` says, which is of the disk's own data; `full` if it was written before.
fn write_own(target: &dyn Target, size_bytes: u64, fill: Fill, full: bool) -> io::Result<()> {
    if !full || fill == Fill::InOrder {
        measure(target, &Load::fill(size_bytes))?;
    }
    if fill == Fill::Scattered {
        let all = Load::random(0, 32, size_bytes, Duration::from_secs(600));
        measure(target, &Load { order: Order::Once, ..all })?;
    }
    Ok(())
}

/// The numbers of a round.
#[derive(Clone, Copy, Debug)]
pub struct Numbers {
    /// Reads and writes per second.
    pub iops: f64,
    /// 10^6 bytes per second.
    pub mbps: f64,
    /// Latency that half of all were faster than, microseconds.
    pub p50_us: f64,
    /// That 99 % were faster than.
    pub p99_us: f64,
    /// That 99.9 % were faster than.
    pub p999_us: f64,
    /// CPU time per read or write, microseconds.
    pub cpu_us_per_io: f64,
}

impl From<&Measured> for Numbers {
    fn from(m: &Measured) -> Numbers {
        let quantile_us = |q: f64| m.report.latency.quantile_ns(q) as f64 / 1e3;
        Numbers {
            iops: m.report.iops(),
            mbps: m.report.mbps(),
            p50_us: quantile_us(0.5),
            p99_us: quantile_us(0.99),
            p999_us: quantile_us(0.999),
            cpu_us_per_io: m.cpu_us_per_io,
        }
    }
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

/// One of our programs, from the folder `bins`, else from `PARALLAX_BIN_DIR`, else as `make bench` builds it.
fn binary(bins: Option<&Path>, name: &str) -> io::Result<PathBuf> {
    let chosen = bins.map(Path::to_owned).or_else(|| std::env::var_os("PARALLAX_BIN_DIR").map(PathBuf::from));
    let path = chosen.unwrap_or_else(|| root().join("target/release")).join(name);
    if path.exists() {
        return Ok(path);
    }
    Err(io::Error::other(format!("{} is not there: run it through `make bench`", path.display())))
}
