//! Staging memory: what is appended lies here until it is durable on the device. It outlives the daemon, so a write may be
//! acknowledged when it is staged; what a killed daemon left is adopted by the next ([`super::adopt`]).
//!
//! A ring of entries in order of appending. One word, the head, says how far they are whole; the tail moves on when a
//! segment and all before it are durable. A kill keeps the order of what one thread stores; only the compiler must too.
//! The data are written where they are staged, in the arena behind the ring: entries name their blocks. Those that found no
//! room there lie in the ring.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::atomic::{Ordering, compiler_fence};

use smallvec::SmallVec;

use super::ring::Ring;
use crate::buffer::{AlignedBuf, Arena, CHUNK_BYTES, OwnMemory, crc32c};
use crate::error::{Error, ErrorKind, Result};
use crate::format::log_head::StagedIn;
use crate::format::staging::{
    DURABLE, ENTRY_BYTES, HEAD, HERE, LIFE, LIFE_BEFORE, LOG, MAGIC, RING, RING_BYTES, SKIP, TAIL, arena,
    entry_bytes,
};
use crate::limits::{LOG_COPY_BATCHES_PER_FLUSH, SEGMENT_DATA_BLOCKS_MAX, SEGMENT_HEAD_BYTES_MAX};
use crate::sabotage::{Bug, Point, crash_point, is_stopped, seeded_bug};
use crate::units::{BLOCK_SIZE, SegmentSeq, Uuid};

/// Memory for what is appended.
#[derive(Clone, Debug)]
pub struct StagingMemory {
    /// [`StagingMemory::bytes_for`] the log at least, if it outlives the daemon; else as much as there is.
    pub memory: OwnMemory,
    /// Whether it outlives the daemon. If not, writes are acknowledged when they are on the log's device, and this
    /// says why.
    pub outlives: std::result::Result<(), String>,
    /// The boot of the host, which it does not outlive; None where nobody knows.
    pub boot: Option<u64>,
    /// Tells this life of the log from all others: a random number, not zero.
    pub life: u64,
}

impl Default for StagingMemory {
    fn default() -> StagingMemory {
        let why = "nobody has made any".to_owned();
        StagingMemory { memory: OwnMemory::zeroed(0), outlives: Err(why), boot: None, life: 0 }
    }
}

impl StagingMemory {
    /// Bytes of memory for a log on a device of `log_bytes`, of whose data `staging_bytes` are to stay in memory.
    ///
    /// [`ErrorKind::BadRequest`] when the device is too short for a log.
    pub fn bytes_for(log_bytes: u64, staging_bytes: usize) -> Result<usize> {
        let ring = Ring::on_device(log_bytes)?;
        // A checkpoint keeps what it found in memory until it is written.
        let data = in_memory(2 * staging_bytes as u64 + ring.staged_bytes_max() + ring.unflushed_bytes_max);
        Ok(arena(ring_bytes(&ring)) + data.next_multiple_of(CHUNK_BYTES))
    }
    /// Bytes from the start that a log on a device of `log_bytes` needs at once; of the rest an arena asks for more and more.
    ///
    /// [`ErrorKind::BadRequest`] when the device is too short for a log.
    pub fn bytes_at_once(log_bytes: u64) -> Result<usize> {
        Ok(arena(ring_bytes(&Ring::on_device(log_bytes)?)))
    }
}

/// As much as may be appended and not durable, copies too, and the skip at the end. Entries are less than half as large
/// again as what the ring of the log is charged for them.
fn ring_bytes(log: &Ring) -> usize {
    let copies = (LOG_COPY_BATCHES_PER_FLUSH + 1) * SEGMENT_HEAD_BYTES_MAX;
    let segments = log.staged_bytes_max() + log.unflushed_bytes_max + copies as u64;
    in_memory(segments / 2 * 3 + 2 * log.segment_bytes_max())
}

fn in_memory(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a few segments fit memory")
}

/// The staging memory of a running log.
pub(super) struct Staging {
    memory: OwnMemory,
    arena: Arena,
    ring_bytes: u64,
    tail: Cell<u64>,
    head: Cell<u64>,
    /// Where the entries of each segment end.
    ends: RefCell<VecDeque<(SegmentSeq, u64)>>,
    /// Data that entries name.
    held: RefCell<VecDeque<(SegmentSeq, Rc<AlignedBuf>)>>,
}

