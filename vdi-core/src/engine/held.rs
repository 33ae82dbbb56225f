//! VDIs that cannot checkpoint do not stall the others: when the log wants space and such a VDI holds its tail,
//! its records are written again at the head, under the numbers they had, and the log is trimmed past the
//! originals. Inline data are parked in blocks of the store that were promised to its checkpoint anyway, so
//! that a copy is some hundred bytes, whatever it writes.
//!
//! Order, and which crash it survives: data to the store, copies to the log, one flush of both, then the trim.
//! A crash before the flush leaves originals and perhaps copies: equal records, of which a recovery takes the
//! last. Nothing frees what copies name before they are trimmed (`Store::quarantine_longer`).
//!
//! Bound: copies of all held VDIs together fit the share of the log that ordinary records leave free
//! (`limits::LOG_COPIES_SHARE`). What does not fit stays where it is, keeps the log from being trimmed, and `ls` says so.

use std::collections::{BTreeMap, BTreeSet};

use super::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::limits::LOG_COPY_BATCHES_PER_FLUSH;
use crate::log::{Log, Record};
use crate::store::{Need, Run};
use crate::units::{SegmentSeq, VdiId, VdiSeq};
use crate::vdi::Vdi;
use crate::vdi::moved::{Original, park};

/// Bytes that a run takes in a record.
const RUN_BYTES: usize = 16;
/// Inline data of one batch, blocks: memory while it is moved.
const BATCH_BLOCKS: u32 = 2048;

/// A VDI whose record or snapshot log could not be read when the log was replayed: what the log holds of it
/// waits there for a restart.
pub(super) struct Stranded {
    pub name: String,
    /// Its oldest record.
    pub oldest: SegmentSeq,
    /// Room for what its records have inline.
    pub reserved: Need,
    pub why: Error,
}

impl Stranded {
    /// What whoever wants the VDI is told.
    pub fn error(&self) -> Error {
        let why = Error::new(
            self.why.kind(),
            self.why.message(),
            "once the device can be read again restart the daemon; until then the log keeps its writes",
        );
        why.context(format!("VDI '{}' could not be opened when the daemon started", self.name))
    }
}

/// Who holds the tail of the log.
enum Holder {
    Vdi(Vdi),
    Stranded(VdiId),
}

impl Holder {
    fn id(&self) -> VdiId {
        match self {
            Holder::Vdi(v) => v.id(),
            Holder::Stranded(id) => *id,
        }
    }
}

