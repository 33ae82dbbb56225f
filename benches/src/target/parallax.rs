//! `vhost-parallax` with a store file, a log and one attached VDI.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use qemu_harness::control::Control;
use qemu_harness::scratch::memory_dir;
use serde_json::{Value, json};

use super::{Fill, Target, binary, measure_at, write_own};
use crate::block_device::BlockDevice;
use crate::load::Load;
use crate::numbers::Numbers;
use crate::place::written_file;
use crate::process::{Daemon, run};

/// The VDI every bench uses.
pub const VDI: &str = "bench";

/// How to set a daemon up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder for store and log, a name of its own among those of the benches.
    pub dir: PathBuf,
    /// For rows.
    pub name: String,
    /// Size of the store, bytes.
    pub store_bytes: u64,
    /// The store is a sparse file: its first use is the file system's, too.
    pub sparse: bool,
    /// Size of the log as the command line takes it: `1G`.
    pub log_size: String,
    /// The log lies in the store.
    pub log_inside: bool,
    /// Size of the VDI, bytes.
    pub vdi_bytes: u64,
    /// Keep the daemon on a core of its own.
    pub pin: bool,
    /// Let the log fill up before anything is checkpointed.
    pub late_checkpoints: bool,
    /// Answer requests and do nothing else.
    pub null: bool,
    /// Neither read nor write data in the store.
    pub null_store: bool,
    /// Threads that serve disks.
    pub shards: usize,
    /// Queues of the disk.
    pub queues: usize,
    /// The folder of the programs; None for those of this build.
    pub bins: Option<PathBuf>,
}

/// A daemon that serves one VDI.
pub struct Parallax {
    options: Options,
    socket: PathBuf,
    daemon: Daemon,
    /// The disk is written in full.
    full: bool,
    /// There is a disk to clone from.
    gold: bool,
    /// The disk's snapshots, oldest first.
    snapshots: VecDeque<u64>,
    // Goes last.
    _run_dir: RunDir,
}

/// Removed when dropped.
struct RunDir(PathBuf);

