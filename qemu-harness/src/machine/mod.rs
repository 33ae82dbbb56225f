//! One virtual machine with vhost-user-blk disks on shared memory.
//!
//! A [`Machine`] is booted: its agent has answered. Jobs run one at a time. It can be rebooted, reset,
//! given further disks and killed; the daemon behind its disks can come and go meanwhile, QEMU reconnects.
//! Dropping it kills QEMU.

mod arguments;
mod boot;
mod hotplug;
mod jobs;
mod power;

pub(crate) use arguments::base as base_command;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::accel::Accel;
use crate::agent::Agent;
use crate::error::tail;
use crate::process::Process;
use crate::qmp::Qmp;
use crate::tools::Tools;

/// A vhost-user-blk disk.
#[derive(Clone, Debug)]
pub struct Disk {
    /// QEMU's id for it, unique in its machine.
    pub id: String,
    /// The daemon's socket.
    pub socket: PathBuf,
    /// Queues the front end asks for. The guest uses no more than it has CPUs.
    pub queues: u16,
    /// Entries of each queue.
    pub queue_size: u16,
}

impl Disk {
    /// A disk of one queue of 128 entries.
    pub fn new(id: &str, socket: impl Into<PathBuf>) -> Disk {
        Disk { id: id.to_string(), socket: socket.into(), queues: 1, queue_size: 128 }
    }
    /// The same with `queues` queues.
    #[must_use]
    pub fn queues(mut self, queues: u16) -> Disk {
        self.queues = queues;
        self
    }
}

/// What to boot.
#[derive(Clone, Debug)]
pub struct MachineConfig {
    /// For messages and file names.
    pub name: String,
    /// Virtual CPUs: at least as many as the largest number of queues that are to be used.
    pub cpus: u16,
    /// Memory, MiB.
    pub memory_mib: u32,
    /// Disks, in the order the guest names them: vda, vdb, and so on.
    pub disks: Vec<Disk>,
    /// Emulate, or not.
    pub accel: Accel,
    /// How long the boot may take.
    pub boot_limit: Duration,
}

impl MachineConfig {
    /// One CPU, 512 MiB, no disk, emulated. The boot takes about 3 s on an idle machine.
    #[must_use]
    pub fn new(name: &str) -> MachineConfig {
        MachineConfig {
            name: name.to_string(),
            cpus: 1,
            memory_mib: 512,
            disks: Vec::new(),
            accel: Accel::Tcg,
            boot_limit: Duration::from_secs(120),
        }
    }
    /// The same with one disk more.
    #[must_use]
    pub fn disk(mut self, disk: Disk) -> MachineConfig {
        self.disks.push(disk);
        self
    }
    /// The same with `cpus` CPUs.
    #[must_use]
    pub fn cpus(mut self, cpus: u16) -> MachineConfig {
        self.cpus = cpus;
        self
    }
    /// The same with `accel`.
    #[must_use]
    pub fn accel(mut self, accel: Accel) -> MachineConfig {
        self.accel = accel;
        self
    }
}

/// A running guest.
#[derive(Debug)]
pub struct Machine {
    config: MachineConfig,
    tools: Tools,
    dir: PathBuf,
    // Fields drop in order: QEMU dies before its sockets close.
    qemu: Process,
    qmp: Qmp,
    agent: Agent,
    boot_time: Duration,
    /// Ports that hold a plugged-in disk, with its id.
    ports: Vec<(u32, String)>,
}

impl Machine {
    /// From the start of QEMU to the agent's first answer.
    #[must_use]
    pub fn boot_time(&self) -> Duration {
        self.boot_time
    }
    /// QEMU's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.qemu.pid()
    }
    /// All that the guest's kernel and init printed so far.
    #[must_use]
    pub fn serial(&self) -> String {
        read_serial(&self.dir, &self.config.name)
    }
    /// The end of the serial log, for messages.
    #[must_use]
    pub fn serial_tail(&self) -> String {
        tail(&self.serial(), 25)
    }
    /// The connection to QEMU itself.
    pub fn qmp(&mut self) -> &mut Qmp {
        &mut self.qmp
    }
}

fn read_serial(dir: &Path, name: &str) -> String {
    let bytes = std::fs::read(serial_path(dir, name)).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn serial_path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.serial"))
}
