//! QEMU's command line.

use std::path::Path;
use std::process::Command;

use super::{Disk, MachineConfig, serial_path};
use crate::image::COMMAND_LINE;
use crate::tools::Tools;

/// Root ports for disks plugged in later.
pub(super) const HOTPLUG_PORTS: u32 = 2;

/// QEMU for `config`, with its sockets and logs in `dir`.
pub(super) fn qemu(tools: &Tools, config: &MachineConfig, dir: &Path) -> Command {
    let mut command = base(tools, config, &tools.image.initramfs, &serial_path(dir, &config.name));
    let mut arg = |option: &str, value: String| {
        command.arg(option).arg(value);
    };
    let name = &config.name;
    arg("-qmp", format!("unix:{},server=on,wait=off", dir.join(format!("{name}.qmp")).display()));
    let agent = dir.join(format!("{name}.agent"));
    arg("-chardev", format!("socket,id=agent,path={},server=on,wait=off", agent.display()));
    // Fixed slots: a disk keeps its name in the guest whatever else is on the bus.
    arg("-device", "virtio-serial-pci,addr=0x2".into());
    arg("-device", "virtserialport,chardev=agent,name=parallax.agent".into());
    let (reconnect, every) = tools.reconnect();
    for (i, disk) in config.disks.iter().enumerate() {
        let Disk { id, socket, queues, queue_size } = disk;
        arg("-chardev", format!("socket,id=socket-{id},path={},{reconnect}={every}", socket.display()));
        let addr = 0x4 + i;
        arg(
            "-device",
            format!(
                "vhost-user-blk-pci,id={id},chardev=socket-{id},num-queues={queues},queue-size={queue_size},addr={addr:#x}"
            ),
        );
    }
    for port in 0..HOTPLUG_PORTS {
        let addr = 0x10 + port;
        arg("-device", format!("pcie-root-port,id=port{port},chassis={},addr={addr:#x}", port + 1));
    }
    command
}

/// The part every guest has: shared memory, kernel, serial log to a file, no other devices.
pub(crate) fn base(tools: &Tools, config: &MachineConfig, initramfs: &Path, serial: &Path) -> Command {
    let mut command = Command::new(&tools.qemu);
    command.args(["-nodefaults", "-no-user-config", "-display", "none"]);
    let mut arg = |option: &str, value: String| {
        command.arg(option).arg(value);
    };
    let memory = config.memory_mib;
    arg("-machine", format!("q35,accel={},memory-backend=memory", config.accel.qemu_name()));
    arg("-object", format!("memory-backend-memfd,id=memory,size={memory}M,share=on"));
    arg("-m", format!("{memory}M"));
    arg("-cpu", config.accel.qemu_cpu().into());
    arg("-smp", config.cpus.to_string());
    arg("-kernel", tools.image.kernel.display().to_string());
    arg("-initrd", initramfs.display().to_string());
    arg("-append", COMMAND_LINE.into());
    arg("-serial", format!("file:{}", serial.display()));
    command
}
