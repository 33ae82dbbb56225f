//! The in-flight area: shared memory that outlives this process and says which descriptors were
//! taken and not yet given back, so that a restarted daemon takes each of them up again once.
//!
//! Layout of one queue, exactly as the vhost-user specification ("Inflight I/O tracking", split
//! virtqueues), QEMU's libvhost-user and DPDK have it; queue `i` starts at `i` times the stride,
//! which is the size rounded up to 64. All fields are in host byte order.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | features, 0 |
//! | 8 | 2 | version: 0 fresh, 1 in use |
//! | 10 | 2 | number of descriptor states |
//! | 12 | 2 | last batch head: newest descriptor put into the used ring |
//! | 14 | 2 | used index known to be finished with |
//! | 16 + 16 n | 1 | state n: 1 while descriptor n is in flight |
//! | 16 + 16 n + 6 | 2 | state n: next older descriptor of the last batch |
//! | 16 + 16 n + 8 | 8 | state n: counter, the order of arrival |
//!
//! Behind the last queue lie 64 bytes of our own: the write-cache mode, which the front end does not
//! repeat when it reconnects, and a random number, from which requests have names that no other area's have.
//!
//! The front end can write to all of it at any time: everything read is checked, and it is read only
//! when a ring starts.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ::vhost::vhost_user::message::VhostUserInflight;
use rustix::fs::{MemfdFlags, SealFlags};
use vdi_core::{Error, ErrorKind, Result};
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory};

use super::features::{QUEUE_DEPTH_MAX, QUEUES_MAX};
use super::guest_memory::{Guard, check_file};

const HEADER_BYTES: usize = 16;
const STATE_BYTES: usize = 16;
const ALIGN_BYTES: usize = 64;
const VERSION: u16 = 1;
const VERSION_AT: usize = 8;
const STATES_AT: usize = 10;
const LAST_BATCH_HEAD_AT: usize = 12;
const USED_INDEX_AT: usize = 14;
const NEXT_WITHIN: usize = 6;
const COUNTER_WITHIN: usize = 8;

const TRAILER_BYTES: usize = 64;
const TRAILER_MAGIC: u64 = u64::from_le_bytes(*b"PLXCACHE");
const WRITE_THROUGH_WITHIN: usize = 8;
const NAMES_WITHIN: usize = 16;
/// The counters of a queue stay below this.
const COUNTER_BITS: u32 = 48;

fn refused(message: String) -> Error {
    Error::new(
        ErrorKind::BadRequest,
        message,
        "the front end's in-flight area is damaged; restart the guest, and report the front end's version",
    )
}

const fn stride_bytes(queue_size: u16) -> usize {
    (HEADER_BYTES + STATE_BYTES * queue_size as usize).next_multiple_of(ALIGN_BYTES)
}

/// The mapped area of one device.
pub struct InflightArea {
    file: File,
    file_offset: u64,
    queues: u16,
    queue_size: u16,
    guard: Guard,
    map: MmapRegion<()>,
}

