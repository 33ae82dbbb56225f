//! A child process that cannot outlive its owner.

#![expect(unsafe_code, reason = "what a child process does between fork and exec")]

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

use crate::error::{Error, Result, tail};
use crate::wait::{Deadline, until};

/// A running child; killed and reaped when dropped. Its output goes to a file.
///
/// The kernel kills it too when the **thread** that spawned it ends: spawn from a thread that lives as
/// long as the child is wanted.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Start `command`, its standard output and error appended to `log`.
    ///
    /// # Errors
    /// When the log cannot be opened or the program not be started.
    pub fn spawn(name: &str, mut command: Command, log: &Path) -> Result<Process> {
        let open = || File::options().create(true).append(true).open(log);
        let (out, err) = open()
            .and_then(|out| out.try_clone().map(|err| (out, err)))
            .map_err(|e| Error::io(log.display(), &e))?;
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        // SAFETY: the closure runs in the child between fork and exec and makes one system call: it takes
        // no lock, allocates nothing and touches no memory of the parent.
        unsafe {
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        let child = command.spawn().map_err(|e| {
            Error::new(
                format!("cannot start {name} ({command:?}): {e}"),
                "run 'make setup' and 'cargo build'",
            )
        })?;
        Ok(Process { name: name.to_string(), child, log: log.to_path_buf() })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
    /// Its exit status, once it has ended.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().map_err(|e| Error::io(format!("waiting for {}", self.name), &e))
    }
    /// An error with the end of its log when it has ended.
    ///
    /// # Errors
    /// When it has ended.
    pub fn check_alive(&mut self) -> Result<()> {
        match self.ended()? {
            None => Ok(()),
            Some(status) => Err(Error::new(
                format!("{} ended by itself: {status}", self.name),
                "its output is shown below the message",
            )
            .with_evidence(&self.name, &self.log_tail())),
        }
    }
    /// `kill -9`, and wait until it is gone.
    pub fn kill(&mut self) {
        // Both fail only for a child that is already reaped, which is what is wanted.
        let _already_gone = self.child.kill();
        let _already_reaped = self.child.wait();
    }
    /// Ask it to end (SIGTERM) and wait for that.
    ///
    /// # Errors
    /// When it has not ended after `limit`.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.ended()? {
            return Ok(status);
        }
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("a child has a positive pid");
        kill_process(pid, Signal::TERM).map_err(|e| Error::io("SIGTERM", &e.into()))?;
        self.wait(limit)
    }
    /// Wait until it ends by itself.
    ///
    /// # Errors
    /// When it has not ended after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("{} (pid {}) to end", self.name, self.pid());
        let ended = until(&what, Deadline::after(limit), || self.ended());
        ended.map_err(|e| e.with_evidence(&self.name, &self.log_tail()))
    }
    /// The end of what it printed.
    #[must_use]
    pub fn log_tail(&self) -> String {
        tail(&String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()), 20)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    fn sleeper(scratch: &Scratch) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", "echo started; exec sleep 60"]);
        Process::spawn("sleeper", command, &scratch.join("log")).unwrap()
    }

    #[test]
    fn a_child_dies_with_its_owner() {
        let scratch = Scratch::new("process").unwrap();
        let child = sleeper(&scratch);
        let proc = format!("/proc/{}", child.pid());
        assert!(Path::new(&proc).exists());
        drop(child);
        assert!(!Path::new(&proc).exists());
    }

    #[test]
    fn an_end_that_nobody_asked_for_shows_the_log() {
        let scratch = Scratch::new("process").unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such store; exit 3"]);
        let mut child = Process::spawn("daemon", command, &scratch.join("log")).unwrap();
        child.wait(Duration::from_secs(10)).unwrap();
        let e = child.check_alive().unwrap_err();
        assert!(e.to_string().contains("no such store"), "{e}");
    }

    #[test]
    fn terminate_waits_for_the_end() {
        let scratch = Scratch::new("process").unwrap();
        let mut child = sleeper(&scratch);
        assert!(!child.terminate(Duration::from_secs(10)).unwrap().success());
        assert!(child.check_alive().is_err());
    }
}
