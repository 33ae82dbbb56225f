//! Attaching and detaching disks at run time, and serving again what was attached before.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use vdi_core::executor::Signal;

use super::attached_file::Attachment;
use super::{ATTACHED_MAX, Disk, World};
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
    /// Attach a VDI; the same once more is a success.
    pub(super) async fn attach(&self, wanted: Attachment) -> Result<AttachInfo> {
        let _turn = self.lifecycle.lock().await;
        if let Some(disk) = self.disk(&wanted.vdi) {
            if disk.attachment == wanted {
                return Ok(disk.info());
            }
            return Err(ErrorBody::new(
                Code::Busy,
                format!("VDI '{}' is attached already, with other options", wanted.vdi),
                format!("'parallax detach {}' first, or attach it with the same options", wanted.vdi),
            ));
        }
        let disk = self.serve(wanted).await?;
        if let Err(e) = self.keeper.save(self.to_keep()).await {
            self.close(&disk).await;
            return Err(e.into());
        }
        Ok(disk.info())
    }
    /// Everything that a later daemon is to serve.
    fn to_keep(&self) -> Vec<Attachment> {
        let served = self.disks.borrow().values().map(|d| d.attachment.clone()).collect::<Vec<_>>();
        let missing = self.missing.borrow();
        let waiting = missing.iter().filter(|m| served.iter().all(|s| s.vdi != m.vdi)).cloned();
        served.iter().cloned().chain(waiting).collect()
    }
    /// Open the VDI and listen on its socket.
    async fn serve(&self, attachment: Attachment) -> Result<Rc<Disk>> {
        if self.disks.borrow().len() >= ATTACHED_MAX {
            return Err(ErrorBody::new(
                Code::TooLarge,
                format!("{ATTACHED_MAX} VDIs are attached already, the most one daemon serves"),
                "detach one that is not in use",
            ));
        }
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
        self.forget_missing(&disk.attachment.vdi);
        tracing::info!(vdi = disk.attachment.vdi, socket = %path.display(), "attached");
        Ok(disk)
    }
    /// Give up what could not be served again; false when there is no such thing.
    fn forget_missing(&self, name: &str) -> bool {
        let mut missing = self.missing.borrow_mut();
        let before = missing.len();
        missing.retain(|m| m.vdi != name);
        missing.len() < before
    }
    /// Stop serving a VDI.
    pub(super) async fn detach(&self, name: &VdiName, force: bool) -> Result<()> {
        let _turn = self.lifecycle.lock().await;
        let Some(disk) = self.disk(name.as_str()) else {
            if self.forget_missing(name.as_str()) {
                return self.keeper.save(self.to_keep()).await.map_err(Into::into);
            }
            self.engine.show(name.as_str()).await?;
            return Err(ErrorBody::new(
                Code::NotFound,
                format!("VDI '{name}' is not attached"),
                "'parallax ls' shows what is attached",
            ));
        };
        if disk.device.is_connected() && !force {
            return Err(ErrorBody::new(
                Code::Busy,
                format!("a front end is connected to VDI '{name}'"),
                "shut the guest down or unplug the disk first; --force takes it away all the same",
            ));
        }
        let id = disk.device.id();
        let keep = self.to_keep().into_iter().filter(|a| a.vdi != name.as_str()).collect();
        self.keeper.save(keep).await?;
        self.close(&disk).await;
        debug_assert!(!self.disks.borrow().contains_key(&id));
        tracing::info!(vdi = name.as_str(), "detached");
        Ok(())
    }
    /// Close the socket, wait for what is in flight, forget the disk.
    async fn close(&self, disk: &Rc<Disk>) {
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
    /// Serve again what was attached before and what the configuration wants.
    pub(super) async fn restore(&self, wanted: Vec<Attachment>) {
        for attachment in wanted {
            if self.disk(&attachment.vdi).is_some() {
                continue;
            }
            let name = attachment.vdi.clone();
            if let Err(e) = self.serve(attachment.clone()).await {
                tracing::error!(vdi = name, error = %e, hint = e.hint, "cannot be served again");
                self.missing.borrow_mut().push(attachment);
            }
        }
    }
}
