//! Block devices under the store and the log: one object-safe, completion-based trait.
//!
//! A device knows bytes at offsets, nothing of what they mean. Only a flush orders: a write is on
//! stable storage when a flush submitted after its completion has completed. An operation owns its
//! buffers until its completion hands them back.

pub mod handle;
pub mod memory;

use std::os::fd::RawFd;

use crate::buffer::IoBufs;
use crate::executor::Token;

pub use handle::DeviceHandle;
pub use memory::MemoryDevice;

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

/// A block device. Single-threaded: one shard, one set of devices.
pub trait Device {
    /// Facts that do not change while it is open.
    fn info(&self) -> &DeviceInfo;
    /// Queue an operation. It may start now or at the next [`Device::reap`].
    fn submit(&self, op: Op, token: Token);
    /// Start what is queued, and collect what has ended since. Never blocks.
    fn reap(&self, out: &mut Vec<Completion>);
    /// File descriptors that become readable when there is something to reap.
    fn fds(&self, out: &mut Vec<RawFd>);
}
