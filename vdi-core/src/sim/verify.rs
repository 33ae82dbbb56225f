//! After a recovery: names, sizes, snapshots and every block must be what the model allows; then the model knows
//! what is certain.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::Rc;

use super::admin::listed_labels;
use super::content::BlockStamps;
use super::guest::read_stamps;
use super::history::{History, Look, NEVER};
use super::model::{Disk, Model, Pending, Snapshot};
use super::shards::Engines;
use super::world::Lost;
use crate::device::simulated::Random;
use crate::engine::Engine;
use crate::units::{BLOCK_BYTES, Epoch, SECTORS_PER_BLOCK};
use crate::vdi::Vdi;

/// A broken promise, for people.
type Outcome<T> = std::result::Result<T, String>;

/// Blocks read at once.
const CHUNK_BLOCKS: u64 = 64;
/// Disks of at most so many blocks are compared whole.
const WHOLE_BLOCKS_MAX: u64 = 128;
/// Blocks looked at anywhere in a larger disk.
const SAMPLES: usize = 12;
/// Name of the clones through which snapshots are read.
const PROBE: &str = "probe";

/// Compares a recovered engine with the model.
#[derive(Clone)]
pub struct Verifier {
    /// The engines.
    pub engine: Engines,
    /// What everybody knows.
    pub model: Rc<RefCell<Model>>,
    /// What may be gone since the last time.
    pub lost: Lost,
    /// Which blocks that nobody wrote are looked at.
    pub sample: u64,
}

