//! Staging memory: what is appended lies here until it is durable on the device. It outlives the daemon, so a write may be
//! acknowledged when it is staged; what a killed daemon left is adopted by the next ([`super::adopt`]).
//!
//! A ring of entries in order of appending. One word, the head, says how far they are whole; the tail moves on when a
//! segment and all before it are durable. A kill keeps the order of what one thread stores; only the compiler must too.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::atomic::{Ordering, compiler_fence};

use super::ring::Ring;
use crate::buffer::{AlignedBuf, GuestSlice};
use crate::error::{Error, ErrorKind, Result};
use crate::format::log_head::StagedIn;
use crate::format::staging::{
    BOOT, ENTRY_BYTES, HEAD, LIFE, LIFE_BEFORE, LOG, MAGIC, RING, RING_BYTES, SKIP, TAIL, entry_bytes,
};
use crate::limits::{LOG_COPY_BATCHES_PER_FLUSH, SEGMENT_HEAD_BYTES_MAX};
use crate::sabotage::{Bug, Point, crash_point, is_stopped, seeded_bug};
use crate::units::{BLOCK_SIZE, SegmentSeq, Uuid};

/// Memory that outlives the daemon.
#[derive(Clone, Debug)]
pub struct StagingMemory {
    /// The boot of the host, which it does not outlive; zero where nobody knows.
    pub boot: u64,
    /// Tells this life of the log from all others: a random number, not zero where there is memory.
    pub life: u64,
    /// [`StagingMemory::bytes_for`] the log at least. Without it writes are acknowledged when they are on the log's
    /// device; the error says why there is none.
    pub memory: std::result::Result<GuestSlice, String>,
}

impl Default for StagingMemory {
    fn default() -> StagingMemory {
        StagingMemory::none("nobody has made any")
    }
}

impl StagingMemory {
    /// None, because of `why`.
    #[must_use]
    pub fn none(why: impl Into<String>) -> StagingMemory {
        StagingMemory { boot: 0, life: 0, memory: Err(why.into()) }
    }
    /// Bytes of memory for a log on a device of `log_bytes`.
    ///
    /// [`ErrorKind::BadRequest`] when the device is too short for a log.
    pub fn bytes_for(log_bytes: u64) -> Result<usize> {
        Ok(RING + ring_bytes(&Ring::on_device(log_bytes)?))
    }
}

