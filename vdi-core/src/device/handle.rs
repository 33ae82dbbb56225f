//! `.await` over a [`Device`]: each call submits one operation and resolves at its completion.

use std::cell::{Cell, OnceCell, RefCell};
use std::ops::Range;
use std::os::fd::RawFd;
use std::rc::Rc;

use smallvec::smallvec;

use super::stretches::Stretches;
use super::{Completion, Device, DeviceInfo, Op, OpKind};
use crate::buffer::{AlignedBuf, IoBuf, IoBufs};
use crate::error::{Error, Result};
use crate::executor::{LocalFuture, Tokens};
use crate::latency::{Latencies, Layer};

pub(super) type Outcome = (std::result::Result<(), i32>, IoBufs);

struct Inner {
    device: Box<dyn Device>,
    tokens: Tokens<Outcome>,
    reaped: RefCell<Vec<Completion>>,
}

/// What the holders of a handle see.
struct Face {
    info: DeviceInfo,
    /// Where this lies on the device; None when it is the whole device.
    stretches: Option<Stretches>,
    counts: Counts,
    timed: OnceCell<(Latencies, DeviceLayers)>,
    flush_by: OnceCell<FlushBy>,
}

/// What is being timed, if anything is.
type Timed<'a> = Option<(&'a Latencies, Layer, crate::latency::Started)>;

/// Makes everything written to a device durable.
pub type FlushBy = Rc<dyn Fn() -> LocalFuture<'static, Result<()>>>;

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

/// Shared handle on one open device, or on a part of it.
#[derive(Clone)]
pub struct DeviceHandle {
    inner: Rc<Inner>,
    face: Rc<Face>,
}

impl DeviceHandle {
    /// Wrap an open device.
    #[must_use]
    pub fn new(device: Box<dyn Device>) -> DeviceHandle {
        let info = device.info().clone();
        let inner = Inner { device, tokens: Tokens::default(), reaped: RefCell::default() };
        DeviceHandle { inner: Rc::new(inner), face: Face::new(info, None) }
    }
    /// `stretches` of this device, in bytes and one after the other, as a device called `name`. Each starts and ends where
    /// blocks do. It has counts of its own; to [`DeviceHandle::poll`] the whole device is enough.
    #[must_use]
    pub fn joined(&self, name: String, stretches: Vec<Range<u64>>) -> DeviceHandle {
        assert!(self.face.stretches.is_none(), "stretches of a whole device");
        let stretches = Stretches::new(stretches);
        let info = DeviceInfo { name, len_bytes: stretches.len_bytes(), ..self.info().clone() };
        DeviceHandle { inner: Rc::clone(&self.inner), face: Face::new(info, Some(stretches)) }
    }
    /// Facts of the device.
    #[must_use]
    pub fn info(&self) -> &DeviceInfo {
        &self.face.info
    }
    /// What was done so far.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.face.counts
    }
    /// Time what is done from now on; once.
    pub fn time(&self, latencies: Latencies, layers: DeviceLayers) {
        let _ = self.face.timed.set((latencies, layers));
    }
    /// Whether both are parts of the same open device.
    #[must_use]
    pub fn is_beside(&self, other: &DeviceHandle) -> bool {
        Rc::ptr_eq(&self.inner, &other.inner)
    }
    /// Flush by `flush` from now on, which is for the whole device; once. A flush that fails may have lost what others wrote
    /// there, so that who has the whole device must hear of it.
    pub fn flush_by(&self, flush: FlushBy) {
        let _ = self.face.flush_by.set(flush);
    }
    /// Operations submitted and not yet collected.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.inner.tokens.in_flight()
    }
    /// Start queued operations and deliver ended ones; true if any ended, or has yet to be started.
    pub fn poll(&self) -> bool {
        let mut done = std::mem::take(&mut *self.inner.reaped.borrow_mut());
        self.inner.device.reap(&mut done);
        let any = !done.is_empty();
        for c in done.drain(..) {
            self.inner.tokens.complete(c.token, (c.result, c.bufs));
        }
        *self.inner.reaped.borrow_mut() = done;
        any || self.inner.device.is_behind()
    }
    /// File descriptors to wait on; none for a part of a device, whose whole has them.
    pub fn fds(&self, out: &mut Vec<RawFd>) {
        if self.face.stretches.is_none() {
            self.inner.device.fds(out);
        }
    }
    async fn run(&self, kind: OpKind, offset_bytes: u64, len_bytes: u64, bufs: IoBufs) -> Outcome {
        let started = self.start(kind);
        let op = Op { kind, offset_bytes, len_bytes, bufs };
        let outcome = match &self.face.stretches {
            None => self.run_on_device(op).await,
            // Apart, so that what most devices do is not carried about in futures of this size.
            Some(stretches) => Box::pin(stretches.run(op, |op| self.run_on_device(op))).await,
        };
        self.end(started);
        outcome
    }
    fn start(&self, kind: OpKind) -> Timed<'_> {
        self.face.timed.get().and_then(|(l, layers)| Some((l, layers.of(kind)?, l.start())))
    }
    fn end(&self, started: Timed<'_>) {
        if let Some((latencies, layer, started)) = started {
            latencies.end(layer, started);
        }
    }
    async fn run_on_device(&self, op: Op) -> Outcome {
        let (token, pending) = self.inner.tokens.issue();
        self.inner.device.submit(op, token);
        pending.await
    }
    fn failed(&self, what: &str, offset_bytes: u64, len_bytes: u64, errno: i32) -> Error {
        Error::io(format!("{what} {len_bytes} bytes at offset {offset_bytes} of {}", self.info().name), errno)
    }
    /// Fill `bufs` from `offset_bytes`; the buffers come back either way.
    pub async fn read_bufs(&self, offset_bytes: u64, bufs: IoBufs) -> (Result<()>, IoBufs) {
        let len = total(&bufs);
        let c = &self.face.counts;
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
        let c = &self.face.counts;
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
        let c = &self.face.counts;
        c.flushes.set(c.flushes.get() + 1);
        if let Some(flush) = self.face.flush_by.get() {
            let started = self.start(OpKind::Flush);
            let result = flush().await;
            self.end(started);
            return result;
        }
        let (result, _) = self.run(OpKind::Flush, 0, 0, IoBufs::new()).await;
        result.map_err(|e| Error::io(format!("flush {}", self.info().name), e))
    }
    /// Tell the device that `len_bytes` at `offset_bytes` are not needed.
    pub async fn discard(&self, offset_bytes: u64, len_bytes: u64) -> Result<()> {
        let (result, _) = self.run(OpKind::Discard, offset_bytes, len_bytes, IoBufs::new()).await;
        result.map_err(|e| self.failed("discard", offset_bytes, len_bytes, e))
    }
}

impl Face {
    fn new(info: DeviceInfo, stretches: Option<Stretches>) -> Rc<Face> {
        Rc::new(Face {
            info,
            stretches,
            counts: Counts::default(),
            timed: OnceCell::new(),
            flush_by: OnceCell::new(),
        })
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