impl InflightArea {
    /// A fresh, sealed area. Fails for sizes that no ring of ours can have.
    pub fn create(queues: u16, queue_size: u16) -> Result<Arc<InflightArea>> {
        check_shape(queues, queue_size)?;
        let len = stride_bytes(queue_size) * queues as usize + TRAILER_BYTES;
        let failed = |e: rustix::io::Errno| Error::io("in-flight area", e.raw_os_error());
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = File::from(rustix::fs::memfd_create("parallax-inflight", flags).map_err(failed)?);
        rustix::fs::ftruncate(&file, len as u64).map_err(failed)?;
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
            .map_err(failed)?;
        let area = InflightArea::open(file, len as u64, 0, queues, queue_size)?;
        for queue in 0..queues {
            area.write(queue as usize * stride_bytes(queue_size) + STATES_AT, queue_size);
        }
        let mut names = [0; 8];
        let random = File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut names));
        random.map_err(|e| Error::io("/dev/urandom", e.raw_os_error().unwrap_or(libc::EIO)))?;
        area.write(area.trailer_at() + NAMES_WITHIN, u64::from_le_bytes(names));
        area.write(area.trailer_at(), TRAILER_MAGIC);
        Ok(area)
    }
    /// Map an area that a front end gives (back): `len_bytes` at `file_offset` of `file`.
    pub fn open(
        file: File,
        len_bytes: u64,
        file_offset: u64,
        queues: u16,
        queue_size: u16,
    ) -> Result<Arc<InflightArea>> {
        check_shape(queues, queue_size)?;
        let needed = (stride_bytes(queue_size) * queues as usize) as u64;
        if len_bytes < needed || len_bytes > needed + (1 << 20) {
            return Err(refused(format!(
                "an in-flight area of {len_bytes} bytes for {queues} queues of {queue_size} (needs {needed})"
            )));
        }
        check_file(&file, file_offset.checked_add(len_bytes), "the in-flight area")?;
        let mapped = file
            .try_clone()
            .map_err(|e| refused(format!("the in-flight area's file cannot be kept: {e}")))?;
        let map = MmapRegion::from_file(FileOffset::new(mapped, file_offset), len_bytes as usize)
            .map_err(|e| refused(format!("the in-flight area cannot be mapped: {e}")))?;
        let guard = Guard::over(map.as_ptr() as usize, map.size())
            .ok_or_else(|| refused("too many memory regions are mapped in this daemon".to_owned()))?;
        Ok(Arc::new(InflightArea { file, file_offset, queues, queue_size, guard, map }))
    }
    /// What the front end is told, with the file.
    pub fn describe(&self) -> Result<(VhostUserInflight, File)> {
        let file = File::from(
            self.file
                .as_fd()
                .try_clone_to_owned()
                .map_err(|e| Error::io("in-flight area", e.raw_os_error().unwrap_or(libc::EMFILE)))?,
        );
        let size = self.map.size() as u64;
        Ok((VhostUserInflight::new(size, self.file_offset, self.queues, self.queue_size), file))
    }
    /// The part of queue `index`, unless the area has fewer queues.
    #[must_use]
    pub fn queue(self: &Arc<InflightArea>, index: u16) -> Option<InflightQueue> {
        (index < self.queues).then(|| InflightQueue {
            base: index as usize * stride_bytes(self.queue_size),
            names: self.names().map(|names| names.wrapping_add(u64::from(index) << COUNTER_BITS)),
            area: Arc::clone(self),
            counter: 0,
        })
    }
    /// True when some ring already ran on this area: the guest's driver has not started anew since.
    #[must_use]
    pub fn is_used(&self) -> bool {
        (0..self.queues as usize)
            .any(|q| self.read::<u16>(q * stride_bytes(self.queue_size) + VERSION_AT) != 0)
    }
    /// The write-cache mode remembered here, if this area is one of ours.
    #[must_use]
    pub fn write_back(&self) -> Option<bool> {
        let at = self.trailer_at();
        self.is_ours().then(|| self.read::<u8>(at + WRITE_THROUGH_WITHIN) == 0)
    }
    fn is_ours(&self) -> bool {
        let at = self.trailer_at();
        self.map.size() >= at + TRAILER_BYTES && self.read::<u64>(at) == TRAILER_MAGIC
    }
    fn names(&self) -> Option<u64> {
        let names = self.is_ours().then(|| self.read::<u64>(self.trailer_at() + NAMES_WITHIN));
        // A daemon that gave no names made it: without a number of its own, they would be another area's too.
        names.filter(|n| *n != 0)
    }
    /// Remember the write-cache mode, if there is room.
    pub fn set_write_back(&self, write_back: bool) {
        if self.write_back().is_some() {
            self.write(self.trailer_at() + WRITE_THROUGH_WITHIN, u8::from(!write_back));
        }
    }
    /// True once the area turned out shorter than it was.
    #[must_use]
    pub fn is_hurt(&self) -> bool {
        self.guard.is_hurt()
    }
    fn trailer_at(&self) -> usize {
        stride_bytes(self.queue_size) * self.queues as usize
    }
    fn read<T: vm_memory::AtomicAccess>(&self, at: usize) -> T {
        self.map
            .as_volatile_slice()
            .load(at, Ordering::Acquire)
            .expect("offsets are inside the area, aligned")
    }
    fn write<T: vm_memory::AtomicAccess>(&self, at: usize, value: T) {
        self.map
            .as_volatile_slice()
            .store(value, at, Ordering::Release)
            .expect("offsets are inside the area, aligned");
    }
}

