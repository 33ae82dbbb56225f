//! A guest under cloud-hypervisor: one job, its output on the serial port, no agent. It needs KVM, so it
//! runs only where [`crate::accel`] has proved it, and says why where it does not run.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::accel::kvm_proved;
use crate::error::{Error, Result, tail};
use crate::image::COMMAND_LINE;
use crate::machine::Disk;
use crate::process::Process;
use crate::tools::{Missing, Tools, in_path};

/// cloud-hypervisor, on a machine where it works.
#[derive(Clone, Debug)]
pub struct CloudHypervisor {
    program: PathBuf,
}

impl CloudHypervisor {
    /// Look for it, and for a KVM that boots guests.
    ///
    /// # Errors
    /// The reason why it cannot run here; a failure to find out is a reason too.
    pub fn find(tools: &Tools) -> std::result::Result<CloudHypervisor, Missing> {
        let program = in_path("cloud-hypervisor").ok_or_else(|| {
            Missing("cloud-hypervisor is not installed (Debian has no package of it)".into())
        })?;
        match kvm_proved(tools) {
            Ok(Ok(())) => Ok(CloudHypervisor { program }),
            Ok(Err(reason)) => Err(Missing(format!("cloud-hypervisor needs KVM: {reason}"))),
            Err(e) => Err(Missing(format!("cloud-hypervisor needs KVM, whose proof failed: {e}"))),
        }
    }

    /// Boot a guest with `disk`, run `script`, wait for its power-off; gives what the serial port showed.
    ///
    /// # Errors
    /// When it does not end within `limit`, or the job fails; with the evidence.
    pub fn run(
        &self,
        tools: &Tools,
        disk: &Disk,
        script: &str,
        dir: &Path,
        limit: Duration,
    ) -> Result<String> {
        let (initramfs, serial) = (dir.join("ch.initramfs"), dir.join("ch.serial"));
        tools.image.write_batch_initramfs(script, &initramfs)?;
        let mut command = Command::new(&self.program);
        command.arg("--kernel").arg(&tools.image.kernel).arg("--initramfs").arg(&initramfs);
        command.args(["--cmdline", COMMAND_LINE, "--memory", "size=512M,shared=on", "--console", "off"]);
        command.args(["--cpus", &format!("boot={}", disk.queues)]);
        command.arg("--serial").arg(format!("file={}", serial.display()));
        let Disk { socket, queues, queue_size, .. } = disk;
        command.arg("--disk").arg(format!(
            "vhost_user=true,socket={},num_queues={queues},queue_size={queue_size}",
            socket.display()
        ));
        let mut process = Process::spawn("cloud-hypervisor", command, &dir.join("ch.log"))?;
        let ended = process.wait(limit);
        let text = String::from_utf8_lossy(&std::fs::read(&serial).unwrap_or_default()).into_owned();
        ended.map_err(|e| e.with_evidence("serial log", &tail(&text, 25)))?;
        if text.contains("GUEST-JOB-END 0") {
            return Ok(text);
        }
        Err(Error::new("the job under cloud-hypervisor did not succeed", "the serial log tells why")
            .with_evidence("serial log", &tail(&text, 25))
            .with_evidence("cloud-hypervisor", &process.log_tail()))
    }
}
