//! The seam between session threads and the data thread: a session hands over rings, takes them
//! back, and waits each time until the data thread has acted on it.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use vdi_core::{Error, ErrorKind, Result};

use super::device::DeviceId;
use super::event::Event;
use super::guest_memory::GuestMemory;
use super::ring::RingSetup;

/// Messages waiting for the data thread at most. Each session has one at a time.
const MESSAGES_MAX: usize = 1024;

/// What a session asks of the data thread.
pub enum Message {
    /// Serve a ring.
    Start(Box<RingSetup>, SyncSender<Result<()>>),
    /// Take nothing more from a ring, finish what is in flight, give up the ring, and answer with the
    /// next entry of its available ring (none if it is not being served).
    Stop(DeviceId, u16, SyncSender<Option<u16>>),
    /// Go on in another memory table, all rings of the device.
    Memory(DeviceId, Arc<GuestMemory>, SyncSender<Result<()>>),
    /// Ring the guest by other means.
    Call(DeviceId, u16, Option<Event>, SyncSender<()>),
    /// The device's socket is closed and its thread is about to end: it will not be heard of again.
    Gone(DeviceId),
}

/// A session's end.
#[derive(Clone)]
pub struct DataLink {
    messages: SyncSender<Message>,
    wake: Event,
}

/// The data thread's end.
pub struct DataPort {
    messages: Receiver<Message>,
    wake: Event,
}

/// Both ends.
pub fn data_link() -> Result<(DataLink, DataPort)> {
    let wake = Event::new()?;
    let (sender, receiver) = sync_channel(MESSAGES_MAX);
    Ok((DataLink { messages: sender, wake: wake.clone() }, DataPort { messages: receiver, wake }))
}

fn gone() -> Error {
    Error::new(ErrorKind::Poisoned, "the data thread has ended", "restart the daemon")
}

impl DataLink {
    /// Rings the data thread, for whoever has something for it elsewhere.
    #[must_use]
    pub fn waker(&self) -> Event {
        self.wake.clone()
    }
    /// Say something and go on.
    pub fn tell(&self, message: Message) -> Result<()> {
        self.messages.send(message).map_err(|_| gone())?;
        self.wake.ring();
        Ok(())
    }
    /// Say something and wait for the answer.
    pub fn ask<T>(&self, message: impl FnOnce(SyncSender<T>) -> Message) -> Result<T> {
        let (sender, receiver) = sync_channel(1);
        self.tell(message(sender))?;
        receiver.recv().map_err(|_| gone())
    }
}

impl DataPort {
    /// Becomes readable when there is a message.
    #[must_use]
    pub fn wake_fd(&self) -> &Event {
        &self.wake
    }
    /// The next message, if there is one.
    #[must_use]
    pub fn take(&self) -> Option<Message> {
        self.messages.try_recv().ok()
    }
}
