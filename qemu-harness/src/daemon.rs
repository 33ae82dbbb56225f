//! The Parallax daemon on a store of its own, to be killed and started again.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::control::Control;
use crate::error::{Error, Result};
use crate::machine::Disk;
use crate::process::Process;
use crate::tools::built;
use crate::wait::{Deadline, until};

/// A start, recovery included, takes at most this.
const START_LIMIT: Duration = Duration::from_secs(60);
/// After SIGTERM the daemon checkpoints for at most 10 s.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// A store file, its log, and the daemon that serves them.
#[derive(Debug)]
pub struct Daemon {
    store: PathBuf,
    log: PathBuf,
    log_size: String,
    run_dir: PathBuf,
    output: PathBuf,
    options: Vec<String>,
    program: Option<PathBuf>,
    process: Option<Process>,
}

impl Daemon {
    /// A daemon whose store and log (of `log_size`, "256M") are files in `dir` and whose sockets go to
    /// `scratch`. Nothing is made yet, nothing runs.
    #[must_use]
    pub fn new(dir: &Path, scratch: &Path, log_size: &str) -> Daemon {
        Daemon {
            store: dir.join("store"),
            log: dir.join("log"),
            log_size: log_size.to_string(),
            run_dir: scratch.join("run"),
            output: scratch.join("daemon.log"),
            options: Vec::new(),
            program: None,
            process: None,
        }
    }

    /// The same with a new store of `size` ("8G").
    ///
    /// # Errors
    /// When the binaries are not built or the store cannot be made.
    pub fn format(dir: &Path, scratch: &Path, size: &str, log_size: &str) -> Result<Daemon> {
        let daemon = Daemon::new(dir, scratch, log_size);
        daemon.parallax(&daemon.format_arguments(size))?;
        Ok(daemon)
    }

    /// The arguments of `parallax` that make this store.
    #[must_use]
    pub fn format_arguments(&self, size: &str) -> Vec<String> {
        let text = |path: &Path| path.display().to_string();
        let log = ["--log".into(), text(&self.log), "--log-size".into(), self.log_size.clone()];
        [vec!["format".into(), text(&self.store), "--size".into(), size.into()], log.to_vec()].concat()
    }

    /// Start the daemon with further `options` from now on.
    #[must_use]
    pub fn with_options(mut self, options: &[&str]) -> Daemon {
        self.set_options(options);
        self
    }

    /// Start the daemon with these further `options` from now on, and not with those before.
    pub fn set_options(&mut self, options: &[&str]) {
        self.options = options.iter().map(|o| (*o).to_string()).collect();
    }

    /// Start this program from now on instead of the one that was built with this one.
    pub fn set_program(&mut self, program: &Path) {
        self.program = Some(program.to_owned());
    }

    /// The arguments of `vhost-parallax` that serve this store.
    #[must_use]
    pub fn start_arguments(&self) -> Vec<String> {
        let places = [("--store", &self.store), ("--log", &self.log), ("--run-dir", &self.run_dir)];
        let places =
            places.iter().flat_map(|(option, path)| [(*option).to_string(), path.display().to_string()]);
        places.chain(self.options.iter().cloned()).collect()
    }

    /// Start the daemon and wait until its control socket answers; gives the time that took. What was
    /// attached is served again by then.
    ///
    /// # Errors
    /// When it ends or does not answer.
    pub fn start(&mut self) -> Result<Duration> {
        let started = Instant::now();
        let program = self.program.clone().map_or_else(|| built("vhost-parallax"), Ok)?;
        let mut command = Command::new(program);
        command.args(self.start_arguments());
        let mut process = Process::spawn("vhost-parallax", command, &self.output)?;
        until("vhost-parallax to answer", Deadline::after(START_LIMIT), || {
            process.check_alive()?;
            Ok(self.control().and_then(|mut control| control.get("/status")).ok())
        })
        .map_err(|e| e.with_evidence("vhost-parallax", &process.log_tail()))?;
        self.process = Some(process);
        Ok(started.elapsed())
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        // Dropping kills and reaps.
        self.process = None;
    }

