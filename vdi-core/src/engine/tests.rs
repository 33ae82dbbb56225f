mod checkpoint;
mod doubt;
mod failing;
mod held;
mod newest;
mod resize;
mod shards;
mod tidy;
mod unreadable;

use std::cell::{Cell, RefCell};
use std::os::fd::RawFd;
use std::rc::Rc;

use super::*;
use crate::buffer::{GuestBufs, HostMemory};
use crate::clock::ManualClock;
use crate::device::memory::{Media, MemoryDevice};
use crate::device::{Completion, Device, DeviceHandle, DeviceInfo, Op, OpKind};
use crate::executor::Token;
use crate::sabotage::Bug;
use crate::sabotage::property::breaks;
use crate::units::{Epoch, SECTOR_BYTES};
use crate::vdi::Ack;

const STORE_BYTES: u64 = 128 << 20;
const LOG_BYTES: u64 = 48 << 20;
const DISK: u64 = 256 << 20;

/// A store and a log whose bytes survive a "kill".
#[derive(Default)]
struct World {
    store: Media,
    log: Media,
    log_bytes: Option<u64>,
    /// A byte of the store that cannot be read.
    unreadable: Rc<Cell<Option<u64>>>,
    /// A byte of the store that cannot be written.
    unwritable: Rc<Cell<Option<u64>>>,
    /// The next flush of the store fails.
    flush_fails: Rc<Cell<bool>>,
    /// A byte of the log that cannot be read.
    log_unreadable: Rc<Cell<Option<u64>>>,
}

impl World {
    fn formatted() -> World {
        World::with_log(LOG_BYTES)
    }
    fn with_log(bytes: u64) -> World {
        World::made(bytes, FormatOptions::default())
    }
    fn made(log_bytes: u64, options: FormatOptions) -> World {
        let w = World { log_bytes: Some(log_bytes), ..World::default() };
        let store = w.store_device();
        let devices = [store.clone()];
        drive(&Executor::new(), None, &devices, async move {
            Engine::format(env(&Executor::new()), store, options).await.unwrap()
        });
        w
    }
    /// Another world that is now as this one is.
    fn fork(&self) -> World {
        World {
            store: self.store.fork(),
            log: self.log.fork(),
            log_bytes: self.log_bytes,
            ..World::default()
        }
    }
    fn store_device(&self) -> DeviceHandle {
        let memory = MemoryDevice::new("store", STORE_BYTES, self.store.clone());
        let (unreadable, unwritable) = (Rc::clone(&self.unreadable), Rc::clone(&self.unwritable));
        let (flush_fails, failed) = (Rc::clone(&self.flush_fails), RefCell::default());
        DeviceHandle::new(Box::new(Failing { memory, unreadable, unwritable, flush_fails, failed }))
    }
    fn log_device(&self) -> DeviceHandle {
        let memory = MemoryDevice::new("log", self.log_bytes.unwrap_or(LOG_BYTES), self.log.clone());
        let unreadable = Rc::clone(&self.log_unreadable);
        let (unwritable, flush_fails, failed) = Default::default();
        DeviceHandle::new(Box::new(Failing { memory, unreadable, unwritable, flush_fails, failed }))
    }
    /// Open, do, and kill: nothing is checkpointed unless `f` does it.
    fn run<T: 'static, F: Future<Output = T> + 'static>(&self, f: impl FnOnce(Engine) -> F + 'static) -> T {
        self.run_with(EngineOptions::default(), f)
    }
    fn run_with<T: 'static, F: Future<Output = T> + 'static>(
        &self,
        options: EngineOptions,
        f: impl FnOnce(Engine) -> F + 'static,
    ) -> T {
        let executor = Executor::new();
        let (store, log) = (self.store_device(), self.log_device());
        let env = env(&executor);
        let running: Rc<RefCell<Option<Engine>>> = Rc::default();
        let slot = Rc::clone(&running);
        let devices = [store.clone(), log.clone()];
        let out = drive(&executor, Some(&running), &devices, async move {
            let engine = Engine::open(env, store, log, options).await.unwrap();
            *slot.borrow_mut() = Some(engine.clone());
            f(engine).await
        });
        executor.abandon_all();
        out
    }
}

/// A device in memory that fails on request.
struct Failing {
    memory: MemoryDevice,
    unreadable: Rc<Cell<Option<u64>>>,
    unwritable: Rc<Cell<Option<u64>>>,
    flush_fails: Rc<Cell<bool>>,
    failed: RefCell<Vec<Token>>,
}

