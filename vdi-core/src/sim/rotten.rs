//! Worlds whose disks lie: writes that never happen or land elsewhere, reads of the wrong place, bits that turn at
//! rest, flushes that make nothing durable. Here much may be lost. But what is shown must be a state the disk once went
//! through, block by block, and not one from before its last checkpoint; everything else is an error, or a disk that
//! is held; and nothing panics.
//!
//! Only one of store and log lies in a world: that a VDI record is old is known from the log's head, and that the
//! head is old from the segments.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::admin::listed_labels;
use super::content::BlockStamps;
use super::guest::read_stamps;
use super::history::{History, Look};
use super::model::{Disk, Model, Pending, Snapshot};
use super::options::Liar;
use super::run::{check_stores, ended, open, stop, work};
use super::shards::Engines;
use super::verify::{look_at, runs};
use super::world::World;
use crate::check::{CheckOptions, Severity};
use crate::error::ErrorKind;
use crate::units::{Epoch, SECTORS_PER_BLOCK};
use crate::vdi::Vdi;

/// Name of the clones through which snapshots are read.
const PROBE: &str = "probe";

/// Cycle after cycle, with fewer and fewer disks.
pub fn live(world: &mut World, liar: Liar) -> Result<(), String> {
    let mut lost = BTreeMap::new();
    for _ in 0..world.options.cycles {
        work(world)?;
        stop(world, true)?;
        world.model.borrow_mut().report.cycles += 1;
        for _ in 0..world.random.below(4) {
            match liar {
                Liar::Store | Liar::StoreAtRest => world.store.rot(),
                Liar::Log => world.rot_a_log(),
            }
        }
        let hurt = hurt(world)?;
        match open(world).map_err(ended)? {
            Ok(()) => {}
            Err(_) => {
                world.model.borrow_mut().report.refused += 1;
                return Ok(());
            }
        }
        // The checker does not read the data that only the log names.
        let logged = world.engines.all().iter().any(|e| e.status().recovery.records > 0);
        let hurt = hurt.filter(|_| liar == Liar::StoreAtRest && !logged);
        look_again(world, &lost)?;
        lost.extend(compare(world, hurt)?);
        if world.model.borrow().disks.is_empty() {
            return Ok(());
        }
    }
    Ok(())
}

/// The disks that the checker calls hurt, if it can tell for all damage.
fn hurt(world: &mut World) -> Result<Option<BTreeSet<String>>, String> {
    let Ok(report) = check_stores(world, CheckOptions { data: true }) else { return Ok(None) };
    world.model.borrow().say(|| format!("check: {:#?}", report.findings));
    let corrupt = || report.findings.iter().filter(|f| f.severity == Severity::Corrupt);
    if report.incomplete || report.findings_dropped > 0 || corrupt().any(|f| f.hurt.is_empty()) {
        return Ok(None);
    }
    Ok(Some(corrupt().flat_map(|f| f.hurt.iter().map(|h| h.vdi.clone())).collect()))
}

/// Disks that could not be relied on once: nobody has used them since, and what they show must still be right.
fn look_again(world: &mut World, lost: &BTreeMap<String, Disk>) -> Result<(), String> {
    for (name, disk) in lost {
        let (engine, model) = (world.engines.clone(), world.model.clone());
        let look = Witness { engine, model, sample: world.random.bits() };
        let (n, disk) = (name.clone(), disk.clone());
        let settled = world.run(async move { look.disk(&n, disk).await }).map_err(ended)?;
        settled.map_err(|e| format!("disk {name}, which was lost before: {e}"))?;
    }
    Ok(())
}

/// Returns the disks that cannot be relied on any more.
fn compare(world: &mut World, hurt: Option<BTreeSet<String>>) -> Result<BTreeMap<String, Disk>, String> {
    let mut lost = BTreeMap::new();
    let engine = world.engines.clone();
    let model = world.model.clone();
    let pending: Vec<Pending> = std::mem::take(&mut model.borrow_mut().pending).into_values().collect();
    let names: Vec<String> = model.borrow().disks.keys().cloned().collect();
    for name in names {
        let disk = model.borrow().disks[&name].clone();
        let look = Witness { engine: engine.clone(), model: model.clone(), sample: world.random.bits() };
        if pending.iter().any(|p| p.changes(&name)) {
            // What it should hold is open, and on a disk that lies nothing settles it.
            let mut model = model.borrow_mut();
            model.report.refused += 1;
            model.disks.remove(&name);
            continue;
        }
        let n = name.clone();
        let settled = world.run(async move { look.disk(&n, disk).await }).map_err(ended)?;
        let settled = settled.map_err(|e| format!("disk {name}: {e}"))?;
        let mut model = model.borrow_mut();
        let spared = hurt.as_ref().is_some_and(|hurt| !hurt.contains(&name));
        match settled {
            Some(disk) => drop(model.disks.insert(name, disk)),
            None if spared => {
                return Err(format!("disk {name} suffers from damage that the checker says spares it"));
            }
            None => {
                model.report.refused += 1;
                let disk = model.disks.remove(&name);
                lost.extend(disk.map(|disk| (name, disk)));
            }
        }
    }
    Ok(lost)
}

