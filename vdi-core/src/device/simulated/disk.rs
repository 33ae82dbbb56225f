//! What happens inside: transfers and their faults, completions, what a crash leaves.

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use super::super::memory::Media;
use super::super::{DeviceInfo, Op, OpKind};
use super::exposure::{Exposure, Watcher};
use super::{CrashPoint, Fault, FaultCounts, Faults, Random};
use crate::buffer::{AlignedBuf, IoBuf, IoBufs, crc32c};
use crate::clock::{Clock, ManualClock};
use crate::executor::Token;
use crate::units::{BLOCK_BYTES, SECTOR_BYTES};

const SECTOR: usize = SECTOR_BYTES as usize;

pub(super) struct InFlight {
    pub(super) op: Op,
    pub(super) token: Token,
    /// For a flush: the writes before this number were complete when it was submitted.
    pub(super) completed_before: u64,
    /// Its place in the order of submission.
    pub(super) nth: u64,
    /// The bytes of a write, when somebody watches.
    pub(super) exposed: Option<Rc<PendingWrite>>,
}

/// A write that a flush has not covered.
#[derive(Debug)]
pub struct PendingWrite {
    pub(super) number: u64,
    /// Where, bytes from the start of the disk.
    pub offset_bytes: u64,
    /// What.
    pub bytes: AlignedBuf,
}

pub(super) struct Disk {
    pub(super) info: DeviceInfo,
    pub(super) clock: ManualClock,
    pub(super) random: Random,
    pub(super) faults: Faults,
    /// Bytes that cannot be read.
    pub(super) unreadable: Range<u64>,
    pub(super) counts: FaultCounts,
    pub(super) crash_point: CrashPoint,
    /// What survives a power loss for certain.
    pub(super) durable: Media,
    /// What reads see.
    pub(super) visible: Media,
    /// Completed and not covered by a flush, oldest first.
    pub(super) unflushed: Vec<Rc<PendingWrite>>,
    pub(super) writes_completed: u64,
    pub(super) submitted: u64,
    /// By time of completion, ties broken by dice.
    pub(super) in_flight: BTreeMap<(u64, u64), InFlight>,
    /// Number of the opening that is alive.
    pub(super) life: u64,
    pub(super) trace: u64,
    pub(super) watcher: Option<Watcher>,
}

