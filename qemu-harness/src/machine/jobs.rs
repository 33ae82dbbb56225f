//! Jobs: shell scripts run in the guest by its agent. Debian's busybox prefers its own applets to
//! `$PATH`, so scripts call `/sbin/mke2fs`, `/sbin/e2fsck` and `/sbin/fio` in full.

use std::time::Duration;

use super::Machine;
use crate::agent::{Agent, Job, JobOutput};
use crate::error::{Error, Result, tail};
use crate::wait::Deadline;

/// How much of a failed job's output a message shows, lines.
const SHOWN_LINES: usize = 40;

impl Machine {
    /// Start `script` and return at once; one job at a time.
    ///
    /// # Errors
    /// When the agent's port is gone.
    pub fn start(&mut self, script: &str) -> Result<Job> {
        self.agent.start(script)
    }

    /// Wait for `job`, whatever its exit status.
    ///
    /// # Errors
    /// When it has not ended after `limit`; QEMU ended; the guest's kernel panicked.
    pub fn outcome(&mut self, mut job: Job, limit: Duration) -> Result<JobOutput> {
        let deadline = Deadline::after(limit);
        loop {
            match self.agent.line(Duration::from_millis(250))? {
                Some(line) => {
                    if let Some(output) = Agent::take_line(&mut job, &line)? {
                        return Ok(output);
                    }
                }
                None => {
                    let state = self.check(deadline, "the job in the guest to end");
                    state.map_err(|e| e.with_evidence("output so far", &tail(&job.text, SHOWN_LINES)))?;
                }
            }
        }
    }

    /// Wait for `job` and give its output.
    ///
    /// # Errors
    /// As [`Machine::outcome`]; an exit status other than zero, with the end of the output.
    pub fn finish(&mut self, job: Job, limit: Duration) -> Result<String> {
        let output = self.outcome(job, limit)?;
        if output.status == 0 {
            return Ok(output.text);
        }
        let message = format!("a job in guest {} failed with status {}", self.config.name, output.status);
        Err(Error::new(message, "the job's output and the serial log tell why")
            .with_evidence("output", &tail(&output.text, SHOWN_LINES))
            .with_evidence("serial log", &self.serial_tail()))
    }

    /// Run `script` to its end and give its output.
    ///
    /// # Errors
    /// As [`Machine::finish`].
    pub fn run(&mut self, script: &str, limit: Duration) -> Result<String> {
        let job = self.start(script)?;
        self.finish(job, limit)
    }

    /// What the guest's kernel has to say about failed I/O; empty when all is well.
    ///
    /// # Errors
    /// As [`Machine::run`].
    pub fn io_complaints(&mut self) -> Result<String> {
        let script = "dmesg | grep -iE 'I/O error|blk_update|hung_task|blocked for more|EXT4-fs (error|warning)' || true";
        self.run(script, Duration::from_secs(30))
    }
}
