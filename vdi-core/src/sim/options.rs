//! What a world is like, drawn from its seed. As in swarm testing (Groce and others, ISSTA 2012) each world leaves
//! out some of what is possible, so that rare combinations are not drowned by common ones.

use crate::device::simulated::{Faults, Random, Survival};
use crate::engine::EngineOptions;
use crate::format::extent;
use crate::format::log_head::RING_OFFSET_BYTES;
use crate::limits::{EXTENT_BITS_MIN, LOG_BYTES_MIN};
use crate::units::{BLOCK_BYTES, Geometry};

/// What a guest or the administrator may do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Verb {
    /// A write of any shape.
    Write,
    /// A read of any shape, checked against the model.
    Read,
    /// A discard.
    Discard,
    /// A write of zeroes, with or without the permission to unmap.
    WriteZeroes,
    /// A flush.
    Flush,
    /// A snapshot, with or without a label.
    Snapshot,
    /// A new label for a snapshot.
    Label,
    /// A snapshot removed.
    RemoveSnapshot,
    /// A clone of a disk or of a snapshot.
    Clone,
    /// A disk set back to a snapshot.
    RollBack,
    /// A new disk.
    Create,
    /// A disk deleted.
    Delete,
    /// A disk made larger or smaller.
    Resize,
    /// A checkpoint now.
    Checkpoint,
    /// Collection of dead blocks.
    Collect,
    /// What lies scattered put in order.
    Tidy,
    /// A disk given to another shard.
    Move,
    /// What comes first when the daemon is to stop.
    LeaveStaging,
}

const WEIGHTS: [(Verb, u64, bool); 18] = [
    // (verb, weight, may be left out)
    (Verb::Write, 400, false),
    (Verb::Read, 120, true),
    (Verb::Discard, 40, true),
    (Verb::WriteZeroes, 40, true),
    (Verb::Flush, 60, true),
    (Verb::Snapshot, 40, true),
    (Verb::Label, 8, true),
    (Verb::RemoveSnapshot, 10, true),
    (Verb::Clone, 10, true),
    (Verb::RollBack, 8, true),
    (Verb::Create, 6, true),
    (Verb::Delete, 6, true),
    (Verb::Resize, 10, true),
    (Verb::Checkpoint, 25, true),
    (Verb::Collect, 16, true),
    (Verb::Tidy, 12, true),
    (Verb::Move, 16, true),
    (Verb::LeaveStaging, 3, true),
];

/// How the machine stops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// The daemon is killed; the disks go on.
    Kill,
    /// Power is lost, with this much surviving on the store and on the log.
    Power(Survival, Survival),
    /// The daemon is asked to stop; then power is lost.
    Close,
}

/// Extents are of the smallest size.
pub const EXTENT_BITS: u32 = EXTENT_BITS_MIN;
const GEOMETRY: Geometry = Geometry { extent_bits: EXTENT_BITS };
const EXTENT_BYTES: u64 = GEOMETRY.extent_blocks() * BLOCK_BYTES;
/// What an extent gives a log.
const LOG_EXTENT_BYTES: u64 = EXTENT_BYTES - extent::overhead_blocks(GEOMETRY) as u64 * BLOCK_BYTES;

/// Which device lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Liar {
    /// The store: writes that do not happen, land elsewhere, rot or are forgotten at a power loss although they were
    /// flushed; reads from elsewhere.
    Store,
    /// The store, but only while nobody runs: bits turn.
    StoreAtRest,
    /// The log.
    Log,
}

/// A world's settings.
#[derive(Clone, Debug)]
pub struct Options {
    /// Size of the store.
    pub store_bytes: u64,
    /// Size of each shard's log.
    pub log_bytes: u64,
    /// Whether the log lies in the store; there is one shard then.
    pub log_inside: bool,
    /// Shards at most; how many there are is drawn at each start.
    pub shards_max: u16,
    /// Disks at the start.
    pub disks: u64,
    /// Disks at most.
    pub disks_max: usize,
    /// Operations under way at once.
    pub in_flight_max: u64,
    /// Operations between two stops.
    pub operations: u64,
    /// Crash-and-recover cycles.
    pub cycles: u64,
    /// Blocks that most requests hit.
    pub hot_blocks: u64,
    /// Whether guests wait for durability (write-through).
    pub write_through: bool,
    /// Whether there is memory that outlives the daemon.
    pub staged: bool,
    /// Whether large disks are among them.
    pub large: bool,
    /// Blocks that a write touches at most: a small log takes no large records.
    pub write_blocks_max: u64,
    /// Whether large writes are common.
    pub heavy: bool,
    /// Whether the disks together are larger than the store.
    pub full: bool,
    /// Whether the engine starts anew after each comparison, with no disk open.
    pub lazy: bool,
    /// Whether the tree of a disk cannot be read for a while, now and then.
    pub outages: bool,
    /// Which device lies, if any: see `rotten`.
    pub liar: Option<Liar>,
    /// The engine's own choices.
    pub engine: EngineOptions,
    /// Weights of the verbs.
    pub verbs: Vec<(Verb, u64)>,
    /// What goes wrong with the store while guests run.
    pub store_faults: Faults,
    /// What goes wrong with the logs while guests run.
    pub log_faults: Faults,
}

