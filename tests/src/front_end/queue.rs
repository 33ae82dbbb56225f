//! A virtqueue from the driver's side. Its state is the guest's: it survives reconnects.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};

use super::ram::Ram;

/// `VRING_DESC_F_NEXT`.
pub const NEXT: u16 = 1;
/// `VRING_DESC_F_WRITE`.
pub const WRITE: u16 = 2;
/// `VRING_DESC_F_INDIRECT`.
pub const INDIRECT: u16 = 4;

/// `VIRTIO_BLK_T_IN`.
pub const READ_REQUEST: u32 = 0;
/// `VIRTIO_BLK_T_OUT`.
pub const WRITE_REQUEST: u32 = 1;
/// `VIRTIO_BLK_T_FLUSH`.
pub const FLUSH_REQUEST: u32 = 4;
/// `VIRTIO_BLK_T_DISCARD`.
pub const DISCARD_REQUEST: u32 = 11;
/// `VIRTIO_BLK_T_WRITE_ZEROES`.
pub const WRITE_ZEROES_REQUEST: u32 = 13;

const AVAILABLE_AT: u64 = 0x4000;
const USED_AT: u64 = 0x5000;
const SLOTS_AT: u64 = 0x8000;
/// Of a slot, before its data: indirect table of up to 254 descriptors, then header and status.
const SLOT_HEAD_BYTES: u64 = 0x1000;
const HEADER_WITHIN: u64 = 0xfe0;
const STATUS_WITHIN: u64 = 0xff0;
/// What the status byte holds until the device writes it.
pub const NO_STATUS: u8 = 0xee;

/// One descriptor.
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    /// Guest address.
    pub addr: u64,
    /// Bytes.
    pub len: u32,
    /// [`NEXT`], [`WRITE`], [`INDIRECT`].
    pub flags: u16,
    /// Index of the next one.
    pub next: u16,
}

/// A finished request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Done {
    /// Its slot.
    pub slot: u16,
    /// Its status: 0 is fine.
    pub status: u8,
    /// What the device says it wrote.
    pub len: u32,
}

/// A queue of `size` entries with a slot (buffers for one request) per entry.
pub struct Queue {
    base: u64,
    size: u16,
    slot_bytes: u64,
    available: u16,
    used: u16,
    free: BTreeSet<u16>,
    kick: File,
    call: File,
}

fn counter() -> File {
    let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
    File::from(rustix::event::eventfd(0, flags).expect("an eventfd"))
}