/// What was appended as one.
pub(super) struct Entry {
    pub seq: SegmentSeq,
    pub record: Vec<u8>,
    pub data: Vec<AlignedBuf>,
}

impl Staging {
    /// An empty one for a life of `log` that begins with its next head, after the life `before`. Everything in the memory
    /// is durable on the device.
    pub fn begin(staging: &StagingMemory, log: Uuid, before: u64, ring: &Ring) -> Result<Staging> {
        let memory = staging.memory.clone();
        let (ring_bytes, arena_at) = (ring_bytes(ring) as u64, arena(ring_bytes(ring)));
        if memory.len() < arena_at || staging.life == 0 {
            return Err(Error::new(
                ErrorKind::BadRequest,
                format!("{} bytes are no staging memory for the log, which needs {arena_at}", memory.len()),
                "let the daemon make it",
            ));
        }
        // Before a word is changed: an earlier life that still runs would lose what it stages.
        let arena = arena_in(&staging.memory, arena_at)?;
        let set = |at, value| {
            memory.store(at, value);
            crash_point(Point::StagingBegins);
            is_stopped()
        };
        let known = is_of(|at| memory.load(at), memory.len(), log);
        // Under the new life what is there means nothing; the log's head still names the one before.
        let new_life = [(LIFE_BEFORE, before), (LIFE, staging.life)];
        let mut words =
            [&new_life[..], &[(TAIL, 0), (DURABLE, 0), (HEAD, 0), (RING_BYTES, ring_bytes)]].concat();
        if !known {
            let halves = [(LOG, log.0 as u64), (LOG + 8, (log.0 >> 64) as u64)];
            words = [&[(0, 0)][..], &halves, &words, &[(0, MAGIC)]].concat();
        }
        for (at, value) in words {
            if set(at, value) {
                break;
            }
        }
        let (tail, head, ends, held) = Default::default();
        Ok(Staging { memory, arena, ring_bytes, tail, head, ends, held })
    }
    /// Stage a record of segment `seq` with its data. There is always room for what the log has granted.
    pub fn push(&self, seq: SegmentSeq, record: &[u8], data: &[Rc<AlignedBuf>]) {
        if is_stopped() {
            return;
        }
        let places: SmallVec<[Option<usize>; 1]> = data.iter().map(|b| self.arena.offset_of(b)).collect();
        let pieces = || data.iter().zip(&places);
        let here = || pieces().filter(|(_, place)| place.is_none()).map(|(buf, _)| buf);
        let blocks = here().map(|b| b.len()).sum::<usize>() / BLOCK_SIZE;
        let bytes = entry_bytes(record.len(), data.len(), blocks) as u64;
        let mut start = self.head.get();
        let left = self.ring_bytes - start % self.ring_bytes;
        if left < bytes {
            self.memory.store(self.offset(start), SKIP);
            start += left;
        }
        let end = start + bytes;
        assert!(end - self.tail.get() <= self.ring_bytes, "as large as all that may be staged");
        if seeded_bug(Bug::StagedBeforeCopied) {
            self.memory.store(HEAD, end);
            crash_point(Point::StagedNotYet);
            if is_stopped() {
                return;
            }
        }
        let mut at = self.offset(start);
        let arena_at = arena(self.ring_bytes as usize);
        let piece = |(buf, place): (&Rc<AlignedBuf>, &Option<usize>)| {
            let block = place.map_or(u64::from(HERE), |at| ((at - arena_at) / BLOCK_SIZE) as u64);
            ((buf.len() / BLOCK_SIZE) as u64) << 32 | block
        };
        let sum = u64::from(crc32c(record)) << 32 | data.len() as u64;
        let words = [seq.0, record.len() as u64, sum].into_iter().chain(pieces().map(piece));
        for word in words {
            self.memory.store(at, word);
            at += 8;
        }
        self.memory.copy_in(at, record);
        at += record.len().next_multiple_of(8);
        for buf in here() {
            self.memory.copy_in(at, buf);
            at += buf.len();
        }
        let named = pieces().filter(|(_, place)| place.is_some() && !seeded_bug(Bug::StagedNotHeld));
        self.held.borrow_mut().extend(named.map(|(buf, _)| (seq, Rc::clone(buf))));
        crash_point(Point::StagedNotYet);
        if is_stopped() {
            return;
        }
        self.memory.store(HEAD, end);
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
        self.memory.store(TAIL, self.tail.get());
        self.memory.store(DURABLE, seq.0);
        // What is pushed from here on may lie where the tail was, and in blocks that were named there.
        compiler_fence(Ordering::SeqCst);
        let mut held = self.held.borrow_mut();
        while held.front().is_some_and(|(s, _)| *s <= seq) {
            held.pop_front();
        }
    }
    pub fn arena(&self) -> Arena {
        self.arena.clone()
    }
    fn offset(&self, position: u64) -> usize {
        RING + (position % self.ring_bytes) as usize
    }
}