impl Disk {
    fn record(&mut self, op: &Op) {
        let mut mix = self.trace ^ (op.kind as u64) ^ (op.offset_bytes << 3) ^ (op.len_bytes << 40);
        if op.kind == OpKind::Write {
            for buf in &op.bufs {
                let crc = match buf {
                    IoBuf::Owned(b) => crc32c(b),
                    IoBuf::Shared(b, range) => crc32c(&b[range.clone()]),
                    IoBuf::Guest(_) => 0,
                };
                mix = mix.rotate_left(7) ^ (u64::from(crc) << 16);
            }
        }
        self.trace = Random::new(mix ^ self.clock.now_ns()).bits();
    }
    pub(super) fn submit(&mut self, op: Op, token: Token) {
        if self.crash_point.reached() {
            // The machine has stopped: this is what it would have done next.
            return;
        }
        self.record(&op);
        if op.kind != OpKind::Read {
            self.crash_point.tick();
        }
        let slow_read = if op.kind == OpKind::Read { self.faults.slow_read } else { 0 };
        let slow = self.random.chance(self.faults.slow + slow_read);
        if slow {
            self.counts.add(Fault::Slow);
        }
        let longest = if slow { self.faults.slow_ns_max } else { self.faults.delay_ns_max };
        let due_ns = self.clock.now_ns() + self.random.below(longest + 1);
        let tie = self.random.bits();
        let completed_before = self.writes_completed;
        let nth = self.submitted;
        self.submitted += 1;
        let watched =
            self.watcher.is_some() && op.kind == OpKind::Write && self.info.check(&op, true).is_ok();
        let exposed = watched.then(|| Rc::new(pending(&op)));
        let request = InFlight { op, token, completed_before, nth, exposed };
        let changes = request.op.kind != OpKind::Read;
        let previous = self.in_flight.insert((due_ns, tie), request);
        assert!(previous.is_none(), "64 random bits are unique");
        if changes {
            self.tell_watcher();
        }
    }
    pub(super) fn next_due(&mut self) -> Option<InFlight> {
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
        let earlier = |r: &InFlight| r.op.kind == OpKind::Write && r.nth < next.nth;
        if next.op.kind == OpKind::Write && self.in_flight.values().any(earlier) {
            self.counts.add(Fault::Reordered);
        }
        Some(next)
    }
    pub(super) fn run(&mut self, request: &mut InFlight) -> Result<(), i32> {
        let result = self.carry_out(request);
        if request.op.kind != OpKind::Read {
            self.tell_watcher();
        }
        result
    }
    /// What a crash would leave is not what it was.
    pub(super) fn tell_watcher(&self) {
        let Some(watcher) = &self.watcher else { return };
        watcher(Exposure {
            durable: self.durable.fork(),
            unflushed: self.unflushed.clone(),
            in_flight: self.in_flight.values().filter_map(|r| r.exposed.clone()).collect(),
        });
    }
    fn carry_out(&mut self, request: &mut InFlight) -> Result<(), i32> {
        self.info.check(&request.op, true)?;
        let op = &mut request.op;
        match op.kind {
            OpKind::Read => self.read(op),
            OpKind::Write => self.write(pending(op)),
            OpKind::Flush => self.flush(request.completed_before),
            OpKind::Discard => {
                // Anything may be read there from now on; zeros and old bytes are what disks do.
                if self.random.coin() && op.len_bytes <= BLOCK_BYTES * 4096 {
                    let bytes = AlignedBuf::zeroed(op.len_bytes as usize);
                    self.apply(PendingWrite { number: 0, offset_bytes: op.offset_bytes, bytes });
                }
                Ok(())
            }
        }
    }
    fn read(&mut self, op: &mut Op) -> Result<(), i32> {
        let end = op.offset_bytes + op.len_bytes;
        let within = op.offset_bytes < self.unreadable.end && self.unreadable.start < end;
        if within || self.random.chance(self.faults.read_error) {
            self.counts.add(Fault::ReadError);
            return Err(libc::EIO);
        }
        let mut at = op.offset_bytes;
        if self.random.chance(self.faults.misdirected_read) {
            self.counts.add(Fault::MisdirectedRead);
            at = self.elsewhere(op.len_bytes);
        }
        let flip = op.len_bytes > 0 && self.random.chance(self.faults.flipped_read);
        let flipped = self.random.below(op.bufs.len() as u64) as usize;
        for (index, buf) in op.bufs.iter_mut().enumerate() {
            let len = buf.len();
            let mut bounce = AlignedBuf::zeroed(if matches!(buf, IoBuf::Owned(_)) { 0 } else { len });
            let bytes: &mut [u8] = if let IoBuf::Owned(b) = buf { b } else { &mut bounce };
            self.visible.read(at, bytes);
            if flip && index == flipped && !bytes.is_empty() {
                self.counts.add(Fault::FlippedRead);
                flip_bit(&mut self.random, bytes);
            }
            if !matches!(buf, IoBuf::Owned(_)) {
                buf.copy_from(&bounce);
            }
            at += len as u64;
        }
        Ok(())
    }
    fn write(&mut self, mut write: PendingWrite) -> Result<(), i32> {
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
            write.offset_bytes = self.elsewhere(write.bytes.len() as u64);
        }
        if !write.bytes.is_empty() && self.random.chance(faults.rotten_write) {
            self.counts.add(Fault::RottenWrite);
            flip_bit(&mut self.random, &mut write.bytes);
        }
        self.apply(write);
        Ok(())
    }
    /// Where `len_bytes` bytes fit: most often where something lies already.
    fn elsewhere(&mut self, len_bytes: u64) -> u64 {
        let last = self.info.len_bytes - len_bytes;
        let written = self.visible.written_blocks();
        let at = match written.is_empty() || self.random.below(4) == 0 {
            true => self.random.below(last / SECTOR_BYTES + 1) * SECTOR_BYTES,
            false => self.random.pick(&written) * BLOCK_BYTES + self.random.below(2) * 4 * SECTOR_BYTES,
        };
        at.min(last)
    }
    /// A bit of some block that holds something turns, on the medium.
    pub(super) fn rot(&mut self) {
        let written = self.visible.written_blocks();
        if written.is_empty() {
            return;
        }
        self.counts.add(Fault::RottenSector);
        let at = self.random.pick(&written) * BLOCK_BYTES
            + self.random.below(BLOCK_BYTES / SECTOR_BYTES) * SECTOR_BYTES;
        let bit = self.random.below(SECTOR_BYTES * 8);
        for media in [&self.durable, &self.visible] {
            let mut sector = [0; SECTOR];
            media.read(at, &mut sector);
            sector[(bit / 8) as usize] ^= 1 << (bit % 8);
            media.write(at, &sector);
        }
    }
    fn flush(&mut self, completed_before: u64) -> Result<(), i32> {
        if self.random.chance(self.faults.flush_error) {
            self.counts.add(Fault::FlushError);
            return Err(libc::EIO);
        }
        if self.random.chance(self.faults.lying_flush) {
            self.counts.add(Fault::LyingFlush);
            return Ok(());
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
    pub(super) fn apply(&mut self, mut write: PendingWrite) {
        self.visible.write(write.offset_bytes, &write.bytes);
        write.number = self.writes_completed;
        self.writes_completed += 1;
        self.unflushed.push(Rc::new(write));
    }
    /// Some sectors of the write happen.
    pub(super) fn apply_torn(&mut self, write: &PendingWrite) {
        self.counts.add(Fault::TornWrite);
        for (index, sector) in write.bytes.chunks(SECTOR).enumerate() {
            if self.random.coin() {
                let offset_bytes = write.offset_bytes + (index * SECTOR) as u64;
                self.apply(PendingWrite { number: 0, offset_bytes, bytes: AlignedBuf::copy_of(sector) });
            }
        }
    }
    /// Decide what a power loss leaves of an unflushed write: all, none, or each sector by chance.
    pub(super) fn settle(&mut self, write: &PendingWrite, whole: Option<bool>, chance: u32) {
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
    pub(super) fn take_in_flight_writes(&mut self) -> Vec<PendingWrite> {
        let in_flight = std::mem::take(&mut self.in_flight);
        let mut writes: Vec<PendingWrite> = in_flight
            .into_values()
            .filter(|r| r.op.kind == OpKind::Write && self.info.check(&r.op, true).is_ok())
            .map(|r| pending(&r.op))
            .collect();
        self.random.shuffle(&mut writes);
        writes
    }
}

fn pending(op: &Op) -> PendingWrite {
    PendingWrite { number: 0, offset_bytes: op.offset_bytes, bytes: gather(&op.bufs, op.len_bytes) }
}

fn flip_bit(random: &mut Random, bytes: &mut [u8]) {
    let bit = random.below(bytes.len() as u64 * 8);
    bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
}

fn gather(bufs: &IoBufs, len_bytes: u64) -> AlignedBuf {
    let len: usize = bufs.iter().map(IoBuf::len).sum();
    let mut bytes = AlignedBuf::zeroed(len.max(len_bytes as usize));
    let mut at = 0;
    for buf in bufs {
        buf.copy_to(&mut bytes[at..at + buf.len()]);
        at += buf.len();
    }
    bytes
}
