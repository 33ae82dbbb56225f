//! From nothing to a guest whose agent answers.

use std::path::Path;
use std::time::{Duration, Instant};

use super::{Machine, MachineConfig, arguments, read_serial};
use crate::agent::Agent;
use crate::error::{Error, Result, tail};
use crate::process::Process;
use crate::qmp::Qmp;
use crate::tools::Tools;
use crate::wait::{Deadline, until};

/// How often a guest that does not answer is asked again.
const PING_EVERY: Duration = Duration::from_secs(2);

impl Machine {
    /// Boot `config`, with sockets and logs in `dir`. The sockets of its disks must be served already.
    ///
    /// # Errors
    /// When QEMU ends, the kernel panics, or the agent does not answer in time; with the evidence.
    pub fn boot(tools: &Tools, config: MachineConfig, dir: &Path) -> Result<Machine> {
        let started = Instant::now();
        let deadline = Deadline::after(config.boot_limit);
        let name = config.name.clone();
        let command = arguments::qemu(tools, &config, dir);
        let mut qemu =
            Process::spawn(&format!("QEMU of {name}"), command, &dir.join(format!("{name}.qemu")))?;
        let qmp_path = dir.join(format!("{name}.qmp"));
        let qmp = until("QEMU to listen", deadline, || {
            qemu.check_alive()?;
            Qmp::connect(&qmp_path)
        })?;
        let agent_path = dir.join(format!("{name}.agent"));
        let agent = until("the agent's port", deadline, || Ok(Agent::connect(&agent_path)))?;
        let mut machine = Machine {
            config,
            tools: tools.clone(),
            dir: dir.to_path_buf(),
            qemu,
            qmp,
            agent,
            boot_time: Duration::ZERO,
            ports: Vec::new(),
        };
        machine.wait_for_agent(deadline)?;
        machine.boot_time = started.elapsed();
        Ok(machine)
    }

    /// Wait until the agent of the kernel that runs now answers.
    pub(super) fn wait_for_agent(&mut self, deadline: Deadline) -> Result<()> {
        // A ping sent while the port is being reset is lost: send another now and then, any answer counts.
        let mut pongs = vec![self.agent.ping()?];
        let mut asked = Instant::now();
        loop {
            let line = self.agent.line(Duration::from_millis(250))?;
            if line.is_some_and(|line| pongs.contains(&line)) {
                return Ok(());
            }
            self.check(deadline, "the guest to boot")?;
            if asked.elapsed() > PING_EVERY {
                pongs.push(self.agent.ping()?);
                asked = Instant::now();
            }
        }
    }

    /// An error when QEMU has ended, the kernel has panicked or `deadline` has passed.
    pub(super) fn check(&mut self, deadline: Deadline, what: &str) -> Result<()> {
        let serial = read_serial(&self.dir, &self.config.name);
        let panicked = ["Kernel panic", "GUEST-ERROR"].iter().any(|sign| serial.contains(sign));
        let state = if panicked {
            Err(Error::new(format!("{what}: the guest's kernel panicked"), "the serial log tells why"))
        } else {
            self.qemu.check_alive().and_then(|()| deadline.check(what))
        };
        state.map_err(|e| e.with_evidence(&format!("serial log of {}", self.config.name), &tail(&serial, 25)))
    }
}
