//! Checkpoint of one VDI: from overlay to tree. The engine calls, in this order and for all VDIs of a
//! round together: [`Vdi::cut`], [`Vdi::apply`], flush, [`Vdi::write_record`], flush, [`Vdi::publish`].
//!
//! Epochs are applied oldest first, and a snapshot's root is taken between its epoch and the next, so a
//! batch with many snapshots leaves each exactly as it was.

use std::collections::{BTreeSet, VecDeque};
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::Poll;

use futures_util::stream::{FuturesUnordered, StreamExt};
use smallvec::SmallVec;

use super::content::{Content, Staged};
use super::overlay::{Batch, EpochChanges};
use super::snapshot::{Event, What};
use super::spilled::Spilled;
use super::{Vdi, root_of};
use crate::buffer::{AlignedBuf, IoBuf, IoBufs};
use crate::error::{Error, Result};
use crate::executor::{LocalFuture, yield_now};
use crate::format::vdi_record::{Applied, VdiRecord};
use crate::limits::{CHECKPOINT_INFLIGHT_BYTES_MAX, CHECKPOINT_WRITE_BYTES_MAX, CHECKPOINT_WRITES_MAX};
use crate::sabotage::{Bug, Point, crash_point, seeded_bug};
use crate::store::{ExtentKind, Freed, Need, Run};
use crate::tree::snapshots::{Snapshot, SnapshotLog, SnapshotRecord};
use crate::tree::{Change, Root, To, apply};
use crate::units::{BLOCK_SIZE, Epoch, Generation, SegmentSeq, VdiSeq, VirtualBlock};

const RUN_BLOCKS_MAX: u32 = (CHECKPOINT_WRITE_BYTES_MAX / BLOCK_SIZE) as u32;
/// Overlay entries or changes looked at before a checkpoint gives way, and entries forgotten, which costs more:
/// less than 200 us of work each.
const ENTRIES_PER_SLICE: usize = 1024;
const FORGOTTEN_PER_SLICE: usize = 256;
const INFLIGHT_BLOCKS_MAX: u32 = (CHECKPOINT_INFLIGHT_BYTES_MAX / BLOCK_SIZE) as u32;
/// Runs given to the device before a checkpoint gives way.
const RUNS_PER_SLICE: u32 = 16;

/// What one checkpoint takes of a VDI.
#[derive(Debug)]
pub struct Cut {
    batch: u64,
    seq: VdiSeq,
    segment: SegmentSeq,
    reserved: Need,
}

/// A batch written but not yet named by the record.
pub struct Prepared {
    cut: Cut,
    record: VdiRecord,
    snapshots: SnapshotLog,
    freed: Freed,
}

/// Inline blocks on their way to a data run.
pub(super) struct Piece {
    pub at: u64,
    pub staged: Rc<Staged>,
    /// The first, counted in the record's data.
    pub first: u32,
    pub blocks: u32,
    /// The data, and where in it the first block is; None while it is on the log's device only.
    pub memory: Option<(Rc<AlignedBuf>, u32)>,
}

impl Piece {
    /// The first block, counted in the segment's data.
    pub fn first_in_segment(&self) -> u32 {
        self.staged.first_block + self.first
    }
}

impl Prepared {
    /// What it was made from; what was written for it is abandoned.
    #[must_use]
    pub fn into_cut(self) -> Cut {
        self.cut
    }
}

