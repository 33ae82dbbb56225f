//! Snapshots: a log record each, durable before the reply. Nothing is copied, nothing is waited for
//! but the log. Until its batch is checkpointed a snapshot is pending.

use super::Vdi;
use crate::error::{Error, ErrorKind, Result};
use crate::format::succession::is_label;
use crate::limits::{OPEN_EPOCHS_MAX, SNAPSHOTS_MAX};
use crate::log::Body;
use crate::sabotage::{Bug, seeded_bug};
use crate::tree::snapshots::Snapshot;
use crate::units::{Epoch, VdiSeq};

/// Metadata blocks a snapshot or label may cost in the snapshot log.
pub(super) const EVENT_BLOCKS: u64 = 2;

/// Something that happened to the snapshot list and is not in the snapshot log yet.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub seq: VdiSeq,
    pub what: What,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    Taken { epoch: Epoch, wall_ns: u64, size_bytes: u64, label: Option<String> },
    Labelled { epoch: Epoch, label: Option<String> },
    Removed { epoch: Epoch },
}

/// A snapshot as a list shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotInfo {
    /// Its number: the epoch it ended.
    pub epoch: Epoch,
    /// When, wall clock ns.
    pub wall_ns: u64,
    /// Size of the disk then.
    pub size_bytes: u64,
    /// Its name, if it has one.
    pub label: Option<String>,
    /// Still in the log only: lost if the local log is lost.
    pub pending: bool,
}