impl Verifier {
    /// Compare everything; afterwards the model holds what is certain now.
    pub async fn everything(&self) -> Outcome<()> {
        let pending: Vec<Pending> =
            std::mem::take(&mut self.model.borrow_mut().pending).into_values().collect();
        self.appear(&pending);
        let names = self.names(&pending).await?;
        for status in self.engine.all().iter().map(Engine::status) {
            if !status.held.is_empty() || status.recovery.findings > 0 {
                return Err(format!("recovery holds {:?}, {:?}", status.held, status.recovery));
            }
        }
        for name in names {
            self.disk(&name, &pending).await.map_err(|e| format!("disk {name}: {e}"))?;
        }
        Ok(())
    }
    /// Enter the disks that may have appeared.
    fn appear(&self, pending: &[Pending]) {
        let mut model = self.model.borrow_mut();
        let now = model.now();
        for p in pending {
            let (name, disk) = match p {
                Pending::Appears(name, disk) => (name, disk.clone()),
                Pending::Clones(new, source, issued) => {
                    (new, model.disk(source).frozen(*issued, now).as_disk())
                }
                _ => continue,
            };
            model.disks.insert(name.clone(), disk);
        }
    }
    async fn names(&self, pending: &[Pending]) -> Outcome<Vec<String>> {
        let listed: BTreeSet<String> = self
            .engine
            .list()
            .await
            .map_err(|e| format!("list: {e:?}"))?
            .into_iter()
            .map(|v| v.name)
            .collect();
        let mut model = self.model.borrow_mut();
        let optional = |name: &str| {
            pending.iter().any(|p| match p {
                Pending::Appears(n, _) | Pending::Clones(n, ..) | Pending::Vanishes(n) => n == name,
                _ => false,
            })
        };
        for name in &listed {
            if !model.disks.contains_key(name) {
                return Err(format!("disk {name} is there and should not be"));
            }
        }
        for name in model.disks.keys() {
            if !listed.contains(name) && !optional(name) {
                return Err(format!("disk {name} is gone"));
            }
        }
        model.disks.retain(|name, _| listed.contains(name));
        Ok(listed.into_iter().collect())
    }
    async fn disk(&self, name: &str, pending: &[Pending]) -> Outcome<()> {
        let vdi = self.engine.open_vdi(name).await.map_err(|e| format!("open: {e:?}"))?;
        let size_bytes = vdi.size_bytes();
        let labels = listed_labels(&self.engine, name).await.map_err(|e| format!("snapshots: {e:?}"))?;
        let expected = self.model.borrow_mut().disk(name).clone();
        let mut variants = vec![expected.clone()];
        for p in pending {
            match p {
                Pending::Becomes(n, disk) if n == name => variants.push(disk.clone()),
                Pending::Resizes(n, size_bytes) if n == name => {
                    variants.push(Disk { size_bytes: *size_bytes, ..expected.clone() });
                }
                _ => {}
            }
        }
        variants.retain(|v| v.size_bytes == size_bytes);
        let Some(some) = variants.first() else {
            return Err(format!("its size is {size_bytes}, expected {}", expected.size_bytes));
        };
        let known = variants.iter().flat_map(|v| v.history.known()).collect();
        let observed = self.read(&vdi, some, &known).await?;
        // A snapshot that is there holds what was acknowledged before it, and so does the disk.
        let seen = labels.keys().filter(|epoch| !expected.snapshots.contains_key(epoch)).count();
        let snapshot = pending.iter().filter_map(|p| match p {
            Pending::Snapshot(n, issued, _) if n == name && seen > 0 => Some(*issued),
            _ => None,
        });
        let snapshot = snapshot.max().unwrap_or(0);
        let mut reasons = Vec::new();
        for variant in &variants {
            let bound = if self.lost.is_of(name) { variant.flushed.max(snapshot) } else { NEVER };
            match variant.history.check(&observed, bound, Look::Recovered) {
                Ok(()) => {
                    reasons.clear();
                    break;
                }
                Err(violation) => reasons.push(violation.0),
            }
        }
        if !reasons.is_empty() {
            return Err(reasons.join("; or else: "));
        }
        let snapshots = self.snapshots(name, &expected, labels, pending)?;
        let history = History::settled(&observed, &known);
        self.model
            .borrow_mut()
            .disks
            .insert(name.to_owned(), Disk { history, size_bytes, snapshots, ..Disk::default() });
        Ok(())
    }
    fn snapshots(
        &self,
        name: &str,
        expected: &Disk,
        listed: BTreeMap<u64, Option<String>>,
        pending: &[Pending],
    ) -> Outcome<BTreeMap<u64, Snapshot>> {
        let vanishing = pending.iter().any(|p| matches!(p, Pending::Vanishes(n) if n == name));
        let removing = |epoch: u64| {
            pending.iter().any(|p| matches!(p, Pending::Removes(n, e) if n == name && *e == epoch))
        };
        for epoch in expected.snapshots.keys() {
            if !listed.contains_key(epoch) && !removing(*epoch) && !vanishing {
                return Err(format!("snapshot {epoch} is gone"));
            }
        }
        let mut found = BTreeMap::new();
        for (epoch, label) in listed {
            let (mut snapshot, mut labels) = match expected.snapshots.get(&epoch) {
                Some(s) => (s.clone(), vec![s.label.clone()]),
                None => (self.unacknowledged(name, expected, pending, epoch)?, Vec::new()),
            };
            for p in pending {
                match p {
                    Pending::Labels(n, e, l) if n == name && *e == epoch => labels.push(Some(l.clone())),
                    Pending::Snapshot(n, _, l) if n == name => labels.push(l.clone()),
                    _ => {}
                }
            }
            if !labels.contains(&label) {
                return Err(format!("snapshot {epoch} is labelled {label:?}, expected one of {labels:?}"));
            }
            snapshot.label = label;
            found.insert(epoch, snapshot);
        }
        Ok(found)
    }
    /// A snapshot that nobody was told of: only right if one was being taken.
    fn unacknowledged(
        &self,
        name: &str,
        expected: &Disk,
        pending: &[Pending],
        epoch: u64,
    ) -> Outcome<Snapshot> {
        let issued = pending.iter().find_map(|p| match p {
            Pending::Snapshot(n, issued, _) if n == name => Some(*issued),
            _ => None,
        });
        let now = self.model.borrow_mut().now();
        let issued = issued.ok_or_else(|| format!("snapshot {epoch} is there and nobody took it"))?;
        Ok(expected.frozen(issued, now))
    }
    /// Read one snapshot through a clone and compare it.
    pub async fn snapshot(&self, name: &str, epoch: u64) -> Outcome<()> {
        let context = |what: &str, e: crate::Error| format!("snapshot {name}@{epoch}: {what}: {e:?}");
        match self.engine.clone_vdi(name, Some(Epoch(epoch)), PROBE).await {
            Ok(_) => {}
            Err(e) if e.kind() == crate::ErrorKind::NoSpace => return Ok(()),
            Err(e) => return Err(context("clone", e)),
        }
        let vdi = self.engine.open_vdi(PROBE).await.map_err(|e| context("open its clone", e))?;
        let snapshot = self.model.borrow_mut().disk(name).snapshots[&epoch].clone();
        if vdi.size_bytes() != snapshot.size_bytes {
            return Err(format!(
                "snapshot {name}@{epoch}: its size is {}, expected {}",
                vdi.size_bytes(),
                snapshot.size_bytes
            ));
        }
        let known = snapshot.history.known();
        let observed = self.read(&vdi, &snapshot.as_disk(), &known).await?;
        snapshot
            .history
            .check(&observed, 0, Look::Recovered)
            .map_err(|violation| format!("snapshot {name}@{epoch}: {}", violation.0))?;
        drop(vdi);
        self.engine.delete(PROBE, true).await.map_err(|e| context("delete its clone", e))?;
        let mut model = self.model.borrow_mut();
        if let Some(s) = model.disk(name).snapshots.get_mut(&epoch) {
            s.history = History::settled(&observed, &known);
        }
        Ok(())
    }
    /// Every block in `known`, its neighbours, and some that nobody ever wrote; a small disk whole.
    async fn read(
        &self,
        vdi: &Vdi,
        disk: &Disk,
        known: &BTreeSet<u64>,
    ) -> Outcome<BTreeMap<u64, BlockStamps>> {
        let mut observed = BTreeMap::new();
        for blocks in runs(&look_at(disk, known, self.sample)) {
            let sectors: Range<u64> = blocks.start * SECTORS_PER_BLOCK..blocks.end * SECTORS_PER_BLOCK;
            let part = read_stamps(vdi, sectors).await;
            observed.extend(part.map_err(|e| format!("read of blocks {blocks:?}: {e:?}"))?);
        }
        let mut model = self.model.borrow_mut();
        model.report.blocks_compared += observed.len() as u64;
        model.tell(&format!("{observed:?}"));
        Ok(observed)
    }
}

/// The blocks to compare.
pub fn look_at(disk: &Disk, known: &BTreeSet<u64>, sample: u64) -> BTreeSet<u64> {
    let blocks = disk.size_bytes / BLOCK_BYTES;
    if blocks <= WHOLE_BLOCKS_MAX {
        return (0..blocks).collect();
    }
    let near = |b: &u64| [b.saturating_sub(1), *b, b + 1];
    let mut random = Random::new(sample ^ blocks);
    let areas = disk.areas();
    let edges = areas.iter().flat_map(|a| [a.start, a.end - 1]);
    let within = areas.iter().map(|a| random.within(a.clone())).collect::<Vec<u64>>();
    let anywhere = (0..SAMPLES).map(|_| random.below(blocks)).collect::<Vec<u64>>();
    let all = known.iter().flat_map(near).chain(edges).chain(within).chain(anywhere);
    all.filter(|b| *b < blocks).collect()
}

/// Neighbours together, as far as one request goes.
pub fn runs(blocks: &BTreeSet<u64>) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for block in blocks {
        match runs.last_mut() {
            Some(run) if run.end == *block && run.end - run.start < CHUNK_BLOCKS => run.end += 1,
            _ => runs.push(*block..block + 1),
        }
    }
    runs
}