impl Vdi {
    /// Mark what the next checkpoint takes: everything so far. None when there is nothing. `segment` is the
    /// newest log segment that no record is appended to any more.
    #[must_use]
    pub fn cut(&self, segment: SegmentSeq) -> Option<Cut> {
        let inner = &self.0;
        if inner.oldest.borrow().is_empty() {
            return None;
        }
        let batch = inner.batch.get();
        inner.batch.set(batch + 1);
        self.forget_paths();
        let reserved = inner.reserved.take();
        Some(Cut { batch, seq: inner.seq.get(), segment, reserved })
    }
    /// The checkpoint of `cut` did not happen: everything stays for the next one.
    pub fn uncut(&self, cut: Cut) {
        self.0.reserved.set(self.0.reserved.get().plus(cut.reserved));
    }
    /// Write data, nodes and snapshot log of a cut. Nothing is flushed and nothing names them yet.
    pub async fn apply(&self, cut: Cut) -> std::result::Result<Prepared, (Cut, Error)> {
        self.0.attempt.take();
        match self.apply_cut(&cut).await {
            Ok((record, snapshots, freed)) => Ok(Prepared { cut, record, snapshots, freed }),
            Err(e) => {
                self.abandon_attempt();
                Err((cut, e.context(format!("checkpoint of VDI '{}'", self.name()))))
            }
        }
    }
    /// No record names what the attempt wrote, and a VDI that fails again and again must not fill the store with it.
    pub fn abandon_attempt(&self) {
        self.0.shared.cache.abandon(self.0.attempt.take());
    }
    async fn apply_cut(&self, cut: &Cut) -> Result<(VdiRecord, SnapshotLog, Freed)> {
        let Batch { mut epochs, hidden } = self.take_batch(cut.batch).await;
        let events: Vec<Event> =
            self.0.events.borrow().iter().filter(|e| e.seq <= cut.seq).cloned().collect();
        let taken = |e: &Event| match e.what {
            What::Taken { epoch, .. } => Some(epoch),
            _ => None,
        };
        let mut record = self.0.record.get();
        let mut root = root_of(&record);
        let mut freed = Freed::default();
        let mut roots: Vec<(Epoch, Root)> = Vec::new();
        let steps: BTreeSet<Epoch> = epochs.keys().copied().chain(events.iter().filter_map(taken)).collect();
        for epoch in steps {
            if let Some(changes) = epochs.remove(&epoch) {
                let changes = self.place_epoch(changes).await?;
                crash_point(Point::DataWritten);
                let shared = &self.0.shared;
                let applied = apply(&shared.cache, &root, &changes, epoch, record.threshold).await?;
                crash_point(Point::NodesWritten);
                self.0.attempt.borrow_mut().extend(applied.allocated);
                root = applied.root;
                freed.merge(applied.freed);
                record.data_blocks = record.data_blocks.saturating_add_signed(applied.data_blocks_delta);
            }
            if events.iter().any(|e| taken(e) == Some(epoch)) {
                roots.push((epoch, root));
                if !seeded_bug(Bug::ThresholdNotRaised) {
                    record.threshold = record.threshold.max(epoch);
                }
                record.epoch = record.epoch.max(epoch.next());
            }
        }
        for (blocks, content) in hidden {
            freed.merge(content.placed_runs(blocks).into_iter().collect());
        }
        let mut snapshots = self.0.snapshots.borrow().clone();
        if seeded_bug(Bug::SnapshotOfTheEnd) {
            roots.iter_mut().for_each(|(_, r)| *r = root);
        }
        if !events.is_empty() {
            let events = events.into_iter().map(|e| for_log(e.what, &roots)).collect::<Vec<_>>();
            let allocated = |run| self.0.attempt.borrow_mut().push(run);
            let appended = snapshots.append(&self.0.shared.store, events, record.epoch, allocated).await?;
            freed.merge(appended.freed.into_iter().collect());
            record.snapshots = snapshots.head();
            crash_point(Point::SnapshotLogWritten);
        }
        (record.root, record.root_crc, record.root_birth) = (root.addr, root.crc, root.birth);
        record.depth = root.depth;
        record.generation = Generation(record.generation.0 + 1);
        let log = &self.0.shared.log;
        record.applied =
            Applied { log: log.uuid(), incarnation: log.incarnation(), segment: cut.segment, seq: cut.seq };
        self.0.shared.store.announce_freed(&freed)?;
        Ok((record, snapshots, freed))
    }
    async fn take_batch(&self, batch: u64) -> Batch {
        let mut taken = Batch::default();
        let mut from = Some(0);
        while let Some(at) = from {
            from = self.0.overlay.borrow().take_batch(batch, at, ENTRIES_PER_SLICE, &mut taken);
            yield_now().await;
        }
        taken
    }
    /// Give the inline blocks of an epoch their places, and write them there, sorted and packed.
    async fn place_epoch(&self, changes: EpochChanges) -> Result<Vec<Change>> {
        let mut there = Vec::new();
        let mut inline = Vec::new();
        for (nth, (at, blocks, content)) in changes.into_iter().enumerate() {
            match &content {
                Content::Zero if seeded_bug(Bug::DiscardNotApplied) => {}
                Content::Zero => there.push(Change { at: VirtualBlock(at), blocks, to: To::Absent }),
                Content::Placed(..) => push_placed(at, blocks, &content, &mut there),
                Content::Staged(staged, first) => {
                    let (staged, first) = (Rc::clone(staged), *first);
                    inline.push(Piece { at, staged, first, blocks: blocks as u32, memory: None });
                }
            }
            if nth % ENTRIES_PER_SLICE == ENTRIES_PER_SLICE - 1 {
                yield_now().await;
            }
        }
        let written = self.write_inline(inline).await?;
        Ok(merge(there, written).await)
    }
    /// Write the blocks of `inline`, which is in order of the disk; returns where they went, in that order too.
    async fn write_inline(&self, inline: Vec<Piece>) -> Result<Vec<Change>> {
        let mut there = VecDeque::new();
        let mut spilled = Spilled::default();
        for (nth, mut piece) in inline.into_iter().enumerate() {
            match piece.staged.memory() {
                Some(memory) => {
                    piece.memory = Some((memory, piece.first));
                    there.push_back(piece);
                }
                None => spilled.add(piece),
            }
            if nth % ENTRIES_PER_SLICE == ENTRIES_PER_SLICE - 1 {
                yield_now().await;
            }
        }
        let mut written = self.write_pieces(there).await?;
        while let Some(pieces) = self.read_spilled(&mut spilled).await? {
            written = merge(written, self.write_pieces(pieces.into()).await?).await;
        }
        Ok(written)
    }
    async fn write_pieces(&self, mut pieces: VecDeque<Piece>) -> Result<Vec<Change>> {
        let mut out = Vec::with_capacity(pieces.len());
        let mut left: u64 = pieces.iter().map(|p| u64::from(p.blocks)).sum();
        let mut writes = Writes::default();
        for nth in 1.. {
            if left == 0 || writes.failed.is_some() {
                break;
            }
            let want = left.min(u64::from(RUN_BLOCKS_MAX)) as u32;
            let run = match self.0.shared.store.allocate(ExtentKind::Data, want).await {
                Ok(run) => run,
                Err(e) => {
                    writes.failed = Some(e);
                    break;
                }
            };
            self.0.attempt.borrow_mut().push(run);
            left -= u64::from(run.blocks);
            let parts = fill_run(&mut pieces, run, &mut out);
            writes.make_room(run.blocks).await;
            writes.begin(run.blocks, self.write_run(run, parts)).await;
            if nth % RUNS_PER_SLICE == 0 {
                // Guests first: let their requests run between slices.
                yield_now().await;
            }
        }
        writes.end().await?;
        Ok(out)
    }
    async fn write_run(&self, run: Run, parts: Vec<Piece>) -> Result<()> {
        let bytes = |at: u32, blocks: u32| at as usize * BLOCK_SIZE..(at + blocks) as usize * BLOCK_SIZE;
        let data = |p: Piece| {
            let (memory, at) = p.memory.expect("data is in memory when it is written");
            IoBuf::Shared(memory, bytes(at, p.blocks))
        };
        let bufs: IoBufs = parts.into_iter().map(data).collect();
        self.0.shared.store.write_blocks(run.start, bufs).await
    }
    /// Write the record that names what was prepared, to the slot not written last.
    pub async fn write_record(&self, prepared: &Prepared) -> Result<()> {
        self.0.shared.store.write_record(self.0.slots, &prepared.record).await
    }
    /// The record of `prepared` could not be written, or perhaps it could: write the one that stands over it. Returns
    /// what was cut, and whether the VDI is held.
    pub async fn record_failed(&self, prepared: Prepared, why: &Error) -> (Cut, bool) {
        match self.take_back(prepared.record.generation).await {
            Ok(()) => self.abandon_attempt(),
            // Then what it wrote may be named by it.
            Err(_) => self.hold_until_restart(why.duplicate()),
        }
        (prepared.cut, self.checkpoint_failed(why))
    }
    /// The record is durable: go over to it. Returns the batch, for [`Vdi::forget`], and the blocks freed, for
    /// the quarantine. The overlay still shows the batch until it is forgotten; the tree says the same.
    pub fn publish(&self, prepared: Prepared) -> (u64, Freed) {
        let inner = &self.0;
        inner.attempt.take();
        inner.record.set(prepared.record);
        inner.root.set(root_of(&prepared.record));
        inner.events.borrow_mut().retain(|e| e.seq > prepared.cut.seq);
        inner.oldest.borrow_mut().retain(|(b, _)| *b > prepared.cut.batch);
        *inner.snapshots.borrow_mut() = prepared.snapshots;
        inner.shared.store.unreserve(prepared.cut.reserved);
        self.checkpoint_succeeded();
        (prepared.cut.batch, prepared.freed)
    }
    /// Drop a published batch from the overlay, in slices.
    pub async fn forget(&self, batch: u64) {
        let mut from = Some(0);
        while let Some(at) = from {
            from = self.0.overlay.borrow_mut().forget(batch, at, FORGOTTEN_PER_SLICE);
            yield_now().await;
        }
    }
}

