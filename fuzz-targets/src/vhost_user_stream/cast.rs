//! What a front end may send along: files of every kind, most of them not what the message is about.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::event::EventfdFlags;
use rustix::fs::{MemfdFlags, SealFlags};

use crate::guest::Guest;
use crate::tape::Tape;

/// Entries of a ring of ours.
pub const RING_SIZE: u16 = 16;
/// Bytes of an in-flight area for two of them, with room behind.
pub const INFLIGHT_BYTES: u64 = 2 * 320 + 64;

/// Everything that can be sent.
pub struct Cast {
    /// The guest whose memory the first of the files is.
    pub guest: Guest,
    /// Rung by the guest.
    pub kick: OwnedFd,
    /// Rung by the device.
    pub call: OwnedFd,
    /// An in-flight area, of zeros at first.
    pub inflight: File,
    others: Vec<OwnedFd>,
    /// The ends of what was sent that stay here.
    _kept: Vec<OwnedFd>,
}

fn memory(len: u64, seals: SealFlags) -> File {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = File::from(rustix::fs::memfd_create("fuzz-file", flags).expect("a memory file"));
    file.set_len(len).expect("a memory file of any length");
    rustix::fs::fcntl_add_seals(&file, seals).expect("a memory file can be sealed");
    file
}

fn counter(start: u32, flags: EventfdFlags) -> OwnedFd {
    rustix::event::eventfd(start, flags | EventfdFlags::CLOEXEC).expect("an event counter")
}

impl Cast {
    /// New ones.
    ///
    /// # Panics
    /// Where the process has no descriptors left.
    #[must_use]
    pub fn new() -> Cast {
        let nonblock = EventfdFlags::NONBLOCK;
        let full = counter(0, EventfdFlags::empty());
        rustix::io::write(&full, &(u64::MAX - 1).to_le_bytes()).expect("a counter takes that");
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let (closed_reader, _) = std::io::pipe().expect("a pipe");
        let (_, closed_writer) = std::io::pipe().expect("a pipe");
        let (near, far) = UnixStream::pair().expect("a pair of sockets");
        let open = |path: &str| OwnedFd::from(File::open(path).expect("it is on every machine"));
        let others = vec![
            memory(0, SealFlags::empty()).into(),
            memory(4096, SealFlags::empty()).into(),
            memory(1 << 20, SealFlags::SHRINK).into(),
            memory(1 << 20, SealFlags::WRITE).into(),
            memory(1 << 46, SealFlags::empty()).into(),
            counter(3, nonblock),
            counter(u32::MAX, nonblock | EventfdFlags::SEMAPHORE),
            full,
            reader.into(),
            closed_reader.into(),
            closed_writer.into(),
            near.into(),
            open("/dev/null"),
            open("/dev/random"),
            open("/"),
            rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC).expect("an epoll"),
        ];
        Cast {
            guest: Guest::new(),
            kick: counter(0, nonblock),
            call: counter(0, nonblock),
            inflight: memory(INFLIGHT_BYTES, SealFlags::empty()),
            others,
            _kept: vec![writer.into(), far.into()],
        }
    }
    /// Any of them.
    pub fn any(&self, tape: &mut Tape<'_>) -> BorrowedFd<'_> {
        match tape.below(4 + self.others.len() as u64) as usize {
            0 => self.guest.file().as_fd(),
            1 => self.kick.as_fd(),
            2 => self.call.as_fd(),
            3 => self.inflight.as_fd(),
            n => self.others[n - 4].as_fd(),
        }
    }
}