impl Vdi {
    /// Take a snapshot; everything acknowledged before the call is in it. With nothing written since the
    /// last one it is a second name for that.
    pub async fn snapshot(&self, label: Option<&str>) -> Result<SnapshotInfo> {
        self.check_writable()?;
        self.check_snapshots()?;
        self.check_room_for_a_snapshot()?;
        self.check_label(label)?;
        if !self.0.changed.get()
            && let Some(last) = self.snapshots().pop().filter(|s| self.is_unchanged_since(s))
        {
            if label.is_some() && last.label.as_deref() != label {
                self.label(last.epoch, label).await?;
            }
            self.0.shared.log.flush().await?;
            return Ok(SnapshotInfo { label: label.map(str::to_owned).or(last.label.clone()), ..last });
        }
        while self.open_snapshots() >= OPEN_EPOCHS_MAX {
            self.check_writable()?;
            self.wait_for_checkpoint().await;
        }
        let wall_ns = self.0.shared.clock.wall_ns();
        // Not the size that is shown: a shrink under way has not cut anything off yet.
        let size_bytes = || self.0.record.get().size_bytes;
        let body =
            || Body::Snapshot { wall_ns, size_bytes: size_bytes(), label: label.unwrap_or_default().into() };
        let taken =
            |epoch| What::Taken { epoch, wall_ns, size_bytes: size_bytes(), label: label.map(str::to_owned) };
        let (epoch, size_bytes) =
            (self.append_event(body, || self.check_label(label), taken).await?, size_bytes());
        if !seeded_bug(Bug::SnapshotNotFlushed) {
            self.0.shared.log.flush().await?;
        }
        Ok(SnapshotInfo { epoch, wall_ns, size_bytes, label: label.map(str::to_owned), pending: true })
    }
    /// The size is asked too: after a recovery only the record knows of a resize since the snapshot.
    fn is_unchanged_since(&self, s: &SnapshotInfo) -> bool {
        let sizes = s.size_bytes == self.0.record.get().size_bytes || seeded_bug(Bug::SnapshotSizeForgotten);
        s.epoch.next() == self.epoch() && sizes
    }
    /// Name a snapshot, or take its name away.
    pub async fn label(&self, epoch: Epoch, label: Option<&str>) -> Result<()> {
        // First: the list of a disk that may be older than it was is not the one that was asked for.
        self.check_writable()?;
        if self.find_snapshot(epoch)?.label.as_deref() == label {
            return Ok(());
        }
        let valid = || self.find_snapshot(epoch).and_then(|_| self.check_label(label));
        valid()?;
        let body = || Body::Label { snapshot: epoch, label: label.unwrap_or_default().into() };
        self.append_event(body, valid, |_| What::Labelled { epoch, label: label.map(str::to_owned) }).await?;
        self.0.shared.log.flush().await
    }
    /// Remove a snapshot from the list; its blocks become the collector's.
    pub async fn remove_snapshot(&self, epoch: Epoch) -> Result<()> {
        self.check_writable()?;
        self.find_snapshot(epoch)?;
        let body = || Body::RemoveSnapshot { snapshot: epoch };
        self.append_event(body, || self.find_snapshot(epoch).map(|_| ()), |_| What::Removed { epoch })
            .await?;
        self.0.shared.log.flush().await
    }
    /// Every snapshot, oldest first, pending ones included.
    #[must_use]
    pub fn snapshots(&self) -> Vec<SnapshotInfo> {
        let mut list: Vec<SnapshotInfo> = self.0.snapshots.borrow().list().iter().map(info_of).collect();
        for e in self.0.events.borrow().iter() {
            match &e.what {
                What::Taken { epoch, wall_ns, size_bytes, label } => list.push(SnapshotInfo {
                    epoch: *epoch,
                    wall_ns: *wall_ns,
                    size_bytes: *size_bytes,
                    label: label.clone(),
                    pending: true,
                }),
                What::Labelled { epoch, label } => {
                    list.iter_mut().filter(|s| s.epoch == *epoch).for_each(|s| s.label = label.clone());
                }
                What::Removed { epoch } => list.retain(|s| s.epoch != *epoch),
            }
        }
        list
    }
    /// An error when the list of snapshots cannot be read. The disk goes on without it.
    pub fn check_snapshots(&self) -> Result<()> {
        self.0.snapshots.borrow().check()
    }
    fn check_room_for_a_snapshot(&self) -> Result<()> {
        let taken = self.0.snapshots.borrow().list().len() as u64 + self.open_snapshots();
        if taken < SNAPSHOTS_MAX {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::TooLarge,
            format!("VDI '{}' has {taken} snapshots, no more fit", self.name()),
            "remove snapshots that are no longer needed",
        ))
    }
    /// The snapshot of this epoch.
    pub fn find_snapshot(&self, epoch: Epoch) -> Result<SnapshotInfo> {
        self.check_snapshots()?;
        self.snapshots().into_iter().find(|s| s.epoch == epoch).ok_or_else(|| self.no_snapshot(epoch))
    }
    pub(super) fn no_snapshot(&self, epoch: Epoch) -> Error {
        Error::new(
            ErrorKind::NotFound,
            format!("VDI '{}' has no snapshot {}", self.name(), epoch.0),
            "list them with 'parallax snapshot ls VDI'",
        )
    }
    /// The checkpointed snapshot of this epoch, with its tree.
    #[must_use]
    pub fn durable_snapshot(&self, epoch: Epoch) -> Option<Snapshot> {
        self.0.snapshots.borrow().list().get(epoch).cloned()
    }
    fn open_snapshots(&self) -> u64 {
        self.0.events.borrow().len() as u64
    }
    fn check_label(&self, label: Option<&str>) -> Result<()> {
        let Some(label) = label else { return Ok(()) };
        if !is_label(label) {
            return Err(Error::new(
                ErrorKind::BadRequest,
                format!("'{label}' is no snapshot label"),
                "use 1 to 63 letters, digits, dots, underscores or dashes, with at least one letter",
            ));
        }
        if let Some(s) = self.snapshots().iter().find(|s| s.label.as_deref() == Some(label)) {
            return Err(Error::new(
                ErrorKind::Exists,
                format!("snapshot {} of VDI '{}' is labelled '{label}' already", s.epoch.0, self.name()),
                "choose another label, or relabel that snapshot first",
            ));
        }
        Ok(())
    }
    /// Append the record of a change to the snapshot list, its `body` as it is then, and note the change, in one step, if
    /// it is still `valid` then. A snapshot ends the epoch; returns the epoch the record belongs to.
    async fn append_event(
        &self,
        body: impl Fn() -> Body,
        valid: impl Fn() -> Result<()>,
        what: impl FnOnce(Epoch) -> What,
    ) -> Result<Epoch> {
        let inner = &self.0;
        let shared = &inner.shared;
        let mut record = self.record_for(body());
        let ends_epoch = matches!(record.body, Body::Snapshot { .. });
        let frees = matches!(record.body, Body::RemoveSnapshot { .. });
        let mut tries = 0;
        loop {
            let reservation = self.reserve_log(record.encoded_bytes(), 0).await?;
            valid()?;
            if !self.try_promise_metadata(EVENT_BLOCKS, frees) {
                drop(reservation);
                self.wait_for_space(&mut tries).await?;
                continue;
            }
            let epoch = inner.epoch.get();
            // As it is now, not as it was before the waiting; it is as long as before.
            record.body = body();
            record.seq = VdiSeq(inner.seq.get().0 + 1);
            record.epoch = epoch;
            let appended = shared.log.append(reservation, &record, smallvec::SmallVec::new())?;
            inner.seq.set(record.seq);
            self.note_segment(inner.batch.get(), appended.segment.seq());
            self.note_event(record.seq, what(epoch), ends_epoch);
            return Ok(epoch);
        }
    }
    pub(super) fn note_event(&self, seq: VdiSeq, what: What, ends_epoch: bool) {
        let inner = &self.0;
        if let What::Removed { epoch } = what {
            // The next snapshot cannot be a second name for one that is gone.
            if epoch.next() == inner.epoch.get() {
                inner.changed.set(true);
            }
        }
        inner.events.borrow_mut().push(Event { seq, what });
        if ends_epoch {
            assert!(inner.epoch.get() < Epoch::MAX);
            inner.epoch.set(inner.epoch.get().next());
            inner.changed.set(false);
            // A new epoch writes every path anew.
            self.forget_paths();
        }
    }
}

fn info_of(s: &Snapshot) -> SnapshotInfo {
    SnapshotInfo {
        epoch: s.epoch,
        wall_ns: s.wall_ns,
        size_bytes: s.size_bytes,
        label: Some(s.label.clone()).filter(|l| !l.is_empty()),
        pending: false,
    }
}
