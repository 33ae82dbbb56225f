//! A disk in memory that fails on purpose, seeded: what is not flushed may vanish sector by sector at a power
//! loss, operations end out of order after virtual delays, and everything in [`Faults`] may happen.
//!
//! A [`SimulatedDisk`] is the hardware: it survives crashes. A [`SimulatedDevice`] is one opening of it, and
//! goes dead when its process "dies" ([`SimulatedDisk::kill`], [`SimulatedDisk::power_loss`]).
//!
//! Laws:
//! - a write is durable when a flush that was submitted after the write's completion has completed;
//! - at a power loss every other write survives as [`Survival`] says, in 512-byte pieces;
//! - reads see completed writes, and of writes in flight nothing.

mod faults;
mod random;

#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::os::fd::RawFd;
use std::rc::Rc;

use super::memory::Media;
use super::{Completion, Device, DeviceInfo, Op, OpKind};
use crate::buffer::{AlignedBuf, IoBufs, crc32c};
use crate::clock::{Clock, ManualClock};
use crate::executor::Token;
use crate::units::{BLOCK_BYTES, SECTOR_BYTES};

pub use faults::{Fault, FaultCounts, Faults, Survival};
pub use random::Random;

const SECTOR: usize = SECTOR_BYTES as usize;

/// Stops every disk that shares it after a number of device events: a crash at any write.
#[derive(Clone, Default)]
pub struct CrashPoint(Rc<Cell<Option<u64>>>);

impl CrashPoint {
    /// Crash at the `events`-th submission or completion of a write, flush or discard from now.
    pub fn arm(&self, events: u64) {
        self.0.set(Some(events.max(1)));
    }
    /// No crash.
    pub fn disarm(&self) {
        self.0.set(None);
    }
    /// True once the moment has come: nothing completes any more.
    #[must_use]
    pub fn reached(&self) -> bool {
        self.0.get() == Some(0)
    }
    fn tick(&self) {
        self.0.set(self.0.get().map(|n| n.saturating_sub(1)));
    }
}

struct InFlight {
    op: Op,
    token: Token,
    /// For a flush: the writes before this number were complete when it was submitted.
    completed_before: u64,
}

struct Unflushed {
    number: u64,
    offset_bytes: u64,
    bytes: AlignedBuf,
}

struct Disk {
    info: DeviceInfo,
    clock: ManualClock,
    random: Random,
    faults: Faults,
    counts: FaultCounts,
    crash_point: CrashPoint,
    /// What survives a power loss for certain.
    durable: Media,
    /// What reads see.
    visible: Media,
    /// Completed and not covered by a flush, oldest first.
    unflushed: Vec<Unflushed>,
    writes_completed: u64,
    /// By time of completion, ties broken by dice.
    in_flight: BTreeMap<(u64, u64), InFlight>,
    /// Number of the opening that is alive.
    life: u64,
    trace: u64,
}

/// The hardware; clones share it.
#[derive(Clone)]
pub struct SimulatedDisk(Rc<RefCell<Disk>>);

impl SimulatedDisk {
    /// An empty disk of `len_bytes` that tells time by `clock` and stops at `crash_point`.
    #[must_use]
    pub fn new(
        name: &str,
        len_bytes: u64,
        clock: &ManualClock,
        random: Random,
        crash_point: &CrashPoint,
    ) -> SimulatedDisk {
        let info = DeviceInfo {
            name: name.to_owned(),
            len_bytes,
            align_bytes: SECTOR_BYTES as u32,
            discard: true,
            mode: "simulated".to_owned(),
        };
        SimulatedDisk(Rc::new(RefCell::new(Disk {
            info,
            clock: clock.clone(),
            random,
            faults: Faults::default(),
            counts: FaultCounts::default(),
            crash_point: crash_point.clone(),
            durable: Media::default(),
            visible: Media::default(),
            unflushed: Vec::new(),
            writes_completed: 0,
            in_flight: BTreeMap::new(),
            life: 0,
            trace: 0,
        })))
    }
    /// Change what goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.0.borrow_mut().faults = faults;
    }
    /// Open it; earlier openings are dead from here on.
    #[must_use]
    pub fn open(&self) -> SimulatedDevice {
        let mut disk = self.0.borrow_mut();
        assert!(
            disk.in_flight.is_empty(),
            "the earlier process and its requests are gone (kill or power_loss)"
        );
        disk.life += 1;
        SimulatedDevice { disk: Rc::clone(&self.0), info: disk.info.clone(), life: disk.life }
    }
    /// The process dies, the disk goes on: each write in flight happens whole, in part or not at all. What was
    /// not flushed still is not.
    pub fn kill(&self) {
        let mut disk = self.0.borrow_mut();
        disk.counts.add(Fault::Kill);
        disk.life += 1;
        for write in disk.take_in_flight_writes() {
            match disk.random.below(3) {
                0 => {}
                1 => disk.apply(write),
                _ => disk.apply_torn(&write),
            }
        }
    }
    /// Power goes and comes back. Returns what is on the medium now.
    pub fn power_loss(&self, survival: Survival) -> Media {
        let mut disk = self.0.borrow_mut();
        disk.counts.add(Fault::PowerLoss);
        disk.life += 1;
        let in_flight = disk.take_in_flight_writes();
        let mut lost = std::mem::take(&mut disk.unflushed);
        lost.extend(in_flight);
        let last = disk.random.below(lost.len() as u64 + 1) as usize;
        for (index, write) in lost.iter().enumerate() {
            let whole = match survival {
                Survival::Nothing => Some(false),
                Survival::Everything => Some(true),
                Survival::Writes(chance) => Some(disk.random.chance(chance)),
                Survival::Sectors(_) => None,
                Survival::Prefix => (index != last).then_some(index < last),
            };
            let chance = if let Survival::Sectors(chance) = survival { chance } else { 500_000 };
            disk.settle(write, whole, chance);
        }
        for write in &lost {
            let mut bytes = AlignedBuf::zeroed(write.bytes.len());
            disk.durable.read(write.offset_bytes, &mut bytes);
            disk.visible.write(write.offset_bytes, &bytes);
        }
        disk.visible.clone()
    }
    /// What reads see now, for looking at without an opening; shared, not a copy.
    #[must_use]
    pub fn media(&self) -> Media {
        self.0.borrow().visible.clone()
    }
    /// When the next operation ends, in ns of the clock.
    #[must_use]
    pub fn next_completion_ns(&self) -> Option<u64> {
        self.0.borrow().in_flight.first_key_value().map(|(key, _)| key.0)
    }
    /// How many faults happened so far.
    #[must_use]
    pub fn counts(&self) -> FaultCounts {
        self.0.borrow().counts.clone()
    }
    /// A hash of everything that was asked of the disk so far.
    #[must_use]
    pub fn trace(&self) -> u64 {
        self.0.borrow().trace
    }
}