impl Drop for RunDir {
    fn drop(&mut self) {
        // What stays is small, and in memory.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// How long a daemon may take to put a disk in order.
const TIDY_MAX: Duration = Duration::from_secs(600);
/// How long a daemon may take to start.
const START_MAX: Duration = Duration::from_secs(60);

/// Snapshots that [`Fill::Snapshot`] leaves, as peers have.
const SNAPSHOTS_MAX: usize = 8;

/// What clones are made of.
const GOLD: &str = "gold";
/// The clone that is measured.
const CLONE: &str = "clone";

impl Options {
    /// A daemon as users have it, with a log of 1 GiB in a file.
    #[must_use]
    pub fn new(dir: &Path, store_bytes: u64, vdi_bytes: u64) -> Options {
        Options {
            dir: dir.to_owned(),
            name: "parallax".into(),
            store_bytes,
            sparse: false,
            log_size: "1G".into(),
            log_inside: false,
            vdi_bytes,
            pin: false,
            late_checkpoints: false,
            null: false,
            null_store: false,
            shards: 1,
            queues: 1,
            bins: None,
        }
    }

    fn store(&self) -> PathBuf {
        self.dir.join("store")
    }

    /// In memory, as on a host: staging memory needs it.
    fn run_dir(&self) -> PathBuf {
        let name = self.dir.file_name().unwrap_or_default();
        memory_dir().join(format!("parallax-bench-{}-{}", std::process::id(), name.display()))
    }

    fn control(&self) -> PathBuf {
        self.run_dir().join("control.sock")
    }

    fn launch(&self) -> io::Result<Daemon> {
        let path = |p: PathBuf| p.display().to_string();
        let mut words = vec![
            path(binary(self.bins.as_deref(), "vhost-parallax")?),
            "--store".into(),
            path(self.store()),
            "--log".into(),
            if self.log_inside { "store".into() } else { path(self.dir.join("log")) },
            "--shards".into(),
            self.shards.to_string(),
            "--log-size".into(),
            self.log_size.clone(),
            "--run-dir".into(),
            path(self.run_dir()),
        ];
        if self.late_checkpoints {
            words.push("--test-late-checkpoints".into());
        }
        if self.null {
            words.push("--test-null-disks".into());
        }
        if self.null_store {
            words.push("--test-null-store".into());
        }
        Daemon::start(&words, &self.dir.join("daemon.log"), self.pin)
    }
}

impl Parallax {
    /// Format a store, start the daemon, create and attach the VDI.
    ///
    /// # Errors
    /// Whatever one of these says.
    pub fn start(options: Options) -> io::Result<Parallax> {
        fs::create_dir_all(&options.dir)?;
        fs::create_dir_all(options.run_dir())?;
        let removed_if_not_started = RunDir(options.run_dir());
        match options.sparse {
            true => fs::File::create(options.store())?.set_len(options.store_bytes)?,
            false => written_file(&options.store(), options.store_bytes)?,
        }
        let cli = binary(options.bins.as_deref(), "parallax")?.display().to_string();
        run(&[&cli, "format", &options.store().display().to_string(), "--yes"])?;
        let mut daemon = options.launch()?;
        daemon.wait_for(&options.control(), START_MAX)?;
        let socket = options.run_dir().join("vdi").join(format!("{VDI}.sock"));
        let run_dir = removed_if_not_started;
        let snapshots = VecDeque::new();
        let new =
            Parallax { options, socket, daemon, full: false, gold: false, snapshots, _run_dir: run_dir };
        new.create(VDI)?;
        Ok(new)
    }

    /// Ask something of the control socket.
    ///
    /// # Errors
    /// Whatever the daemon answers.
    pub fn ask(&self, method: &str, path: &str, body: &Value) -> io::Result<Value> {
        self.control()?.request(method, path, body).map_err(io::Error::other)
    }

    /// Create a VDI, attach it, and say where its socket is.
    ///
    /// # Errors
    /// Whatever the daemon answers.
    pub fn create(&self, name: &str) -> io::Result<PathBuf> {
        self.ask("POST", "/vdis", &json!({ "name": name, "size_bytes": self.options.vdi_bytes }))?;
        self.attach(name)
    }

    fn attach(&self, name: &str) -> io::Result<PathBuf> {
        let queues = json!({ "num_queues": self.options.queues });
        self.ask("POST", &format!("/vdis/{name}/attach"), &queues)?;
        Ok(self.options.run_dir().join("vdi").join(format!("{name}.sock")))
    }

    /// Replace the VDI by an empty one of the same size. No front end is connected.
    ///
    /// # Errors
    /// Whatever the daemon answers.
    pub fn empty(&mut self) -> io::Result<()> {
        self.remove(VDI)?;
        self.snapshots.clear();
        self.full = false;
        self.socket = self.create(VDI)?;
        Ok(())
    }

    /// Delete a VDI and get its space back.
    fn remove(&self, name: &str) -> io::Result<()> {
        self.ask("POST", &format!("/vdis/{name}/detach"), &json!({ "force": true }))?;
        self.ask("DELETE", &format!("/vdis/{name}?recursive=true"), &Value::Null)?;
        self.ask("POST", "/collect", &json!({})).map(drop)
    }

    /// A new clone of a full disk.
    fn make_clone(&mut self) -> io::Result<()> {
        if self.gold {
            self.remove(CLONE)?;
        } else {
            let gold = self.create(GOLD)?;
            write_own(&gold, self.options.vdi_bytes, Fill::InOrder, false)?;
            self.gold = true;
        }
        self.ask("POST", &format!("/vdis/{GOLD}/clone"), &json!({ "name": CLONE }))?;
        self.socket = self.attach(CLONE)?;
        Ok(())
    }

    /// Data of the disk's own.
    fn have(&mut self, fill: Fill) -> io::Result<()> {
        write_own(&self.socket, self.options.vdi_bytes, fill, self.full)?;
        self.full = true;
        if fill == Fill::Snapshot {
            let (epoch, _) = self.control()?.snapshot(VDI).map_err(io::Error::other)?;
            self.snapshots.push_back(epoch);
        }
        if fill == Fill::Tidied {
            self.settle()?;
            self.daemon.wait_idle(TIDY_MAX)?;
        }
        Ok(())
    }

    /// Remove the oldest snapshots so that `max` stay.
    fn keep_snapshots(&mut self, max: usize) -> io::Result<()> {
        let surplus = self.snapshots.len().saturating_sub(max);
        for epoch in self.snapshots.drain(..surplus).collect::<Vec<_>>() {
            self.ask("DELETE", &format!("/vdis/{VDI}/snapshots/{epoch}"), &Value::Null)?;
        }
        if surplus > 0 {
            self.ask("POST", "/collect", &json!({}))?;
        }
        Ok(())
    }

    /// Bytes of the store that are in use, once everything in the log is checkpointed.
    ///
    /// # Errors
    /// Whatever the daemon answers.
    pub fn used_bytes(&self) -> io::Result<u64> {
        self.ask("POST", "/checkpoint", &Value::Null)?;
        let status = self.ask("GET", "/status", &Value::Null)?;
        let used = status["store"]["used_bytes"].as_u64();
        used.ok_or_else(|| io::Error::other(format!("status has no store.used_bytes: {status}")))
    }

    /// Start the daemon again after [`Daemon::kill`]; returns at once. The VDI comes back by itself.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart(&mut self) -> io::Result<()> {
        self.daemon = self.options.launch()?;
        Ok(())
    }

    /// End the daemon and start it anew: it has nothing in memory but what its log holds.
    ///
    /// # Errors
    /// When it does not end, or not start.
    pub fn start_cold(&mut self) -> io::Result<()> {
        self.daemon.end()?;
        self.restart()?;
        self.daemon.wait_for(&self.options.control(), START_MAX)
    }

    /// SIGKILL the daemon.
    pub fn kill(&mut self) {
        self.daemon.kill();
    }

    /// Where the disk is served.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The process.
    #[must_use]
    pub fn process(&self) -> &Daemon {
        &self.daemon
    }

    /// A new connection to the control socket.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn control(&self) -> io::Result<Control> {
        Control::connect(&self.options.control()).map_err(io::Error::other)
    }
}