impl Device for Failing {
    fn info(&self) -> &DeviceInfo {
        self.memory.info()
    }
    fn submit(&self, op: Op, token: Token) {
        let range = op.offset_bytes..op.offset_bytes + op.len_bytes;
        let fails = match op.kind {
            OpKind::Read => self.unreadable.get().is_some_and(|at| range.contains(&at)),
            // The bytes land all the same: what an error says is that nobody knows.
            OpKind::Write => self.unwritable.get().is_some_and(|at| range.contains(&at)),
            OpKind::Flush => self.flush_fails.take(),
            _ => false,
        };
        self.failed.borrow_mut().extend(fails.then_some(token));
        self.memory.submit(op, token);
    }
    fn reap(&self, out: &mut Vec<Completion>) {
        self.memory.reap(out);
        let failed = self.failed.take();
        out.iter_mut().filter(|c| failed.contains(&c.token)).for_each(|c| c.result = Err(libc::EIO));
    }
    fn fds(&self, _out: &mut Vec<RawFd>) {}
}

impl World {
    /// Open, do, and kill after so many rounds of device I/O if it is not done by then.
    fn run_for<F: Future<Output = ()> + 'static>(&self, rounds: u64, f: impl FnOnce(Engine) -> F + 'static) {
        let executor = Executor::new();
        let (store, log) = (self.store_device(), self.log_device());
        let devices = [store.clone(), log.clone()];
        let env = env(&executor);
        let running: Rc<RefCell<Option<Engine>>> = Rc::default();
        let done = Rc::new(Cell::new(false));
        let (slot, ended) = (Rc::clone(&running), Rc::clone(&done));
        executor.spawn(async move {
            let engine = Engine::open(env, store, log, EngineOptions::default()).await.unwrap();
            *slot.borrow_mut() = Some(engine.clone());
            f(engine).await;
            ended.set(true);
        });
        let mut left = rounds;
        while !done.get() && left > 0 {
            executor.run_until_stalled();
            if let Some(e) = running.borrow().clone() {
                e.kick();
            }
            let busy = executor.run_until_stalled() > 0;
            match devices.iter().fold(false, |any, d| d.poll() | any) {
                true => left -= 1,
                false if busy => {}
                false => executor.advance_to(executor.next_timer_ns().unwrap_or_default()),
            }
        }
        executor.abandon_all();
    }
}

fn env(executor: &Executor) -> Env {
    // Each run of a test must draw other identities, as restarts of a daemon do.
    static SEED: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    let seed = SEED.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let state = std::cell::Cell::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let entropy = Rc::new(move || {
        state.set(state.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        state.get()
    });
    Env {
        executor: executor.clone(),
        clock: Rc::new(ManualClock::default()),
        entropy,
        staging: StagingMemory::default(),
    }
}

fn drive<T: 'static>(
    executor: &Executor,
    engine: Option<&Rc<RefCell<Option<Engine>>>>,
    devices: &[DeviceHandle],
    future: impl Future<Output = T> + 'static,
) -> T {
    let out = Rc::new(RefCell::new(None));
    let slot = Rc::clone(&out);
    executor.spawn(async move {
        let v = future.await;
        *slot.borrow_mut() = Some(v);
    });
    let mut idle = 0;
    loop {
        let mut busy = executor.run_until_stalled() > 0;
        if let Some(v) = out.borrow_mut().take() {
            return v;
        }
        if let Some(e) = engine.and_then(|e| e.borrow().clone()) {
            e.kick();
        }
        busy |= executor.run_until_stalled() > 0;
        for d in devices {
            busy |= d.poll();
        }
        idle = if busy { 0 } else { idle + 1 };
        if idle > 100 {
            // Only timers are left: let time pass.
            let next = executor.next_timer_ns().expect("the task waits for something that will never come");
            executor.advance_to(next);
        }
    }
}

