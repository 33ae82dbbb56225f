//! Data that lie scattered, written again in order. It is done as a large write of a guest is: to their new place first, then
//! a record in the log. So a crash, a snapshot, a flush and a checkpoint need to know nothing of it.
//!
//! Invariants:
//! - only what the tree has and no write since hides: nobody can write these blocks meanwhile, as under a partial write;
//! - what is written is what was read and agrees with the tree's checksums, which stay its own;
//! - only where the store has runs to offer that are no shorter, and with room to spare: it waits for nothing but the log.

use std::ops::Range;
use std::rc::Rc;

use smallvec::SmallVec;

use super::Vdi;
use super::read::crcs_of;
use super::write::placed_body;
use crate::buffer::AlignedBuf;
use crate::error::Result;
use crate::executor::{LocalFuture, TaskGuard, join_all};
use crate::sabotage::{Bug, Point, crash_point, seeded_bug};
use crate::store::Run;
use crate::tree::lookup;
use crate::units::{BLOCK_BYTES, Epoch, SegmentSeq, VirtualBlock};

/// Blocks rewritten as one at most: 1 MiB. Whoever writes one of them waits until they are.
pub const REWRITE_BLOCKS_MAX: u32 = 256;
/// Free blocks that rewriting leaves to the guests, as a share of what this shard has: what is replaced comes back only with the
/// checkpoint.
const LEFT_SHARE: u64 = 16;

/// Blocks that lie in more runs than they need.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scattered {
    /// The first, of this disk.
    pub at: VirtualBlock,
    /// How many.
    pub blocks: u32,
    /// Worth it only when they come to lie in so many runs at most.
    pub runs_max: usize,
    /// The epoch in which they were found to be no snapshot's.
    pub epoch: Epoch,
}

/// What became of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rewritten {
    /// They lie in order now.
    InOrder,
    /// Somebody wrote them meanwhile, or took a snapshot, or collects.
    Overtaken,
    /// The store has no such runs to offer just now.
    ShortRuns,
    /// Guests need what is free.
    NoRoom,
}

type ToRewrite = (Rc<AlignedBuf>, Vec<Run>, SmallVec<[u32; 4]>);

impl Vdi {
    /// Blocks born after this belong to no snapshot, and are in the tree; None while snapshots are pending.
    #[must_use]
    pub fn own_since(&self) -> Option<Epoch> {
        self.0.events.borrow().is_empty().then(|| self.0.record.get().threshold)
    }
    /// Nothing is rewritten while the guard lives: a roll-back needs a disk that nobody writes to.
    pub async fn keep_in_place(&self) -> TaskGuard {
        self.0.rewriting.lock().await
    }
    /// Write `some` again, each in order.
    ///
    /// # Errors
    /// For each those of a read and of a write.
    pub async fn rewrite(&self, some: &[Scattered]) -> Vec<Result<Rewritten>> {
        let Some(_turn) = self.0.rewriting.try_lock() else {
            return some.iter().map(|_| Ok(Rewritten::Overtaken)).collect();
        };
        let all = some.iter().map(|s| Box::pin(self.rewrite_one(s)) as LocalFuture<'_, _>);
        join_all(all.collect()).await
    }
    async fn rewrite_one(&self, scattered: &Scattered) -> Result<Rewritten> {
        let Scattered { at, blocks, runs_max, epoch } = *scattered;
        let range = at.0..at.0 + u64::from(blocks);
        self.check_writable()?;
        if !self.has_room_to_rewrite(blocks) {
            return Ok(Rewritten::NoRoom);
        }
        let _active = self.enter_unasked();
        let _locked = match seeded_bug(Bug::MovedOverWrite) {
            false => Some(self.0.blocks.lock(&range).await),
            true => None,
        };
        let shared = &self.0.shared;
        let Some(_placing) = shared.placing.start() else { return Ok(Rewritten::Overtaken) };
        let hidden = || self.0.overlay.borrow().lookup(range.clone()).iter().any(|p| p.content.is_some());
        if hidden() || self.epoch() != epoch {
            return Ok(Rewritten::Overtaken);
        }
        let Some(runs) = self.long_runs(blocks, runs_max).await? else { return Ok(Rewritten::ShortRuns) };
        let (data, old, crcs) = match self.read_to_rewrite(range.clone()).await {
            Ok(Some(found)) => found,
            other => {
                self.give_back(runs);
                return other.map(|_| Rewritten::Overtaken);
            }
        };
        let runs = self.write_runs(runs, &data).await?;
        match self.append_rewritten(&range, &runs, &crcs, epoch).await {
            Ok(Some(segment)) => self.insert_placed(&range, runs, &crcs, segment),
            other => {
                self.give_back(runs);
                return other.map(|_| Rewritten::Overtaken);
            }
        }
        crash_point(Point::Rewritten);
        if seeded_bug(Bug::MovedFreedTooSoon) {
            shared.store.give_back_unreachable(old.into_iter().collect());
        }
        Ok(Rewritten::InOrder)
    }
    /// None when a snapshot came first, or there is no room for the tree's nodes. The caller inserts it before its next await.
    async fn append_rewritten(
        &self,
        range: &Range<u64>,
        runs: &[Run],
        crcs: &SmallVec<[u32; 4]>,
        epoch: Epoch,
    ) -> Result<Option<SegmentSeq>> {
        let record = self.record_for(placed_body(range, runs, crcs));
        let reservation = self.reserve_log(record.encoded_bytes(), 0).await?;
        if self.epoch() != epoch || !self.try_promise(range, 0, false) {
            return Ok(None);
        }
        Ok(Some(self.append_reserved(reservation, record, None)?.segment.seq()))
    }
    /// What the tree has of the blocks of `range`, all of which it has, where, and their checksums.
    async fn read_to_rewrite(&self, range: Range<u64>) -> Result<Option<ToRewrite>> {
        let shared = &self.0.shared;
        let blocks = range.end - range.start;
        let _pin = shared.store.read_pin();
        let root = self.0.root.get();
        let (mut crcs, mut old) = (SmallVec::with_capacity(blocks as usize), Vec::new());
        for m in lookup(&shared.cache, &root, VirtualBlock(range.start), blocks as u32).await? {
            let Some((start, of_run)) = m.target else { return Ok(None) };
            crcs.extend(of_run);
            old.push(Run { start, blocks: m.blocks });
        }
        let data = self.read_private(range.start, blocks).await?;
        // A bit that turned in memory since it was read is not sealed with a new checksum.
        if crcs_of(&data) != crcs && !seeded_bug(Bug::MovedOverWrite) {
            return Ok(None);
        }
        Ok(Some((Rc::new(data), old, crcs)))
    }
    fn has_room_to_rewrite(&self, blocks: u32) -> bool {
        let space = self.0.shared.store.space();
        let own_bytes = space.data_bytes + space.metadata_bytes + space.free_bytes;
        space.free_bytes > own_bytes / LEFT_SHARE + u64::from(blocks) * BLOCK_BYTES
    }
}
