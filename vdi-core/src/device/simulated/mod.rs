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

mod disk;
mod exposure;
mod faults;
mod random;

#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::os::fd::RawFd;
use std::rc::Rc;

use super::memory::Media;
use super::{Completion, Device, DeviceInfo, Op};
use crate::buffer::AlignedBuf;
use crate::clock::ManualClock;
use crate::executor::Token;
use crate::sabotage::{self, Point};
use crate::units::SECTOR_BYTES;

use disk::Disk;

pub use disk::PendingWrite;
pub use exposure::Exposure;
pub use faults::{Fault, FaultCounts, Faults, Survival};
pub use random::Random;

/// Stops every disk that shares it after a number of device events: a crash at any write.
#[derive(Clone, Default)]
pub struct CrashPoint(Rc<Cell<Option<u64>>>);

impl CrashPoint {
    /// Crash at the `events`-th submission or completion of a write, flush or discard from now.
    pub fn arm(&self, events: u64) {
        sabotage::disarm();
        self.0.set(Some(events.max(1)));
    }
    /// Crash when `point` is passed for the `nth` time from now.
    pub fn arm_at(&self, point: Point, nth: u64) {
        self.0.set(None);
        sabotage::arm(point, nth);
    }
    /// No crash.
    pub fn disarm(&self) {
        self.0.set(None);
        sabotage::disarm();
    }
    /// True once the moment has come: nothing completes any more.
    #[must_use]
    pub fn reached(&self) -> bool {
        self.0.get() == Some(0) || sabotage::stopped()
    }
    fn tick(&self) {
        self.0.set(self.0.get().map(|n| n.saturating_sub(1)));
    }
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
            unreadable: 0..0,
            counts: FaultCounts::default(),
            crash_point: crash_point.clone(),
            durable: Media::default(),
            visible: Media::default(),
            unflushed: Vec::new(),
            writes_completed: 0,
            submitted: 0,
            in_flight: BTreeMap::new(),
            life: 0,
            trace: 0,
            watcher: None,
        })))
    }
    /// Change what goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.0.borrow_mut().faults = faults;
    }
    /// From now on these bytes cannot be read, and all others can; writing does not mend them.
    pub fn set_unreadable(&self, bytes: Range<u64>) {
        self.0.borrow_mut().unreadable = bytes;
    }
    /// Put these bytes on the medium; what was there is gone. Nothing may be open.
    pub fn load(&self, media: &Media) {
        let mut disk = self.0.borrow_mut();
        assert!(disk.in_flight.is_empty() && disk.life == 0, "a disk is loaded before it is used");
        (disk.durable, disk.visible) = (media.fork(), media.fork());
    }
    /// From now on `watcher` hears what a crash could leave, now and whenever that changes; it must not call the disk.
    pub fn watch(&self, watcher: impl Fn(Exposure) + 'static) {
        let mut disk = self.0.borrow_mut();
        disk.watcher = Some(Rc::new(watcher));
        disk.tell_watcher();
    }
    /// Nobody watches any more.
    pub fn unwatch(&self) {
        self.0.borrow_mut().watcher = None;
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
    /// One bit of what lies on the medium turns.
    pub fn rot(&self) {
        self.0.borrow_mut().rot();
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
        lost.extend(in_flight.into_iter().map(Rc::new));
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
        disk.tell_watcher();
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
