//! Event counters (eventfd): how guest, session and data thread ring each other.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use rustix::io::Errno;
use vdi_core::{Error, ErrorKind, Result};

/// One event counter; clones share it.
#[derive(Clone, Debug)]
pub struct Event {
    fd: Arc<OwnedFd>,
}

fn failed(e: Errno) -> Error {
    Error::io("event descriptor", e.raw_os_error())
}

/// What the kernel calls every event counter. A file has a path, and begins with a slash.
const COUNTER: &str = "anon_inode:[eventfd]";

/// Only the kernel is asked, by name: of a file a front end can make even a look wait, on a file system of its own, and
/// other anonymous inodes can make the data thread wait (an epoll descriptor with many more inside).
fn check_kind(file: &File) -> Result<()> {
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    let kind =
        std::fs::read_link(&link).map_err(|e| Error::io(link, e.raw_os_error().unwrap_or(libc::EIO)))?;
    if kind.as_os_str() == COUNTER {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::BadRequest,
        format!("a kick or a call that is {kind:?}, not an event counter"),
        "the front end must send eventfds, as the vhost-user protocol has it on Linux",
    ))
}

impl Event {
    /// A new counter at zero.
    pub fn new() -> Result<Event> {
        let fd = rustix::event::eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).map_err(failed)?;
        Ok(Event { fd: Arc::new(fd) })
    }
    /// One that others ring and we hear. Whoever waits for it waits for its edges and does not read it: a front end can
    /// have it readable for ever, and can make a read of it block. `BadRequest` for what is no event counter.
    pub fn to_hear(file: File) -> Result<Event> {
        check_kind(&file)?;
        let flags = rustix::fs::fcntl_getfl(&file).map_err(failed)?;
        rustix::fs::fcntl_setfl(&file, flags | OFlags::NONBLOCK).map_err(failed)?;
        Ok(Event { fd: Arc::new(file.into()) })
    }
    /// One that we ring. Its mode stays as it is, since its reader may want to block in it. `BadRequest` for what is no
    /// event counter.
    pub fn to_ring(file: File) -> Result<Event> {
        check_kind(&file)?;
        Ok(Event { fd: Arc::new(file.into()) })
    }
    /// Ring, unless the counter is full: then the other side has been rung already.
    ///
    /// Whether a write to a full one blocks is not ours to say: the front end has the same open file, and can change its
    /// mode at any time. So it is asked each time. What is left is a front end with a second thread that fills the counter
    /// between the question and the write; eventfds know no write that never blocks.
    pub fn ring(&self) {
        let mut fds = [PollFd::new(&*self.fd, PollFlags::OUT)];
        let asked = rustix::event::poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        // A counter that the kernel itself filled to the brim answers with an error, and blocks as well.
        if asked.is_ok() && fds[0].revents().contains(PollFlags::OUT) {
            let _ = rustix::io::write(&*self.fd, &1u64.to_le_bytes());
        }
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

#[cfg(test)]
mod tests {
    use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};

    use super::*;

    #[test]
    fn only_an_event_counter_can_be_a_kick_or_a_call() {
        let counter = || File::from(rustix::event::eventfd(0, EventfdFlags::CLOEXEC).unwrap());
        Event::to_hear(counter()).unwrap();
        Event::to_ring(counter()).unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let files = [
            OwnedFd::from(reader),
            OwnedFd::from(writer),
            File::open("/dev/random").unwrap().into(),
            rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC).unwrap(),
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC).unwrap(),
            tempfile::tempfile().unwrap().into(),
            std::os::unix::net::UnixStream::pair().unwrap().0.into(),
        ];
        for fd in files {
            let file = File::from(fd);
            assert_eq!(Event::to_hear(file.try_clone().unwrap()).unwrap_err().kind(), ErrorKind::BadRequest);
            assert_eq!(Event::to_ring(file).unwrap_err().kind(), ErrorKind::BadRequest);
        }
    }
}