impl Options {
    /// The settings of one world.
    pub fn draw(random: &mut Random) -> Options {
        let verbs = draw_verbs(random);
        let Trouble { liar, mut store_faults, log_faults } = Trouble::draw(random);
        let full = random.below(6) == 0;
        if full && random.coin() {
            (store_faults.slow_read, store_faults.slow_ns_max) = LATE_READS;
        }
        // Many disks that are used little: much is opened, resized and copied while others checkpoint.
        let crowd = !full && random.below(12) == 0;
        let stores: &[u64] = if full { &[16, 18, 20] } else { &[64, 64, 96, 256] };
        // (ring, blocks that its largest record takes); the first two wrap in every cycle. The smallest that the
        // product takes is rare: most of such a world's time would go into reading zeros.
        let rings: [(u64, u64); 3] = [(1 << 20, 16), (2 << 20, 48), (12 << 20, 260)];
        let (ring_bytes, write_blocks_max) = match random.below(12) {
            0 => (LOG_BYTES_MIN, 260),
            _ if full => rings[2],
            _ => *random.pick(&rings),
        };
        // Room for the log and as much again, besides what the disks take.
        let store_bytes = *random.pick(stores) << 20;
        let log_bytes = RING_OFFSET_BYTES + ring_bytes;
        let shards: &[u16] = if full { &[1, 1, 1, 2] } else { &[1, 1, 1, 2, 3] };
        let log_inside = !full && liar.is_none() && 4 * log_bytes <= store_bytes && random.below(5) == 0;
        let shards_max = match (store_bytes / 4 / log_bytes).min(3) as u16 {
            // Starts with more and less.
            room if log_inside => 1 + random.below(u64::from(room)) as u16,
            _ => *random.pick(shards),
        };
        let log_bytes =
            if log_inside { log_bytes.div_ceil(LOG_EXTENT_BYTES) * LOG_EXTENT_BYTES } else { log_bytes };
        let operations = if full || ring_bytes < 4 << 20 { 60..250 } else { 10..120 };
        let disks = match (full, crowd) {
            (true, _) => 3..6,
            (_, true) => 6..16,
            _ => 1..4,
        };
        Options {
            store_bytes,
            log_bytes,
            log_inside,
            write_blocks_max,
            heavy: full || ring_bytes < 4 << 20 && random.coin(),
            full,
            shards_max,
            lazy: crowd || random.below(4) == 0,
            engine: draw_engine(random),
            disks: random.within(disks),
            disks_max: if crowd { 18 } else { 6 },
            in_flight_max: *random.pick(&[1, 2, 4, 16, 16]),
            operations: random.within(operations),
            cycles: random.within(1..5),
            hot_blocks: *random.pick(&[4, 16, 64, 320]),
            write_through: random.below(4) == 0,
            staged: random.below(4) > 0,
            large: random.coin(),
            outages: !full && liar.is_none() && random.below(10) == 0,
            verbs,
            liar,
            store_faults,
            log_faults,
        }
    }
    /// Whether errors of the devices are to be expected.
    #[must_use]
    pub fn is_faulty(&self) -> bool {
        let failing = [&self.store_faults, &self.log_faults]
            .iter()
            .any(|f| f.read_error + f.write_error + f.flush_error + f.no_space + f.flipped_read > 0);
        failing || self.liar.is_some()
    }
    /// Whether the devices fail now and then, and what they say is true when they do not.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        let faults = [&self.store_faults, &self.log_faults];
        let fails = |f: &Faults| f.read_error + f.write_error + f.flush_error + f.no_space > 0;
        self.liar.is_none() && faults.iter().any(|f| fails(f)) && faults.iter().all(|f| f.flipped_read == 0)
    }
    /// How the next stop happens.
    pub fn draw_stop(random: &mut Random) -> Stop {
        match random.below(10) {
            0..=2 => Stop::Kill,
            3 | 4 => Stop::Close,
            _ => Stop::Power(draw_survival(random), draw_survival(random)),
        }
    }
    /// A verb by weight.
    pub fn draw_verb(&self, random: &mut Random) -> Verb {
        let total: u64 = self.verbs.iter().map(|(_, weight)| weight).sum();
        let mut at = random.below(total);
        for (verb, weight) in &self.verbs {
            if at < *weight {
                return *verb;
            }
            at -= weight;
        }
        Verb::Write
    }
}

/// What is asked for, and how often.
fn draw_verbs(random: &mut Random) -> Vec<(Verb, u64)> {
    let mut verbs: Vec<(Verb, u64)> = WEIGHTS
        .iter()
        .filter(|(_, _, optional)| !optional || random.below(4) > 0)
        .map(|(verb, weight, _)| (*verb, *weight))
        .collect();
    // Guests that do little, so that what the administrator does is not drowned.
    let idle = random.below(8) == 0;
    for (verb, weight) in &mut verbs {
        *weight *= *random.pick(&[1, 1, 1, 4]);
        if idle && verb.is_of_guest() {
            *weight = weight.div_ceil(8);
        }
    }
    verbs.sort_unstable();
    verbs
}

