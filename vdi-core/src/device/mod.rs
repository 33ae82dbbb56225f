//! Block devices under the store and the log: one object-safe, completion-based trait.
//!
//! A device knows bytes at offsets, nothing of what they mean. Only a flush orders: a write is on
//! stable storage when a flush submitted after its completion has completed. An operation owns its
//! buffers until its completion hands them back.

pub mod create;
pub mod file;
pub mod handle;
pub mod lock;
pub mod memory;
pub mod open;
pub mod pieces;
pub mod pread;
#[cfg(any(test, feature = "sim"))]
pub mod simulated;
mod stretches;
pub mod uring;

#[cfg(test)]
mod tests;

use std::os::fd::RawFd;

use crate::buffer::{IoBuf, IoBufs};
use crate::executor::Token;

pub use create::{create_prewritten, create_sparse};
pub use handle::{DeviceHandle, DeviceLayers};
pub use memory::MemoryDevice;
pub use open::{Method, OpenOptions, Opened, open};
pub use pieces::Pieces;

/// What to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpKind {
    /// Fill the buffers from the device.
    Read,
    /// Write the buffers to the device.
    Write,
    /// Make every write that completed before this was submitted durable.
    Flush,
    /// The bytes are no longer needed; reads may return anything until written again. A hint.
    Discard,
}

/// One operation. Offsets and lengths are multiples of [`DeviceInfo::align_bytes`].
#[derive(Debug)]
pub struct Op {
    /// What to do.
    pub kind: OpKind,
    /// Where, in bytes from the start of the device.
    pub offset_bytes: u64,
    /// Bytes concerned: the sum of the buffers for reads and writes, zero for a flush.
    pub len_bytes: u64,
    /// The memory, in order.
    pub bufs: IoBufs,
}

/// The end of one operation.
#[derive(Debug)]
pub struct Completion {
    /// Which operation.
    pub token: Token,
    /// Ok when every byte was transferred (a short transfer is continued or is an error), or the errno.
    pub result: Result<(), i32>,
    /// The operation's buffers.
    pub bufs: IoBufs,
}

/// Facts of an open device.
#[derive(Clone, Debug)]
pub struct DeviceInfo {
    /// For messages: a path or a URL.
    pub name: String,
    /// Size in bytes.
    pub len_bytes: u64,
    /// Alignment of offsets, lengths and memory: 512 or 4096.
    pub align_bytes: u32,
    /// Whether discards do anything.
    pub discard: bool,
    /// How I/O is done ("io_uring, O_DIRECT", "pread, buffered", ...), for `status`.
    pub mode: String,
}

impl DeviceInfo {
    /// Refuse an operation that is not whole and aligned or leaves the device: `EINVAL`, as the kernel says.
    /// Memory is held to the alignment only where the device reads and writes it `direct`ly.
    pub(super) fn check(&self, op: &Op, direct: bool) -> Result<(), i32> {
        let align = u64::from(self.align_bytes);
        let bufs_bytes: u64 = op.bufs.iter().map(|b| b.len() as u64).sum();
        let expected = if matches!(op.kind, OpKind::Read | OpKind::Write) { op.len_bytes } else { 0 };
        let in_range = op.offset_bytes.checked_add(op.len_bytes).is_some_and(|end| end <= self.len_bytes);
        let aligned = op.offset_bytes.is_multiple_of(align) && op.len_bytes.is_multiple_of(align);
        let is_aligned =
            |b: &IoBuf| (b.as_ptr() as u64).is_multiple_of(align) && (b.len() as u64).is_multiple_of(align);
        let memory_aligned = !direct || op.bufs.iter().all(|b| b.is_empty() || is_aligned(b));
        if !in_range || !aligned || bufs_bytes != expected || !memory_aligned {
            return Err(libc::EINVAL);
        }
        Ok(())
    }
}

/// A block device. Single-threaded: one shard, one set of devices.
pub trait Device {
    /// Facts that do not change while it is open.
    fn info(&self) -> &DeviceInfo;
    /// Queue an operation. It may start now or at the next [`Device::reap`].
    fn submit(&self, op: Op, token: Token);
    /// Start what is queued, and collect what has ended since. Never blocks.
    fn reap(&self, out: &mut Vec<Completion>);
    /// True while something queued could not be started: no descriptor tells when it can, so [`Device::reap`] is to be
    /// called again.
    fn is_behind(&self) -> bool {
        false
    }
    /// File descriptors that become readable when there is something to reap.
    fn fds(&self, out: &mut Vec<RawFd>);
}
