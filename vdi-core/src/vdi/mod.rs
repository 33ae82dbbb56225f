//! One virtual disk: overlay over tree, read, write, discard, snapshot, checkpoint, resize.
//!
//! A write is appended to the log and inserted in the overlay in one step without an await in between,
//! so the overlay always shows the log's order. A checkpoint moves what the overlay holds into the tree:
//! cut (mark a batch), apply (write data and nodes), record (swing), publish (forget the batch). The
//! engine decides when, flushes in between and trims the log; nothing here does.
//!
//! Invariants:
//! - what the record says is applied is exactly what the overlay has forgotten;
//! - the VDI's own sequence numbers are consecutive in the log, and appended in order;
//! - a partial block is read, merged and appended while its block is locked (`block_lock`);
//! - a read pins the store before it looks anything up.

mod block_lock;
pub mod checkpoint;
pub mod content;
mod flush;
mod hold;
pub mod moved;
mod origin;
pub mod overlay;
pub mod placing;
mod read;
pub mod recover;
mod requests;
mod resize;
pub mod rewrite;
mod room;
mod snapshot;
mod spilled;
pub mod touched;
mod write;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::executor::{Executor, Signal, TaskLock};
use crate::format::vdi_record::VdiRecord;
use crate::latency::Latencies;
use crate::log::Log;
use crate::sabotage::{Bug, seeded_bug};
use crate::store::{Need, Run, Store};
use crate::tree::snapshots::SnapshotLog;
use crate::tree::{NodeCache, Root};
use crate::units::{BLOCK_BYTES, BlockAddr, Epoch, SECTOR_BYTES, SegmentSeq, VdiId, VdiSeq};
use requests::Requests;

use block_lock::BlockLocks;
use content::Staging;
use overlay::Overlay;

pub use origin::{Logged, Parts};
pub(crate) use resize::check_size;
pub use snapshot::SnapshotInfo;

/// When a write counts as done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ack {
    /// When its log segment has reached the device: survives the daemon, not a power loss.
    WriteBack,
    /// When it is on stable storage.
    WriteThrough,
}

/// What the open VDIs of a shard share.
pub struct Shared {
    /// Runs every task of the shard.
    pub executor: Executor,
    /// Boot and wall time.
    pub clock: Rc<dyn Clock>,
    /// How long things take.
    pub latencies: Latencies,
    /// The store.
    pub store: Store,
    /// The shard's log.
    pub log: Log,
    /// Tree nodes in memory.
    pub cache: NodeCache,
    /// Log data in memory.
    pub staging: Staging,
    /// Asking for a checkpoint and hearing of its end.
    pub pressure: Pressure,
    /// For tests: no checkpoint before the log is nearly full, unless asked for.
    pub late_checkpoints: bool,
    /// Writes of at least this many bytes go straight to their final place.
    pub out_of_line_bytes: usize,
    /// Requests of guests so far, and how many of them are being executed.
    pub asked: Cell<u64>,
    /// See `asked`.
    pub under_way: Cell<u64>,
    /// Out-of-line writes on their way.
    pub placing: placing::Placing,
    /// Out-of-line writes completed, and how many of them a store flush has covered.
    pub placed_written: Cell<u64>,
    /// See `placed_written`.
    pub placed_flushed: Cell<u64>,
}

/// How writers and the checkpointer talk.
#[derive(Default)]
pub struct Pressure {
    wanted: Cell<bool>,
    wake: Signal,
    /// Notified at the end of each checkpoint, successful or not.
    pub ended: Signal,
    /// Notified when a VDI stops taking writes: those that wait for room must not wait for ever.
    pub refused: Signal,
    /// Checkpoints ended so far.
    pub count: Cell<u64>,
    /// Something was written since the last checkpoint began.
    pub dirty: Cell<bool>,
    /// A checkpoint has cut and not ended.
    pub running: Cell<bool>,
}

