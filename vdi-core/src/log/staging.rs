//! Staging memory: what is appended lies here until it is on the device. It outlives the daemon, so a write may be
//! acknowledged when it is staged; what a killed daemon left is adopted by the next ([`super::adopt`]).
//!
//! A ring of entries in order of appending. One word, the head, says how far they are whole; the tail moves on when a
//! segment and all before it are on the device.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use super::ring::Ring;
use crate::buffer::{AlignedBuf, GuestSlice};
use crate::error::{Error, ErrorKind, Result};
use crate::format::staging::{
    BOOT, ENTRY_BYTES, HEAD, INCARNATION, LOG, MAGIC, RING, RING_BYTES, TAIL, entry_bytes,
};
use crate::limits::{LOG_COPY_BATCHES_PER_FLUSH, SEGMENT_HEAD_BYTES_MAX};
use crate::sabotage::{Bug, Point, crash_point, is_stopped, seeded_bug};
use crate::units::{BLOCK_SIZE, Incarnation, SegmentSeq, Uuid};

/// Memory that outlives the daemon.
#[derive(Clone, Debug, Default)]
pub struct StagingMemory {
    /// The boot of the host, which it does not outlive; never zero where there is memory.
    pub boot: Uuid,
    /// [`StagingMemory::bytes_for`] the log; None: writes are acknowledged when they are on the log's device.
    pub memory: Option<GuestSlice>,
}

impl StagingMemory {
    /// Bytes of memory for a log on a device of `log_bytes`.
    ///
    /// [`ErrorKind::BadRequest`] when the device is too short for a log.
    pub fn bytes_for(log_bytes: u64) -> Result<usize> {
        Ok(RING + ring_bytes(&Ring::on_device(log_bytes)?))
    }
}

/// As much as may be appended and not on the device, copies too, and the skip at the end. Entries are less than half as
/// large again as what the ring of the log is charged for them.
fn ring_bytes(log: &Ring) -> usize {
    let copies = (LOG_COPY_BATCHES_PER_FLUSH + 1) * SEGMENT_HEAD_BYTES_MAX;
    let bytes = (log.staged_bytes_max() + copies as u64) / 2 * 3 + 2 * log.segment_bytes_max();
    usize::try_from(bytes).expect("a few segments fit memory")
}

/// The staging memory of a running log.
pub(super) struct Staging {
    memory: GuestSlice,
    ring_bytes: u64,
    tail: Cell<u64>,
    head: Cell<u64>,
    /// Where the entries of each segment end.
    ends: RefCell<VecDeque<(SegmentSeq, u64)>>,
}

/// What was appended as one.
pub(super) struct Entry {
    pub seq: SegmentSeq,
    pub record: Vec<u8>,
    pub data: AlignedBuf,
}

impl Staging {
    /// An empty one for the life `incarnation` of `log`, which begins with its next head. Everything in the memory is on
    /// the device, and durable.
    pub fn begin(
        staging: &StagingMemory,
        log: Uuid,
        incarnation: Incarnation,
        ring: &Ring,
    ) -> Result<Option<Staging>> {
        let Some(memory) = staging.memory.clone() else { return Ok(None) };
        let ring_bytes = ring_bytes(ring);
        if memory.len() < RING + ring_bytes {
            return Err(Error::new(
                ErrorKind::BadRequest,
                format!("the staging memory has {} bytes, the log needs {}", memory.len(), RING + ring_bytes),
                "let the daemon make it",
            ));
        }
        if Identity::of(&memory) != Some(Identity { log, boot: staging.boot, ring_bytes: ring_bytes as u64 })
        {
            let set = |at, value| memory.word(at).store(value, Ordering::Release);
            set(0, 0);
            set_uuid(&memory, LOG, log);
            set_uuid(&memory, BOOT, staging.boot);
            set(RING_BYTES, ring_bytes as u64);
            set(TAIL, 0);
            set(HEAD, 0);
            set(0, MAGIC);
        }
        let head = memory.word(HEAD).load(Ordering::Acquire) / ring_bytes as u64 * ring_bytes as u64;
        // Emptied before it says of which life it is.
        memory.word(HEAD).store(head, Ordering::Release);
        memory.word(TAIL).store(head, Ordering::Release);
        memory.word(INCARNATION).store(incarnation.0, Ordering::Release);
        Ok(Some(Staging {
            memory,
            ring_bytes: ring_bytes as u64,
            tail: Cell::new(head),
            head: Cell::new(head),
            ends: RefCell::default(),
        }))
    }
    /// Stage a record of segment `seq` with its data. There is always room for what the log has granted.
    pub fn push(&self, seq: SegmentSeq, record: &[u8], data: &[Rc<AlignedBuf>]) {
        let blocks = data.iter().map(|b| b.len()).sum::<usize>() / BLOCK_SIZE;
        let bytes = entry_bytes(record.len(), blocks) as u64;
        let mut start = self.head.get();
        let left = self.ring_bytes - start % self.ring_bytes;
        if left < bytes {
            self.word(start).store(0, Ordering::Relaxed);
            start += left;
        }
        let end = start + bytes;
        assert!(end - self.tail.get() <= self.ring_bytes, "as large as all that may be staged");
        if seeded_bug(Bug::StagedBeforeCopied) {
            self.memory.word(HEAD).store(end, Ordering::Release);
            crash_point(Point::StagedNotYet);
            if is_stopped() {
                return;
            }
        }
        let mut at = self.offset(start);
        for word in [seq.0, record.len() as u64, blocks as u64] {
            self.memory.word(at).store(word, Ordering::Relaxed);
            at += 8;
        }
        self.memory.sub(at..at + record.len()).copy_from(record);
        at += record.len().next_multiple_of(8);
        for buf in data {
            self.memory.sub(at..at + buf.len()).copy_from(buf);
            at += buf.len();
        }
        crash_point(Point::StagedNotYet);
        if is_stopped() {
            return;
        }
        self.memory.word(HEAD).store(end, Ordering::Release);
        crash_point(Point::Staged);
        self.head.set(end);
        let mut ends = self.ends.borrow_mut();
        match ends.back_mut() {
            Some((last, at)) if *last == seq => *at = end,
            _ => ends.push_back((seq, end)),
        }
    }
    /// The segment `seq` and all before it are on the device.
    pub fn landed(&self, seq: SegmentSeq) {
        if is_stopped() {
            return;
        }
        let mut ends = self.ends.borrow_mut();
        while let Some((_, end)) = ends.front().filter(|(s, _)| *s <= seq) {
            self.tail.set(*end);
            ends.pop_front();
        }
        self.memory.word(TAIL).store(self.tail.get(), Ordering::Release);
    }
    fn word(&self, position: u64) -> &std::sync::atomic::AtomicU64 {
        self.memory.word(self.offset(position))
    }
    fn offset(&self, position: u64) -> usize {
        RING + (position % self.ring_bytes) as usize
    }
}