impl Engine {
    /// The oldest segment that anything not in a tree needs.
    pub(super) fn oldest_needed(&self) -> Option<SegmentSeq> {
        let stranded = self.0.stranded.borrow().values().map(|s| s.oldest).min();
        let open = self.0.vdis.borrow().values().filter_map(Vdi::oldest_segment).min();
        open.into_iter().chain(stranded).min()
    }
    /// While the log wants space and a VDI that cannot checkpoint holds its tail: write its records again at
    /// the head. Called within a round, with everything else checkpointed. True when the log can be trimmed further.
    pub(super) async fn move_held(&self) -> Result<bool> {
        let log = &self.0.shared.log;
        let mut moved = BTreeSet::new();
        loop {
            let stats = log.stats();
            let wanted = stats.used_bytes > stats.ring_bytes / 2 || stats.waiting > 0;
            let Some(holder) = self.tail_holder().filter(|h| wanted && !moved.contains(&h.id())) else {
                return Ok(!moved.is_empty());
            };
            moved.insert(holder.id());
            let result = self.move_on(&holder).await;
            log.check_alive()?;
            if let Holder::Vdi(vdi) = &holder {
                vdi.note_unmovable(result.as_ref().err().map(Error::duplicate));
            }
            if result.is_err() {
                self.0.copies.borrow_mut().remove(&holder.id());
                moved.remove(&holder.id());
                return Ok(!moved.is_empty());
            }
        }
    }
    fn tail_holder(&self) -> Option<Holder> {
        let oldest = self.oldest_needed()?;
        if oldest > self.0.shared.log.newest() {
            return None;
        }
        let vdis = self.0.vdis.borrow();
        // One that will be checkpointed soon needs no help.
        if let Some(v) = vdis.values().find(|v| v.oldest_segment() == Some(oldest)) {
            return v.held().is_some().then(|| Holder::Vdi(v.clone()));
        }
        let stranded = self.0.stranded.borrow();
        stranded.iter().find(|(_, s)| s.oldest == oldest).map(|(id, _)| Holder::Stranded(*id))
    }
    async fn move_on(&self, holder: &Holder) -> Result<()> {
        let shared = &self.0.shared;
        let _turn = match holder {
            Holder::Vdi(v) => Some(v.lock_turn().await),
            Holder::Stranded(_) => None,
        };
        // Held, it appends nothing more; what it has appended is read back from the device.
        shared.log.flush().await?;
        let (batches, mut first) = self.batches(holder).await?;
        for (nth, batch) in batches.into_iter().enumerate() {
            let copies = park(&shared.store, &shared.log, &batch).await?;
            shared.placed_written.set(shared.placed_written.get() + 1);
            let records: Vec<Record> = copies.iter().map(|c| c.record.clone()).collect();
            let appended = shared.log.append_copies(&records);
            let parked = copies.iter().filter_map(|c| c.parked.as_ref());
            let segment = match appended {
                Ok(segment) => segment.seq(),
                Err(e) => {
                    // Nothing names these blocks, and nothing ever did.
                    let runs = parked.flat_map(|(_, _, p)| p.runs.clone()).collect();
                    shared.store.give_back_unreachable(runs);
                    return Err(e);
                }
            };
            match holder {
                Holder::Vdi(vdi) => vdi.adopt(&copies, segment),
                Holder::Stranded(id) => self.keep_promise(*id, &batch),
            }
            // What a later record of it replaced may be free but for the records that name it: from here on these, too,
            // whatever becomes of the rest.
            let named: Vec<Run> = records.iter().flat_map(|r| Run::named_by(&r.body)).collect();
            shared.store.quarantine_longer(&named, segment);
            first.get_or_insert(segment);
            if nth % LOG_COPY_BATCHES_PER_FLUSH == LOG_COPY_BATCHES_PER_FLUSH - 1 {
                shared.log.flush().await?;
            }
        }
        shared.log.flush().await?;
        match (holder, first) {
            (Holder::Vdi(vdi), Some(first)) => vdi.moved_to(first),
            (Holder::Stranded(id), Some(first)) => {
                if let Some(s) = self.0.stranded.borrow_mut().get_mut(id) {
                    s.oldest = first;
                }
            }
            (_, None) => {}
        }
        Ok(())
    }
    /// The records of the VDI that its tree lacks and that lie in the older half of the log, in order, a segment's
    /// worth at a time; and where the oldest of the others lies.
    async fn batches(&self, holder: &Holder) -> Result<(Vec<Vec<Original>>, Option<SegmentSeq>)> {
        let log = &self.0.shared.log;
        // What lies behind a gap was never put back.
        let (oldest, (applied, through)) = match holder {
            Holder::Vdi(v) => (v.oldest_segment(), v.records_through()),
            Holder::Stranded(id) => {
                (self.0.stranded.borrow().get(id).map(|s| s.oldest), (VdiSeq(0), VdiSeq(u64::MAX)))
            }
        };
        let Some(oldest) = oldest else { return Ok((Vec::new(), None)) };
        let id = holder.id();
        let others: u64 = self.0.copies.borrow().iter().filter(|(v, _)| **v != id).map(|(_, n)| n).sum();
        // A quarter is left for batches that are not quite full.
        let room = (log.copies_max().1 * 3 / 4).saturating_sub(others);
        let mut found: BTreeMap<VdiSeq, Original> = BTreeMap::new();
        let mut bytes = 0;
        let (segments, older) = log.segments_from(oldest);
        let newer = segments.get(older).map(|s| s.seq());
        for segment in segments {
            for (record, first_block) in log.read_records(&segment).await? {
                if record.vdi != id || record.seq <= applied || record.seq > through {
                    continue;
                }
                let seq = record.seq;
                bytes += copy_bytes(&record);
                let original = Original { record, segment: std::rc::Rc::clone(&segment), first_block };
                if let Some(old) = found.insert(seq, original) {
                    bytes -= copy_bytes(&old.record);
                }
            }
            if bytes as u64 > room {
                return Err(too_many(bytes as u64, room));
            }
        }
        if matches!(holder, Holder::Stranded(_)) {
            // It left for another shard and came back: what it had before, its tree has.
            let came_back =
                found.keys().rev().zip(found.keys().rev().skip(1)).find(|(next, seq)| next.0 > seq.0 + 1);
            if let Some((first, _)) = came_back {
                let first = *first;
                found = found.split_off(&first);
            }
        }
        self.complete(holder, &found)?;
        // What lies near the head stays: copies of a move that a crash cut short, too.
        let stays = |o: &Original| newer.is_some_and(|newer| o.segment.seq() >= newer);
        let rest = found.values().filter(|o| stays(o)).map(|o| o.segment.seq()).min();
        found.retain(|_, o| !stays(o));
        let (batches, charge_bytes) = cut_in_batches(found.into_values(), log.copies_max().0);
        if charge_bytes > room {
            return Err(too_many(charge_bytes, room));
        }
        self.0.copies.borrow_mut().insert(id, bytes as u64);
        Ok((batches, rest))
    }
    /// A log with holes must not be copied as if it were whole.
    fn complete(&self, holder: &Holder, found: &BTreeMap<VdiSeq, Original>) -> Result<()> {
        let (Some((first, _)), Some((last, _))) = (found.first_key_value(), found.last_key_value()) else {
            return Ok(());
        };
        let whole = match holder {
            Holder::Vdi(v) => {
                let (applied, through) = v.records_through();
                first.0 == applied.0 + 1 && *last == through
            }
            Holder::Stranded(_) => true,
        };
        if whole && last.0 - first.0 + 1 == found.len() as u64 {
            return Ok(());
        }
        Err(Error::corrupt("log", format!("records of VDI {}", holder.id()), "some of them are not there"))
    }
    /// Inline data of `moved` were given the room that was promised for them.
    fn keep_promise(&self, id: VdiId, moved: &[Original]) {
        let blocks: u64 = moved.iter().map(|o| u64::from(o.record.body.inline_blocks())).sum();
        if let Some(s) = self.0.stranded.borrow_mut().get_mut(&id) {
            let kept = Need { data: blocks.min(s.reserved.data), metadata: 0 };
            s.reserved.data -= kept.data;
            self.store().unreserve(kept);
        }
    }
    /// The VDI is gone, and with it what the log holds of it.
    pub(super) fn forget_held(&self, id: VdiId) {
        if let Some(s) = self.0.stranded.borrow_mut().remove(&id) {
            self.store().unreserve(s.reserved);
        }
        self.0.copies.borrow_mut().remove(&id);
    }
}

