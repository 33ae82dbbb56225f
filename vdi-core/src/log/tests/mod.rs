//! The laws of the log, on a simulated disk: a world to drive it, and one file per family of laws.

mod corruption;
mod crash;
mod full;
mod running;
mod staged;

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;

use smallvec::SmallVec;

use super::*;
use crate::buffer::crc32c;
use crate::clock::{Clock, ManualClock};
use crate::device::simulated::{CrashPoint, Faults, Random, SimulatedDisk};
use crate::format::log_head::RING_OFFSET_BYTES;
use crate::units::{BlockAddr, Epoch, Generation, VdiId, VdiSeq, VirtualBlock};

const LOG: Uuid = Uuid(0x109);
const STORE: Uuid = Uuid(0x5704e);
const RING_BYTES: u64 = 1 << 20;
const VDI: VdiId = VdiId(77);

/// A disk with a log, the tasks of the process that uses it, and time.
struct World {
    clock: ManualClock,
    crash: CrashPoint,
    disk: SimulatedDisk,
    executor: Executor,
    device: DeviceHandle,
}

impl World {
    fn new(ring_bytes: u64, seed: u64) -> World {
        let (clock, crash) = (ManualClock::default(), CrashPoint::default());
        let len = RING_OFFSET_BYTES + ring_bytes;
        let disk = SimulatedDisk::new("log", len, &clock, Random::new(seed), &crash);
        let device = DeviceHandle::new(Box::new(disk.open()));
        let world = World { clock, crash, disk, executor: Executor::new(), device };
        world.run(None, create(&world.device)).unwrap();
        world
    }
    /// A world with a running log.
    fn with_log(ring_bytes: u64, seed: u64) -> (World, Log) {
        let world = World::new(ring_bytes, seed);
        let log = world.start();
        (world, log)
    }
    /// Deliver what has ended, or let time pass until something does; false when nothing will.
    fn step(&self, log: Option<&Log>) -> bool {
        if self.executor.run_until_stalled() > 0 || log.is_some_and(Log::kick) || self.device.poll() {
            return true;
        }
        if self.crash.reached() {
            return false;
        }
        let Some(due_ns) = self.disk.next_completion_ns() else { return false };
        self.clock.advance_ns(due_ns.saturating_sub(self.clock.now_ns()));
        true
    }
    /// Run until nothing goes on by itself.
    fn settle(&self, log: &Log) {
        while self.step(Some(log)) {}
    }
    /// Run `future` to its end; None when it waits for something that does not come.
    fn try_run<T: 'static>(&self, log: Option<&Log>, future: impl Future<Output = T> + 'static) -> Option<T> {
        let out = self.spawn(future);
        while out.borrow().is_none() && self.step(log) {}
        out.take()
    }
    fn run<T: 'static>(&self, log: Option<&Log>, future: impl Future<Output = T> + 'static) -> T {
        self.try_run(log, future).expect("the future waits for something that never comes")
    }
    /// Start `future`; its result appears in the cell.
    fn spawn<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> Rc<RefCell<Option<T>>> {
        let out = Rc::new(RefCell::new(None));
        let slot = Rc::clone(&out);
        self.executor.spawn(async move {
            let value = future.await;
            *slot.borrow_mut() = Some(value);
        });
        out
    }
    fn scan(&self) -> Result<Scan> {
        let device = self.device.clone();
        self.run(None, async move { Log::scan(&device, LOG, STORE).await })
    }
    fn start(&self) -> Log {
        self.start_from(self.scan().unwrap())
    }
    fn start_from(&self, scan: Scan) -> Log {
        let executor = self.executor.clone();
        self.run(None, async move { scan.start(&executor, &StagingMemory::default()).await }).unwrap()
    }
    /// The process is gone; open the disk anew.
    fn reopen(&mut self) {
        self.executor.abandon_all();
        self.crash.disarm();
        self.device = DeviceHandle::new(Box::new(self.disk.open()));
    }
    fn kill(&mut self) {
        self.disk.kill();
        self.reopen();
    }
    fn append(&self, log: &Log, record: &Record) -> Result<Appended> {
        let (log2, record) = (log.clone(), record.clone());
        self.run(Some(log), async move {
            let room = log2.reserve(record.encoded_bytes(), record.body.inline_blocks()).await?;
            log2.append(room, &record, data_of(&record))
        })
    }
    fn flush(&self, log: &Log) -> Result<()> {
        let log2 = log.clone();
        self.run(Some(log), async move { log2.flush().await })
    }
    fn trim(&self, log: &Log, before: SegmentSeq) -> Result<()> {
        let log2 = log.clone();
        self.run(Some(log), async move { log2.trim(before, &[]).await })
    }
    fn delays(&self, delay_ns_max: u64) {
        self.disk.set_faults(Faults { delay_ns_max, ..Faults::default() });
    }
    /// Flip a bit of the medium, `within` bytes after `offset_bytes`.
    fn rot(&self, offset_bytes: u64) {
        let mut byte = [0];
        self.disk.media().read(offset_bytes, &mut byte);
        self.disk.media().write(offset_bytes, &[byte[0] ^ 1]);
    }
}

fn create(device: &DeviceHandle) -> impl Future<Output = Result<()>> + use<> {
    let device = device.clone();
    async move { Log::create_on_prewritten(&device, LOG, STORE).await }
}

/// What block `n` of a write at `at` holds; `stamp` tells writes apart.
fn block_of(stamp: u64, at: u64, n: u64) -> AlignedBuf {
    let mut block = AlignedBuf::block();
    for (i, word) in block.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&(stamp << 40 | (at + n) << 16 | i as u64).to_le_bytes());
    }
    block
}

fn record(seq: u64, body: Body) -> Record {
    Record {
        vdi: VDI,
        seq: VdiSeq(seq),
        lease_epoch: 1,
        epoch: Epoch(1),
        origin: Origin::default(),
        copy: false,
        body,
    }
}

/// A write of `blocks` blocks whose data follow from `seq`, its place and the life that writes it.
fn write_in_life(seq: u64, blocks: u64, life: u64) -> Record {
    let at = seq * 3 % 1000;
    let crcs = (0..blocks).map(|n| crc32c(&block_of(seq << 8 | life, at, n))).collect();
    let body = Body::Write { at: VirtualBlock(at), crcs };
    Record { lease_epoch: life, ..record(seq, body) }
}

fn write(seq: u64, blocks: u64) -> Record {
    write_in_life(seq, blocks, 1)
}

fn discard(seq: u64) -> Record {
    record(seq, Body::Discard { at: VirtualBlock(seq), blocks: 1 })
}

fn data_of(record: &Record) -> SmallVec<[Rc<AlignedBuf>; 1]> {
    let Body::Write { at, crcs } = &record.body else { return SmallVec::new() };
    let mut data = AlignedBuf::zeroed(crcs.len() * BLOCK_SIZE);
    for (n, block) in data.chunks_exact_mut(BLOCK_SIZE).enumerate() {
        block.copy_from_slice(&block_of(record.seq.0 << 8 | record.lease_epoch, at.0, n as u64));
    }
    SmallVec::from_elem(Rc::new(data), 1)
}

/// The records that a scan found, in order.
fn found(scan: &Scan) -> Vec<Record> {
    scan.records().map(|(_, _, record, _)| record.clone()).collect()
}

fn seqs(scan: &Scan) -> Vec<u64> {
    scan.records().map(|(_, _, record, _)| record.seq.0).collect()
}
