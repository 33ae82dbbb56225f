//! Disks that come and go while the guest runs.

use std::time::Duration;

use serde_json::json;

use super::arguments::HOTPLUG_PORTS;
use super::{Disk, Machine};
use crate::error::{Error, Result};
use crate::wait::{Deadline, until};

/// A guest notices a disk within this.
const PLUG_LIMIT: Duration = Duration::from_secs(60);

impl Machine {
    /// Plug `disk` in; gives the name the guest has for it ("vdb").
    ///
    /// # Errors
    /// When no port is free, QEMU refuses, or the guest does not see it.
    pub fn plug(&mut self, disk: &Disk) -> Result<String> {
        let port = (0..HOTPLUG_PORTS)
            .find(|port| !self.ports.iter().any(|(taken, _)| taken == port))
            .ok_or_else(|| Error::new("no free port for a further disk", "unplug one first"))?;
        let before = self.disk_names()?;
        let chardev = format!("socket-{}", disk.id);
        let (reconnect, every) = self.tools.reconnect();
        let mut socket = json!({
            "addr": { "type": "unix", "data": { "path": disk.socket } },
            "server": false,
        });
        socket[reconnect] = json!(every);
        let backend = json!({ "type": "socket", "data": socket });
        self.qmp.command("chardev-add", &json!({ "id": chardev, "backend": backend }))?;
        let device = json!({
            "driver": "vhost-user-blk-pci", "id": disk.id, "chardev": chardev, "bus": format!("port{port}"),
            "num-queues": disk.queues, "queue-size": disk.queue_size,
        });
        self.qmp.command("device_add", &device)?;
        self.ports.push((port, disk.id.clone()));
        let deadline = Deadline::after(PLUG_LIMIT);
        until("the guest to see the new disk", deadline, || {
            let now = self.disk_names()?;
            Ok(now.into_iter().find(|name| !before.contains(name)))
        })
    }

    /// Unplug the disk `id` and wait until the guest has let it go.
    ///
    /// # Errors
    /// When QEMU refuses or the guest holds on to it.
    pub fn unplug(&mut self, id: &str) -> Result<()> {
        self.qmp.forget_events()?;
        self.qmp.command("device_del", &json!({ "id": id }))?;
        self.qmp.event("DEVICE_DELETED", Deadline::after(PLUG_LIMIT), |data| data["device"] == id)?;
        self.qmp.command("chardev-remove", &json!({ "id": format!("socket-{id}") }))?;
        self.ports.retain(|(_, owner)| owner != id);
        Ok(())
    }

    /// The virtio disks the guest has now, by name.
    ///
    /// # Errors
    /// As [`Machine::run`].
    pub fn disk_names(&mut self) -> Result<Vec<String>> {
        let text = self.run("ls /sys/block | grep ^vd || true", Duration::from_secs(30))?;
        Ok(text.lines().map(str::to_string).collect())
    }
}