/// Writes in flight. Nobody may go on, not even after an error, while one of them can still land.
#[derive(Default)]
struct Writes<'a> {
    flying: FuturesUnordered<LocalFuture<'a, (u32, Result<()>)>>,
    blocks: u32,
    failed: Option<Error>,
}

impl<'a> Writes<'a> {
    /// Until one of so many blocks may begin.
    async fn make_room(&mut self, blocks: u32) {
        while !self.flying.is_empty()
            && (self.flying.len() >= CHECKPOINT_WRITES_MAX || self.blocks + blocks > INFLIGHT_BLOCKS_MAX)
        {
            self.one_ended().await;
        }
    }
    async fn begin(&mut self, blocks: u32, write: impl Future<Output = Result<()>> + 'a) {
        self.blocks += blocks;
        self.flying.push(Box::pin(async move { (blocks, write.await) }));
        // It goes to the device when it is asked for the first time, and those that have ended are asked before it.
        poll_fn(|cx| {
            while let Poll::Ready(Some(ended)) = self.flying.poll_next_unpin(cx) {
                self.note(ended);
            }
            Poll::Ready(())
        })
        .await;
    }
    async fn one_ended(&mut self) {
        if let Some(ended) = self.flying.next().await {
            self.note(ended);
        }
    }
    fn note(&mut self, (blocks, result): (u32, Result<()>)) {
        self.blocks -= blocks;
        self.failed = self.failed.take().or(result.err());
    }
    async fn end(mut self) -> Result<()> {
        while !self.flying.is_empty() {
            self.one_ended().await;
        }
        self.failed.map_or(Ok(()), Err)
    }
}

