//! What the session thread, the data thread and the control side know together of one device.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::net::SendFlags;
use vdi_core::Error;
use vdi_core::units::SECTOR_BYTES;
use virtio_bindings::virtio_blk::{VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_WRITE_ZEROES};

use super::features::{self, has};

/// Names a device to the data thread; never reused within a process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DeviceId(pub u64);

/// What a new device is.
#[derive(Clone, Debug)]
pub struct DeviceFacts {
    /// Its number.
    pub id: DeviceId,
    /// The VDI's name: for messages, and the disk's serial (its first 20 bytes).
    pub name: String,
    /// Capacity in bytes; rounded down to sectors.
    pub size_bytes: u64,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Queues that the configuration space names. A front end may use more, up to the limit.
    pub queues: u16,
}

/// The shared state. Numbers are plain atomics: each is meaningful alone.
pub struct DeviceState {
    facts: DeviceFacts,
    sectors: AtomicU64,
    /// Features the driver accepted.
    accepted: AtomicU64,
    write_back: AtomicBool,
    connected: AtomicBool,
    rings: AtomicU16,
    /// The front end may not know the capacity: tell it once rings are served.
    config_due: AtomicBool,
    is_broken: AtomicBool,
    broken: Mutex<Option<Error>>,
    back_channel: Mutex<Option<OwnedFd>>,
}

/// `VHOST_USER_BACKEND_CONFIG_CHANGE_MSG`, version 1, no payload, no reply wanted.
const CONFIG_CHANGE: [u32; 3] = [2, 1, 0];

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl DeviceState {
    /// A device nobody is connected to.
    #[must_use]
    pub fn new(facts: DeviceFacts) -> DeviceState {
        DeviceState {
            sectors: AtomicU64::new(facts.size_bytes / SECTOR_BYTES),
            accepted: AtomicU64::new(0),
            write_back: AtomicBool::new(true),
            connected: AtomicBool::new(false),
            rings: AtomicU16::new(0),
            config_due: AtomicBool::new(false),
            is_broken: AtomicBool::new(false),
            broken: Mutex::new(None),
            back_channel: Mutex::new(None),
            facts,
        }
    }
    /// Its number.
    #[must_use]
    pub fn id(&self) -> DeviceId {
        self.facts.id
    }
    /// The VDI's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.facts.name
    }
    /// Whether writes are refused.
    #[must_use]
    pub fn read_only(&self) -> bool {
        self.facts.read_only
    }
    /// Queues that the configuration space names.
    #[must_use]
    pub fn queues(&self) -> u16 {
        self.facts.queues
    }
    /// Capacity in guest sectors.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.sectors.load(Ordering::Acquire)
    }
    /// Change the capacity and tell the front end, if it listens for that. QEMU (7.2) ignores the message
    /// while no ring is served; then it is told later.
    pub fn resize(&self, size_bytes: u64) {
        self.sectors.store(size_bytes / SECTOR_BYTES, Ordering::Release);
        self.make_config_due();
        if self.config_is_due() {
            self.tell_config();
        }
    }
    /// What the front end believes may be old.
    pub(super) fn make_config_due(&self) {
        self.config_due.store(true, Ordering::Release);
    }
    /// True when the front end is to be told, and would listen.
    pub(super) fn config_is_due(&self) -> bool {
        self.config_due.load(Ordering::Acquire) && self.rings() > 0
    }
    /// Tell the front end to read the configuration again.
    pub(super) fn tell_config(&self) {
        self.config_due.store(false, Ordering::Release);
        if let Some(fd) = &*lock(&self.back_channel) {
            let bytes: Vec<u8> = CONFIG_CHANGE.iter().flat_map(|word| word.to_le_bytes()).collect();
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            if let Err(e) = rustix::net::send(fd, &bytes, flags) {
                tracing::warn!(vdi = self.name(), error = %e, "the front end did not take the new size");
            }
        }
    }
    /// Whether a front end is connected.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Acquire)
    }
    /// Rings being served.
    #[must_use]
    pub fn rings(&self) -> u16 {
        self.rings.load(Ordering::Acquire)
    }
    pub(super) fn set_rings(&self, rings: u16) {
        self.rings.store(rings, Ordering::Release);
    }
    /// True when writes need to be durable before they complete: the driver asked for write-through,
    /// or cannot flush.
    #[must_use]
    pub fn writes_through(&self) -> bool {
        !self.write_back() || !has(self.accepted(), VIRTIO_BLK_F_FLUSH)
    }
    pub(super) fn write_back(&self) -> bool {
        self.write_back.load(Ordering::Acquire)
    }
    /// Choose whether a write may complete before it is durable.
    pub fn set_write_back(&self, write_back: bool) {
        self.write_back.store(write_back, Ordering::Release);
    }
    pub(super) fn discards(&self) -> bool {
        has(self.accepted(), VIRTIO_BLK_F_DISCARD)
    }
    pub(super) fn writes_zeroes(&self) -> bool {
        has(self.accepted(), VIRTIO_BLK_F_WRITE_ZEROES)
    }
    /// Features that a driver may accept.
    #[must_use]
    pub fn offered(&self) -> u64 {
        features::offered(self.facts.read_only)
    }
    pub(super) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Acquire)
    }
    /// The driver accepts `features`, all of them offered.
    pub fn accept(&self, features: u64) {
        self.accepted.store(features, Ordering::Release);
    }
    pub(super) fn set_back_channel(&self, fd: Option<OwnedFd>) {
        *lock(&self.back_channel) = fd;
    }
    pub(super) fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::Release);
    }
    /// Whether the guest or its front end broke the rules and the device is not served any more.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::Relaxed)
    }
    /// Why it is broken.
    #[must_use]
    pub fn broken(&self) -> Option<Error> {
        lock(&self.broken).as_ref().map(Error::duplicate)
    }
    /// Stop serving the device, and say why once.
    pub fn break_off(&self, why: Error) {
        let mut broken = lock(&self.broken);
        if broken.is_none() {
            tracing::error!(vdi = self.name(), error = %why, hint = why.hint(), "the device is broken");
            *broken = Some(why);
            self.is_broken.store(true, Ordering::Release);
        }
    }
    /// A device reset makes it whole again.
    pub(super) fn mend(&self) {
        *lock(&self.broken) = None;
        self.is_broken.store(false, Ordering::Release);
    }
}
