//! The io_uring back end.
//!
//! Invariants:
//! - an operation known to the kernel lives in `running`, which never grows past its first allocation, so that
//!   its buffers and its iovecs stay where the kernel was told they are until its completion;
//! - `running` holds at most [`ENTRIES`] operations, so neither ring can overflow; the rest wait in turn
//!   (bounded by whoever issues);
//! - the device goes only after the kernel has let go of every buffer.

#![expect(unsafe_code, reason = "pushing to a submission queue: the operation's buffers must outlive it")]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use io_uring::types::{Fd, FsyncFlags};
use io_uring::{IoUring, opcode, squeue};
use slab::Slab;
use smallvec::SmallVec;

use super::file::OpenFile;
use super::{Completion, Device, DeviceInfo, Op, OpKind};
use crate::executor::Token;

/// Operations in the kernel at once.
const ENTRIES: usize = 256;
/// Buffers per request at most (`IOV_MAX`); the rest goes in a next one.
const IOVECS_MAX: usize = 1024;
/// Where a transfer is a copy, one of this size is left to a thread of the kernel: the loop has guests to serve.
const ASIDE_BYTES: u64 = 64 << 10;
/// A transfer of this size goes to the kernel by itself: of those that it gets together it makes one request where they touch,
/// and a disk does several at once faster than one long one.
const ALONE_BYTES: u64 = 64 << 10;
/// So many reads go to the kernel at once. A virtual disk completes together what it gets together: while it works on all that a
/// guest has asked for, the guest has nothing to ask, and while the guest asks, the disk has nothing to do.
const READS_AT_ONCE: usize = 8;
/// How often one transfer is tried again when the kernel says "interrupted" or "again".
const RETRIES_MAX: u32 = 64;

struct Running {
    op: Op,
    token: Token,
    iovecs: SmallVec<[libc::iovec; 4]>,
    moved_bytes: u64,
    retries: u32,
}

struct State {
    ring: IoUring,
    running: Slab<Running>,
    waiting: VecDeque<(Op, Token)>,
    /// See [`OpenFile`].
    copies: bool,
    /// Refused without asking the kernel.
    refused: Vec<Completion>,
}

/// A file or block device over io_uring.
pub struct UringDevice {
    pub(super) open: OpenFile,
    state: RefCell<State>,
}

impl UringDevice {
    /// A device over an open file, or the file back with the reason why the kernel gives no ring.
    pub fn new(mut open: OpenFile) -> Result<UringDevice, (OpenFile, io::Error)> {
        // The flags save wake-ups (Linux 6.0); an older kernel says EINVAL.
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .build(ENTRIES as u32)
            .or_else(|_| IoUring::new(ENTRIES as u32));
        match ring {
            Ok(ring) => {
                open.info.mode = format!("io_uring, {}", open.info.mode);
                let running = Slab::with_capacity(ENTRIES);
                let state = State {
                    ring,
                    running,
                    waiting: VecDeque::new(),
                    copies: open.copies,
                    refused: Vec::new(),
                };
                Ok(UringDevice { open, state: RefCell::new(state) })
            }
            Err(e) => Err((open, e)),
        }
    }
}

impl State {
    fn start(&mut self, op: Op, token: Token, fd: RawFd) {
        assert!(self.running.len() < ENTRIES, "the caller keeps the ring's bound");
        let capacity = self.running.capacity();
        let key =
            self.running.insert(Running { op, token, iovecs: SmallVec::new(), moved_bytes: 0, retries: 0 });
        assert_eq!(capacity, self.running.capacity(), "operations in the kernel never move");
        let op = &self.running[key].op;
        let (alone, reads) = (op.len_bytes >= ALONE_BYTES, op.kind == OpKind::Read);
        self.push(key, fd);
        if !self.copies && (alone || reads && self.ring.submission().len() >= READS_AT_ONCE) {
            self.enter();
        }
    }
    /// Tell the kernel about what is left of an operation.
    fn push(&mut self, key: usize, fd: RawFd) {
        let running = &mut self.running[key];
        let mut entry = running.entry(fd).user_data(key as u64);
        if self.copies && running.op.len_bytes >= ASIDE_BYTES {
            entry = entry.flags(squeue::Flags::ASYNC);
        }
        let mut queue = self.ring.submission();
        // SAFETY: the entry names the buffers and iovecs of running[key]. They stay valid and in place until the
        // completion removes it: `running` never reallocates, and Drop waits for it.
        unsafe { queue.push(&entry) }.expect("at most ENTRIES operations are in the ring");
    }
    /// Give new entries to the kernel. What it does not take now stays queued for the next time.
    fn enter(&mut self) {
        let queue = self.ring.submission();
        let needed = !queue.is_empty() || queue.taskrun() || queue.cq_overflow();
        drop(queue);
        if !needed {
            return;
        }
        for _ in 0..RETRIES_MAX {
            match self.ring.submit() {
                Ok(_) => return,
                Err(e) if is_later(&e) => {}
                Err(e) => panic!("io_uring_enter on a valid ring: {e}"),
            }
        }
    }
    /// Collect what has ended; true if something went back to the kernel.
    fn collect(&mut self, out: &mut Vec<Completion>, fd: RawFd) -> bool {
        let ended: SmallVec<[(usize, i32); 32]> =
            self.ring.completion().map(|c| (c.user_data() as usize, c.result())).collect();
        let mut again = false;
        for (key, result) in ended {
            match self.running[key].account(result) {
                Some(result) => {
                    let Running { op, token, .. } = self.running.remove(key);
                    out.push(Completion { token, result, bufs: op.bufs });
                }
                None => {
                    self.push(key, fd);
                    again = true;
                }
            }
        }
        while self.running.len() < ENTRIES {
            let Some((op, token)) = self.waiting.pop_front() else { break };
            self.start(op, token, fd);
            again = true;
        }
        again
    }
}