fn push_placed(at: u64, blocks: u64, content: &Content, out: &mut Vec<Change>) {
    let crcs = content.crcs(blocks);
    let mut done = 0;
    for run in content.placed_runs(blocks) {
        let n = run.blocks as usize;
        let to = To::Blocks { start: run.start, crcs: SmallVec::from_slice(&crcs[done..done + n]) };
        out.push(Change { at: VirtualBlock(at + done as u64), blocks: n as u64, to });
        done += n;
    }
}

/// Two lists in order as one, in slices.
async fn merge(a: Vec<Change>, b: Vec<Change>) -> Vec<Change> {
    if a.is_empty() || b.is_empty() {
        return if a.is_empty() { b } else { a };
    }
    let mut out = Vec::with_capacity(a.len() + b.len());
    let (mut a, mut b) = (a.into_iter().peekable(), b.into_iter().peekable());
    loop {
        let next = match (a.peek(), b.peek()) {
            (Some(x), Some(y)) if x.at > y.at => b.next(),
            (Some(_), _) => a.next(),
            (None, _) => b.next(),
        };
        let Some(change) = next else { return out };
        out.push(change);
        if out.len() % ENTRIES_PER_SLICE == 0 {
            yield_now().await;
        }
    }
}

/// Take pieces for `run` off the front, and note where each goes.
fn fill_run(inline: &mut VecDeque<Piece>, run: Run, out: &mut Vec<Change>) -> Vec<Piece> {
    let mut parts = Vec::new();
    let mut done = 0;
    while done < run.blocks {
        let mut p = inline.pop_front().expect("runs are no longer than what is left");
        let n = p.blocks.min(run.blocks - done);
        if n < p.blocks {
            let rest = Piece {
                at: p.at + u64::from(n),
                staged: Rc::clone(&p.staged),
                first: p.first + n,
                blocks: p.blocks - n,
                memory: p.memory.as_ref().map(|(memory, at)| (Rc::clone(memory), at + n)),
            };
            inline.push_front(rest);
            p.blocks = n;
        }
        let crcs = SmallVec::from_slice(&p.staged.crcs[p.first as usize..][..n as usize]);
        let to = To::Blocks { start: run.start.plus(u64::from(done)), crcs };
        out.push(Change { at: VirtualBlock(p.at), blocks: u64::from(n), to });
        done += n;
        parts.push(p);
    }
    parts
}

fn for_log(what: What, roots: &[(Epoch, Root)]) -> SnapshotRecord {
    match what {
        What::Taken { epoch, wall_ns, size_bytes, label } => {
            let label = label.unwrap_or_default();
            let root = roots.iter().find(|(e, _)| *e == epoch).map(|(_, r)| *r);
            let root = root.expect("a root is kept for every snapshot of the batch");
            SnapshotRecord::Taken(Snapshot { epoch, wall_ns, root, size_bytes, label })
        }
        What::Labelled { epoch, label } => {
            SnapshotRecord::Labelled { snapshot: epoch, label: label.unwrap_or_default() }
        }
        What::Removed { epoch } => SnapshotRecord::Removed { snapshot: epoch },
    }
}
