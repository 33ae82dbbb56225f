//! What the administrator does: snapshots, clones, roll-backs, names and sizes, while guests run.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::content::ZEROS;
use super::model::{Disk, Model, Pending, Snapshot};
use super::shards::Engines;
use crate::error::Result;
use crate::units::{BLOCK_BYTES, Epoch, SECTORS_PER_BLOCK};

/// An operation, fully decided.
#[derive(Clone, Debug)]
pub enum Order {
    /// A snapshot of the disk, perhaps with a label.
    Snapshot(String, Option<String>),
    /// A label for the snapshot.
    Label(String, u64, String),
    /// Remove the snapshot.
    RemoveSnapshot(String, u64),
    /// Clone a snapshot (or the present state) to a new name.
    Clone(String, Option<u64>, String),
    /// Set the disk back.
    RollBack(String, u64),
    /// A new disk of this size.
    Create(String, u64),
    /// Delete the disk with its snapshots.
    Delete(String),
    /// Make the disk this large.
    Resize(String, u64),
    /// Checkpoint.
    Checkpoint,
    /// Put in order what lies scattered.
    Tidy,
    /// Give the disk to this shard.
    Move(String, u16),
    /// Acknowledge nothing for being staged any more.
    LeaveStaging,
    /// Collect dead blocks, or only say how many there are.
    Collect(bool),
}

impl Order {
    /// Whether the guest's requests to the disk must wait meanwhile, and its handle be closed.
    #[must_use]
    pub fn is_exclusive(&self) -> bool {
        matches!(self, Order::RollBack(..) | Order::Delete(_) | Order::Resize(..) | Order::Move(..))
    }
    /// The name it goes by in reports, and the disk it claims.
    pub fn verb_and_disk(&self) -> (&'static str, Option<&str>) {
        match self {
            Order::Snapshot(name, _) => ("snapshot", Some(name)),
            Order::Label(name, ..) => ("label", Some(name)),
            Order::RemoveSnapshot(name, _) => ("remove snapshot", Some(name)),
            Order::Clone(name, ..) => ("clone", Some(name)),
            Order::RollBack(name, _) => ("roll back", Some(name)),
            Order::Create(..) => ("create", None),
            Order::Delete(name) => ("delete", Some(name)),
            Order::Resize(name, _) => ("resize", Some(name)),
            Order::Move(name, _) => ("move", Some(name)),
            Order::Checkpoint => ("checkpoint", None),
            Order::Tidy => ("tidy", None),
            Order::LeaveStaging => ("leave staging", None),
            Order::Collect(_) => ("collect", None),
        }
    }
}

/// The administrator.
#[derive(Clone)]
pub struct Admin {
    /// The engines.
    pub engine: Engines,
    /// What everybody knows.
    pub model: Rc<RefCell<Model>>,
}

