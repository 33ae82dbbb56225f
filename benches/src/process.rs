//! Daemons under measurement: started on a core of their own, their CPU time, stopped while others are measured, and their
//! certain end.

use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;
use qemu_harness::process::Process;
use qemu_harness::wait::{Deadline, until};

/// How long a daemon may take to end when it is asked to.
const END_MAX: Duration = Duration::from_secs(60);

/// A child process, killed when dropped or when this process ends.
pub struct Daemon {
    process: Process,
}

/// What a daemon has used so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// CPU time of all its threads, those of the kernel that work for it too, nanoseconds.
    pub cpu_ns: u64,
    /// Bytes it has had written to devices; nothing on a tmpfs.
    pub written_bytes: u64,
}

impl Daemon {
    /// Start `command`, its output going to `log`; pinned to core 1 where `pin` says so and there are two.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &[String], log: &Path, pin: bool) -> io::Result<Daemon> {
        let mut words: Vec<String> = Vec::new();
        if pin && cores() > 1 {
            words.extend(["taskset", "-c", "1"].map(String::from));
        }
        words.extend_from_slice(command);
        let mut process = Command::new(&words[0]);
        process.args(&words[1..]);
        let name = Path::new(&command[0]).file_name().unwrap_or_default().to_string_lossy();
        Ok(Daemon { process: Process::spawn(&name, process, log).map_err(io::Error::other)? })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    fn unix_pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.pid()).expect("a process id is an i32"))
    }

    /// What it has used so far.
    ///
    /// # Errors
    /// When it is gone.
    pub fn usage(&self) -> io::Result<Usage> {
        // Of the process, not summed up over its threads: kernel workers come and go, and take theirs along.
        let cpu = clock_getcpuclockid(self.unix_pid()).and_then(|clock| clock.now())?;
        let io = std::fs::read_to_string(format!("/proc/{}/io", self.pid()))?;
        let line = io.lines().find_map(|l| l.strip_prefix("write_bytes: "));
        Ok(Usage {
            cpu_ns: Duration::from(cpu).as_nanos() as u64,
            written_bytes: line.and_then(|n| n.parse().ok()).unwrap_or(0),
        })
    }

    /// Memory that it has in use, shared memory of its guests included, bytes.
    ///
    /// # Errors
    /// When it is gone.
    pub fn resident_bytes(&self) -> io::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let kib = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap_or_default();
        Ok(kib.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) << 10)
    }

    /// Let it do nothing until [`Daemon::thaw`]: what it has left to do must not be done in the turn of another.
    ///
    /// # Errors
    /// When it is gone.
    pub fn freeze(&self) -> io::Result<()> {
        Ok(kill(self.unix_pid(), Signal::SIGSTOP)?)
    }

    /// The end of [`Daemon::freeze`].
    ///
    /// # Errors
    /// When it is gone.
    pub fn thaw(&self) -> io::Result<()> {
        Ok(kill(self.unix_pid(), Signal::SIGCONT)?)
    }

    /// Wait until it uses no CPU to speak of for a second.
    ///
    /// # Errors
    /// When it is gone, or busy after `patience`.
    pub fn wait_idle(&self, patience: Duration) -> io::Result<()> {
        let deadline = Deadline::after(patience);
        loop {
            let before = self.usage()?.cpu_ns;
            std::thread::sleep(Duration::from_secs(1));
            if self.usage()?.cpu_ns - before < 10_000_000 {
                return Ok(());
            }
            deadline.check("an idle daemon").map_err(io::Error::other)?;
        }
    }

    /// SIGKILL, and wait for its end.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Ask it to end, and wait for that.
    ///
    /// # Errors
    /// When it does not end.
    pub fn end(&mut self) -> io::Result<()> {
        self.thaw()?;
        self.process.terminate(END_MAX).map(drop).map_err(io::Error::other)
    }

    /// Wait until `path` exists.
    ///
    /// # Errors
    /// When the daemon ends before, with what it said; or `patience` does.
    pub fn wait_for(&mut self, path: &Path, patience: Duration) -> io::Result<()> {
        let look = || {
            self.process.check_alive()?;
            Ok(path.exists().then_some(()))
        };
        until(&path.display().to_string(), Deadline::after(patience), look).map_err(io::Error::other)
    }
}

/// Cores of this machine, whichever of them this process is kept on.
#[must_use]
pub fn cores() -> usize {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let of_core = |line: &&str| line.starts_with("cpu") && !line.starts_with("cpu ");
    stat.lines().filter(of_core).count().max(1)
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
    let out = Command::new(command[0]).args(&command[1..]).stdin(std::process::Stdio::null()).output();
    let out = out.map_err(|e| io::Error::other(format!("{}: {e}", command[0])))?;
    if !out.status.success() {
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        return Err(io::Error::other(format!("{}: {text}", command.join(" "))));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}
