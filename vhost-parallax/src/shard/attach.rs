//! Disks that this shard serves: a socket and its thread each.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use vdi_core::executor::Signal;

use super::attached_file::Attachment;
use super::{Disk, World};
use crate::control::api::error::{Code, ErrorBody, Result};
use crate::control::api::{AttachInfo, VdiName};
use crate::vhost::{DeviceFacts, DeviceId, DeviceState, Endpoint};

impl Disk {
    /// The attachment as users see it.
    pub(super) fn info(&self) -> AttachInfo {
        let socket = self.endpoint.borrow().as_ref().map(|e| e.path().display().to_string());
        AttachInfo {
            vdi: self.attachment.vdi.clone(),
            socket: socket.unwrap_or_default(),
            num_queues: self.attachment.num_queues,
            read_only: self.attachment.read_only,
            connected: self.device.is_connected(),
        }
    }
    /// Wait until the socket's thread has given up everything.
    pub(super) async fn wait_until_gone(&self) {
        while !self.gone.get() {
            self.on_gone.wait().await;
        }
    }
}

impl World {
    /// How a disk that is served is attached.
    pub(super) fn attachment(&self, name: &VdiName) -> Result<AttachInfo> {
        let gone =
            || ErrorBody::new(Code::NotFound, format!("VDI '{name}' is not attached"), "attach it again");
        self.disk(name.as_str()).map(|disk| disk.info()).ok_or_else(gone)
    }
    /// Open the VDI and listen on its socket.
    pub(super) async fn serve(&self, attachment: Attachment) -> Result<Rc<Disk>> {
        let name = VdiName::parse(&attachment.vdi)?;
        let path = self.options.run_dir.vdi_socket(&name)?;
        let vdi = self.engine.open_vdi(name.as_str()).await?;
        if let Some(why) = vdi.held() {
            return Err(why.context(format!("VDI '{name}' is held")).into());
        }
        let id = DeviceId(self.next_id.replace(self.next_id.get() + 1));
        let device = Arc::new(DeviceState::new(DeviceFacts {
            id,
            name: attachment.vdi.clone(),
            size_bytes: vdi.size_bytes(),
            read_only: attachment.read_only,
            queues: attachment.num_queues,
        }));
        let disk = Rc::new(Disk {
            attachment,
            vdi,
            device: Arc::clone(&device),
            endpoint: RefCell::new(None),
            closed: Cell::new(false),
            gone: Cell::new(false),
            on_gone: Signal::default(),
        });
        // Before the socket: a front end may be waiting for it.
        self.disks.borrow_mut().insert(id, Rc::clone(&disk));
        match Endpoint::open(&path, self.options.access, device, self.link.clone()) {
            Ok(endpoint) => *disk.endpoint.borrow_mut() = Some(endpoint),
            Err(e) => {
                self.disks.borrow_mut().remove(&id);
                return Err(e.into());
            }
        }
        tracing::info!(vdi = disk.attachment.vdi, socket = %path.display(), "attached");
        Ok(disk)
    }
    /// Close the socket, wait for what is in flight, forget the disk.
    pub(super) async fn close(&self, disk: &Rc<Disk>) {
        disk.closed.set(true);
        if let Some(endpoint) = &*disk.endpoint.borrow() {
            endpoint.close();
        }
        disk.wait_until_gone().await;
        self.disks.borrow_mut().remove(&disk.device.id());
        let endpoint = disk.endpoint.borrow_mut().take();
        if let Some(endpoint) = endpoint {
            // The thread has nothing left to do but end.
            endpoint.join();
        }
    }
}
