//! Reboot, reset, power off, kill.

use std::time::{Duration, Instant};

use serde_json::json;

use super::Machine;
use crate::error::Result;
use crate::wait::Deadline;

/// QEMU ends within this once told to.
const QUIT_LIMIT: Duration = Duration::from_secs(20);

impl Machine {
    /// Reboot from inside, as an administrator of the guest would; gives the time it took.
    ///
    /// # Errors
    /// When the guest is not back in time.
    pub fn reboot(&mut self) -> Result<Duration> {
        self.qmp.forget_events()?;
        // This job never ends: the guest is gone before its status is sent.
        let _never = self.agent.start("sync; /bin/busybox reboot -f")?;
        self.await_reset()
    }

    /// Press the reset button; gives the time it took.
    ///
    /// # Errors
    /// When the guest is not back in time.
    pub fn reset(&mut self) -> Result<Duration> {
        self.qmp.forget_events()?;
        self.qmp.command("system_reset", &json!({}))?;
        self.await_reset()
    }

    fn await_reset(&mut self) -> Result<Duration> {
        let started = Instant::now();
        let deadline = Deadline::after(self.config.boot_limit);
        self.qmp.event("RESET", deadline, |_| true)?;
        self.wait_for_agent(deadline)?;
        self.boot_time = started.elapsed();
        Ok(self.boot_time)
    }

    /// Power the guest off from inside and wait until QEMU has ended.
    ///
    /// # Errors
    /// When QEMU does not end in time.
    pub fn power_off(mut self) -> Result<()> {
        let _never = self.agent.start("sync; /bin/busybox poweroff -f")?;
        self.qemu.wait(QUIT_LIMIT).map(|_status| ())
    }

    /// End QEMU in an orderly way, without telling the guest.
    ///
    /// # Errors
    /// When QEMU does not end in time.
    pub fn quit(mut self) -> Result<()> {
        self.qmp.command("quit", &json!({}))?;
        self.qemu.wait(QUIT_LIMIT).map(|_status| ())
    }

    /// `kill -9` QEMU: the front end dies in the middle of whatever it was doing.
    pub fn kill(mut self) {
        self.qemu.kill();
    }
}
