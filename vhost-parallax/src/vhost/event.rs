//! Event counters (eventfd): how guest, session and data thread ring each other.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use rustix::io::Errno;
use vdi_core::{Error, Result};

/// One event counter; clones share it.
#[derive(Clone, Debug)]
pub struct Event {
    fd: Arc<OwnedFd>,
    /// A write may block when the other side has filled the counter.
    may_block: bool,
}

fn failed(e: Errno) -> Error {
    Error::io("event descriptor", e.raw_os_error())
}

impl Event {
    /// A new counter at zero.
    pub fn new() -> Result<Event> {
        let fd = rustix::event::eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).map_err(failed)?;
        Ok(Event { fd: Arc::new(fd), may_block: false })
    }
    /// One that others ring and we clear. A front end may send any kind of file: it is made non-blocking.
    pub fn to_hear(file: File) -> Result<Event> {
        let flags = rustix::fs::fcntl_getfl(&file).map_err(failed)?;
        rustix::fs::fcntl_setfl(&file, flags | OFlags::NONBLOCK).map_err(failed)?;
        Ok(Event { fd: Arc::new(file.into()), may_block: false })
    }
    /// One that we ring. Its mode stays as it is, since its reader may want to block in it.
    pub fn to_ring(file: File) -> Result<Event> {
        let flags = rustix::fs::fcntl_getfl(&file).map_err(failed)?;
        Ok(Event { fd: Arc::new(file.into()), may_block: !flags.contains(OFlags::NONBLOCK) })
    }
    /// Ring. Never blocks: a full counter means that the other side has been rung already.
    pub fn ring(&self) {
        if self.may_block {
            let mut fds = [PollFd::new(&*self.fd, PollFlags::OUT)];
            if !matches!(rustix::event::poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(1)) {
                return;
            }
        }
        let _ = rustix::io::write(&*self.fd, &1u64.to_le_bytes());
    }
    /// Take note of every ring so far.
    pub fn clear(&self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&*self.fd, &mut count);
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Event {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}