impl Disk {
    fn record(&mut self, op: &Op) {
        let mut mix = self.trace ^ (op.kind as u64) ^ (op.offset_bytes << 3) ^ (op.len_bytes << 40);
        if op.kind == OpKind::Write {
            let bytes = gather(&op.bufs, op.len_bytes);
            mix ^= u64::from(crc32c(&bytes)) << 16;
        }
        self.trace = Random::new(mix ^ self.clock.now_ns()).bits();
    }
    fn submit(&mut self, op: Op, token: Token) {
        self.record(&op);
        if op.kind != OpKind::Read {
            self.crash_point.tick();
        }
        let slow = self.random.chance(self.faults.slow);
        if slow {
            self.counts.add(Fault::Slow);
        }
        let longest = if slow { self.faults.slow_ns_max } else { self.faults.delay_ns_max };
        let due_ns = self.clock.now_ns() + self.random.below(longest + 1);
        let tie = self.random.bits();
        let completed_before = self.writes_completed;
        let previous = self.in_flight.insert((due_ns, tie), InFlight { op, token, completed_before });
        assert!(previous.is_none(), "64 random bits are unique");
    }
    fn next_due(&mut self) -> Option<InFlight> {
        let (key, _) = self.in_flight.first_key_value()?;
        if key.0 > self.clock.now_ns() || self.crash_point.reached() {
            return None;
        }
        let (_, next) = self.in_flight.pop_first()?;
        if next.op.kind != OpKind::Read {
            self.crash_point.tick();
            if self.crash_point.reached() {
                // The machine stops just before this one ends.
                let key = (self.clock.now_ns(), 0);
                self.in_flight.insert(key, next);
                return None;
            }
        }
        Some(next)
    }
    fn run(&mut self, request: &mut InFlight) -> Result<(), i32> {
        self.info.check(&request.op, true)?;
        let op = &mut request.op;
        match op.kind {
            OpKind::Read => self.read(op),
            OpKind::Write => {
                let write = Unflushed {
                    number: 0,
                    offset_bytes: op.offset_bytes,
                    bytes: gather(&op.bufs, op.len_bytes),
                };
                self.write(write)
            }
            OpKind::Flush => self.flush(request.completed_before),
            OpKind::Discard => {
                // Anything may be read there from now on; zeros and old bytes are what disks do.
                if self.random.coin() && op.len_bytes <= BLOCK_BYTES * 4096 {
                    let bytes = AlignedBuf::zeroed(op.len_bytes as usize);
                    self.apply(Unflushed { number: 0, offset_bytes: op.offset_bytes, bytes });
                }
                Ok(())
            }
        }
    }
    fn read(&mut self, op: &mut Op) -> Result<(), i32> {
        if self.random.chance(self.faults.read_error) {
            self.counts.add(Fault::ReadError);
            return Err(libc::EIO);
        }
        let mut bytes = AlignedBuf::zeroed(op.len_bytes as usize);
        self.visible.read(op.offset_bytes, &mut bytes);
        if !bytes.is_empty() && self.random.chance(self.faults.flipped_read) {
            self.counts.add(Fault::FlippedRead);
            self.flip_bit(&mut bytes);
        }
        let mut at = 0;
        for buf in &mut op.bufs {
            let len = buf.len();
            buf.copy_from(&bytes[at..at + len]);
            at += len;
        }
        Ok(())
    }
    fn write(&mut self, mut write: Unflushed) -> Result<(), i32> {
        let faults = self.faults.clone();
        if self.random.chance(faults.no_space) {
            self.counts.add(Fault::NoSpace);
            return Err(libc::ENOSPC);
        }
        if self.random.chance(faults.write_error) {
            self.counts.add(Fault::WriteError);
            self.apply_torn(&write);
            return Err(libc::EIO);
        }
        if self.random.chance(faults.lost_write) {
            self.counts.add(Fault::LostWrite);
            return Ok(());
        }
        if self.random.chance(faults.misdirected_write) {
            self.counts.add(Fault::MisdirectedWrite);
            let room = (self.info.len_bytes - write.bytes.len() as u64) / SECTOR_BYTES + 1;
            write.offset_bytes = self.random.below(room) * SECTOR_BYTES;
        }
        if !write.bytes.is_empty() && self.random.chance(faults.rotten_write) {
            self.counts.add(Fault::RottenWrite);
            self.flip_bit(&mut write.bytes);
        }
        self.apply(write);
        Ok(())
    }
    fn flip_bit(&mut self, bytes: &mut [u8]) {
        let bit = self.random.below(bytes.len() as u64 * 8);
        bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
    }
    fn flush(&mut self, completed_before: u64) -> Result<(), i32> {
        if self.random.chance(self.faults.flush_error) {
            self.counts.add(Fault::FlushError);
            return Err(libc::EIO);
        }
        let durable = &self.durable;
        self.unflushed.retain(|write| {
            let covered = write.number < completed_before;
            if covered {
                durable.write(write.offset_bytes, &write.bytes);
            }
            !covered
        });
        Ok(())
    }
    /// The write is complete: reads see it, a flush submitted from now on covers it.
    fn apply(&mut self, mut write: Unflushed) {
        self.visible.write(write.offset_bytes, &write.bytes);
        write.number = self.writes_completed;
        self.writes_completed += 1;
        self.unflushed.push(write);
    }
    /// Some sectors of the write happen.
    fn apply_torn(&mut self, write: &Unflushed) {
        self.counts.add(Fault::TornWrite);
        for (index, sector) in write.bytes.chunks(SECTOR).enumerate() {
            if self.random.coin() {
                let offset_bytes = write.offset_bytes + (index * SECTOR) as u64;
                self.apply(Unflushed { number: 0, offset_bytes, bytes: AlignedBuf::copy_of(sector) });
            }
        }
    }
    /// Decide what a power loss leaves of an unflushed write: all, none, or each sector by chance.
    fn settle(&mut self, write: &Unflushed, whole: Option<bool>, chance: u32) {
        match whole {
            Some(true) => self.durable.write(write.offset_bytes, &write.bytes),
            Some(false) => self.counts.add(Fault::VanishedWrite),
            None => {
                self.counts.add(Fault::TornWrite);
                for (index, sector) in write.bytes.chunks(SECTOR).enumerate() {
                    if self.random.chance(chance) {
                        self.durable.write(write.offset_bytes + (index * SECTOR) as u64, sector);
                    }
                }
            }
        }
    }
    fn take_in_flight_writes(&mut self) -> Vec<Unflushed> {
        let in_flight = std::mem::take(&mut self.in_flight);
        let mut writes: Vec<Unflushed> = in_flight
            .into_values()
            .filter(|r| r.op.kind == OpKind::Write && self.info.check(&r.op, true).is_ok())
            .map(|r| Unflushed {
                number: 0,
                offset_bytes: r.op.offset_bytes,
                bytes: gather(&r.op.bufs, r.op.len_bytes),
            })
            .collect();
        self.random.shuffle(&mut writes);
        writes
    }
}

fn gather(bufs: &IoBufs, len_bytes: u64) -> AlignedBuf {
    let len: usize = bufs.iter().map(crate::buffer::IoBuf::len).sum();
    let mut bytes = AlignedBuf::zeroed(len.max(len_bytes as usize));
    let mut at = 0;
    for buf in bufs {
        buf.copy_to(&mut bytes[at..at + buf.len()]);
        at += buf.len();
    }
    bytes
}

/// One opening of a [`SimulatedDisk`].
pub struct SimulatedDevice {
    disk: Rc<RefCell<Disk>>,
    info: DeviceInfo,
    life: u64,
}

impl Device for SimulatedDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }
    fn submit(&self, op: Op, token: Token) {
        let mut disk = self.disk.borrow_mut();
        if disk.life == self.life {
            disk.submit(op, token);
        }
    }
    fn reap(&self, out: &mut Vec<Completion>) {
        let mut disk = self.disk.borrow_mut();
        if disk.life != self.life {
            return;
        }
        while let Some(mut request) = disk.next_due() {
            let result = disk.run(&mut request);
            out.push(Completion { token: request.token, result, bufs: request.op.bufs });
        }
    }
    fn fds(&self, _out: &mut Vec<RawFd>) {}
}