fn fill(tag: u8, bytes: usize) -> GuestBufs {
    let data: Vec<u8> = (0..bytes).map(|i| tag ^ (i / 512) as u8 ^ (i % 7) as u8).collect();
    HostMemory::copy_of(&data).into()
}
fn bytes_of(bufs: &GuestBufs) -> Vec<u8> {
    let mut out = vec![0; bufs.len()];
    bufs.copy_to(&mut out);
    out
}
/// Where the newest record of `vdi` lies.
fn newest_slot(e: &Engine, vdi: &Vdi) -> u64 {
    slot_of(e, vdi, vdi.record().generation.0)
}
fn slot_of(e: &Engine, vdi: &Vdi, generation: u64) -> u64 {
    e.store().offset_bytes(vdi.slots()[(generation % 2) as usize], 1).unwrap()
}
async fn read(vdi: &Vdi, sector: u64, bytes: usize) -> Vec<u8> {
    let bufs: GuestBufs = HostMemory::slice(bytes).into();
    vdi.read(sector, &bufs).await.unwrap();
    bytes_of(&bufs)
}
async fn write(vdi: &Vdi, sector: u64, data: &GuestBufs) {
    vdi.write(sector, data, Ack::WriteBack).await.unwrap();
}

/// (sector, bytes) of every shape: aligned, partial, across blocks, large, at the end.
const SHAPES: [(u64, usize); 9] = [
    (0, 4096),
    (9, 512),
    (17, 4096),
    (100, 512 * 30),
    (1 << 12, 64 << 10),
    ((1 << 13) + 8, 1 << 20),
    ((1 << 15) + 3, (1 << 20) + 1536),
    (DISK / SECTOR_BYTES - 1, 512),
    (DISK / SECTOR_BYTES - 64, 512 * 30),
];

#[test]
fn writes_of_every_shape_read_back_now_after_a_kill_and_after_a_checkpoint() {
    let w = World::formatted();
    w.run(|e| async move {
        e.create("web", DISK).await.unwrap();
        let v = e.open_vdi("web").await.unwrap();
        for (i, (sector, bytes)) in SHAPES.iter().enumerate() {
            write(&v, *sector, &fill(i as u8, *bytes)).await;
        }
        verify_shapes(&v).await;
    });
    w.run(|e| async move {
        assert!(e.status().recovery.records > 0);
        let v = e.open_vdi("web").await.unwrap();
        verify_shapes(&v).await;
        e.checkpoint().await.unwrap();
        assert_eq!(v.overlay_len(), 0);
        verify_shapes(&v).await;
        assert!(v.record().data_blocks > 0);
    });
    w.run(|e| async move {
        assert_eq!(e.status().recovery.records, 0);
        verify_shapes(&e.open_vdi("web").await.unwrap()).await;
    });
}

async fn verify_shapes(v: &Vdi) {
    let mut model = vec![0u8; DISK as usize];
    for (i, (sector, bytes)) in SHAPES.iter().enumerate() {
        let at = (*sector * SECTOR_BYTES) as usize;
        model[at..at + bytes].copy_from_slice(&bytes_of(&fill(i as u8, *bytes)));
    }
    for (sector, bytes) in SHAPES {
        let at = (sector * SECTOR_BYTES) as usize;
        assert!(read(v, sector, bytes).await == model[at..at + bytes], "at sector {sector}");
    }
    let all = 4 << 20;
    assert!(read(v, 0, all).await == model[..all]);
}

