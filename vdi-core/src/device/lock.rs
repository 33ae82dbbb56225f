//! A lock on bytes of a file or block device, held by the open file description that does the I/O
//! (`F_OFD_SETLK`, fcntl(2)): it lasts until the last request through that description has ended, even
//! when the process died first. `device/tests/lock.rs` shows that for io_uring.

#![expect(unsafe_code, reason = "one system call that rustix does not wrap: F_OFD_SETLK")]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};

/// How long a lock is tried although a living process is seen to hold it: it may be exiting.
const EXITING_MS: u64 = 300;
/// Pause between two attempts.
const RETRY_MS: u64 = 10;

/// Lock `range` of `file`, for writing or to keep writers out. While no living holder can be seen the lock
/// may be a dead process's last requests: those get up to `wait_ms` to end.
///
/// Errors: `Busy` naming the holder if it can be found.
pub fn lock_range(file: &File, name: &str, range: &Range<u64>, write: bool, wait_ms: u64) -> Result<()> {
    let started = Instant::now();
    loop {
        match try_lock(file.as_fd(), range, write) {
            Ok(()) => return Ok(()),
            Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => {}
            Err(e) if e.raw_os_error() == Some(libc::EINTR) => continue,
            Err(e) => return Err(Error::io(format!("lock {name}"), e.raw_os_error().unwrap_or(libc::EIO))),
        }
        let waited = started.elapsed();
        let holder = holder(file);
        let limit_ms = if holder.is_some() { wait_ms.min(EXITING_MS) } else { wait_ms };
        if waited >= Duration::from_millis(limit_ms) {
            return Err(busy(name, holder));
        }
        std::thread::sleep(Duration::from_millis(RETRY_MS));
    }
}

/// Give up the lock on `range` of `file`.
///
/// Errors: `Io`.
pub fn unlock_range(file: &File, name: &str, range: &Range<u64>) -> Result<()> {
    set_lock(file.as_fd(), range, libc::F_UNLCK)
        .map_err(|e| Error::io(format!("unlock {name}"), e.raw_os_error().unwrap_or(libc::EIO)))
}

fn busy(name: &str, holder: Option<Holder>) -> Error {
    match holder {
        Some(h) => Error::new(
            ErrorKind::Busy,
            format!("{name} is locked by process {} ({})", h.pid, h.command),
            "stop that process (a running daemon or check), or ask the daemon through its control socket",
        ),
        None => Error::new(
            ErrorKind::Busy,
            format!("{name} is locked by a process of another user, or by a dead process's unfinished I/O"),
            "look for the holder as root with 'grep -s OFDLCK /proc/*/fdinfo/*'; unfinished I/O ends by itself",
        ),
    }
}

fn try_lock(fd: BorrowedFd<'_>, range: &Range<u64>, write: bool) -> io::Result<()> {
    set_lock(fd, range, if write { libc::F_WRLCK } else { libc::F_RDLCK })
}

fn set_lock(fd: BorrowedFd<'_>, range: &Range<u64>, kind: libc::c_int) -> io::Result<()> {
    let too_large = |_| io::Error::from_raw_os_error(libc::EOVERFLOW);
    let lock = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: range.start.try_into().map_err(too_large)?,
        l_len: (range.end - range.start).try_into().map_err(too_large)?,
        l_pid: 0,
    };
    // SAFETY: the descriptor is open while borrowed, and `lock` is a valid flock that the call only reads.
    match unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Who holds an OFD lock.
#[derive(Debug, PartialEq, Eq)]
struct Holder {
    pid: u32,
    command: String,
}

/// The process that holds an OFD lock on `file`. The kernel names no process for such locks (`F_OFD_GETLK` and
/// `/proc/locks` say -1), but each descriptor's `fdinfo` lists those of its own description.
fn holder(file: &File) -> Option<Holder> {
    let meta = file.metadata().ok()?;
    let dev = meta.dev();
    let (major, minor) = (rustix::fs::major(dev), rustix::fs::minor(dev));
    let inode = format!(" {major:02x}:{minor:02x}:{} ", meta.ino());
    let mut pids: Vec<u32> =
        std::fs::read_dir("/proc").ok()?.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    let pid = pids.into_iter().find(|pid| holds(*pid, &inode))?;
    let command = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(Holder { pid, command: command.trim_end().to_owned() })
}

fn holds(pid: u32, inode: &str) -> bool {
    let Ok(fds) = std::fs::read_dir(format!("/proc/{pid}/fdinfo")) else { return false };
    fds.filter_map(|e| std::fs::read_to_string(e.ok()?.path()).ok())
        .any(|info| info.lines().any(|l| l.starts_with("lock:") && l.contains("OFDLCK") && l.contains(inode)))
}