/// Cut records into batches of at most `bytes_max`; returns them with the ring bytes that they will take.
fn cut_in_batches(records: impl Iterator<Item = Original>, bytes_max: usize) -> (Vec<Vec<Original>>, u64) {
    let (mut batches, mut charge_bytes) = (Vec::new(), 0);
    let (mut batch, mut bytes, mut blocks): (Vec<Original>, usize, u32) = Default::default();
    for o in records {
        let (more_bytes, more_blocks) = (copy_bytes(&o.record), o.record.body.inline_blocks());
        if !batch.is_empty() && (bytes + more_bytes > bytes_max || blocks + more_blocks > BATCH_BLOCKS) {
            charge_bytes += Log::copies_charge(bytes);
            batches.push(std::mem::take(&mut batch));
            (bytes, blocks) = (0, 0);
        }
        (bytes, blocks) = (bytes + more_bytes, blocks + more_blocks);
        batch.push(o);
    }
    if !batch.is_empty() {
        charge_bytes += Log::copies_charge(bytes);
        batches.push(batch);
    }
    (batches, charge_bytes)
}

/// Bytes of the copy of a record at most: in the most fragmented store each of its blocks is a run.
fn copy_bytes(record: &Record) -> usize {
    record.encoded_bytes() + RUN_BYTES * record.body.inline_blocks() as usize
}

fn too_many(bytes: u64, room: u64) -> Error {
    Error::new(
        ErrorKind::TooLarge,
        format!("they are more than fit the share for records of held VDIs ({bytes} of {room} bytes)"),
        "mend or delete the VDIs that are held, or use a larger log",
    )
}
