//! `vhost-parallax` with a store file, a log and one attached VDI.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::{Target, binary};
use crate::control::Control;
use crate::place::prewrite_in_memory;
use crate::process::{Daemon, run};

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
}

/// A daemon that serves one VDI.
pub struct Parallax {
    options: Options,
    socket: PathBuf,
    daemon: Daemon,
}

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
            path(binary("vhost-parallax")?),
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
        let (cli, store) = (binary("parallax")?.display().to_string(), options.store().display().to_string());
        let size = options.store_bytes.to_string();
        prewrite_in_memory(&options.store(), options.store_bytes)?;
        let made: &[&str] = if options.store().exists() { &[] } else { &["--size", &size] };
        run(&[&[cli.as_str(), "format", &store, "--yes"], made].concat())?;
        let daemon = options.launch()?;
        let socket = options.run_dir().join("vdi").join(format!("{VDI}.sock"));
        let mut new = Parallax { options, socket, daemon };
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
        Ok(self.options.run_dir().join("vdi").join(format!("{name}.sock")))
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

    fn empty(&mut self) -> io::Result<()> {
        let mut control = self.control()?;
        control.ask("POST", &format!("/vdis/{VDI}/detach"), Some(&json!({ "force": true })))?;
        control.ask("DELETE", &format!("/vdis/{VDI}?recursive=true"), None)?;
        control.ask("POST", "/collect", Some(&json!({})))?;
        self.create(VDI)?;
        Ok(())
    }
}
