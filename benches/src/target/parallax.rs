//! `vhost-parallax` with a store file, a log and one attached VDI.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::{Fill, Target, binary, write_own};
use crate::control::Control;
use crate::place::prewrite;
use crate::process::{Daemon, run};
use crate::snapshots;

/// The VDI every bench uses.
pub const VDI: &str = "bench";

/// How to set a daemon up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder for store and log, a name of its own among those of the benches.
    pub dir: PathBuf,
    /// Size of the store, bytes.
    pub store_bytes: u64,
    /// Size of the log as the command line takes it: `1G`.
    pub log_size: String,
    /// Size of the VDI, bytes.
    pub vdi_bytes: u64,
    /// Keep the daemon on a core of its own.
    pub pin: bool,
    /// Let the log fill up before anything is checkpointed.
    pub late_checkpoints: bool,
    /// Answer requests and do nothing else.
    pub null: bool,
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
}

/// What clones are made of.
const GOLD: &str = "gold";
/// The clone that is measured.
const CLONE: &str = "clone";

impl Options {
    fn store(&self) -> PathBuf {
        self.dir.join("store")
    }

    /// In memory, as on a host: staging memory needs it.
    fn run_dir(&self) -> PathBuf {
        let memory = Path::new("/dev/shm");
        match self.dir.file_name() {
            Some(name) if memory.is_dir() => memory.join(format!("{}-run", name.display())),
            _ => self.dir.join("run"),
        }
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
            path(self.dir.join("log")),
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
        Daemon::start(&words, &self.dir.join("daemon.log"), self.pin)
    }

    fn explain(&self, error: &io::Error) -> io::Error {
        let log = fs::read_to_string(self.dir.join("daemon.log")).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(10).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        io::Error::other(format!("{error}\nthe daemon said:\n{}", tail.join("\n")))
    }
}

impl Parallax {
    /// Format a store, start the daemon, create and attach the VDI.
    ///
    /// # Errors
    /// Whatever one of these says.
    pub fn start(options: Options) -> io::Result<Parallax> {
        // Of a bench that was interrupted.
        let _ = fs::remove_dir_all(options.run_dir());
        fs::create_dir_all(options.run_dir())?;
        let (cli, store) = (
            binary(options.bins.as_deref(), "parallax")?.display().to_string(),
            options.store().display().to_string(),
        );
        let size = options.store_bytes.to_string();
        prewrite(&options.store(), options.store_bytes)?;
        let made: &[&str] = if options.store().exists() { &[] } else { &["--size", &size] };
        run(&[&[cli.as_str(), "format", &store, "--yes"], made].concat())?;
        let daemon = options.launch()?;
        let socket = options.run_dir().join("vdi").join(format!("{VDI}.sock"));
        let mut new = Parallax { options, socket, daemon, full: false, gold: false };
        new.await_control()?;
        new.create(VDI)?;
        Ok(new)
    }

    /// Create a VDI, attach it, and say where its socket is.
    ///
    /// # Errors
    /// Whatever the daemon answers.
    pub fn create(&self, name: &str) -> io::Result<PathBuf> {
        let mut control = self.control()?;
        let new = json!({ "name": name, "size_bytes": self.options.vdi_bytes });
        control.ask("POST", "/vdis", Some(&new))?;
        control.ask("POST", &format!("/vdis/{name}/attach"), Some(&json!({ "num_queues": 1 })))?;
        Ok(self.socket_of(name))
    }

    /// Replace the VDI by an empty one of the same size. No front end is connected.
    ///
    /// # Errors
    /// Whatever the daemon answers.
    pub fn empty(&mut self) -> io::Result<()> {
        self.remove(VDI)?;
        self.control()?.ask("POST", "/collect", Some(&json!({})))?;
        self.create(VDI)?;
        self.full = false;
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut control = self.control()?;
        control.ask("POST", &format!("/vdis/{name}/detach"), Some(&json!({ "force": true })))?;
        control.ask("DELETE", &format!("/vdis/{name}?recursive=true"), None)?;
        Ok(())
    }

    /// A new clone of a full disk.
    fn make_clone(&mut self) -> io::Result<()> {
        let mut control = self.control()?;
        if self.gold {
            self.remove(CLONE)?;
            control.ask("POST", "/collect", Some(&json!({})))?;
        } else {
            self.socket = self.create(GOLD)?;
            write_own(self, self.options.vdi_bytes, Fill::InOrder, false)?;
            self.gold = true;
        }
        control.ask("POST", &format!("/vdis/{GOLD}/clone"), Some(&json!({ "name": CLONE })))?;
        control.ask("POST", &format!("/vdis/{CLONE}/attach"), Some(&json!({ "num_queues": 1 })))?;
        self.socket = self.socket_of(CLONE);
        Ok(())
    }

    fn socket_of(&self, name: &str) -> PathBuf {
        self.options.run_dir().join("vdi").join(format!("{name}.sock"))
    }

    /// Bytes of the store that are in use, once everything in the log is checkpointed.
    ///
    /// # Errors
    /// Whatever the daemon answers.
    pub fn used_bytes(&self) -> io::Result<u64> {
        let mut control = self.control()?;
        control.ask("POST", "/checkpoint", None)?;
        let status = control.ask("GET", "/status", None)?;
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

    /// SIGKILL the daemon.
    pub fn kill(&mut self) {
        self.daemon.kill();
    }

    /// A new connection to the control socket.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn control(&self) -> io::Result<Control> {
        Control::connect(&self.options.control())
    }

    fn await_control(&mut self) -> io::Result<()> {
        let up = self.daemon.wait_for(&self.options.control(), Duration::from_secs(30));
        up.map_err(|e| self.options.explain(&e))
    }
}

impl Drop for Parallax {
    fn drop(&mut self) {
        self.daemon.kill();
        let _ = fs::remove_dir_all(self.options.run_dir());
    }
}

impl Target for Parallax {
    fn name(&self) -> &str {
        "parallax"
    }

    fn log(&self) -> String {
        self.options.log_size.clone()
    }

    fn socket(&self) -> &Path {
        &self.socket
    }

    fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    fn prepare(&mut self, fill: Fill) -> io::Result<bool> {
        self.socket = self.socket_of(VDI);
        match fill {
            Fill::FirstWrite => self.empty()?,
            Fill::Clone => self.make_clone()?,
            own => {
                write_own(self, self.options.vdi_bytes, own, self.full)?;
                self.full = true;
            }
        }
        if fill == Fill::Snapshot {
            snapshots::take(&mut self.control()?, VDI)?;
        }
        Ok(true)
    }
}
