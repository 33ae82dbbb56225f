//! Daemons under measurement: started on a core of their own, their CPU time, and their certain end.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A child process, killed when dropped.
pub struct Daemon {
    child: Child,
}

impl Daemon {
    /// Start `command`, its output going to `log`; pinned to core 1 where `pin` says so and there are two.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &[String], log: &Path, pin: bool) -> io::Result<Daemon> {
        let out = fs::OpenOptions::new().create(true).append(true).open(log)?;
        let mut words: Vec<String> = Vec::new();
        if pin && cores() > 1 {
            words.extend(["taskset", "-c", "1"].map(String::from));
        }
        words.extend_from_slice(command);
        let mut process = Command::new(&words[0]);
        process.args(&words[1..]).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let child = process.spawn().map_err(|e| io::Error::other(format!("{}: {e}", words[0])))?;
        Ok(Daemon { child })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// CPU time of all its threads so far, nanoseconds.
    #[must_use]
    pub fn cpu_ns(&self) -> u64 {
        // Of the process, not summed up over its threads: kernel workers come and go, and take theirs along.
        let Ok(stat) = fs::read_to_string(format!("/proc/{}/stat", self.pid())) else { return 0 };
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let ticks: u64 = fields.skip(11).take(2).filter_map(|f| f.parse::<u64>().ok()).sum();
        ticks * (1_000_000_000 / rustix::param::clock_ticks_per_second())
    }

    /// Bytes it has had written to devices so far; nothing on a tmpfs.
    #[must_use]
    pub fn written_bytes(&self) -> u64 {
        let Ok(io) = fs::read_to_string(format!("/proc/{}/io", self.pid())) else { return 0 };
        let line = io.lines().find_map(|l| l.strip_prefix("write_bytes: "));
        line.and_then(|n| n.parse().ok()).unwrap_or(0)
    }

    /// SIGKILL, and wait for its end.
    pub fn kill(&mut self) {
        // Already dead is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Wait until `path` exists.
    ///
    /// # Errors
    /// When the daemon ends before, or `patience` does.
    pub fn wait_for(&mut self, path: &Path, patience: Duration) -> io::Result<()> {
        let start = Instant::now();
        while !path.exists() {
            if let Some(status) = self.child.try_wait()? {
                return Err(io::Error::other(format!(
                    "the daemon ended with {status} before {}",
                    path.display()
                )));
            }
            if start.elapsed() > patience {
                return Err(io::Error::other(format!("no {} after {patience:?}", path.display())));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Cores of this machine.
#[must_use]
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Keep this process (and threads it starts from now on) on core 0, where there are two.
pub fn pin_client() {
    if cores() > 1 {
        let mut set = rustix::thread::CpuSet::new();
        set.set(0);
        // Without it the numbers are only noisier.
        let _ = rustix::thread::sched_setaffinity(None, &set);
    }
}

/// Run a command to its end.
///
/// # Errors
/// Its standard error when it fails.
pub fn run(command: &[&str]) -> io::Result<String> {
    let out = Command::new(command[0]).args(&command[1..]).stdin(Stdio::null()).output();
    let out = out.map_err(|e| io::Error::other(format!("{}: {e}", command[0])))?;
    if !out.status.success() {
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        return Err(io::Error::other(format!("{}: {text}", command.join(" "))));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}