#[test]
fn snapshots_and_clones_keep_what_was_there_and_roll_back_returns_to_it() {
    let w = World::formatted();
    w.run(|e| async move {
        e.create("web", DISK).await.unwrap();
        let v = e.open_vdi("web").await.unwrap();
        write(&v, 0, &fill(1, 8192)).await;
        let s1 = e.snapshot("web", Some("first")).await.unwrap();
        let again = e.snapshot("web", None).await.unwrap();
        assert_eq!((s1.epoch, again.epoch), (Epoch(1), Epoch(1)), "nothing written: a second name");
        write(&v, 8, &fill(2, 4096)).await;
        let s2 = e.snapshot("web", None).await.unwrap();
        write(&v, 0, &fill(3, 4096)).await;
        assert_eq!(s2.epoch, Epoch(2));
    });
    w.run(|e| async move {
        assert_eq!(e.snapshots("web").await.unwrap().len(), 2);
        for (epoch, name) in [(1, "one"), (2, "two")] {
            e.clone_vdi("web", Some(Epoch(epoch)), name).await.unwrap();
        }
        let (one, two) = (e.open_vdi("one").await.unwrap(), e.open_vdi("two").await.unwrap());
        assert_eq!(read(&one, 0, 8192).await, bytes_of(&fill(1, 8192)));
        assert_eq!(read(&two, 8, 4096).await, bytes_of(&fill(2, 4096)));
        write(&one, 0, &fill(9, 8192)).await;
        e.checkpoint().await.unwrap();
        let kept = e.rollback("web", Epoch(1)).await.unwrap();
        let v = e.open_vdi("web").await.unwrap();
        assert_eq!(read(&v, 0, 8192).await, bytes_of(&fill(1, 8192)));
        e.clone_vdi("web", Some(kept.epoch), "before").await.unwrap();
        let before = e.open_vdi("before").await.unwrap();
        assert_eq!(read(&before, 0, 4096).await, bytes_of(&fill(3, 4096)));
        write(&v, 16, &fill(4, 4096)).await;
    });
    w.run(|e| async move {
        let one = e.open_vdi("one").await.unwrap();
        assert_eq!(read(&one, 0, 8192).await, bytes_of(&fill(9, 8192)));
        let v = e.open_vdi("web").await.unwrap();
        assert_eq!(read(&v, 16, 4096).await, bytes_of(&fill(4, 4096)));
        let tree = e.tree().await.unwrap();
        assert_eq!(tree.iter().filter(|t| t.parent.is_some()).count(), 3);
        let e2 = e.delete("web", false).await.unwrap_err();
        assert_eq!(e2.kind(), ErrorKind::Busy);
        e.delete("web", true).await.unwrap();
        assert_eq!(read(&one, 0, 8192).await, bytes_of(&fill(9, 8192)));
    });
}

#[test]
fn discarded_and_overwritten_blocks_come_back_at_the_checkpoints_after() {
    let w = World::formatted();
    w.run(|e| async move {
        e.create("web", DISK).await.unwrap();
        let v = e.open_vdi("web").await.unwrap();
        e.checkpoint().await.unwrap();
        let free = e.status().space.free_bytes;
        for round in 0..40u8 {
            write(&v, 0, &fill(round, 1 << 20)).await;
            write(&v, 5000, &fill(round, 16 << 10)).await;
            e.checkpoint().await.unwrap();
        }
        v.discard(0, DISK / SECTOR_BYTES, Ack::WriteThrough).await.unwrap();
        for _ in 0..3 {
            e.checkpoint().await.unwrap();
        }
        assert_eq!(v.record().data_blocks, 0);
        assert_eq!(e.status().space.free_bytes, free);
        assert!(read(&v, 0, 1 << 20).await.iter().all(|b| *b == 0));
    });
}

#[test]
fn a_full_store_says_no_space_and_discards_make_room_again() {
    let w = World::formatted();
    w.run(|e| async move {
        e.create("big", 1 << 30).await.unwrap();
        let v = e.open_vdi("big").await.unwrap();
        let mut at = 0;
        let error = loop {
            match v.write(at * 512, &fill(at as u8, 256 << 10), Ack::WriteBack).await {
                Ok(()) => at += 1,
                Err(e) => break e,
            }
        };
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        assert!(at * (256 << 10) > STORE_BYTES * 3 / 4, "{at} writes");
        assert_eq!(read(&v, 0, 256 << 10).await, bytes_of(&fill(0, 256 << 10)));
        v.discard(0, at * 256, Ack::WriteThrough).await.unwrap();
        e.checkpoint().await.unwrap();
        e.checkpoint().await.unwrap();
        write(&v, 0, &fill(7, 256 << 10)).await;
    });
}

#[test]
fn a_request_that_is_logged_is_not_executed_again_unless_the_disk_was_rolled_back() {
    let w = World::formatted();
    w.run(|e| async move {
        e.create("a", 1 << 20).await.unwrap();
        e.snapshot("a", None).await.unwrap();
        let v = e.open_vdi("a").await.unwrap();
        v.write_for(&v.parts(7, false), 0, &fill(1, 8192), Ack::WriteBack).await.unwrap();
    });
    w.run(|e| async move {
        let v = e.open_vdi("a").await.unwrap();
        write(&v, 8, &fill(2, 4096)).await;
        v.write_for(&v.parts(7, true), 0, &fill(1, 8192), Ack::WriteBack).await.unwrap();
        assert_eq!(read(&v, 8, 4096).await, bytes_of(&fill(2, 4096)));
        // One that nobody has seen yet.
        v.write_for(&v.parts(8, true), 16, &fill(3, 4096), Ack::WriteBack).await.unwrap();
        assert_eq!(read(&v, 16, 4096).await, bytes_of(&fill(3, 4096)));
        e.rollback("a", Epoch(1)).await.unwrap();
        v.write_for(&v.parts(7, true), 0, &fill(1, 8192), Ack::WriteBack).await.unwrap();
        assert_eq!(read(&v, 0, 8192).await, bytes_of(&fill(1, 8192)));
    });
}