impl Pressure {
    /// Ask for a checkpoint soon.
    pub fn request(&self) {
        if !self.wanted.replace(true) {
            self.wake.notify();
        }
    }
    /// Something was written: it will need a checkpoint some time.
    pub fn note_dirty(&self) {
        if !self.dirty.replace(true) {
            self.wake.notify();
        }
    }
    /// True once per request.
    pub fn take(&self) -> bool {
        self.wanted.replace(false)
    }
    /// Wait for the next request (look with [`Pressure::take`] first).
    pub fn wait(&self) -> impl Future<Output = ()> + use<> {
        self.wake.wait()
    }
}

/// An open virtual disk; clones share it.
#[derive(Clone)]
pub struct Vdi(Rc<Inner>);

struct Inner {
    shared: Rc<Shared>,
    id: VdiId,
    name: RefCell<String>,
    slots: [BlockAddr; 2],
    /// The record last written durably.
    record: Cell<VdiRecord>,
    /// The tree that reads go to; in step with `record`.
    root: Cell<Root>,
    size_bytes: Cell<u64>,
    epoch: Cell<Epoch>,
    /// Anything written in the current epoch.
    changed: Cell<bool>,
    /// The last record appended.
    seq: Cell<VdiSeq>,
    /// The batch that writes go to.
    batch: Cell<u64>,
    overlay: RefCell<Overlay>,
    snapshots: RefCell<SnapshotLog>,
    events: RefCell<Vec<snapshot::Event>>,
    /// What the checkpoint or resize under way has allocated.
    attempt: RefCell<Vec<Run>>,
    blocks: BlockLocks,
    /// Held by whoever changes root, size or record: checkpoint, resize, roll-back, clone of a snapshot.
    pub(crate) turn: TaskLock,
    trouble: hold::Trouble,
    deleted: Cell<bool>,
    /// There was a newer record than the one it was opened with.
    superseded: Cell<bool>,
    /// A roll-back is under way: nothing may be logged.
    standstill: Cell<bool>,
    /// Space promised to the current batch, and the leaves it was promised for.
    reserved: Cell<Need>,
    leaves: RefCell<BTreeSet<u64>>,
    /// Of leaves before those, and of what was there when it was opened.
    touched: RefCell<touched::Touched>,
    /// Oldest segment that holds records of this VDI not in the tree: (batch, segment) each.
    oldest: RefCell<Vec<(u64, SegmentSeq)>>,
    /// Guest requests whose records were in the log at the start.
    logged: RefCell<origin::Logged>,
    /// Held over a whole resize or roll-back: what one cuts off another must not bring back.
    reshaping: TaskLock,
    /// Held while blocks are rewritten, or must not be.
    rewriting: TaskLock,
    requests: Requests,
}