/// As much as may be appended and not durable, copies too, and the skip at the end. Entries are less than half as large
/// again as what the ring of the log is charged for them.
fn ring_bytes(log: &Ring) -> usize {
    let copies = (LOG_COPY_BATCHES_PER_FLUSH + 1) * SEGMENT_HEAD_BYTES_MAX;
    let segments = log.staged_bytes_max() + log.unflushed_bytes_max + copies as u64;
    let bytes = segments / 2 * 3 + 2 * log.segment_bytes_max();
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
    /// An empty one for a life of `log` that begins with its next head, after the life `before`. Everything in the memory
    /// is durable on the device.
    pub fn begin(staging: &StagingMemory, log: Uuid, before: u64, ring: &Ring) -> Result<Option<Staging>> {
        let Ok(memory) = staging.memory.clone() else { return Ok(None) };
        let ring_bytes = ring_bytes(ring) as u64;
        if memory.len() < RING + ring_bytes as usize || staging.life == 0 || staging.boot == 0 {
            return Err(Error::new(
                ErrorKind::BadRequest,
                format!("{} bytes are no staging memory for the log, which needs {ring_bytes}", memory.len()),
                "let the daemon make it",
            ));
        }
        let set = |at, value| {
            memory.word(at).store(value, Ordering::Release);
            crash_point(Point::StagingBegins);
            is_stopped()
        };
        let known = Identity::of(&memory).is_some_and(|i| (i.log, i.boot) == (log, staging.boot));
        // Under the new life what is there means nothing; the log's head still names the one before.
        let mut words =
            vec![(LIFE_BEFORE, before), (LIFE, staging.life), (TAIL, 0), (HEAD, 0), (RING_BYTES, ring_bytes)];
        if !known {
            let halves = [(LOG, log.0 as u64), (LOG + 8, (log.0 >> 64) as u64)];
            let new = [&[(0, 0)][..], &halves, &[(BOOT, staging.boot)], &words, &[(0, MAGIC)]].concat();
            words = new;
        }
        for (at, value) in words {
            if set(at, value) {
                break;
            }
        }
        let (tail, head) = Default::default();
        Ok(Some(Staging { memory, ring_bytes, tail, head, ends: RefCell::default() }))
    }
    /// Stage a record of segment `seq` with its data. There is always room for what the log has granted.
    pub fn push(&self, seq: SegmentSeq, record: &[u8], data: &[Rc<AlignedBuf>]) {
        if is_stopped() {
            return;
        }
        let blocks = data.iter().map(|b| b.len()).sum::<usize>() / BLOCK_SIZE;
        let bytes = entry_bytes(record.len(), blocks) as u64;
        let mut start = self.head.get();
        let left = self.ring_bytes - start % self.ring_bytes;
        if left < bytes {
            self.memory.word(self.offset(start)).store(SKIP, Ordering::Relaxed);
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
        self.memory.copy_in(at, record);
        at += record.len().next_multiple_of(8);
        for buf in data {
            self.memory.copy_in(at, buf);
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
    /// The segment `seq` and all before it are durable.
    pub fn release(&self, seq: SegmentSeq) {
        if is_stopped() {
            return;
        }
        let mut ends = self.ends.borrow_mut();
        while let Some((_, end)) = ends.front().filter(|(s, _)| *s <= seq) {
            self.tail.set(*end);
            ends.pop_front();
        }
        self.memory.word(TAIL).store(self.tail.get(), Ordering::Release);
        // What is pushed from here on may lie where the tail was.
        compiler_fence(Ordering::SeqCst);
    }
    fn offset(&self, position: u64) -> usize {
        RING + (position % self.ring_bytes) as usize
    }
}

/// What must match before the words of a ring mean anything.
struct Identity {
    log: Uuid,
    boot: u64,
    ring_bytes: u64,
}

impl Identity {
    fn of(memory: &GuestSlice) -> Option<Identity> {
        if memory.len() < RING || word(memory, 0) != MAGIC {
            return None;
        }
        let ring_bytes = word(memory, RING_BYTES);
        let fits =
            ring_bytes > 0 && ring_bytes.is_multiple_of(8) && ring_bytes <= (memory.len() - RING) as u64;
        let log = Uuid(u128::from(word(memory, LOG)) | u128::from(word(memory, LOG + 8)) << 64);
        fits.then(|| Identity { log, boot: word(memory, BOOT), ring_bytes })
    }
}

fn word(memory: &GuestSlice, at: usize) -> u64 {
    memory.word(at).load(Ordering::Acquire)
}

/// What the life of a log that its head names left in its staging memory: an error says why that is not there. A life
/// that came no further than its own start left nothing.
///
/// [`ErrorKind::Corrupt`] when the entries make no sense.
pub(super) fn left_by(
    staging: &StagingMemory,
    log: Uuid,
    head: StagedIn,
) -> Result<std::result::Result<Vec<Entry>, String>> {
    let memory = match &staging.memory {
        Ok(memory) => memory,
        Err(why) => return Ok(Err(why.clone())),
    };
    let Some(identity) = Identity::of(memory).filter(|i| i.log == log && i.boot == staging.boot) else {
        return Ok(Err("it is empty, or of another log".to_owned()));
    };
    let (life, before) = (word(memory, LIFE), word(memory, LIFE_BEFORE));
    if life == head.life || seeded_bug(Bug::StagedInAnotherLife) {
        return entries(memory, identity.ring_bytes).map(Ok);
    }
    match before == head.life {
        true => Ok(Ok(Vec::new())),
        false => Ok(Err("it is of another life of the log".to_owned())),
    }
}

fn entries(memory: &GuestSlice, ring_bytes: u64) -> Result<Vec<Entry>> {
    let bad = |at: u64, detail: &str| Error::corrupt("staging memory", format!("position {at}"), detail);
    let (mut at, head) = (word(memory, TAIL), word(memory, HEAD));
    let sound = at.is_multiple_of(8) && head.is_multiple_of(8) && at <= head && head - at <= ring_bytes;
    if !sound || head > u64::MAX / 2 {
        return Err(bad(at, "its ends contradict each other"));
    }
    let mut out: Vec<Entry> = Vec::new();
    while at < head {
        let left = (ring_bytes - at % ring_bytes).min(head - at);
        let offset = RING + (at % ring_bytes) as usize;
        let field = |n: usize| word(memory, offset + 8 * n);
        if field(0) == SKIP {
            at += ring_bytes - at % ring_bytes;
            continue;
        }
        if left < ENTRY_BYTES as u64 {
            return Err(bad(at, "an entry is cut off"));
        }
        let (seq, record, blocks) = (SegmentSeq(field(0)), field(1), field(2));
        if record > left || blocks > left / BLOCK_SIZE as u64 {
            return Err(bad(at, "an entry is longer than what is staged"));
        }
        let (record, blocks) = (record as usize, blocks as usize);
        let bytes = entry_bytes(record, blocks) as u64;
        if bytes > left || seq.0 == 0 || out.last().is_some_and(|last| last.seq > seq) {
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
    match at == head {
        true => Ok(out),
        false => Err(bad(at, "the last entry ends behind what is staged")),
    }
}
