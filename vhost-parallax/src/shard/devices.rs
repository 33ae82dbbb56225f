//! Driving devices before there is a loop: opening the store, recovering the log.

use std::ops::Range;
use std::os::fd::RawFd;
use std::rc::Rc;

use vdi_core::clock::Clock;
use vdi_core::device::{DeviceHandle, OpenOptions, Opened};
use vdi_core::executor::{Executor, block_on};
use vdi_core::{Error, Result};

/// Any lock of any daemon or command overlaps this.
const EVERY_BYTE: Range<u64> = 0..i64::MAX as u64;
/// The home shard leaves these to the others, a byte each: as long as one of them has a request on its way, no other
/// daemon gets the store.
const BYTES_OF_SHARDS: Range<u64> = 1 << 62..i64::MAX as u64;
/// A wait for the devices ends at the latest after this, ms.
const WAIT_MS: i32 = 10;

/// The home shard's store once more, for the thread of `shard`.
///
/// # Errors
/// Those of opening a file.
pub fn open_for_shard(home: &Opened, shard: u16) -> Result<Opened> {
    home.unlock(&BYTES_OF_SHARDS)?;
    let byte = BYTES_OF_SHARDS.start + u64::from(shard);
    home.again(byte..byte + 1)
}

/// Open and lock the file or block device at `url`, for reading and writing.
///
/// # Errors
/// `Busy` where another process has it; those of opening a file.
pub fn open_locked(url: &str) -> Result<Opened> {
    Opened::open(url, &OpenOptions { lock: Some(EVERY_BYTE), ..OpenOptions::default() })
}

/// The devices of a shard that starts, and the task set that works on them.
pub struct Devices {
    executor: Executor,
    clock: Rc<dyn Clock>,
    devices: Vec<DeviceHandle>,
    epoll: RawFd,
}

impl Devices {
    /// Nothing open yet.
    ///
    /// # Errors
    /// Where the process has no descriptors left.
    pub fn new(executor: Executor, clock: Rc<dyn Clock>) -> Result<Devices> {
        let epoll = epoll::create(true)
            .map_err(|e| Error::io("wait for devices", e.raw_os_error().unwrap_or(libc::EMFILE)))?;
        executor.advance_to(clock.now_ns());
        Ok(Devices { executor, clock, devices: Vec::new(), epoll })
    }
    /// Work with `opened` on this thread.
    ///
    /// # Errors
    /// Where the process has no descriptors left.
    pub fn adopt(&mut self, opened: Opened) -> Result<DeviceHandle> {
        let device = DeviceHandle::new(opened.device()?);
        let mut fds = Vec::new();
        device.fds(&mut fds);
        for fd in fds {
            let event = epoll::Event::new(epoll::Events::EPOLLIN, 0);
            epoll::ctl(self.epoll, epoll::ControlOptions::EPOLL_CTL_ADD, fd, event)
                .map_err(|e| Error::io("wait for devices", e.raw_os_error().unwrap_or(libc::EMFILE)))?;
        }
        self.devices.push(device.clone());
        Ok(device)
    }
    /// Run one piece of work to its end, while nothing else goes on.
    pub fn run<T: 'static>(&self, work: impl Future<Output = T> + 'static) -> T {
        block_on(&self.executor, work, || {
            let moved = self.devices.iter().fold(false, |moved, device| device.poll() | moved);
            if !moved {
                // An interrupted wait is a short wait.
                let mut events = [epoll::Event::new(epoll::Events::empty(), 0)];
                let _ready = epoll::wait(self.epoll, WAIT_MS, &mut events);
            }
            self.executor.advance_to(self.clock.now_ns());
            true
        })
    }
}

impl Drop for Devices {
    fn drop(&mut self) {
        let _nothing_to_do = epoll::close(self.epoll);
    }
}