impl Target for Parallax {
    fn name(&self) -> &str {
        &self.options.name
    }

    fn log(&self) -> String {
        let place = if self.options.log_inside { "store:" } else { "" };
        format!("{place}{}", self.options.log_size)
    }

    fn daemon(&self) -> Option<&Daemon> {
        Some(&self.daemon)
    }

    fn prepare(&mut self, fill: Fill) -> io::Result<bool> {
        if fill == Fill::Clone {
            self.make_clone()?;
            return Ok(true);
        }
        self.socket = self.options.run_dir().join("vdi").join(format!("{VDI}.sock"));
        match fill {
            Fill::Snapshot => self.keep_snapshots(SNAPSHOTS_MAX - 1)?,
            _ => self.keep_snapshots(0)?,
        }
        match fill {
            Fill::FirstWrite => self.empty()?,
            Fill::AsIs => {}
            own => self.have(own)?,
        }
        Ok(true)
    }

    fn settle(&mut self) -> io::Result<()> {
        self.ask("POST", "/checkpoint", &Value::Null).map(drop)
    }

    fn measure(&mut self, load: &Load, device: Option<&BlockDevice>) -> io::Result<Option<Numbers>> {
        let load = Load { queues: self.options.queues, ..*load };
        let settle = || match load.writes() {
            true => self.ask("POST", "/checkpoint", &Value::Null).map(drop),
            false => Ok(()),
        };
        measure_at(&self.socket, &self.daemon, &load, device, settle).map(Some)
    }
}