#[test]
fn a_full_store_takes_discards_and_lets_snapshots_go() {
    let w = World::formatted();
    w.run(|e| async move {
        e.create("big", 1 << 30).await.unwrap();
        let v = e.open_vdi("big").await.unwrap();
        write(&v, 0, &fill(1, 1 << 20)).await;
        e.snapshot("big", None).await.unwrap();
        // A block in each leaf, then the next of each: nodes fill the store as much as data do.
        let place = |i: u64| i % 1024 * 2048 + i / 1024 * 8;
        let mut i = 256;
        while v.write(place(i), &fill(2, 4096), Ack::WriteBack).await.is_ok() {
            i += 1;
        }
        let full = v.write(place(i + 1), &fill(3, 4096), Ack::WriteBack).await;
        assert_eq!(full.unwrap_err().kind(), ErrorKind::NoSpace);
        for leaf in 0..1024 {
            v.discard(leaf * 2048, 8, Ack::WriteBack).await.unwrap();
        }
        for s in e.snapshots("big").await.unwrap() {
            e.remove_snapshot("big", s.epoch).await.unwrap();
        }
        e.checkpoint().await.unwrap();
    });
}

#[test]
fn log_data_evicted_from_memory_is_read_from_the_log() {
    let w = World::formatted();
    let options = EngineOptions { staging_bytes: 64 << 10, ..EngineOptions::default() };
    w.run_with(options, |e| async move {
        e.create("web", DISK).await.unwrap();
        let v = e.open_vdi("web").await.unwrap();
        for i in 0..64 {
            write(&v, i * 100, &fill(i as u8, 8192)).await;
        }
        assert!(e.status().staging_bytes <= 64 << 10);
        for i in 0..64 {
            assert_eq!(read(&v, i * 100, 8192).await, bytes_of(&fill(i as u8, 8192)));
        }
        e.checkpoint().await.unwrap();
        for i in 0..64 {
            assert_eq!(read(&v, i * 100, 8192).await, bytes_of(&fill(i as u8, 8192)));
        }
    });
}

#[test]
fn a_log_ring_of_many_laps_needs_only_checkpoints() {
    let w = World::formatted();
    w.run(|e| async move {
        e.create("web", DISK).await.unwrap();
        let v = e.open_vdi("web").await.unwrap();
        for i in 0..6000u64 {
            write(&v, (i % 512) * 128, &fill(i as u8, 32 << 10)).await;
        }
        assert!(e.status().checkpoints.rounds > 1);
        for i in 5900..6000u64 {
            assert_eq!(read(&v, (i % 512) * 128, 32 << 10).await, bytes_of(&fill(i as u8, 32 << 10)));
        }
    });
    w.run(|e| async move {
        let v = e.open_vdi("web").await.unwrap();
        assert_eq!(read(&v, (5999 % 512) * 128, 32 << 10).await, bytes_of(&fill(5999u64 as u8, 32 << 10)));
    });
}

