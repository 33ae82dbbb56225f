//! Replay: what the log holds beyond the record goes back into the overlay. Data stays in the log.

use std::rc::Rc;

use super::Vdi;
use super::content::{Content, Placed};
use super::snapshot::{EVENT_BLOCKS, What};
use crate::error::{Error, Result};
use crate::format::succession::{Position, Snapshots};
use crate::log::{Body, Record, Segment};
use crate::sabotage::{Bug, seeded_bug};
use crate::store::Run;
use crate::units::{Epoch, VdiSeq, VirtualBlock};

impl Vdi {
    /// Take one record of this VDI, in log order; `first_block` is where its data starts in the segment.
    /// Records that the tree has already are skipped: replaying one would free the block it points at. Returns
    /// whether it was taken.
    ///
    /// # Errors
    /// A gap in the VDI's own sequence, or a lease epoch that moved on: the caller holds the VDI.
    pub fn replay(&self, record: &Record, segment: &Rc<Segment>, first_block: u32) -> Result<bool> {
        let inner = &self.0;
        let again = seeded_bug(Bug::ReplaysApplied) && record.seq < inner.seq.get();
        if record.seq <= inner.seq.get() && !again {
            inner.logged.borrow_mut().note(record.origin);
            return Ok(false);
        }
        if !again {
            self.check_next(record)?;
        }
        inner.seq.set(record.seq.max(inner.seq.get()));
        match &record.body {
            Body::Write { at, crcs } => {
                let staged = inner.shared.staging.recovered(Rc::clone(segment), first_block, crcs.clone());
                self.replay_range(
                    *at,
                    crcs.len() as u64,
                    crcs.len() as u64,
                    Content::Staged(staged, 0),
                    segment,
                );
            }
            Body::WriteOut { at, crcs, .. } => {
                let runs = Run::named_by(&record.body);
                for run in &runs {
                    inner.shared.store.mark_used(*run)?;
                }
                let placed = Rc::new(Placed { runs, crcs: crcs.to_vec() });
                self.replay_range(*at, crcs.len() as u64, 0, Content::placed(placed), segment);
            }
            Body::Discard { at, blocks } | Body::WriteZeroes { at, blocks } => {
                self.replay_range(*at, *blocks, 0, Content::Zero, segment);
            }
            Body::Snapshot { wall_ns, size_bytes, label } => {
                let label = Some(label.to_string()).filter(|l| !l.is_empty());
                let what =
                    What::Taken { epoch: record.epoch, wall_ns: *wall_ns, size_bytes: *size_bytes, label };
                self.replay_event(record.seq, what, true, segment);
            }
            Body::Label { snapshot, label } => {
                let label = Some(label.to_string()).filter(|l| !l.is_empty());
                self.replay_event(record.seq, What::Labelled { epoch: *snapshot, label }, false, segment);
            }
            Body::RemoveSnapshot { snapshot } => {
                self.replay_event(record.seq, What::Removed { epoch: *snapshot }, false, segment);
            }
        }
        // Only now: the request of a record that could not be taken is not done.
        inner.logged.borrow_mut().note(record.origin);
        Ok(true)
    }
    /// A record follows the one before, or the log is not whole.
    fn check_next(&self, record: &Record) -> Result<()> {
        let inner = &self.0;
        let position = Position {
            seq: inner.seq.get(),
            epoch: inner.epoch.get(),
            lease_epoch: inner.record.get().lease_epoch,
            capacity_blocks: inner.root.get().capacity_blocks(),
            snapshots: self,
        };
        position
            .check(record)
            .map_err(|detail| Error::corrupt("log", format!("records of VDI '{}'", self.name()), detail))
    }
    fn replay_range(
        &self,
        at: VirtualBlock,
        blocks: u64,
        data: u64,
        content: Content,
        segment: &Rc<Segment>,
    ) {
        let range = at.0..at.0 + blocks;
        self.promise_again(&range, data, matches!(content, Content::Zero));
        // A copy that names what is replaced here may lie further on than the record that replaces it.
        let newest = self.0.shared.log.newest();
        let named_through = if seeded_bug(Bug::CopiesForgotten) { segment.seq() } else { newest };
        self.insert_freeing(&range, &content, segment.seq(), named_through);
    }
    fn replay_event(&self, seq: VdiSeq, what: What, ends_epoch: bool, segment: &Rc<Segment>) {
        self.promise_metadata_again(EVENT_BLOCKS);
        self.note_segment(self.0.batch.get(), segment.seq());
        self.note_event(seq, what, ends_epoch);
    }
}

impl Snapshots for Vdi {
    fn has(&self, epoch: Epoch) -> bool {
        self.find_snapshot(epoch).is_ok()
    }
    fn is_taken(&self, label: &str) -> bool {
        self.snapshots().iter().any(|s| s.label.as_deref() == Some(label))
    }
}
