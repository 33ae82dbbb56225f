//! The plain back end, for where io_uring is refused: operations run one after the other inside
//! [`Device::reap`], which therefore takes as long as the disk does.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::file::OpenFile;
use super::{Completion, Device, DeviceInfo, Op, OpKind};
use crate::buffer::{AlignedBuf, IoBuf, IoBufs};
use crate::error::{Error, Result};
use crate::executor::Token;

/// Buffers per system call at most (`IOV_MAX`).
const IOVECS_MAX: usize = 1024;

/// A file or block device over `preadv`, `pwritev` and `fdatasync`.
pub struct PreadDevice {
    open: OpenFile,
    queue: RefCell<VecDeque<(Op, Token)>>,
    /// Readable while the queue may hold something, so that a loop that sleeps on it comes back.
    wake: OwnedFd,
}

impl PreadDevice {
    /// A device over an open file; `why` is added to the mode that `status` shows.
    pub fn new(mut open: OpenFile, why: &str) -> Result<PreadDevice> {
        open.info.mode = format!("pread, {}{why}", open.info.mode);
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|e| Error::io(format!("eventfd for {}", open.info.name), e.raw_os_error()))?;
        Ok(PreadDevice { open, queue: RefCell::default(), wake })
    }
    fn run(&self, op: &mut Op) -> std::result::Result<(), i32> {
        self.open.check(op)?;
        let file = &self.open.file;
        let outcome = match op.kind {
            OpKind::Read => self.read(op.offset_bytes, &mut op.bufs),
            OpKind::Write => self.write(op.offset_bytes, &op.bufs),
            OpKind::Flush => rustix::io::retry_on_intr(|| rustix::fs::fdatasync(file)),
            OpKind::Discard if op.len_bytes == 0 => Ok(()),
            OpKind::Discard => {
                let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                match rustix::io::retry_on_intr(|| {
                    rustix::fs::fallocate(file, mode, op.offset_bytes, op.len_bytes)
                }) {
                    // A hint: a device that cannot is no error.
                    Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
                    other => other,
                }
            }
        };
        outcome.map_err(Errno::raw_os_error)
    }
    fn read(&self, offset_bytes: u64, bufs: &mut IoBufs) -> std::result::Result<(), Errno> {
        let mut bounced = bounce(bufs);
        let mut slices: Vec<IoSliceMut<'_>> = bufs
            .iter_mut()
            .zip(&mut bounced)
            .map(|(buf, bounce)| match (buf, bounce) {
                (IoBuf::Owned(b), _) => IoSliceMut::new(b),
                (_, Some(b)) => IoSliceMut::new(b),
                (IoBuf::Shared(..) | IoBuf::Guest(_), None) => panic!("a device read into shared memory"),
            })
            .collect();
        let mut rest = &mut slices[..];
        let mut at = offset_bytes;
        while !rest.is_empty() {
            let count = rest.len().min(IOVECS_MAX);
            let n =
                rustix::io::retry_on_intr(|| rustix::io::preadv(&self.open.file, &mut rest[..count], at))?;
            if n == 0 && rest[..count].iter().any(|s| !s.is_empty()) {
                // Shorter than when it was opened.
                return Err(Errno::IO);
            }
            at += n as u64;
            IoSliceMut::advance_slices(&mut rest, n);
        }
        for (buf, bounce) in bufs.iter_mut().zip(&bounced) {
            if let Some(b) = bounce {
                buf.copy_from(b);
            }
        }
        Ok(())
    }
    fn write(&self, offset_bytes: u64, bufs: &IoBufs) -> std::result::Result<(), Errno> {
        let mut bounced = bounce(bufs);
        for (buf, bounce) in bufs.iter().zip(&mut bounced) {
            if let Some(b) = bounce {
                buf.copy_to(b);
            }
        }
        let mut slices: Vec<IoSlice<'_>> = bufs
            .iter()
            .zip(&bounced)
            .map(|(buf, bounce)| match (buf, bounce) {
                (_, Some(b)) => IoSlice::new(b),
                (IoBuf::Owned(b), None) => IoSlice::new(b),
                (IoBuf::Shared(b, range), None) => IoSlice::new(&b[range.clone()]),
                (IoBuf::Guest(_), None) => unreachable!("guest memory is bounced"),
            })
            .collect();
        let mut rest = &mut slices[..];
        let mut at = offset_bytes;
        while !rest.is_empty() {
            let count = rest.len().min(IOVECS_MAX);
            let n = rustix::io::retry_on_intr(|| rustix::io::pwritev(&self.open.file, &rest[..count], at))?;
            if n == 0 && rest[..count].iter().any(|s| !s.is_empty()) {
                return Err(Errno::IO);
            }
            at += n as u64;
            IoSlice::advance_slices(&mut rest, n);
        }
        Ok(())
    }
}

/// Memory of ours for each buffer of a guest's: no reference to guest memory may exist.
fn bounce(bufs: &IoBufs) -> Vec<Option<AlignedBuf>> {
    bufs.iter()
        .map(|b| match b {
            IoBuf::Guest(g) => Some(AlignedBuf::zeroed(g.len())),
            IoBuf::Owned(_) | IoBuf::Shared(..) => None,
        })
        .collect()
}

impl Device for PreadDevice {
    fn info(&self) -> &DeviceInfo {
        &self.open.info
    }
    fn submit(&self, op: Op, token: Token) {
        let mut queue = self.queue.borrow_mut();
        if queue.is_empty() {
            // Fails only when the counter is full, and then it is readable already.
            let _ = rustix::io::write(&self.wake, &1u64.to_le_bytes());
        }
        queue.push_back((op, token));
    }
    fn reap(&self, out: &mut Vec<Completion>) {
        let queued = std::mem::take(&mut *self.queue.borrow_mut());
        if queued.is_empty() {
            return;
        }
        let _ = rustix::io::read(&self.wake, &mut [0u8; 8]);
        for (mut op, token) in queued {
            let result = self.run(&mut op);
            out.push(Completion { token, result, bufs: op.bufs });
        }
    }
    fn fds(&self, out: &mut Vec<RawFd>) {
        out.push(self.wake.as_raw_fd());
    }
}