#[test]
fn collection_returns_what_deleted_vdis_and_snapshots_held_and_nothing_else() {
    let w = World::formatted();
    w.run(|e| async move {
        e.create("keep", DISK).await.unwrap();
        let keep = e.open_vdi("keep").await.unwrap();
        write(&keep, 0, &fill(1, 1 << 20)).await;
        e.checkpoint().await.unwrap();
        e.collect(false).await.unwrap();
        let free = e.status().space.free_bytes;
        e.create("gone", DISK).await.unwrap();
        let gone = e.open_vdi("gone").await.unwrap();
        write(&gone, 0, &fill(2, 4 << 20)).await;
        e.snapshot("gone", None).await.unwrap();
        write(&gone, 0, &fill(3, 4 << 20)).await;
        e.clone_vdi("gone", None, "clone").await.unwrap();
        e.delete("gone", true).await.unwrap();
        assert_eq!(e.reclaimable(), None, "nobody has counted since");
        let dead = e.collect(true).await.unwrap().dead_bytes;
        assert_eq!(e.reclaimable().unwrap().bytes, dead);
        assert!((4 << 20..5 << 20).contains(&dead), "the first snapshot's {dead} bytes");
        // Written, not checkpointed, large: out of line, and named by the log alone.
        let clone = e.open_vdi("clone").await.unwrap();
        write(&clone, 1 << 14, &fill(4, 1 << 20)).await;
        // The checkpoint before it replaces shared nodes, which die too.
        let collected = e.collect(false).await.unwrap().dead_bytes;
        assert!((dead..=dead + (16 << 10)).contains(&collected), "{collected}");
        assert_eq!(e.reclaimable().unwrap().bytes, 0);
        assert_eq!(read(&clone, 0, 4 << 20).await, bytes_of(&fill(3, 4 << 20)));
        assert_eq!(read(&clone, 1 << 14, 1 << 20).await, bytes_of(&fill(4, 1 << 20)));
        assert_eq!(read(&keep, 0, 1 << 20).await, bytes_of(&fill(1, 1 << 20)));
        e.delete("clone", true).await.unwrap();
        e.collect(false).await.unwrap();
        assert_eq!(e.status().space.free_bytes, free);
    });
    w.run(|e| async move {
        let keep = e.open_vdi("keep").await.unwrap();
        assert_eq!(read(&keep, 0, 1 << 20).await, bytes_of(&fill(1, 1 << 20)));
    });
}

#[test]
fn a_disk_opened_during_a_checkpoint_round_keeps_its_records() {
    let w = World::formatted();
    w.run(|e| async move {
        for name in ["a", "b"] {
            e.create(name, DISK).await.unwrap();
            write(&e.open_vdi(name).await.unwrap(), 0, &fill(1, 4096)).await;
        }
        e.checkpoint().await.unwrap();
    });
    w.run(|e| async move {
        let a = e.open_vdi("a").await.unwrap();
        write(&a, 0, &fill(2, 4096)).await;
        let turn = a.lock_turn().await;
        let round = e.clone();
        e.0.env.executor.spawn(async move { round.checkpoint().await.unwrap() });
        crate::executor::yield_now().await;
        assert!(e.shared().pressure.running.get(), "the round has begun and waits for its turn");
        let b = e.open_vdi("b").await.unwrap();
        b.discard(0, 8, Ack::WriteThrough).await.unwrap();
        let ended = e.shared().pressure.ended.wait();
        drop(turn);
        ended.await;
    });
    w.run(|e| async move {
        let b = e.open_vdi("b").await.unwrap();
        assert!(read(&b, 0, 4096).await.iter().all(|x| *x == 0), "the discard was acknowledged as durable");
    });
}

#[test]
fn room_promised_to_the_log_is_promised_again_after_a_kill_and_leaks_make_room_for_it() {
    const MIB: u64 = 1 << 20;
    let w = World::formatted();
    w.run(|e| async move {
        e.create("a", DISK).await.unwrap();
        let a = e.open_vdi("a").await.unwrap();
        for sector in (0..DISK).step_by(MIB as usize).map(|at| at / SECTOR_BYTES) {
            if a.write(sector, &fill(1, MIB as usize), Ack::WriteBack).await.is_err() {
                break;
            }
        }
        a.discard(0, 20 * MIB / SECTOR_BYTES, Ack::WriteBack).await.unwrap();
        e.checkpoint().await.unwrap();
        e.checkpoint().await.unwrap();
        // Partial, so that all of it waits in the log.
        for sector in (0..12 * MIB).step_by(MIB as usize).map(|at| at / SECTOR_BYTES) {
            write(&a, sector + 1, &fill(2, MIB as usize - 512)).await;
        }
    });
    // Each life gets as far as the flush of a checkpoint: what that had written leaks.
    for _ in 0..3 {
        w.run(|e| async move {
            let a = e.open_vdi("a").await.unwrap();
            let cut = a.cut(e.shared().log.sealed_through()).expect("the log holds something");
            a.apply(cut).await.map(drop).map_err(|(_, e)| e).unwrap();
            e.store().write_host_record().await.unwrap();
        });
    }
    w.run(|e| async move {
        e.checkpoint().await.unwrap();
        let a = e.open_vdi("a").await.unwrap();
        assert!(read(&a, 1, 8192).await == bytes_of(&fill(2, 8192)));
    });
}

