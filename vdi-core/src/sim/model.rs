//! What the world knows: per disk its history, per snapshot a frozen copy, and the changes of names and sizes
//! that nobody has acknowledged yet.

use std::collections::BTreeMap;
use std::ops::Range;

use super::content::Stamp;
use super::history::{History, Tick};
use crate::buffer::crc32c;
use crate::device::simulated::{FaultCounts, Random};
use crate::sabotage::Passes;
use crate::units::{BLOCK_BYTES, SECTORS_PER_BLOCK};

/// Where most requests go: the start of a disk, and both sides of where a tree of two and of three levels ends.
pub const AREAS: [Range<u64>; 3] = [0..320, (1 << 16) - 16..(1 << 16) + 16, (1 << 24) - 8..(1 << 24) + 8];

/// A snapshot as it must be.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// What it holds.
    pub history: History,
    /// Its size.
    pub size_bytes: u64,
    /// Its label.
    pub label: Option<String>,
}

impl Snapshot {
    /// A disk that starts from it.
    #[must_use]
    pub fn as_disk(&self) -> Disk {
        Disk { history: self.history.clone(), size_bytes: self.size_bytes, ..Disk::default() }
    }
}

/// A disk as it must be.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    /// What it may hold.
    pub history: History,
    /// Its size.
    pub size_bytes: u64,
    /// When the last flush (or snapshot) that succeeded was issued.
    pub flushed: Tick,
    /// When the last checkpoint of the disks that succeeded was issued.
    pub checkpointed: Tick,
    /// Its snapshots by epoch.
    pub snapshots: BTreeMap<u64, Snapshot>,
    /// Requests of its guest under way.
    pub requests: u32,
    /// An operation that wants the disk for itself, or for its snapshots, is under way.
    pub claimed: bool,
    /// It wants the guest's requests to wait, too.
    pub exclusive: bool,
}

impl Disk {
    /// The parts of [`AREAS`] within the disk, in blocks.
    #[must_use]
    pub fn areas(&self) -> Vec<Range<u64>> {
        let blocks = self.size_bytes / BLOCK_BYTES;
        AREAS.iter().map(|a| a.start..a.end.min(blocks)).filter(|a| a.start < a.end).collect()
    }
    /// The disk as a snapshot taken between `issued` and `now` holds it.
    #[must_use]
    pub fn frozen(&self, issued: Tick, now: Tick) -> Snapshot {
        Snapshot { history: self.history.freeze(issued, now), size_bytes: self.size_bytes, label: None }
    }
    /// Guest sectors.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.size_bytes / BLOCK_BYTES * SECTORS_PER_BLOCK
    }
}

/// An operation of the administrator that may or may not have happened when the world stops.
#[derive(Clone, Debug)]
pub enum Pending {
    /// A disk may be there, with this history and size.
    Appears(String, Disk),
    /// A clone by this name of the present state of that disk, asked for at this moment, may be there.
    Clones(String, String, Tick),
    /// A disk may be gone.
    Vanishes(String),
    /// A disk may have become another one (roll-back).
    Becomes(String, Disk),
    /// A disk may have this size.
    Resizes(String, u64),
    /// A snapshot issued at this moment may be there, with this label.
    Snapshot(String, Tick, Option<String>),
    /// A snapshot may carry this label.
    Labels(String, u64, String),
    /// A snapshot may be gone.
    Removes(String, u64),
}

/// Stops in a row during recovery, at most.
pub const RECOVERY_STOPS_MAX: usize = 3;

/// What happened in a world, or in many.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Operations that ended, by verb.
    pub operations: BTreeMap<&'static str, u64>,
    /// Operations that were refused or failed, by kind.
    pub errors: BTreeMap<String, u64>,
    /// Stops and recoveries.
    pub cycles: u64,
    /// Stops during a recovery: of that, of the one after it, and of the one after that.
    pub cycles_in_recovery: [u64; RECOVERY_STOPS_MAX],
    /// Disks opened by guests while other things went on.
    pub opened_late: u64,
    /// Times that the log's ring was written once around.
    pub laps: u64,
    /// Times that a disk's tree could not be read for a while.
    pub outages: u64,
    /// Times that failing devices worked again without a restart.
    pub healed: u64,
    /// Starts that missed the staging memory.
    pub missed: u64,
    /// Writers that waited for room in the log.
    pub waits: u64,
    /// Rotten worlds that the engine refused to open, and disks that it held or could not read.
    pub refused: u64,
    /// Named points: how often passed, and how often a world stopped there.
    pub points: Passes,
    /// Blocks compared with the model.
    pub blocks_compared: u64,
    /// Faults of the devices.
    pub faults: FaultCounts,
}