impl Vdi {
    /// A VDI as its record and snapshot log describe it.
    #[must_use]
    pub fn new(
        shared: Rc<Shared>,
        name: &str,
        slots: [BlockAddr; 2],
        record: VdiRecord,
        snapshots: SnapshotLog,
    ) -> Vdi {
        // A snapshot of what is unchanged since the last one is a second name for that.
        let changed = snapshots.list().iter().last().is_none_or(|s| {
            s.epoch.next() != record.epoch || s.root != root_of(&record) || s.size_bytes != record.size_bytes
        });
        Vdi(Rc::new(Inner {
            shared,
            id: record.id,
            name: RefCell::new(name.to_owned()),
            slots,
            record: Cell::new(record),
            root: Cell::new(root_of(&record)),
            size_bytes: Cell::new(record.size_bytes),
            epoch: Cell::new(record.epoch),
            changed: Cell::new(changed),
            seq: Cell::new(record.applied.seq),
            batch: Cell::new(1),
            overlay: RefCell::default(),
            snapshots: RefCell::new(snapshots),
            events: RefCell::default(),
            attempt: RefCell::default(),
            blocks: BlockLocks::default(),
            turn: TaskLock::default(),
            trouble: hold::Trouble::default(),
            deleted: Cell::new(false),
            superseded: Cell::new(false),
            standstill: Cell::new(false),
            reserved: Cell::default(),
            leaves: RefCell::default(),
            touched: RefCell::new(touched::Touched::ALL),
            oldest: RefCell::default(),
            logged: RefCell::default(),
            reshaping: TaskLock::default(),
            rewriting: TaskLock::default(),
            requests: Requests::default(),
        }))
    }
    /// Its identity.
    #[must_use]
    pub fn id(&self) -> VdiId {
        self.0.id
    }
    /// Its name.
    #[must_use]
    pub fn name(&self) -> String {
        self.0.name.borrow().clone()
    }
    /// Size in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.0.size_bytes.get()
    }
    /// The last record appended.
    #[must_use]
    pub fn seq(&self) -> VdiSeq {
        self.0.seq.get()
    }
    /// The tree that reads go to.
    #[must_use]
    pub fn root(&self) -> Root {
        self.0.root.get()
    }
    /// The current epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.0.epoch.get()
    }
    /// The record last written durably.
    #[must_use]
    pub fn record(&self) -> VdiRecord {
        self.0.record.get()
    }
    /// Where its record lies.
    #[must_use]
    pub fn slots(&self) -> [BlockAddr; 2] {
        self.0.slots
    }
    /// The tree now and those of the checkpointed snapshots.
    #[must_use]
    pub fn roots(&self) -> Vec<Root> {
        let snapshots = self.0.snapshots.borrow();
        let missed = seeded_bug(Bug::MarkMissesSnapshots);
        let snapshots = snapshots.list().iter().filter(|_| !missed);
        std::iter::once(self.0.root.get()).chain(snapshots.map(|s| s.root)).collect()
    }
    /// Blocks of this VDI that no tree reaches: its record, its snapshot log, out-of-line data in the overlay, and
    /// what a record names that may be on the device or not.
    #[must_use]
    pub fn blocks_without_root(&self) -> Vec<Run> {
        let single = |addr: &BlockAddr| Run { start: *addr, blocks: 1 };
        let mut runs: Vec<Run> = self.0.slots.iter().map(single).collect();
        runs.extend(self.0.snapshots.borrow().blocks().iter().map(single));
        if !seeded_bug(Bug::MarkMissesOverlay) {
            runs.extend(self.0.overlay.borrow().placed_runs());
        }
        runs.extend(self.0.attempt.borrow().iter());
        runs
    }
    /// Versions in the overlay: ranges not in the tree yet.
    #[must_use]
    pub fn overlay_len(&self) -> usize {
        self.0.overlay.borrow().len()
    }
    /// Oldest log segment that holds something of this VDI that is not in the tree.
    #[must_use]
    pub fn oldest_segment(&self) -> Option<SegmentSeq> {
        self.0.oldest.borrow().first().map(|(_, s)| *s)
    }
    /// Whether the record says everything there is.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let i = &self.0;
        let applied = i.record.get().applied.seq == i.seq.get();
        applied
            && i.oldest.borrow().is_empty()
            && i.overlay.borrow().is_empty()
            && i.events.borrow().is_empty()
    }
    /// The byte range of a request, checked against the size.
    fn check_range(&self, sector: u64, bytes: u64) -> Result<u64> {
        let start = sector.checked_mul(SECTOR_BYTES);
        let end = start.and_then(|s| s.checked_add(bytes));
        match (start, end) {
            (Some(start), Some(end)) if end <= self.size_bytes() && bytes.is_multiple_of(SECTOR_BYTES) => {
                Ok(start)
            }
            _ => {
                // Of one that may be older than it was the size may be another one, too.
                self.check_certain()?;
                // And of one whose last resize failed with the log.
                self.0.shared.log.check_alive()?;
                Err(Error::new(
                    ErrorKind::BadRequest,
                    format!(
                        "{bytes} bytes at sector {sector} do not fit VDI '{}' of {} bytes",
                        self.name(),
                        self.size_bytes()
                    ),
                    "stay within the disk, in whole sectors of 512 bytes",
                ))
            }
        }
    }
}

/// The tree a record names.
#[must_use]
pub fn root_of(record: &VdiRecord) -> Root {
    Root { addr: record.root, crc: record.root_crc, birth: record.root_birth, depth: record.depth }
}

/// Virtual blocks touched by `bytes` bytes at `start`.
fn blocks_of(start: u64, bytes: u64) -> std::ops::Range<u64> {
    start / BLOCK_BYTES..(start + bytes).div_ceil(BLOCK_BYTES)
}