/// What is longer than the kernel can count goes on where it left off.
fn length(iovec: &libc::iovec) -> u32 {
    u32::try_from(iovec.iov_len).unwrap_or(!0xffff)
}

fn is_later(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY))
}

impl Running {
    /// The kernel request for what has not been transferred yet.
    fn entry(&mut self, fd: RawFd) -> squeue::Entry {
        let fd = Fd(fd);
        let at = self.op.offset_bytes + self.moved_bytes;
        match self.op.kind {
            OpKind::Flush => opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build(),
            OpKind::Discard => opcode::Fallocate::new(fd, self.op.len_bytes)
                .offset(at)
                .mode(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE)
                .build(),
            OpKind::Read => {
                self.point_iovecs();
                match self.iovecs.as_slice() {
                    [one] => opcode::Read::new(fd, one.iov_base.cast(), length(one)).offset(at).build(),
                    all => opcode::Readv::new(fd, all.as_ptr(), all.len() as u32).offset(at).build(),
                }
            }
            OpKind::Write => {
                self.point_iovecs();
                match self.iovecs.as_slice() {
                    [one] => opcode::Write::new(fd, one.iov_base.cast(), length(one)).offset(at).build(),
                    all => opcode::Writev::new(fd, all.as_ptr(), all.len() as u32).offset(at).build(),
                }
            }
        }
    }
    fn point_iovecs(&mut self) {
        self.iovecs.clear();
        let reading = self.op.kind == OpKind::Read;
        let mut skip = self.moved_bytes as usize;
        for buf in &mut self.op.bufs {
            let len = buf.len();
            if skip >= len {
                skip -= len;
                continue;
            }
            let base = if reading { buf.as_mut_ptr() } else { buf.as_ptr().cast_mut() };
            self.iovecs.push(libc::iovec { iov_base: base.wrapping_add(skip).cast(), iov_len: len - skip });
            skip = 0;
            if self.iovecs.len() == IOVECS_MAX {
                break;
            }
        }
    }
    /// Account for a completion; None when there is more to do.
    fn account(&mut self, result: i32) -> Option<Result<(), i32>> {
        if result < 0 {
            let errno = -result;
            let unsupported = errno == libc::EOPNOTSUPP || errno == libc::ENOSYS;
            if self.op.kind == OpKind::Discard && unsupported {
                // A hint: a device that cannot is no error.
                return Some(Ok(()));
            }
            if (errno == libc::EINTR || errno == libc::EAGAIN) && self.retries < RETRIES_MAX {
                self.retries += 1;
                return None;
            }
            return Some(Err(errno));
        }
        if matches!(self.op.kind, OpKind::Flush | OpKind::Discard) {
            return Some(Ok(()));
        }
        if result == 0 {
            // Shorter than when it was opened.
            return Some(Err(libc::EIO));
        }
        self.moved_bytes += u64::from(result.unsigned_abs());
        self.retries = 0;
        (self.moved_bytes == self.op.len_bytes).then_some(Ok(()))
    }
}

impl Device for UringDevice {
    fn info(&self) -> &DeviceInfo {
        &self.open.info
    }
    fn submit(&self, op: Op, token: Token) {
        let mut state = self.state.borrow_mut();
        let nothing = op.kind != OpKind::Flush && op.len_bytes == 0;
        match self.open.check(&op) {
            Ok(()) if nothing => state.refused.push(Completion { token, result: Ok(()), bufs: op.bufs }),
            Ok(()) if state.running.len() < ENTRIES && state.waiting.is_empty() => {
                state.start(op, token, self.open.file.as_raw_fd());
            }
            Ok(()) => state.waiting.push_back((op, token)),
            Err(errno) => state.refused.push(Completion { token, result: Err(errno), bufs: op.bufs }),
        }
    }
    fn reap(&self, out: &mut Vec<Completion>) {
        let state = &mut *self.state.borrow_mut();
        out.append(&mut state.refused);
        loop {
            state.enter();
            if !state.collect(out, self.open.file.as_raw_fd()) {
                break;
            }
        }
    }
    /// The kernel did not take them (no memory, or a signal each time), and completes nothing that it did not take.
    fn is_behind(&self) -> bool {
        !self.state.borrow_mut().ring.submission().is_empty()
    }
    /// The ring itself: it polls readable exactly while completions wait, with no counter to drain.
    fn fds(&self, out: &mut Vec<RawFd>) {
        out.push(self.state.borrow().ring.as_raw_fd());
    }
}

impl Drop for UringDevice {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        state.waiting.clear();
        let mut ended = Vec::new();
        while !state.running.is_empty() {
            if let Err(e) = state.ring.submit_and_wait(1)
                && !is_later(&e)
            {
                // The kernel may still write: memory lost is better than memory overwritten.
                std::mem::forget(std::mem::take(&mut state.running));
                return;
            }
            state.collect(&mut ended, self.open.file.as_raw_fd());
        }
    }
}