fn check_shape(queues: u16, queue_size: u16) -> Result<()> {
    if queues == 0 || queues > QUEUES_MAX || queue_size == 0 || queue_size > QUEUE_DEPTH_MAX {
        return Err(refused(format!(
            "an in-flight area for {queues} queues of {queue_size} entries; at most {QUEUES_MAX} of {QUEUE_DEPTH_MAX}"
        )));
    }
    Ok(())
}

/// One queue's part of the area; every store is in an order that a kill between any two survives.
pub struct InflightQueue {
    area: Arc<InflightArea>,
    base: usize,
    /// Added to a counter, the name of a request; none when the area is not ours.
    names: Option<u64>,
    counter: u64,
}

/// A descriptor in flight.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Taken {
    /// Its index.
    pub head: u16,
    /// Names the request among all of its disk; 0 when this area gives no names.
    pub request: u64,
}

impl InflightQueue {
    /// Descriptors this part has room for.
    #[must_use]
    pub fn len(&self) -> u16 {
        self.area.queue_size
    }
    /// Never: an area has at least one state per queue.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }
    /// True once the area turned out shorter than it was.
    #[must_use]
    pub fn is_hurt(&self) -> bool {
        self.area.is_hurt()
    }
    fn state_at(&self, head: u16) -> usize {
        assert!(head < self.len(), "the ring checked descriptor {head}");
        self.base + HEADER_BYTES + STATE_BYTES * head as usize
    }
    /// Put this part in order for a ring whose used index is `used_index`: none when it is fresh,
    /// else the descriptors to take up again, in order of arrival.
    pub fn recover(&mut self, used_index: u16) -> Result<Option<Vec<Taken>>> {
        let version: u16 = self.area.read(self.base + VERSION_AT);
        let states: u16 = self.area.read(self.base + STATES_AT);
        if version == 0 {
            // A front end need not have handed over zeros.
            for head in 0..self.len() {
                let at = self.state_at(head);
                self.area.write(at, 0u8);
                self.area.write(at + COUNTER_WITHIN, 0u64);
            }
            self.area.write(self.base + STATES_AT, self.len());
            self.area.write(self.base + USED_INDEX_AT, used_index);
            self.area.write(self.base + VERSION_AT, VERSION);
            return Ok(None);
        }
        if version != VERSION || states != self.len() {
            return Err(refused(format!("in-flight area of version {version} with {states} states")));
        }
        self.finish_last_batch(used_index)?;
        let mut taken: Vec<(u64, u16)> = Vec::new();
        for head in 0..self.len() {
            let at = self.state_at(head);
            // Of those that have ended too: a counter, and with it a name, is used once in an area's life.
            let counter = self.area.read::<u64>(at + COUNTER_WITHIN) & ((1 << COUNTER_BITS) - 1);
            self.counter = self.counter.max(counter + 1);
            match self.area.read::<u8>(at) {
                0 => {}
                1 => taken.push((counter, head)),
                other => return Err(refused(format!("in-flight state {other} of descriptor {head}"))),
            }
        }
        taken.sort_unstable();
        let named = taken.into_iter().map(|(counter, head)| Taken { head, request: self.name(counter) });
        Ok(Some(named.collect()))
    }
    /// The used ring moved on and we did not live to note it: those descriptors are finished.
    fn finish_last_batch(&mut self, used_index: u16) -> Result<()> {
        let known: u16 = self.area.read(self.base + USED_INDEX_AT);
        let batch = used_index.wrapping_sub(known);
        if batch > self.len() {
            return Err(refused(format!(
                "in-flight area knows used index {known}, the ring is at {used_index}"
            )));
        }
        let mut head: u16 = self.area.read(self.base + LAST_BATCH_HEAD_AT);
        for _ in 0..batch {
            if head >= self.len() {
                return Err(refused(format!("in-flight area names descriptor {head} of {}", self.len())));
            }
            let at = self.state_at(head);
            self.area.write(at, 0u8);
            head = self.area.read(at + NEXT_WITHIN);
        }
        self.area.write(self.base + USED_INDEX_AT, used_index);
        Ok(())
    }
    fn name(&self, counter: u64) -> u64 {
        self.names.map_or(0, |names| names.wrapping_add(counter))
    }
    /// Descriptor `head` was taken from the available ring; returns the name of its request.
    pub fn taken(&mut self, head: u16) -> u64 {
        let (at, counter) = (self.state_at(head), self.counter);
        self.area.write(at + COUNTER_WITHIN, counter);
        self.area.write(at, 1u8);
        self.counter += 1;
        self.name(counter)
    }
    /// Descriptor `head` is about to enter the used ring.
    pub fn before_used(&mut self, head: u16) {
        let last: u16 = self.area.read(self.base + LAST_BATCH_HEAD_AT);
        self.area.write(self.state_at(head) + NEXT_WITHIN, last);
        self.area.write(self.base + LAST_BATCH_HEAD_AT, head);
    }
    /// Descriptor `head` is in the used ring, whose index is now `used_index`.
    pub fn after_used(&mut self, head: u16, used_index: u16) {
        self.area.write(self.state_at(head), 0u8);
        self.area.write(self.base + USED_INDEX_AT, used_index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heads(taken: Option<Vec<Taken>>) -> Vec<u16> {
        taken.unwrap().iter().map(|t| t.head).collect()
    }
    fn reopened(area: &Arc<InflightArea>) -> Arc<InflightArea> {
        let (m, file) = area.describe().unwrap();
        InflightArea::open(file, m.mmap_size, m.mmap_offset, m.num_queues, m.queue_size).unwrap()
    }

    #[test]
    fn the_layout_is_the_one_of_libvhost_user() {
        let area = InflightArea::create(2, 128).unwrap();
        let mut q = area.queue(1).unwrap();
        assert_eq!(q.recover(7).unwrap(), None);
        q.taken(3);
        q.taken(5);
        q.before_used(3);
        q.after_used(3, 8);
        let base = 128 * 16 + 64;
        assert_eq!(area.read::<u16>(base + 8), 1, "version");
        assert_eq!(area.read::<u16>(base + 10), 128, "states");
        assert_eq!(area.read::<u16>(base + 12), 3, "last batch head");
        assert_eq!(area.read::<u16>(base + 14), 8, "used index");
        assert_eq!(area.read::<u8>(base + 16 + 16 * 3), 0);
        assert_eq!(area.read::<u8>(base + 16 + 16 * 5), 1);
        assert_eq!(area.read::<u64>(base + 16 + 16 * 5 + 8), 1, "counter");
    }

    #[test]
    fn a_restart_takes_up_each_descriptor_once_in_order_of_arrival() {
        let area = InflightArea::create(1, 8).unwrap();
        let mut q = area.queue(0).unwrap();
        q.recover(0).unwrap();
        for head in [6, 2, 0, 7] {
            q.taken(head);
        }
        q.before_used(2);
        q.after_used(2, 1);
        let mut again = reopened(&area).queue(0).unwrap();
        assert_eq!(heads(again.recover(1).unwrap()), [6, 0, 7]);
        again.taken(2);
        assert_eq!(heads(reopened(&area).queue(0).unwrap().recover(1).unwrap()), [6, 0, 7, 2]);
    }

    #[test]
    fn a_request_keeps_its_name_over_a_restart_and_no_name_is_used_twice() {
        let area = InflightArea::create(2, 8).unwrap();
        let mut names = std::collections::BTreeSet::new();
        for index in [0, 1] {
            let mut q = area.queue(index).unwrap();
            q.recover(0).unwrap();
            names.extend([q.taken(6), q.taken(2)]);
            q.before_used(6);
            q.after_used(6, 1);
            let mut again = reopened(&area).queue(index).unwrap();
            let left = again.recover(1).unwrap().unwrap();
            assert!(left.iter().all(|t| t.head == 2 && names.contains(&t.request)));
            again.before_used(2);
            again.after_used(2, 2);
            let mut third = reopened(&area).queue(index).unwrap();
            assert_eq!(third.recover(2).unwrap().unwrap(), []);
            names.insert(third.taken(2));
        }
        assert_eq!(names.len(), 6);
        let mut other = InflightArea::create(1, 8).unwrap().queue(0).unwrap();
        other.recover(0).unwrap();
        assert!(!names.contains(&other.taken(0)));
    }

    #[test]
    fn a_kill_between_used_ring_and_in_flight_area_finishes_the_descriptor() {
        let area = InflightArea::create(1, 8).unwrap();
        let mut q = area.queue(0).unwrap();
        q.recover(65_535).unwrap();
        q.taken(4);
        q.taken(1);
        q.before_used(1);
        // Killed before the used index moved: still in flight.
        assert_eq!(heads(reopened(&area).queue(0).unwrap().recover(65_535).unwrap()), [4, 1]);
        // Killed after it moved (and wrapped): finished.
        assert_eq!(heads(reopened(&area).queue(0).unwrap().recover(0).unwrap()), [4]);
    }

    #[test]
    fn a_hostile_area_is_refused_and_never_indexed_with() {
        for (at, value) in [(8, 2u16), (10, 9), (14, 100), (16, 2)] {
            let area = InflightArea::create(1, 8).unwrap();
            area.queue(0).unwrap().recover(0).unwrap();
            area.write(at, value);
            assert!(area.queue(0).unwrap().recover(0).is_err(), "{value} at {at}");
        }
        let area = InflightArea::create(1, 8).unwrap();
        area.queue(0).unwrap().recover(0).unwrap();
        area.write(LAST_BATCH_HEAD_AT, 8u16);
        assert!(area.queue(0).unwrap().recover(1).is_err());
    }

    #[test]
    fn a_fresh_area_that_holds_anything_is_made_empty() {
        let area = InflightArea::create(1, 8).unwrap();
        area.write(HEADER_BYTES + STATE_BYTES * 3, 192u8);
        area.write(HEADER_BYTES + STATE_BYTES * 5, 1u8);
        assert_eq!(area.queue(0).unwrap().recover(0).unwrap(), None);
        assert_eq!(heads(reopened(&area).queue(0).unwrap().recover(0).unwrap()), [0; 0]);
    }

    #[test]
    fn impossible_shapes_and_short_files_are_refused() {
        assert!(InflightArea::create(0, 8).is_err());
        assert!(InflightArea::create(65, 8).is_err());
        assert!(InflightArea::create(1, 2048).is_err());
        let (m, file) = InflightArea::create(1, 8).unwrap().describe().unwrap();
        assert!(InflightArea::open(file.try_clone().unwrap(), m.mmap_size + 1, 0, 1, 8).is_err());
        assert!(InflightArea::open(file.try_clone().unwrap(), m.mmap_size, u64::MAX, 1, 8).is_err());
        assert!(InflightArea::open(file, m.mmap_size, 0, 2, 8).is_err());
    }

    #[test]
    fn the_cache_mode_survives_a_restart() {
        let area = InflightArea::create(1, 8).unwrap();
        assert_eq!((area.write_back(), area.is_used()), (Some(true), false));
        area.set_write_back(false);
        area.queue(0).unwrap().recover(0).unwrap();
        let again = reopened(&area);
        assert_eq!((again.write_back(), again.is_used()), (Some(false), true));
    }
}