impl Verb {
    fn is_of_guest(self) -> bool {
        matches!(self, Verb::Write | Verb::Read | Verb::Discard | Verb::WriteZeroes | Verb::Flush)
    }
}

/// How many reads are slow, per million, and how long anything slow takes at most, ns: none; many, checkpoints' too; a few
/// that come so late that several checkpoints end meanwhile.
const QUICK_READS: (u32, u64) = (0, 1_000_000_000);
const SLOW_READS: (u32, u64) = (300_000, 1_000_000_000);
const LATE_READS: (u32, u64) = (20_000, 10_000_000_000);

/// What is wrong with the devices.
struct Trouble {
    liar: Option<Liar>,
    store_faults: Faults,
    log_faults: Faults,
}

impl Trouble {
    fn draw(random: &mut Random) -> Trouble {
        let delay_ns_max = *random.pick(&[0, 0, 100_000, 5_000_000]);
        let slow = *random.pick(&[500, 500, 500, 50_000]);
        let (slow_read, slow_ns_max) = *random.pick(&[QUICK_READS, QUICK_READS, SLOW_READS, LATE_READS]);
        let quiet = Faults { delay_ns_max, slow_ns_max, slow, slow_read, ..Faults::default() };
        // A log far ahead of the store is full again and again.
        let store_delay_ns_max = if random.below(6) == 0 { 20_000_000 } else { delay_ns_max };
        let faulty = random.below(5) == 0;
        let faults = |random: &mut Random| if faulty { draw_faults(&quiet, random) } else { quiet.clone() };
        let liars = [Liar::Store, Liar::Store, Liar::StoreAtRest, Liar::Log];
        let liar = (random.below(10) == 0).then(|| *random.pick(&liars));
        let (mut store_faults, mut log_faults) = (faults(random), faults(random));
        match liar {
            Some(Liar::Store) if random.below(3) == 0 => {
                let lying_flush = *random.pick(&[300_000, 1_000_000]);
                (store_faults, log_faults) = (Faults { lying_flush, ..quiet.clone() }, quiet.clone());
            }
            Some(Liar::Store) => (store_faults, log_faults) = (draw_lies(&quiet, random), quiet.clone()),
            Some(Liar::Log) => (store_faults, log_faults) = (quiet.clone(), draw_lies(&quiet, random)),
            Some(Liar::StoreAtRest) => (store_faults, log_faults) = (quiet.clone(), quiet.clone()),
            None => {}
        }
        store_faults.delay_ns_max = store_delay_ns_max;
        Trouble { liar, store_faults, log_faults }
    }
}

/// Small caches, so that what is in memory seldom hides what is on the disks.
fn draw_engine(random: &mut Random) -> EngineOptions {
    EngineOptions {
        cache_bytes: *random.pick(&[1 << 12, 1 << 18, 256 << 20]),
        staging_bytes: *random.pick(&[1 << 14, 1 << 18, 256 << 20]),
        // The last: never.
        out_of_line_bytes: *random.pick(&[1 << 13, 1 << 14, 64 << 10, 2 << 20]),
        tidy_when_idle: random.below(4) == 0,
        rewrite_blocks_min: *random.pick(&[2, 2, 16]),
        rewrite_blocks_max: *random.pick(&[16, 256, 16_384]),
        checkpoint_age_ns: *random.pick(&[1_000_000, 1_000_000_000, 10_000_000_000]),
        ..EngineOptions::default()
    }
}

/// What a power loss leaves.
pub fn draw_survival(random: &mut Random) -> Survival {
    let chance = random.below(1_000_000) as u32;
    *random.pick(&[
        Survival::Nothing,
        Survival::Everything,
        Survival::Writes(chance),
        Survival::Sectors(chance),
        Survival::Sectors(500_000),
        Survival::Prefix,
    ])
}

/// Some faults of those that the engine must turn into errors, never into wrong data.
fn draw_faults(quiet: &Faults, random: &mut Random) -> Faults {
    let mut faults = quiet.clone();
    let rate = *random.pick(&[500, 5_000, 50_000]);
    match random.below(6) {
        0 => faults.read_error = rate,
        1 => faults.write_error = rate,
        2 => faults.flush_error = rate,
        3 => faults.no_space = rate,
        4 => faults.flipped_read = rate,
        _ => {}
    }
    faults
}

/// Some faults of those that are found by checksums, addresses and generations, or by nobody.
fn draw_lies(quiet: &Faults, random: &mut Random) -> Faults {
    let mut faults = quiet.clone();
    let rate = *random.pick(&[4_000, 40_000]);
    match random.below(5) {
        0 => faults.lost_write = rate,
        1 => faults.misdirected_write = rate,
        2 => faults.misdirected_read = rate,
        3 => faults.rotten_write = rate,
        _ => faults.flipped_read = rate,
    }
    faults
}
