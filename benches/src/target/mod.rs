//! What is measured: a daemon that serves one disk on a vhost-user socket.

pub mod null;
pub mod parallax;
pub mod storage_daemon;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::block_device::BlockDevice;
use crate::disk::Disk;
use crate::load::{Load, Order, Report};
use crate::numbers::Numbers;
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
    /// The same, and then nobody asked for anything until the daemon had nothing left to do.
    Tidied,
    /// Data of the disk's own, whatever was done to it.
    Overwrite,
    /// Whatever it was left with.
    AsIs,
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
            Fill::Tidied => "tidied",
            Fill::Overwrite | Fill::AsIs => "overwrite",
            Fill::Snapshot => "snapshot",
            Fill::Clone => "clone",
        }
    }
}

/// Something that has a disk to measure.
pub trait Target {
    /// For rows: `parallax`, `qsd-raw`, `qsd-qcow2` and so on.
    fn name(&self) -> &str;
    /// Size of its log, for rows.
    fn log(&self) -> String {
        "-".into()
    }
    /// The process; None for what only works while it is measured.
    fn daemon(&self) -> Option<&Daemon>;
    /// Have a disk that is filled so; false when the target has no such thing. No front end is connected.
    ///
    /// # Errors
    /// Whatever the daemon answers.
    fn prepare(&mut self, fill: Fill) -> io::Result<bool>;
    /// Do now what was put off of the work that guests asked for.
    ///
    /// # Errors
    /// Whatever the daemon answers.
    fn settle(&mut self) -> io::Result<()> {
        Ok(())
    }
    /// Do `load`; None for loads that it cannot do. `device` is the one below its files.
    ///
    /// # Errors
    /// As [`crate::load::run`].
    fn measure(&mut self, load: &Load, device: Option<&BlockDevice>) -> io::Result<Option<Numbers>>;
}

/// Do `load` on the disk at `socket`, and then what `settle` does; what both cost `daemon` is the load's.
///
/// # Errors
/// As [`crate::load::run`].
pub fn measure_at(
    socket: &Path,
    daemon: &Daemon,
    load: &Load,
    device: Option<&BlockDevice>,
    settle: impl FnOnce() -> io::Result<()>,
) -> io::Result<Numbers> {
    let mut disk = connect(socket, load)?;
    let before = (daemon.usage()?, device.map(BlockDevice::requests).transpose()?);
    let report = crate::load::run(&mut disk, load, &AtomicBool::new(false))?;
    drop(disk);
    settle()?;
    let after = (daemon.usage()?, device.map(BlockDevice::requests).transpose()?);
    Ok(Numbers::of(&report, before, after))
}

/// [`crate::load::run`] without a look at anything but the load.
///
/// # Errors
/// As [`crate::load::run`].
pub fn run_at(socket: &Path, load: &Load) -> io::Result<Report> {
    crate::load::run(&mut connect(socket, load)?, load, &AtomicBool::new(false))
}

fn connect(socket: &Path, load: &Load) -> io::Result<Disk> {
    let memory_bytes = (load.depth * load.block_bytes).next_multiple_of(1 << 20);
    Disk::connect_within(socket, load.queues, memory_bytes, Duration::from_secs(10))
}

/// Write the disk of `size_bytes` at `socket` as `fill` says, which is of the disk's own data; `full` if it was written before.
/// What was written is stable when this returns.
fn write_own(socket: &Path, size_bytes: u64, fill: Fill, full: bool) -> io::Result<()> {
    if !full || fill == Fill::InOrder {
        run_at(socket, &Load::fill(size_bytes))?;
    }
    if matches!(fill, Fill::Scattered | Fill::Tidied) {
        let all = Load::random(0, 32, size_bytes, Duration::ZERO);
        run_at(socket, &Load { order: Order::Once, ..all })?;
    }
    let mut disk = connect(socket, &Load::random(0, 1, size_bytes, Duration::ZERO))?;
    disk.queues[0].flush(0);
    disk.queues[0].wait().map(drop)
}

/// One of our programs, from the folder `bins`, else as `make bench` builds it.
fn binary(bins: Option<&Path>, name: &str) -> io::Result<PathBuf> {
    let path = bins.map_or_else(|| root().join("target/release"), Path::to_owned).join(name);
    if path.exists() {
        return Ok(path);
    }
    Err(io::Error::other(format!("{} is not there: run it through `make bench`", path.display())))
}