/// All of `memory` from `at` on is for data.
pub(super) fn arena_in(memory: &OwnMemory, at: usize) -> Result<Arena> {
    memory.arena(at).ok_or_else(|| {
        Error::new(
            ErrorKind::Busy,
            "the staging memory is still used by an earlier life of the log",
            "restart the daemon",
        )
    })
}

/// Whose entries a staging memory has.
enum Whose {
    /// Those of the life that the log's head names.
    That { ring_bytes: u64 },
    /// That life came no further than its own start, or has ended in good order.
    Nobodys,
}

/// Whether the memory that `word` reads, `len` bytes long, was made for the log.
fn is_of(word: impl Fn(usize) -> u64, len: usize, log: Uuid) -> bool {
    if len < RING || word(0) != MAGIC {
        return false;
    }
    let ring_bytes = word(RING_BYTES);
    let fits = ring_bytes > 0 && ring_bytes.is_multiple_of(8) && ring_bytes <= (len - RING) as u64;
    let of = Uuid(u128::from(word(LOG)) | u128::from(word(LOG + 8)) << 64);
    fits && of == log
}

/// Whose entries the memory is that `word` reads, `len` bytes long, for a log whose head says `head`; an error says why they are not
/// those that the head names.
fn whose(
    word: impl Fn(usize) -> u64,
    len: usize,
    log: Uuid,
    head: StagedIn,
) -> std::result::Result<Whose, String> {
    if !is_of(&word, len, log) {
        return Err("it is empty, or of another log".to_owned());
    }
    let ring_bytes = word(RING_BYTES);
    if word(LIFE) == head.life || seeded_bug(Bug::StagedInAnotherLife) {
        return Ok(Whose::That { ring_bytes });
    }
    match word(LIFE_BEFORE) == head.life {
        true => Ok(Whose::Nobodys),
        false => Err("it is of another life of the log".to_owned()),
    }
}

/// Whether what was staged for the log is there, when `header` is the start of the file of `len` bytes that it was staged in; an
/// error says why not.
///
/// # Errors
/// [`ErrorKind::StagingMissing`].
pub fn check_staged(
    shown: &str,
    boot: Option<u64>,
    log: Uuid,
    head: StagedIn,
    header: &[u8],
    len: usize,
) -> Result<()> {
    if !may_be_needed(head, boot) {
        return Ok(());
    }
    let word = |at: usize| {
        let bytes = header.get(at..at + 8).and_then(|b| <[u8; 8]>::try_from(b).ok());
        bytes.map_or(0, u64::from_ne_bytes)
    };
    whose(word, len, log, head).map(drop).map_err(|why| missing(shown, &why))
}

/// Whether a log whose head says `head` may need what was staged, in this `boot` of the host: a reboot ends it.
pub(super) fn may_be_needed(head: StagedIn, boot: Option<u64>) -> bool {
    head != StagedIn::default() && boot.is_none_or(|boot| boot == head.boot)
}

/// The error of a log on `shown` whose last daemon has staged what is not here.
pub(super) fn missing(shown: &str, why: &str) -> Error {
    Error::new(
        ErrorKind::StagingMissing,
        format!(
            "the last daemon of the log on {shown} did not end in good order, and its staging memory is not here: {why}"
        ),
        "start with the run directory that it had (--run-dir); --discard-log gives up what was only there: \
         acknowledged writes that no guest has flushed",
    )
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
    if let Err(why) = &staging.outlives {
        return Ok(Err(why.clone()));
    }
    let memory = &staging.memory;
    match whose(|at| memory.load(at), memory.len(), log, head) {
        Ok(Whose::That { ring_bytes }) => entries(memory, ring_bytes).map(Ok),
        Ok(Whose::Nobodys) => Ok(Ok(Vec::new())),
        Err(why) => Ok(Err(why)),
    }
}