/// What must match before the words of a ring mean anything.
#[derive(PartialEq, Eq, Debug)]
struct Identity {
    log: Uuid,
    boot: Uuid,
    ring_bytes: u64,
}

impl Identity {
    fn of(memory: &GuestSlice) -> Option<Identity> {
        if memory.len() < RING || memory.word(0).load(Ordering::Acquire) != MAGIC {
            return None;
        }
        let ring_bytes = memory.word(RING_BYTES).load(Ordering::Acquire);
        let fits =
            ring_bytes > 0 && ring_bytes.is_multiple_of(8) && ring_bytes <= (memory.len() - RING) as u64;
        fits.then(|| Identity { log: uuid(memory, LOG), boot: uuid(memory, BOOT), ring_bytes })
    }
}

fn uuid(memory: &GuestSlice, at: usize) -> Uuid {
    let half = |at| u128::from(memory.word(at).load(Ordering::Acquire));
    Uuid(half(at) | half(at + 8) << 64)
}

fn set_uuid(memory: &GuestSlice, at: usize, uuid: Uuid) {
    memory.word(at).store(uuid.0 as u64, Ordering::Release);
    memory.word(at + 8).store((uuid.0 >> 64) as u64, Ordering::Release);
}

/// What a life of a log left in its staging memory: None when that is not there. A life that came no further than its own
/// start left nothing.
///
/// [`ErrorKind::Corrupt`] when the entries make no sense.
pub(super) fn left_by(
    staging: &StagingMemory,
    log: Uuid,
    incarnation: Incarnation,
) -> Result<Option<Vec<Entry>>> {
    let Some(memory) = &staging.memory else { return Ok(None) };
    let Some(identity) = Identity::of(memory).filter(|i| i.log == log && i.boot == staging.boot) else {
        return Ok(None);
    };
    match memory.word(INCARNATION).load(Ordering::Acquire) {
        next if next == incarnation.0 + 1 => Ok(Some(Vec::new())),
        this if this == incarnation.0 => entries(memory, identity.ring_bytes).map(Some),
        _ if seeded_bug(Bug::StagedInAnotherLife) => entries(memory, identity.ring_bytes).map(Some),
        _ => Ok(None),
    }
}

fn entries(memory: &GuestSlice, ring_bytes: u64) -> Result<Vec<Entry>> {
    let bad = |at: u64, detail: &str| Error::corrupt("staging memory", format!("position {at}"), detail);
    let (mut at, head) =
        (memory.word(TAIL).load(Ordering::Acquire), memory.word(HEAD).load(Ordering::Acquire));
    if !at.is_multiple_of(8) || !head.is_multiple_of(8) || at > head || head - at > ring_bytes {
        return Err(bad(at, "its ends contradict each other"));
    }
    let mut out: Vec<Entry> = Vec::new();
    while at < head {
        let left = ring_bytes - at % ring_bytes;
        let offset = RING + (at % ring_bytes) as usize;
        let word = |n: usize| memory.word(offset + 8 * n).load(Ordering::Acquire);
        if word(0) == 0 {
            at += left;
            continue;
        }
        if left < ENTRY_BYTES as u64 {
            return Err(bad(at, "an entry crosses the ring's end"));
        }
        let (seq, record, blocks) = (SegmentSeq(word(0)), word(1), word(2));
        let most = (head - at).min(left);
        if record > most || blocks > most / BLOCK_SIZE as u64 {
            return Err(bad(at, "an entry is longer than what is staged"));
        }
        let (record, blocks) = (record as usize, blocks as usize);
        let bytes = entry_bytes(record, blocks) as u64;
        let in_order = out.last().is_none_or(|last| last.seq <= seq);
        if bytes > most || !in_order {
            return Err(bad(at, "an entry is longer than what is staged, or out of order"));
        }
        let mut entry = Entry { seq, record: vec![0; record], data: AlignedBuf::zeroed(blocks * BLOCK_SIZE) };
        let from = offset + ENTRY_BYTES;
        memory.sub(from..from + record).copy_to(&mut entry.record);
        let from = from + record.next_multiple_of(8);
        memory.sub(from..from + entry.data.len()).copy_to(&mut entry.data);
        out.push(entry);
        at += bytes;
    }
    Ok(out)
}