    /// SIGTERM, and wait for the end.
    ///
    /// # Errors
    /// When it does not end in time, or ends with an error.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        let status = process.terminate(STOP_LIMIT)?;
        if status.success() {
            return Ok(());
        }
        Err(Error::new(format!("vhost-parallax ended with {status} on SIGTERM"), "its output tells why")
            .with_evidence("vhost-parallax", &process.log_tail()))
    }

    /// An error with its last words when the daemon ended by itself.
    ///
    /// # Errors
    /// When it ended, or was not started.
    pub fn check_alive(&mut self) -> Result<()> {
        match &mut self.process {
            Some(process) => process.check_alive(),
            None => Err(Error::new("vhost-parallax is not running", "start it")),
        }
    }

    /// A new connection to the control socket.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn control(&self) -> Result<Control> {
        Control::connect(&self.run_dir.join("control.sock"))
    }

    /// Run `parallax` with `arguments`; gives what it printed.
    ///
    /// # Errors
    /// When it fails; with what it said.
    pub fn parallax<S: AsRef<str>>(&self, arguments: &[S]) -> Result<String> {
        let arguments: Vec<&str> = arguments.iter().map(AsRef::as_ref).collect();
        let mut command = Command::new(built("parallax")?);
        command.args(&arguments).env("PARALLAX_RUN_DIR", &self.run_dir);
        let output = command.output().map_err(|e| Error::io("parallax", &e))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            return Ok(text(&output.stdout));
        }
        let said = text(&output.stdout) + &text(&output.stderr);
        Err(Error::new(format!("parallax {}: {}", arguments.join(" "), output.status), "it says why")
            .with_evidence("parallax", &said))
    }

    /// Create `vdi` and attach it; gives the disk for a machine.
    ///
    /// # Errors
    /// What the daemon answers.
    pub fn create_and_attach(&self, vdi: &str, size_bytes: u64, queues: u16) -> Result<Disk> {
        let mut control = self.control()?;
        control.post("/vdis", &json!({ "name": vdi, "size_bytes": size_bytes }))?;
        self.attach(vdi, queues)
    }

    /// Attach `vdi`; gives the disk for a machine.
    ///
    /// # Errors
    /// What the daemon answers.
    pub fn attach(&self, vdi: &str, queues: u16) -> Result<Disk> {
        let request = json!({ "num_queues": queues });
        let answer = self.control()?.post(&format!("/vdis/{vdi}/attach"), &request)?;
        let socket = answer["socket"].as_str();
        let socket = socket.ok_or_else(|| Error::new(format!("no socket in {answer}"), "a stale daemon?"))?;
        Ok(Disk::new(vdi, socket).queues(queues))
    }

    /// Bytes of the store in use, everything acknowledged so far checkpointed first.
    ///
    /// # Errors
    /// What the daemon answers.
    pub fn used_bytes(&self) -> Result<u64> {
        let mut control = self.control()?;
        control.post("/checkpoint", &json!({}))?;
        let status = control.get("/status")?;
        let used = status["store"]["used_bytes"].as_u64();
        used.ok_or_else(|| Error::new(format!("no used_bytes in {status}"), "a stale daemon?"))
    }

    /// Remove the store and the log, where they are. The daemon must not be running.
    ///
    /// # Errors
    /// When they cannot be removed.
    pub fn remove_files(&self) -> Result<()> {
        for file in [&self.store, &self.log] {
            match std::fs::remove_file(file) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io(file.display(), &e));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The store file.
    #[must_use]
    pub fn store(&self) -> &Path {
        &self.store
    }
    /// Keep the log in the store.
    #[must_use]
    pub fn with_log_inside(mut self) -> Daemon {
        self.log = PathBuf::from("store");
        self
    }
    /// The log file.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }
    /// The run directory.
    #[must_use]
    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    /// Collect, stop the daemon and check the store, data included. Collected first, because a crash, a
    /// roll-back or a deletion leave blocks that nothing uses to the collector; after it there are none.
    ///
    /// # Errors
    /// When the check finds anything; with its report.
    pub fn stop_and_check(&mut self) -> Result<String> {
        self.parallax(&["collect"])?;
        self.stop()?;
        self.parallax(&[self.check_arguments(), vec!["--data".into()]].concat())
    }

    /// The arguments of `parallax` that check this store.
    #[must_use]
    pub fn check_arguments(&self) -> Vec<String> {
        let text = |path: &Path| path.display().to_string();
        vec!["check".into(), text(&self.store), "--log".into(), text(&self.log)]
    }
}