impl Report {
    /// Add another report to this one.
    pub fn merge(&mut self, other: &Report) {
        for (verb, n) in &other.operations {
            *self.operations.entry(verb).or_default() += n;
        }
        for (kind, n) in &other.errors {
            *self.errors.entry(kind.clone()).or_default() += n;
        }
        self.cycles += other.cycles;
        for (mine, theirs) in self.cycles_in_recovery.iter_mut().zip(other.cycles_in_recovery) {
            *mine += theirs;
        }
        self.opened_late += other.opened_late;
        self.laps += other.laps;
        self.waits += other.waits;
        self.outages += other.outages;
        self.healed += other.healed;
        self.missed += other.missed;
        self.refused += other.refused;
        self.points.merge(&other.points);
        self.blocks_compared += other.blocks_compared;
        self.faults.merge(&other.faults);
    }
}

/// Everything the clients of a world share.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// The disks by name.
    pub disks: BTreeMap<String, Disk>,
    /// Operations of the administrator under way, by number.
    pub pending: BTreeMap<u64, Pending>,
    /// Operations under way.
    pub in_flight: u64,
    /// When the last operation ended, ns of the world's clock.
    pub last_end_ns: u64,
    /// The first broken promise.
    pub failure: Option<String>,
    /// Why the daemon has to be restarted.
    pub restart: Option<String>,
    /// Shards that are open.
    pub shards: u16,
    /// Writes are acknowledged when they are on the logs' devices, in a world that stages.
    pub left_staging: bool,
    /// Whether the devices may fail now.
    pub errors_expected: bool,
    /// The disk whose tree cannot be read now.
    pub unreadable: Option<String>,
    /// What happened.
    pub report: Report,
    /// Say on stderr what happens.
    pub verbose: bool,
    /// A hash of everything that anybody was told: equal for equal seeds.
    pub told: u64,
    tick: Tick,
    stamp: Stamp,
    numbers: u64,
}

impl Model {
    /// Take `what` into the trace.
    pub fn tell(&mut self, what: &str) {
        let mix = u64::from(crc32c(what.as_bytes())) << 24 ^ self.tick;
        self.told = Random::new(self.told ^ mix).bits();
    }
    /// Say what happens, when asked to.
    pub fn say(&self, what: impl FnOnce() -> String) {
        if self.verbose {
            eprintln!("{:5} {}", self.tick, what());
        }
    }
    /// A new moment.
    pub fn now(&mut self) -> Tick {
        self.tick += 1;
        self.tick
    }
    /// A checkpoint that was issued at this moment has succeeded.
    pub fn checkpointed(&mut self, issued: Tick) {
        self.disks.values_mut().for_each(|disk| disk.checkpointed = disk.checkpointed.max(issued));
    }
    /// Content that no other write has.
    pub fn stamp(&mut self) -> Stamp {
        self.stamp += 1;
        self.stamp
    }
    /// A number for a new name, label or pending operation.
    pub fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }
    /// The disk of that name is about to be another one, or none: a clone of it that may be there is of what it was.
    pub fn leaves(&mut self, name: &str) {
        let now = self.now();
        let Some(disk) = self.disks.get(name) else { return };
        for pending in self.pending.values_mut() {
            if let Pending::Clones(new, source, issued) = pending
                && source == name
            {
                *pending = Pending::Appears(new.clone(), disk.frozen(*issued, now).as_disk());
            }
        }
    }
    /// Note a broken promise; the first one counts.
    pub fn fail(&mut self, what: impl Into<String>) {
        let what = what.into();
        self.failure.get_or_insert(what);
    }
    /// The disk of that name. Panics when the model has none: clients only name what is there.
    pub fn disk(&mut self, name: &str) -> &mut Disk {
        self.disks.get_mut(name).unwrap_or_else(|| panic!("the model has a disk {name}"))
    }
}
