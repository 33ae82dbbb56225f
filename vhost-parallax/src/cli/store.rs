//! A store opened by the command itself, for `format` and `check`: locked, so that no daemon has it.

use std::io::Read;
use std::os::fd::RawFd;

use vdi_core::device::{DeviceHandle, OpenOptions, open};
use vdi_core::executor::{Executor, block_on};
use vdi_core::format::superblock::{COPIES, Superblock};
use vdi_core::units::{BLOCK_BYTES, BLOCK_SIZE, Uuid};

use crate::control::api::error::{Code, ErrorBody, Result};

/// Any lock of any daemon overlaps this.
const EVERY_BYTE: std::ops::Range<u64> = 0..i64::MAX as u64;
/// A wait for the devices ends at the latest after this, ms.
const WAIT_MS: i32 = 100;

/// Devices, and the task set that works on them.
pub struct Local {
    executor: Executor,
    devices: Vec<DeviceHandle>,
    epoll: RawFd,
}

impl Local {
    /// Nothing open yet.
    ///
    /// # Errors
    /// Where the process has no descriptors left.
    pub fn new() -> Result<Local> {
        let epoll = epoll::create(true).map_err(|e| no_descriptors(&e))?;
        Ok(Local { executor: Executor::new(), devices: Vec::new(), epoll })
    }
    /// Open and lock the file or block device at `url`.
    ///
    /// # Errors
    /// `busy` where a daemon or another command has it; those of opening a file.
    pub fn open(&mut self, url: &str, write: bool) -> Result<DeviceHandle> {
        let options = OpenOptions { write, lock: Some(EVERY_BYTE), ..OpenOptions::default() };
        let device = DeviceHandle::new(open(url, &options)?);
        let mut fds = Vec::new();
        device.fds(&mut fds);
        for fd in fds {
            let event = epoll::Event::new(epoll::Events::EPOLLIN, 0);
            epoll::ctl(self.epoll, epoll::ControlOptions::EPOLL_CTL_ADD, fd, event)
                .map_err(|e| no_descriptors(&e))?;
        }
        self.devices.push(device.clone());
        Ok(device)
    }
    /// Run one piece of work to its end.
    pub fn run<T: 'static>(&self, work: impl Future<Output = T> + 'static) -> T {
        block_on(&self.executor, work, || {
            let moved = self.devices.iter().fold(false, |moved, device| device.poll() | moved);
            if !moved {
                // An interrupted wait is a short wait.
                let _ready =
                    epoll::wait(self.epoll, WAIT_MS, &mut [epoll::Event::new(epoll::Events::empty(), 0)]);
            }
            true
        })
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        let _nothing_to_do = epoll::close(self.epoll);
    }
}

fn no_descriptors(e: &std::io::Error) -> ErrorBody {
    ErrorBody::new(
        Code::Io,
        format!("waiting for devices: {e}"),
        "check the limits of the process (ulimit -n)",
    )
}

/// 128 random bits.
///
/// # Errors
/// Where the system has none to give.
pub fn random_uuid() -> Result<Uuid> {
    let mut bytes = [0; 16];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut bytes));
    read.map_err(|e| ErrorBody::new(Code::Io, format!("/dev/urandom: {e}"), "check the system's /dev"))?;
    Ok(Uuid(u128::from_le_bytes(bytes).max(1)))
}

/// The superblock of whichever copy is whole; `None` where there is none.
///
/// # Errors
/// Those of reading the device.
pub fn superblock(local: &Local, device: &DeviceHandle) -> Result<Option<Superblock>> {
    for (copy, block) in COPIES.into_iter().enumerate() {
        let at = block * BLOCK_BYTES;
        if at + BLOCK_BYTES > device.info().len_bytes {
            continue;
        }
        let handle = device.clone();
        let bytes = local.run(async move { handle.read(at, BLOCK_SIZE).await })?;
        if let Ok(sb) = Superblock::verify(&bytes, copy) {
            return Ok(Some(sb));
        }
    }
    Ok(None)
}
