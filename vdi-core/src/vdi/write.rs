//! Writing: copy once into staging, checksum the copy, append to the log, insert in the overlay.
//! Large writes go once to their final place and leave only a record in the log.

use std::ops::Range;
use std::rc::Rc;

use smallvec::{SmallVec, smallvec};

use super::content::{Content, Placed};
use super::read::crcs_of;
use super::{Ack, Parts, Vdi, blocks_of};
use crate::buffer::{AlignedBuf, GuestBufs, IoBuf};
use crate::error::Result;
use crate::executor::{LocalFuture, join_all};
use crate::log::{Appended, Body, Origin, Record, Reservation};
use crate::sabotage::{Bug, Point, crash_point, seeded_bug};
use crate::store::{ExtentKind, Need, Run};
use crate::units::{BLOCK_BYTES, BLOCK_SIZE, SECTOR_BYTES, SegmentSeq, VdiSeq, VirtualBlock};

/// Blocks appended as one record at most: a 1 MiB request is one record.
const PIECE_BLOCKS: u64 = 256;
/// Runs of one out-of-line record at most; a store more fragmented than that writes inline.
const PLACED_RUNS_MAX: usize = 64;

impl Vdi {
    /// [`Vdi::write_for`] no request in particular.
    pub async fn write(&self, sector: u64, bufs: &GuestBufs, ack: Ack) -> Result<()> {
        self.write_for(&Parts::default(), sector, bufs, ack).await
    }
    /// [`Vdi::write_zeroes_for`] no request in particular.
    pub async fn write_zeroes(&self, sector: u64, sectors: u64, unmap: bool, ack: Ack) -> Result<()> {
        self.write_zeroes_for(&Parts::default(), sector, sectors, unmap, ack).await
    }
    /// [`Vdi::discard_for`] no request in particular.
    pub async fn discard(&self, sector: u64, sectors: u64, ack: Ack) -> Result<()> {
        self.discard_for(&Parts::default(), sector, sectors, ack).await
    }
    /// Write `bufs` at `sector`, for the request that `parts` numbers the records of.
    pub async fn write_for(&self, parts: &Parts, sector: u64, bufs: &GuestBufs, ack: Ack) -> Result<()> {
        let start = self.check_range(sector, bufs.len() as u64)?;
        if bufs.is_empty() {
            return Ok(());
        }
        let _active = self.enter();
        let end = start + bufs.len() as u64;
        let mut at = start;
        let mut through = SegmentSeq(0);
        while at < end {
            let stop = end.min((at / BLOCK_BYTES + PIECE_BLOCKS) * BLOCK_BYTES);
            if !parts.skip() {
                let piece = bufs.range((at - start) as usize..(stop - start) as usize);
                through = through.max(self.write_piece(at, &piece, parts).await?);
            }
            at = stop;
        }
        self.acknowledge(through, ack).await
    }
    /// Make a range read as zeros. Whole blocks leave the tree; `_unmap` makes no difference on a thin disk.
    pub async fn write_zeroes_for(
        &self,
        parts: &Parts,
        sector: u64,
        sectors: u64,
        _unmap: bool,
        ack: Ack,
    ) -> Result<()> {
        let bytes = sectors.saturating_mul(SECTOR_BYTES);
        let start = self.check_range(sector, bytes)?;
        if sectors == 0 {
            return Ok(());
        }
        let _active = self.enter();
        self.zero_range(start..start + bytes, parts, ack).await
    }
    /// Make a range of bytes, in whole sectors, read as zeros; it may lie beyond the end.
    pub(super) async fn zero_range(&self, bytes: Range<u64>, parts: &Parts, ack: Ack) -> Result<()> {
        let Range { start, end } = bytes;
        let whole = start.div_ceil(BLOCK_BYTES) * BLOCK_BYTES..end / BLOCK_BYTES * BLOCK_BYTES;
        let has_whole = whole.start < whole.end;
        let edges = if has_whole { [start..whole.start, whole.end..end] } else { split_at_block(start, end) };
        let mut through = SegmentSeq(0);
        for edge in edges.into_iter().filter(|e| !e.is_empty()) {
            if !parts.skip() {
                let zeros = crate::buffer::HostMemory::slice((edge.end - edge.start) as usize);
                through = through.max(self.write_piece(edge.start, &zeros.into(), parts).await?);
            }
        }
        if has_whole && !parts.skip() {
            let blocks = whole.start / BLOCK_BYTES..whole.end / BLOCK_BYTES;
            through = through.max(self.append_zeros(blocks, true, parts).await?);
        }
        self.acknowledge(through, ack).await
    }
    /// The range is no longer needed: its whole blocks read as zeros, partial ones stay.
    pub async fn discard_for(&self, parts: &Parts, sector: u64, sectors: u64, ack: Ack) -> Result<()> {
        let bytes = sectors.saturating_mul(SECTOR_BYTES);
        let start = self.check_range(sector, bytes)?;
        let blocks = start.div_ceil(BLOCK_BYTES)..(start + bytes) / BLOCK_BYTES;
        if blocks.start >= blocks.end || parts.skip() {
            return self.acknowledge(SegmentSeq(0), ack).await;
        }
        let _active = self.enter();
        let through = self.append_zeros(blocks, false, parts).await?;
        self.acknowledge(through, ack).await
    }
    async fn acknowledge(&self, through: SegmentSeq, ack: Ack) -> Result<()> {
        match ack {
            Ack::WriteBack if seeded_bug(Bug::AcknowledgeBeforeLog) => Ok(()),
            Ack::WriteBack => self.0.shared.log.acknowledged(through).await,
            Ack::WriteThrough => self.0.shared.log.flush().await,
        }
    }
    /// Write at most [`PIECE_BLOCKS`] blocks; returns the segment that holds the record.
    async fn write_piece(&self, start: u64, bufs: &GuestBufs, parts: &Parts) -> Result<SegmentSeq> {
        let blocks = blocks_of(start, bufs.len() as u64);
        let count = blocks.end - blocks.start;
        let skip = (start - blocks.start * BLOCK_BYTES) as usize;
        let partial = count * BLOCK_BYTES != bufs.len() as u64;
        let mut data = self.0.shared.log.buffer((count * BLOCK_BYTES) as usize);
        let guard = match partial {
            false => None,
            true => {
                let end = if seeded_bug(Bug::PartialLocksEdges) { blocks.start + 1 } else { blocks.end };
                let guard = self.0.blocks.lock(&(blocks.start..end)).await;
                self.read_edges(&blocks, &mut data).await?;
                Some(guard)
            }
        };
        bufs.copy_to(&mut data[skip..skip + bufs.len()]);
        self.wait_for_overlay().await;
        let data = Rc::new(data);
        let out_of_line = !partial && data.len() >= self.0.shared.out_of_line_bytes;
        let placing = if out_of_line { self.0.shared.placing.start() } else { None };
        let crcs = placing.as_ref().map(|_| crcs_of(&data));
        let placed = if placing.is_some() { self.place(&data, PLACED_RUNS_MAX).await? } else { None };
        let seq = match placed.zip(crcs) {
            Some((runs, crcs)) => self.append_placed(blocks, runs, crcs, parts).await?,
            None => self.append_inline(blocks, data, guard.is_some(), parts).await?,
        };
        drop((guard, placing));
        Ok(seq)
    }
    /// Read the first and last block of a partial write.
    async fn read_edges(&self, blocks: &Range<u64>, data: &mut AlignedBuf) -> Result<()> {
        let last = (blocks.end - blocks.start - 1) as usize * BLOCK_SIZE;
        let old = self.read_private(blocks.start, 1).await?;
        data[..BLOCK_SIZE].copy_from_slice(&old);
        if last > 0 {
            let old = self.read_private(blocks.end - 1, 1).await?;
            data[last..].copy_from_slice(&old);
        }
        Ok(())
    }
    async fn append_inline(
        &self,
        blocks: Range<u64>,
        data: Rc<AlignedBuf>,
        locked: bool,
        parts: &Parts,
    ) -> Result<SegmentSeq> {
        let crcs = crcs_of(&data);
        let at = VirtualBlock(blocks.start);
        let body = Body::Write { at, crcs: crcs.clone() };
        let appended = self.append(body, &blocks, Some(&data), locked, parts).await?;
        let staging = &self.0.shared.staging;
        let staged = staging.keep(Rc::clone(&appended.segment), appended.first_block, crcs, data);
        self.insert(&blocks, &Content::Staged(staged, 0), appended.segment.seq());
        Ok(appended.segment.seq())
    }
    /// Write whole blocks to where they will stay, in `runs_max` runs at most; None when the store has none so long to offer.
    async fn place(&self, data: &Rc<AlignedBuf>, runs_max: usize) -> Result<Option<Vec<Run>>> {
        let Some(runs) = self.long_runs((data.len() / BLOCK_SIZE) as u32, runs_max).await? else {
            return Ok(None);
        };
        self.write_runs(runs, data).await.map(Some)
    }
    /// Runs of `blocks` blocks in all, `runs_max` at most; None when the store has none so long to offer.
    pub(super) async fn long_runs(&self, blocks: u32, runs_max: usize) -> Result<Option<Vec<Run>>> {
        let store = &self.0.shared.store;
        let need = Need { data: u64::from(blocks), metadata: 0 };
        let blocks_min = blocks.div_ceil(runs_max as u32);
        if !store.try_reserve(need) {
            return Ok(None);
        }
        let (mut runs, mut left) = (Vec::new(), blocks);
        let mut problem = None;
        while left > 0 && runs.len() < runs_max && problem.is_none() {
            match store.allocate_long(ExtentKind::Data, left, left.min(blocks_min)).await {
                Ok(run) => {
                    left -= run.blocks;
                    runs.push(run);
                }
                Err(e) => problem = Some(e),
            }
        }
        store.unreserve(need);
        if left == 0 {
            return Ok(Some(runs));
        }
        self.give_back(runs);
        problem.map_or(Ok(None), Err)
    }
    /// Nothing names these blocks, and nothing ever did.
    pub(super) fn give_back(&self, runs: Vec<Run>) {
        self.0.shared.store.give_back_unreachable(runs.into_iter().collect());
    }
    /// Write whole blocks to `runs`, which are given back if that fails.
    pub(super) async fn write_runs(&self, runs: Vec<Run>, data: &Rc<AlignedBuf>) -> Result<Vec<Run>> {
        let shared = &self.0.shared;
        let mut from = 0;
        let mut writes: Vec<LocalFuture<'_, Result<()>>> = Vec::with_capacity(runs.len());
        for run in &runs {
            let bytes = run.blocks as usize * BLOCK_SIZE;
            let buf = IoBuf::Shared(Rc::clone(data), from..from + bytes);
            writes.push(Box::pin(shared.store.write_blocks(run.start, smallvec![buf])));
            from += bytes;
        }
        let written: Result<()> = join_all(writes).await.into_iter().collect();
        if let Err(e) = written {
            self.give_back(runs);
            return Err(e);
        }
        shared.placed_written.set(shared.placed_written.get() + 1);
        crash_point(Point::OutOfLineWritten);
        Ok(runs)
    }
    async fn append_placed(
        &self,
        blocks: Range<u64>,
        runs: Vec<Run>,
        crcs: SmallVec<[u32; 4]>,
        parts: &Parts,
    ) -> Result<SegmentSeq> {
        let body = placed_body(&blocks, &runs, &crcs);
        match self.append(body, &blocks, None, false, parts).await {
            Ok(appended) => {
                self.insert_placed(&blocks, runs, &crcs, appended.segment.seq());
                Ok(appended.segment.seq())
            }
            Err(e) => {
                self.give_back(runs);
                Err(e)
            }
        }
    }
    pub(super) fn insert_placed(
        &self,
        blocks: &Range<u64>,
        runs: Vec<Run>,
        crcs: &[u32],
        segment: SegmentSeq,
    ) {
        let content = Content::placed(Rc::new(Placed { runs, crcs: crcs.to_vec() }));
        self.insert(blocks, &content, segment);
    }
    async fn append_zeros(&self, blocks: Range<u64>, explicit: bool, parts: &Parts) -> Result<SegmentSeq> {
        let (at, count) = (VirtualBlock(blocks.start), blocks.end - blocks.start);
        let body = match explicit {
            true => Body::WriteZeroes { at, blocks: count },
            false => Body::Discard { at, blocks: count },
        };
        self.wait_for_overlay().await;
        let appended = self.append(body, &blocks, None, false, parts).await?;
        self.insert(&blocks, &Content::Zero, appended.segment.seq());
        Ok(appended.segment.seq())
    }
    /// Append one record when there is room in log and store and nobody holds its blocks. The caller
    /// inserts it in the overlay before its next await.
    async fn append(
        &self,
        body: Body,
        blocks: &Range<u64>,
        data: Option<&Rc<AlignedBuf>>,
        locked: bool,
        parts: &Parts,
    ) -> Result<Appended> {
        let data_blocks = u64::from(body.inline_blocks());
        let zeros = matches!(body, Body::Discard { .. } | Body::WriteZeroes { .. });
        let mut record = self.record_for(body);
        let mut tries = 0;
        loop {
            let reservation = self.reserve_log(record.encoded_bytes(), data_blocks as u32).await?;
            if !locked && !self.0.blocks.is_free(blocks) {
                let changed = self.0.blocks.changed();
                drop(reservation);
                changed.await;
                continue;
            }
            if !self.try_promise(blocks, data_blocks, zeros) {
                drop(reservation);
                self.wait_for_space(&mut tries).await?;
                continue;
            }
            record.origin = parts.next();
            return self.append_reserved(reservation, record, data);
        }
    }
    /// Room in log and store was promised.
    pub(super) fn append_reserved(
        &self,
        reservation: Reservation,
        mut record: Record,
        data: Option<&Rc<AlignedBuf>>,
    ) -> Result<Appended> {
        record.seq = VdiSeq(self.0.seq.get().0 + 1);
        record.epoch = self.0.epoch.get();
        let data = data.map(Rc::clone).into_iter().collect();
        let appended = self.0.shared.log.append(reservation, &record, data)?;
        self.0.seq.set(record.seq);
        Ok(appended)
    }
    /// A record of this VDI; number and epoch are set when it is appended.
    pub(super) fn record_for(&self, body: Body) -> Record {
        let lease_epoch = self.0.record.get().lease_epoch;
        Record {
            vdi: self.0.id,
            seq: VdiSeq(0),
            lease_epoch,
            epoch: self.0.epoch.get(),
            origin: Origin::default(),
            copy: false,
            body,
        }
    }
    /// Show what was just appended. No await may lie between the append and this.
    pub(super) fn insert(&self, blocks: &Range<u64>, content: &Content, segment: SegmentSeq) {
        // The record that replaced them lies in `segment`: trimmed beyond it, no replay needs them.
        self.insert_freeing(blocks, content, segment, segment);
    }
    /// As [`Vdi::insert`]; what is replaced is free once the log is trimmed beyond `named_through`.
    pub(super) fn insert_freeing(
        &self,
        blocks: &Range<u64>,
        content: &Content,
        segment: SegmentSeq,
        named_through: SegmentSeq,
    ) {
        let inner = &self.0;
        let (epoch, batch) = (inner.epoch.get(), inner.batch.get());
        let count = blocks.end - blocks.start;
        let replaced = inner.overlay.borrow_mut().insert(blocks.start, count, epoch, batch, content);
        self.note_segment(batch, segment);
        inner.changed.set(true);
        let freed = replaced.iter().flat_map(|(n, c)| c.placed_runs(*n)).collect();
        inner.shared.store.quarantine(freed, named_through);
    }
    pub(super) fn note_segment(&self, batch: u64, segment: SegmentSeq) {
        let shared = &self.0.shared;
        shared.pressure.note_dirty();
        let log = shared.log.stats();
        let due = match shared.late_checkpoints {
            false => log.used_bytes > log.ring_bytes / 2 || shared.staging.wants_checkpoint(),
            true => log.used_bytes > log.ring_bytes / 32 * 29,
        };
        if due {
            shared.pressure.request();
        }
        let mut oldest = self.0.oldest.borrow_mut();
        match oldest.last_mut() {
            // A replay takes records by their numbers, and copies lie further on than what follows them.
            Some((b, s)) if *b == batch => *s = segment.min(*s),
            _ => oldest.push((batch, segment)),
        }
    }
}

/// A range without a whole block in it, cut where a block ends.
fn split_at_block(start: u64, end: u64) -> [Range<u64>; 2] {
    let boundary = (start.div_ceil(BLOCK_BYTES) * BLOCK_BYTES).clamp(start, end);
    [start..boundary, boundary..end]
}

/// The body of the record of blocks that are there already.
pub(super) fn placed_body(blocks: &Range<u64>, runs: &[Run], crcs: &SmallVec<[u32; 4]>) -> Body {
    let runs = runs.iter().map(|r| (r.start, r.blocks)).collect();
    Body::WriteOut { at: VirtualBlock(blocks.start), runs, crcs: crcs.clone() }
}