#[test]
fn a_snapshot_after_a_resize_is_one_of_its_own_after_a_kill_too() {
    let w = World::formatted();
    w.run(|e| async move {
        e.create("a", DISK).await.unwrap();
        write(&e.open_vdi("a").await.unwrap(), 0, &fill(1, 4096)).await;
        e.snapshot("a", None).await.unwrap();
        e.resize("a", 2 * DISK, false).await.unwrap();
    });
    w.run(|e| async move {
        e.snapshot("a", None).await.unwrap();
        let sizes: Vec<u64> = e.snapshots("a").await.unwrap().iter().map(|s| s.size_bytes).collect();
        assert_eq!(sizes, [DISK, 2 * DISK]);
    });
}

/// Whatever moment of the roll-back it meets.
fn a_label_given_during_a_roll_back_is_refused_or_kept() {
    for steps in 0..40 {
        let w = World::formatted();
        let labelled = w.run(move |e| async move {
            e.create("a", DISK).await.unwrap();
            let a = e.open_vdi("a").await.unwrap();
            write(&a, 0, &fill(1, 8192)).await;
            e.snapshot("a", Some("first")).await.unwrap();
            write(&a, 0, &fill(2, 8192)).await;
            let labelled = Rc::new(Cell::new(false));
            let (other, noted) = (e.clone(), Rc::clone(&labelled));
            e.0.env.executor.spawn(async move {
                for _ in 0..steps {
                    other.shared().store.flush().await.unwrap();
                }
                noted.set(other.label("a", Epoch(1), Some("renamed")).await.is_ok());
            });
            while let Err(refused) = e.rollback("a", Epoch(1)).await {
                assert_eq!(refused.kind(), ErrorKind::Busy);
            }
            write(&a, 64, &fill(3, 8192)).await;
            a.flush().await.unwrap();
            e.snapshot("a", None).await.unwrap();
            labelled.get()
        });
        w.run(move |e| async move {
            let a = e.open_vdi("a").await.unwrap();
            assert_eq!(e.show("a").await.unwrap().held, None, "after {steps} steps");
            assert_eq!(read(&a, 0, 8192).await, bytes_of(&fill(1, 8192)));
            assert_eq!(read(&a, 64, 8192).await, bytes_of(&fill(3, 8192)));
            let labels = e.snapshots("a").await.unwrap();
            let renamed = labels.iter().any(|s| s.label.as_deref() == Some("renamed"));
            assert!(renamed || !labelled, "after {steps} steps");
        });
    }
}

#[test]
fn labels_and_roll_backs_do_not_get_into_each_others_way() {
    a_label_given_during_a_roll_back_is_refused_or_kept();
}

/// Those that worlds seldom find.
#[test]
fn seeded_bugs_break_the_laws_of_the_engine() {
    let laws: [(Bug, fn()); 12] = [
        (Bug::MarkMissesNewest, doubt::what_a_newer_record_may_name_is_not_collected),
        (Bug::AttemptsLeak, failing::attempts_that_fail_leave_nothing_behind),
        (Bug::LoggedWhileRolledBack, a_label_given_during_a_roll_back_is_refused_or_kept),
        (Bug::LossForgotten, doubt::a_disk_that_lost_flushed_writes_with_the_log_stays_held_over_restarts),
        (Bug::SnapshotSizeForgotten, a_snapshot_after_a_resize_is_one_of_its_own_after_a_kill_too),
        (Bug::MarkMissesUnknown, doubt::nothing_of_a_disk_that_the_registry_has_lost_is_given_up),
        (Bug::CopiesForgotten, held::what_copies_name_is_not_handed_out),
        (Bug::OtherLogsForgotten, shards::a_disk_whose_move_the_store_has_lost_is_not_shown_as_it_was),
        (Bug::ShrinkWaitsForNobody, resize::a_write_during_a_shrink_is_cut_off_or_refused),
        (Bug::LeaksStay, room_promised_to_the_log_is_promised_again_after_a_kill_and_leaks_make_room_for_it),
        (
            Bug::StaleRecordTrusted,
            doubt::a_disk_that_may_be_older_than_it_was_shows_its_guest_nothing_but_can_be_looked_at,
        ),
        (Bug::OpenedOnTheWay, shards::a_list_while_a_disk_changes_shard_does_not_bring_back_what_it_was),
    ];
    for (bug, law) in laws {
        assert!(breaks(bug, law), "{bug:?} hides");
    }
}
