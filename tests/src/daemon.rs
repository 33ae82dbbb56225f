//! A real daemon on a small store of its own, for client tests.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use qemu_harness::daemon::Daemon;
use qemu_harness::scratch::memory_dir;
use qemu_harness::tools::built;
use serde_json::json;

/// The daemon and the directory it lives in.
pub struct Served {
    /// The daemon; not started yet.
    pub daemon: Daemon,
    dir: tempfile::TempDir,
    _run: tempfile::TempDir,
}

/// Size of the log of test daemons.
pub const LOG_SIZE: &str = "64M";

impl Served {
    /// A formatted store of 1 GiB and a daemon with `options`, which does not run yet.
    #[must_use]
    pub fn new(options: &[&str]) -> Served {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let run = tempfile::tempdir_in(memory_dir()).expect("a directory in memory");
        let daemon = Daemon::new(dir.path(), run.path(), LOG_SIZE);
        let store = daemon.store().display().to_string();
        daemon.parallax(&["format", &store, "--size", "1G"]).expect("a store");
        let daemon = daemon.with_options(options);
        Served { daemon, dir, _run: run }
    }
    /// The same, started.
    #[must_use]
    pub fn started(options: &[&str]) -> Served {
        let mut served = Served::new(options);
        served.daemon.start().expect("a daemon");
        served
    }
    /// As [`Served::started`], with the log in the store.
    #[must_use]
    pub fn started_with_log_inside(options: &[&str]) -> Served {
        let Served { daemon, dir, _run } = Served::new(options);
        let mut served = Served { daemon: daemon.with_log_inside(), dir, _run };
        served.daemon.start().expect("a daemon");
        served
    }
    /// Where everything is.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
    /// Create a VDI and attach it; returns its socket.
    #[must_use]
    pub fn attach_new(&self, vdi: &str, size_bytes: u64) -> PathBuf {
        let mut control = self.daemon.control().expect("a control socket");
        control.post("/vdis", &json!({ "name": vdi, "size_bytes": size_bytes })).expect("a new VDI");
        control.post(&format!("/vdis/{vdi}/attach"), &json!({ "num_queues": 4 })).expect("attached");
        self.socket(vdi)
    }
    /// The socket of a VDI.
    #[must_use]
    pub fn socket(&self, vdi: &str) -> PathBuf {
        self.daemon.run_dir().join("vdi").join(format!("{vdi}.sock"))
    }
    /// Run another daemon with exactly these arguments, to its end.
    #[must_use]
    pub fn another(arguments: &[&str]) -> Output {
        let program = built("vhost-parallax").expect("the daemon is built");
        Command::new(program).args(arguments).output().expect("it can be run")
    }
}
