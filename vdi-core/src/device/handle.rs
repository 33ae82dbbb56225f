//! `.await` over a [`Device`]: each call submits one operation and resolves at its completion.

use std::cell::{Cell, OnceCell, RefCell};
use std::os::fd::RawFd;
use std::rc::Rc;

use smallvec::smallvec;

use super::{Completion, Device, DeviceInfo, Op, OpKind};
use crate::buffer::{AlignedBuf, IoBuf, IoBufs};
use crate::error::{Error, Result};
use crate::executor::Tokens;
use crate::latency::{Latencies, Layer};

type Outcome = (std::result::Result<(), i32>, IoBufs);

struct Inner {
    device: Box<dyn Device>,
    tokens: Tokens<Outcome>,
    reaped: RefCell<Vec<Completion>>,
    counts: Counts,
    timed: OnceCell<(Latencies, DeviceLayers)>,
}

/// What the times of a device count as.
#[derive(Clone, Copy, Debug)]
pub struct DeviceLayers {
    /// Its reads.
    pub read: Option<Layer>,
    /// Its writes.
    pub write: Layer,
    /// Its flushes.
    pub flush: Layer,
}

/// Operations and bytes since the device was opened.
#[derive(Debug, Default)]
pub struct Counts {
    /// Reads submitted.
    pub reads: Cell<u64>,
    /// Bytes read.
    pub read_bytes: Cell<u64>,
    /// Writes submitted.
    pub writes: Cell<u64>,
    /// Bytes written.
    pub write_bytes: Cell<u64>,
    /// Flushes submitted.
    pub flushes: Cell<u64>,
}

/// Shared handle on one open device.
#[derive(Clone)]
pub struct DeviceHandle(Rc<Inner>);

impl DeviceHandle {
    /// Wrap an open device.
    #[must_use]
    pub fn new(device: Box<dyn Device>) -> DeviceHandle {
        DeviceHandle(Rc::new(Inner {
            device,
            tokens: Tokens::default(),
            reaped: RefCell::default(),
            counts: Counts::default(),
            timed: OnceCell::new(),
        }))
    }
    /// Facts of the device.
    #[must_use]
    pub fn info(&self) -> &DeviceInfo {
        self.0.device.info()
    }
    /// What was done so far.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.0.counts
    }
    /// Time what is done from now on; once.
    pub fn time(&self, latencies: Latencies, layers: DeviceLayers) {
        let _ = self.0.timed.set((latencies, layers));
    }
    /// Operations submitted and not yet collected.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.0.tokens.in_flight()
    }
    /// Start queued operations and deliver ended ones; true if any ended, or has yet to be started.
    pub fn poll(&self) -> bool {
        let mut done = std::mem::take(&mut *self.0.reaped.borrow_mut());
        self.0.device.reap(&mut done);
        let any = !done.is_empty();
        for c in done.drain(..) {
            self.0.tokens.complete(c.token, (c.result, c.bufs));
        }
        *self.0.reaped.borrow_mut() = done;
        any || self.0.device.is_behind()
    }
    /// File descriptors to wait on.
    pub fn fds(&self, out: &mut Vec<RawFd>) {
        self.0.device.fds(out);
    }
    async fn run(&self, kind: OpKind, offset_bytes: u64, len_bytes: u64, bufs: IoBufs) -> Outcome {
        let (token, pending) = self.0.tokens.issue();
        let timed = self.0.timed.get().and_then(|(l, layers)| Some((l, layers.of(kind)?, l.start())));
        self.0.device.submit(Op { kind, offset_bytes, len_bytes, bufs }, token);
        let outcome = pending.await;
        if let Some((latencies, layer, started)) = timed {
            latencies.end(layer, started);
        }
        outcome
    }
    fn failed(&self, what: &str, offset_bytes: u64, len_bytes: u64, errno: i32) -> Error {
        Error::io(format!("{what} {len_bytes} bytes at offset {offset_bytes} of {}", self.info().name), errno)
    }
    /// Fill `bufs` from `offset_bytes`; the buffers come back either way.
    pub async fn read_bufs(&self, offset_bytes: u64, bufs: IoBufs) -> (Result<()>, IoBufs) {
        let len = total(&bufs);
        let c = &self.0.counts;
        c.reads.set(c.reads.get() + 1);
        c.read_bytes.set(c.read_bytes.get() + len);
        let (result, bufs) = self.run(OpKind::Read, offset_bytes, len, bufs).await;
        (result.map_err(|e| self.failed("read", offset_bytes, len, e)), bufs)
    }
    /// Read `len` bytes into fresh memory.
    pub async fn read(&self, offset_bytes: u64, len: usize) -> Result<AlignedBuf> {
        let (result, mut bufs) =
            self.read_bufs(offset_bytes, smallvec![IoBuf::Owned(AlignedBuf::zeroed(len))]).await;
        result?;
        match bufs.pop() {
            Some(IoBuf::Owned(b)) => Ok(b),
            _ => unreachable!("the device gives back the buffers it was given"),
        }
    }
    /// Write `bufs` at `offset_bytes`; not durable before a flush.
    pub async fn write_bufs(&self, offset_bytes: u64, bufs: IoBufs) -> Result<()> {
        let len = total(&bufs);
        let c = &self.0.counts;
        c.writes.set(c.writes.get() + 1);
        c.write_bytes.set(c.write_bytes.get() + len);
        let (result, _) = self.run(OpKind::Write, offset_bytes, len, bufs).await;
        result.map_err(|e| self.failed("write", offset_bytes, len, e))
    }
    /// Write one buffer.
    pub async fn write(&self, offset_bytes: u64, buf: AlignedBuf) -> Result<()> {
        self.write_bufs(offset_bytes, smallvec![IoBuf::Owned(buf)]).await
    }
    /// Make every write completed so far durable.
    pub async fn flush(&self) -> Result<()> {
        let c = &self.0.counts;
        c.flushes.set(c.flushes.get() + 1);
        let (result, _) = self.run(OpKind::Flush, 0, 0, IoBufs::new()).await;
        result.map_err(|e| Error::io(format!("flush {}", self.info().name), e))
    }
    /// Tell the device that `len_bytes` at `offset_bytes` are not needed.
    pub async fn discard(&self, offset_bytes: u64, len_bytes: u64) -> Result<()> {
        let (result, _) = self.run(OpKind::Discard, offset_bytes, len_bytes, IoBufs::new()).await;
        result.map_err(|e| self.failed("discard", offset_bytes, len_bytes, e))
    }
}

impl DeviceLayers {
    fn of(self, kind: OpKind) -> Option<Layer> {
        match kind {
            OpKind::Read => self.read,
            OpKind::Write => Some(self.write),
            OpKind::Flush => Some(self.flush),
            OpKind::Discard => None,
        }
    }
}

fn total(bufs: &IoBufs) -> u64 {
    bufs.iter().map(|b| b.len() as u64).sum()
}