impl Admin {
    /// Do `order` from beginning to end.
    pub async fn run(self, order: Order) {
        let (verb, disk) = order.verb_and_disk();
        let name = disk.unwrap_or("the store").to_owned();
        let result = match &order {
            Order::Snapshot(name, label) => self.snapshot(name, label.clone()).await,
            Order::Label(name, epoch, label) => self.label(name, *epoch, label).await,
            Order::RemoveSnapshot(name, epoch) => self.remove_snapshot(name, *epoch).await,
            Order::Clone(name, epoch, new) => self.clone_disk(name, *epoch, new).await,
            Order::RollBack(name, epoch) => self.roll_back(name, *epoch).await,
            Order::Create(name, size_bytes) => self.create(name, *size_bytes).await,
            Order::Delete(name) => self.delete(name).await,
            Order::Resize(name, size_bytes) => self.resize(name, *size_bytes).await,
            Order::Move(name, shard) => self.engine.move_vdi(name, *shard).await,
            Order::Checkpoint => self.checkpoint().await,
            Order::Tidy => {
                self.engine.tidy().await;
                Ok(())
            }
            Order::LeaveStaging => {
                self.model.borrow_mut().left_staging = true;
                self.engine.leave_staging().await
            }
            Order::Collect(dry_run) => self.engine.collect(*dry_run).await.map(drop),
        };
        let mut model = self.model.borrow_mut();
        if let Some(disk) = model.disks.get_mut(&name) {
            (disk.claimed, disk.exclusive) = (false, false);
        }
        let changes =
            !matches!(order, Order::Checkpoint | Order::Tidy | Order::Collect(_) | Order::LeaveStaging);
        if result.is_err() && changes && model.failure.is_none() {
            // Whether it happened is open: a restart finds out.
            model.restart.get_or_insert_with(|| format!("{verb} of {name} failed"));
        }
        model.ended(verb, &name, result);
    }
    /// A look at the list, as somebody always has, and a checkpoint.
    async fn checkpoint(&self) -> Result<()> {
        self.engine.list().await?;
        let issued = self.model.borrow_mut().now();
        self.engine.checkpoint().await?;
        self.model.borrow_mut().checkpointed(issued);
        Ok(())
    }
    /// Note what may have happened from now on; [`Admin::settle`] takes it back.
    fn expect(&self, pending: Pending) -> u64 {
        let mut model = self.model.borrow_mut();
        let number = model.number();
        model.pending.insert(number, pending);
        number
    }
    /// What was expected happened: note it with `then`. After an error it stays open until the restart.
    fn settle<T>(&self, number: u64, result: Result<T>, then: impl FnOnce(&mut Model, T)) -> Result<()> {
        let value = result?;
        let mut model = self.model.borrow_mut();
        model.pending.remove(&number);
        then(&mut model, value);
        Ok(())
    }
    async fn snapshot(&self, name: &str, label: Option<String>) -> Result<()> {
        let issued = self.model.borrow_mut().now();
        let pending = self.expect(Pending::Snapshot(name.to_owned(), issued, label.clone()));
        let result = self.engine.snapshot(name, label.as_deref()).await;
        self.settle(pending, result, |model, info| {
            let now = model.now();
            let disk = model.disk(name);
            disk.flushed = disk.flushed.max(issued);
            // With no write since the last one it is a second name for it: what it held then it must hold now.
            let old = disk.snapshots.get(&info.epoch.0).and_then(|s| s.label.clone());
            let snapshot = Snapshot { label: label.or(old), ..disk.frozen(issued, now) };
            disk.snapshots.insert(info.epoch.0, snapshot);
        })
    }
    async fn label(&self, name: &str, epoch: u64, label: &str) -> Result<()> {
        let pending = self.expect(Pending::Labels(name.to_owned(), epoch, label.to_owned()));
        let result = self.engine.label(name, Epoch(epoch), Some(label)).await;
        self.settle(pending, result, |model, _| {
            if let Some(s) = model.disk(name).snapshots.get_mut(&epoch) {
                s.label = Some(label.to_owned());
            }
        })
    }
    async fn remove_snapshot(&self, name: &str, epoch: u64) -> Result<()> {
        let pending = self.expect(Pending::Removes(name.to_owned(), epoch));
        let result = self.engine.remove_snapshot(name, Epoch(epoch)).await;
        self.settle(pending, result, |model, _| {
            model.disk(name).snapshots.remove(&epoch);
        })
    }
    async fn clone_disk(&self, name: &str, epoch: Option<u64>, new: &str) -> Result<()> {
        let issued = self.model.borrow_mut().now();
        let pending = match epoch {
            Some(epoch) => {
                let made = self.model.borrow_mut().disk(name).snapshots[&epoch].as_disk();
                vec![self.expect(Pending::Appears(new.to_owned(), made))]
            }
            None => vec![
                self.expect(Pending::Snapshot(name.to_owned(), issued, None)),
                self.expect(Pending::Clones(new.to_owned(), name.to_owned(), issued)),
            ],
        };
        self.engine.clone_vdi(name, epoch.map(Epoch), new).await?;
        // A clone of the present state takes a snapshot first; the list tells which.
        let listed = listed_labels(&self.engine, name).await?;
        let mut model = self.model.borrow_mut();
        for number in pending {
            model.pending.remove(&number);
        }
        let now = model.now();
        let disk = model.disk(name);
        let made = match epoch {
            Some(epoch) => disk.snapshots[&epoch].as_disk(),
            None => {
                let present = disk.frozen(issued, now);
                disk.flushed = disk.flushed.max(issued);
                for epoch in listed.into_keys() {
                    disk.snapshots.entry(epoch).or_insert_with(|| present.clone());
                }
                present.as_disk()
            }
        };
        model.disks.insert(new.to_owned(), made);
        Ok(())
    }
    async fn roll_back(&self, name: &str, epoch: u64) -> Result<()> {
        let target = {
            let mut model = self.model.borrow_mut();
            let disk = model.disk(name);
            Disk { snapshots: disk.snapshots.clone(), ..disk.snapshots[&epoch].as_disk() }
        };
        let pending = self.expect(Pending::Becomes(name.to_owned(), target.clone()));
        let issued = self.model.borrow_mut().now();
        let saved = self.expect(Pending::Snapshot(name.to_owned(), issued, None));
        let result = self.engine.rollback(name, Epoch(epoch)).await;
        let listed = if result.is_ok() { listed_labels(&self.engine, name).await? } else { BTreeMap::new() };
        self.settle(pending, result, |model, _| {
            model.pending.remove(&saved);
            model.leaves(name);
            let now = model.now();
            let old = std::mem::replace(model.disk(name), target);
            let disk = model.disk(name);
            disk.history.remember(&old.history.known());
            for epoch in listed.into_keys() {
                disk.snapshots.entry(epoch).or_insert_with(|| old.frozen(issued, now));
            }
        })
    }
    async fn create(&self, name: &str, size_bytes: u64) -> Result<()> {
        let disk = Disk { size_bytes, ..Disk::default() };
        let pending = self.expect(Pending::Appears(name.to_owned(), disk.clone()));
        let result = self.engine.create(name, size_bytes).await;
        self.settle(pending, result, |model, _| {
            model.disks.insert(name.to_owned(), disk);
        })
    }
    async fn delete(&self, name: &str) -> Result<()> {
        let pending = self.expect(Pending::Vanishes(name.to_owned()));
        let result = self.engine.delete(name, true).await;
        self.settle(pending, result, |model, _| {
            model.leaves(name);
            model.disks.remove(name);
        })
    }
    async fn resize(&self, name: &str, size_bytes: u64) -> Result<()> {
        let pending = self.expect(Pending::Resizes(name.to_owned(), size_bytes));
        // What a smaller disk cuts off is zeros from now on, also if it keeps its size after a crash.
        let cut = {
            let mut model = self.model.borrow_mut();
            let now = model.now();
            let disk = model.disk(name);
            let cut = size_bytes / BLOCK_BYTES * SECTORS_PER_BLOCK..disk.sectors();
            (!cut.is_empty()).then(|| disk.history.begin(ZEROS, cut, now))
        };
        let result = self.engine.resize(name, size_bytes, true).await;
        if let Some(change) = cut {
            let mut model = self.model.borrow_mut();
            let now = model.now();
            model.disk(name).history.end(change, now, result.is_ok(), true);
        }
        self.settle(pending, result, |model, _| model.disk(name).size_bytes = size_bytes)
    }
}

/// Labels of the snapshots, by epoch, as the engine lists them.
pub async fn listed_labels(engine: &Engines, name: &str) -> Result<BTreeMap<u64, Option<String>>> {
    Ok(engine.snapshots(name).await?.into_iter().map(|s| (s.epoch.0, s.label)).collect())
}