impl Pending {
    /// Whether it leaves open what the disk is.
    fn changes(&self, name: &str) -> bool {
        match self {
            Pending::Vanishes(n) | Pending::Becomes(n, _) | Pending::Resizes(n, _) => n == name,
            Pending::Snapshot(n, ..) | Pending::Removes(n, _) => n == name,
            _ => false,
        }
    }
}

impl Disk {
    /// Whether `observed`, shown without an error, is a state that it went through: not an older one than that of the
    /// last checkpoint. The log remembers which records were durable then, and one of store and log is honest.
    fn check_shown(&self, observed: &BTreeMap<u64, BlockStamps>) -> Result<(), String> {
        let history = self.history.without_promises();
        let checked = history.check(observed, self.checkpointed, Look::Recovered);
        checked.map_err(|violation| violation.0)
    }
}

/// Looks at what a lying disk still shows.
struct Witness {
    engine: Engines,
    model: Rc<RefCell<Model>>,
    sample: u64,
}

impl Witness {
    /// The disk as it is from now on; None when it cannot be relied on.
    async fn disk(&self, name: &str, disk: Disk) -> Result<Option<Disk>, String> {
        let Ok(vdi) = self.engine.open_vdi(name).await else { return Ok(None) };
        let Ok(labels) = listed_labels(&self.engine, name).await else { return Ok(None) };
        let resized = vdi.size_bytes() != disk.size_bytes;
        let seen = if resized { None } else { self.read(&vdi, &disk).await? };
        if vdi.held().is_some() || resized {
            let held = vdi.held();
            self.model.borrow().say(|| format!("{name} is held: {held:?}, or has another size"));
            return Ok(None);
        }
        let Some((observed, known)) = seen else { return Ok(None) };
        disk.check_shown(&observed)?;
        let mut snapshots = BTreeMap::new();
        for (epoch, snapshot) in disk.snapshots {
            if labels.contains_key(&epoch)
                && let Some(seen) = self.snapshot(name, epoch, &snapshot).await?
            {
                snapshots.insert(epoch, seen);
            }
        }
        if labels.keys().any(|epoch| !snapshots.contains_key(epoch)) {
            // Nobody was told of it, or it is hurt: what a clone or a roll-back would show is not known.
            return Ok(None);
        }
        let history = History::settled(&observed, &known);
        Ok(Some(Disk { history, size_bytes: disk.size_bytes, snapshots, ..Disk::default() }))
    }
    async fn snapshot(&self, name: &str, epoch: u64, s: &Snapshot) -> Result<Option<Snapshot>, String> {
        match self.engine.clone_vdi(name, Some(Epoch(epoch)), PROBE).await {
            Ok(_) => {}
            // There is no room to look at it.
            Err(e) if e.kind() == ErrorKind::NoSpace => return Ok(Some(s.clone())),
            Err(_) => return Ok(None),
        }
        let seen = match self.engine.open_vdi(PROBE).await {
            Ok(vdi) => self.read(&vdi, &s.as_disk()).await?,
            Err(_) => None,
        };
        let deleted = self.engine.delete(PROBE, true).await;
        let Some((observed, known)) = seen.filter(|_| deleted.is_ok()) else { return Ok(None) };
        let checked = s.history.without_promises().check(&observed, 0, Look::Recovered);
        checked.map_err(|violation| format!("snapshot {epoch}: {}", violation.0))?;
        Ok(Some(Snapshot { history: History::settled(&observed, &known), ..s.clone() }))
    }
    /// What can be read; None when not everything can. What can be read must be what somebody wrote there.
    async fn read(
        &self,
        vdi: &Vdi,
        disk: &Disk,
    ) -> Result<Option<(BTreeMap<u64, BlockStamps>, BTreeSet<u64>)>, String> {
        let known = disk.history.known();
        let (mut observed, mut whole) = (BTreeMap::new(), true);
        for blocks in runs(&look_at(disk, &known, self.sample)) {
            for block in blocks {
                match read_stamps(vdi, block * SECTORS_PER_BLOCK..(block + 1) * SECTORS_PER_BLOCK).await {
                    Ok(part) => observed.extend(part),
                    Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Io(_)) => whole = false,
                    Err(e) => return Err(format!("block {block}: {e:?}")),
                }
            }
        }
        let mut model = self.model.borrow_mut();
        model.report.blocks_compared += observed.len() as u64;
        model.tell(&format!("{observed:?}"));
        if !whole && vdi.held().is_none() {
            disk.check_shown(&observed)?;
        }
        Ok(whole.then_some((observed, known)))
    }
}