/// What the life of a log that its head names knew to be durable.
pub(super) fn durable_by(staging: &StagingMemory, log: Uuid, head: StagedIn) -> SegmentSeq {
    let memory = &staging.memory;
    let known = staging.outlives.is_ok() && !seeded_bug(Bug::StagedNotAdopted);
    match whose(|at| memory.load(at), memory.len(), log, head) {
        Ok(Whose::That { .. }) if known => SegmentSeq(memory.load(DURABLE)),
        _ => SegmentSeq(0),
    }
}

fn bad(at: u64, detail: &str) -> Error {
    Error::corrupt("staging memory", format!("position {at}"), detail)
}

fn entries(memory: &OwnMemory, ring_bytes: u64) -> Result<Vec<Entry>> {
    let (mut at, head) = (memory.load(TAIL), memory.load(HEAD));
    let sound = at.is_multiple_of(8) && head.is_multiple_of(8) && at <= head && head - at <= ring_bytes;
    if !sound || head > u64::MAX / 2 {
        return Err(bad(at, "its ends contradict each other"));
    }
    let mut out: Vec<Entry> = Vec::new();
    let mut data_bytes = 0;
    while at < head {
        let left = (ring_bytes - at % ring_bytes).min(head - at);
        if memory.load(RING + (at % ring_bytes) as usize) == SKIP {
            at += ring_bytes - at % ring_bytes;
            continue;
        }
        let (entry, bytes) = entry(memory, ring_bytes, at, left)?;
        if out.last().is_some_and(|last| last.seq > entry.seq) {
            return Err(bad(at, "an entry is out of order"));
        }
        data_bytes += entry.data.iter().map(|d| d.len() as u64).sum::<u64>();
        if data_bytes > ring_bytes {
            // The ring has room for all that may be staged, were it nowhere else.
            return Err(bad(at, "there is more data than may be staged"));
        }
        out.push(entry);
        at += bytes;
    }
    match at == head {
        true => Ok(out),
        false => Err(bad(at, "the last entry ends behind what is staged")),
    }
}

/// The entry at position `at`, of `left` bytes at most, and its length in bytes.
fn entry(memory: &OwnMemory, ring_bytes: u64, at: u64, left: u64) -> Result<(Entry, u64)> {
    let offset = RING + (at % ring_bytes) as usize;
    let too_long = || bad(at, "an entry is longer than what is staged");
    if left < ENTRY_BYTES as u64 {
        return Err(too_long());
    }
    let field = |n: usize| memory.load(offset + 8 * n);
    let (seq, record, pieces, crc) = (SegmentSeq(field(0)), field(1), field(2) as u32, field(2) >> 32);
    if record > left
        || u64::from(pieces) > left / 8
        || entry_bytes(record as usize, pieces as usize, 0) as u64 > left
    {
        return Err(too_long());
    }
    let (record, pieces) = (record as usize, pieces as usize);
    let piece = |n: usize| {
        let word = field(3 + n);
        ((word >> 32) as usize, word as u32)
    };
    let arena_at = arena(ring_bytes as usize);
    let blocks_max = memory.len().saturating_sub(arena_at) / BLOCK_SIZE;
    let (mut all, mut here) = (0, 0);
    for (blocks, block) in (0..pieces).map(piece) {
        all += blocks;
        if block == HERE {
            here += blocks;
        } else if block as usize + blocks > blocks_max {
            return Err(bad(at, "an entry names data beyond the memory"));
        }
        if all > SEGMENT_DATA_BLOCKS_MAX {
            return Err(bad(at, "an entry has more data than a segment"));
        }
    }
    let bytes = entry_bytes(record, pieces, here);
    if seq.0 == 0 || bytes as u64 > left {
        return Err(too_long());
    }
    let mut from = offset + ENTRY_BYTES + 8 * pieces;
    let mut entry = Entry { seq, record: vec![0; record], data: Vec::new() };
    memory.copy_out(from, &mut entry.record);
    if u64::from(crc32c(&entry.record)) != crc {
        return Err(bad(at, "a record does not match its checksum"));
    }
    from += record.next_multiple_of(8);
    for (blocks, block) in (0..pieces).map(piece) {
        let mut data = AlignedBuf::zeroed(blocks * BLOCK_SIZE);
        if block == HERE {
            memory.copy_out(from, &mut data);
            from += data.len();
        } else {
            memory.copy_out(arena_at + block as usize * BLOCK_SIZE, &mut data);
        }
        entry.data.push(data);
    }
    Ok((entry, bytes as u64))
}