impl Queue {
    /// Bytes of guest memory a queue takes.
    #[must_use]
    pub fn bytes(size: u16, data_bytes: u64) -> u64 {
        SLOTS_AT + u64::from(size) * (SLOT_HEAD_BYTES + data_bytes)
    }
    /// A queue at guest address `base`, with `data_bytes` of buffer per slot.
    #[must_use]
    pub fn new(base: u64, size: u16, data_bytes: u64) -> Queue {
        Queue {
            base,
            size,
            slot_bytes: SLOT_HEAD_BYTES + data_bytes,
            available: 0,
            used: 0,
            free: (0..size).collect(),
            kick: counter(),
            call: counter(),
        }
    }
    /// Entries.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.size
    }
    /// Guest addresses of descriptor table, available ring and used ring.
    #[must_use]
    pub fn place(&self) -> (u64, u64, u64) {
        (self.base, self.base + AVAILABLE_AT, self.base + USED_AT)
    }
    /// The guest rings this.
    #[must_use]
    pub fn kick_file(&self) -> &File {
        &self.kick
    }
    /// The device rings this.
    #[must_use]
    pub fn call_file(&self) -> &File {
        &self.call
    }
    /// The used index in memory.
    #[must_use]
    pub fn used_index(&self, ram: &Ram) -> u16 {
        ram.load(self.base + USED_AT + 2)
    }
    /// Guest address of a slot's data buffer.
    #[must_use]
    pub fn data_at(&self, slot: u16) -> u64 {
        self.base + SLOTS_AT + u64::from(slot) * self.slot_bytes + SLOT_HEAD_BYTES
    }
    fn slot_at(&self, slot: u16) -> u64 {
        self.data_at(slot) - SLOT_HEAD_BYTES
    }
    /// Guest address of a slot's request header.
    #[must_use]
    pub fn header_at(&self, slot: u16) -> u64 {
        self.slot_at(slot) + HEADER_WITHIN
    }
    /// Guest address of a slot's status byte.
    #[must_use]
    pub fn status_at(&self, slot: u16) -> u64 {
        self.slot_at(slot) + STATUS_WITHIN
    }
    /// Write a descriptor into a table.
    pub fn put_descriptor(ram: &Ram, table: u64, index: u16, d: Descriptor) {
        let mut bytes = d.addr.to_le_bytes().to_vec();
        bytes.extend(d.len.to_le_bytes());
        bytes.extend(d.flags.to_le_bytes());
        bytes.extend(d.next.to_le_bytes());
        ram.write(table + 16 * u64::from(index), &bytes);
    }
    /// Write a slot's request header.
    pub fn put_header(&self, ram: &Ram, slot: u16, kind: u32, sector: u64) {
        ram.write(self.header_at(slot), &kind.to_le_bytes());
        ram.write(self.header_at(slot) + 4, &0u32.to_le_bytes());
        ram.write(self.header_at(slot) + 8, &sector.to_le_bytes());
        ram.write(self.status_at(slot), &[NO_STATUS]);
    }
    /// Make descriptor `head` available, whatever it says. The device learns with [`Queue::kick`].
    pub fn offer(&mut self, ram: &Ram, head: u16) {
        let ring = self.base + AVAILABLE_AT;
        ram.store(ring + 4 + 2 * u64::from(self.available % self.size), head);
        self.available = self.available.wrapping_add(1);
        ram.store(ring + 2, self.available);
    }
    /// Jump the available index.
    pub fn jump(&mut self, ram: &Ram, by: u16) {
        self.available = self.available.wrapping_add(by);
        ram.store(self.base + AVAILABLE_AT + 2, self.available);
    }
    /// Free slots.
    #[must_use]
    pub fn room(&self) -> usize {
        self.free.len()
    }
    /// Offer a request with `len` data bytes in `pieces` equal buffers, through an indirect table.
    /// Returns its slot. Panics without a free slot.
    pub fn submit(&mut self, ram: &Ram, kind: u32, sector: u64, len: u32, pieces: u16) -> u16 {
        let slot = self.free.pop_first().expect("a free slot");
        self.put_header(ram, slot, kind, sector);
        let table = self.slot_at(slot);
        let flags = if kind == READ_REQUEST || kind == 8 { NEXT | WRITE } else { NEXT };
        let header = Descriptor { addr: self.header_at(slot), len: 16, flags: NEXT, next: 1 };
        Queue::put_descriptor(ram, table, 0, header);
        let mut count = 1;
        if len > 0 {
            let piece = len / u32::from(pieces);
            for i in 0..pieces {
                let addr = self.data_at(slot) + u64::from(i) * u64::from(piece);
                let d = Descriptor { addr, len: piece, flags, next: count + 1 };
                Queue::put_descriptor(ram, table, count, d);
                count += 1;
            }
        }
        let status = Descriptor { addr: self.status_at(slot), len: 1, flags: WRITE, next: 0 };
        Queue::put_descriptor(ram, table, count, status);
        let indirect = Descriptor { addr: table, len: 16 * (u32::from(count) + 1), flags: INDIRECT, next: 0 };
        Queue::put_descriptor(ram, self.base, slot, indirect);
        self.offer(ram, slot);
        slot
    }
    /// Write `data` at `sector`.
    pub fn submit_write(&mut self, ram: &Ram, sector: u64, data: &[u8]) -> u16 {
        let slot = *self.free.first().expect("a free slot");
        ram.write(self.data_at(slot), data);
        self.submit(ram, WRITE_REQUEST, sector, data.len() as u32, 1)
    }
    /// Discard or zero ranges of (sector, sectors, flags).
    pub fn submit_ranges(&mut self, ram: &Ram, kind: u32, ranges: &[(u64, u32, u32)]) -> u16 {
        let slot = *self.free.first().expect("a free slot");
        let mut bytes = Vec::new();
        for (sector, sectors, flags) in ranges {
            bytes.extend(sector.to_le_bytes());
            bytes.extend(sectors.to_le_bytes());
            bytes.extend(flags.to_le_bytes());
        }
        ram.write(self.data_at(slot), &bytes);
        self.submit(ram, kind, 0, bytes.len() as u32, 1)
    }
    /// Ring the device.
    pub fn kick(&self) {
        rustix::io::write(&self.kick, &1u64.to_le_bytes()).expect("a kick");
    }
    /// What has finished since the last call. Asks for an interrupt at the next completion.
    pub fn take_done(&mut self, ram: &Ram) -> Vec<Done> {
        let ring = self.base + USED_AT;
        let mut done = Vec::new();
        while self.used != self.used_index(ram) {
            let at = ring + 4 + 8 * u64::from(self.used % self.size);
            let bytes = ram.read(at, 8);
            let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
            let slot = u16::try_from(word(0)).expect("a descriptor number");
            assert!(self.free.insert(slot), "descriptor {slot} was given back twice");
            done.push(Done { slot, status: ram.read(self.status_at(slot), 1)[0], len: word(4) });
            self.used = self.used.wrapping_add(1);
        }
        // used_event: behind the available ring.
        ram.store(self.base + AVAILABLE_AT + 4 + 2 * u64::from(self.size), self.used);
        done
    }
    /// Wait for at least `count` completions, sleeping until the device rings. Panics after `limit`.
    pub fn wait(&mut self, ram: &Ram, count: usize, limit: Duration) -> Vec<Done> {
        let done = self.wait_at_most(ram, count, limit);
        assert!(done.len() >= count, "{} of {count} requests finished within {limit:?}", done.len());
        done
    }
    /// As [`Queue::wait`], but gives back what there is after `limit`.
    pub fn wait_at_most(&mut self, ram: &Ram, count: usize, limit: Duration) -> Vec<Done> {
        let end = Instant::now() + limit;
        let mut done = self.take_done(ram);
        // Looked once more after asking for the interrupt.
        done.extend(self.take_done(ram));
        while done.len() < count {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let wait = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
            let mut fds = [PollFd::from_borrowed_fd(self.call.as_fd(), PollFlags::IN)];
            let _ = rustix::event::poll(&mut fds, Some(&wait));
            let _ = (&self.call).read(&mut [0; 8]);
            done.extend(self.take_done(ram));
            done.extend(self.take_done(ram));
        }
        done
    }
    /// Slots of requests that have not finished.
    #[must_use]
    pub fn in_flight(&self) -> Vec<u16> {
        (0..self.size).filter(|slot| !self.free.contains(slot)).collect()
    }
    /// A duplicate of the descriptor the device rings, for a thread of its own.
    #[must_use]
    pub fn call_duplicate(&self) -> OwnedFd {
        self.call.try_clone().expect("a descriptor more").into()
    }
}
