//! The world in which every sequence begins: a tiny store with two disks, made once.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::image::Image;
use super::operation::{BLOCKS, NAMES, Operation, Verb};
use super::sequence::{operate, resume};
use crate::device::simulated::{Faults, Random};
use crate::engine::{EngineOptions, FormatOptions};
use crate::format::log_head::RING_OFFSET_BYTES;
use crate::limits::LOG_RING_BYTES_MIN;
use crate::sim::model::{Disk, Model};
use crate::sim::options::Options;
use crate::sim::run::{ended, format, recover};
use crate::sim::world::World;
use crate::store::STORE_BYTES_MIN;
use crate::units::BLOCK_BYTES;

/// Dice of the world that is formatted, of the one that is lived in, of those that run a sequence, and of those that
/// recover: identities that one
/// of them gives out must not come again in the next.
const SEED_OF_START: u64 = 1;
const SEED_OF_LIFE: u64 = 2;
/// See [`SEED_OF_START`].
pub const SEED_OF_SEQUENCE: u64 = 3;
/// See [`SEED_OF_START`].
pub const SEED_OF_JUDGE: u64 = 4;

/// Where a sequence begins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Beginning {
    /// Two disks that nobody has written to.
    Fresh,
    /// What [`LIVED_IN`] makes of that.
    LivedIn,
    /// What [`RESIZED`] makes of it.
    Resized,
    /// [`Beginning::Fresh`], of a daemon that acknowledges what is staged.
    Staged,
}

impl Beginning {
    /// What was done to a fresh store.
    #[must_use]
    pub fn operations(self) -> &'static [Operation] {
        match self {
            Beginning::Fresh | Beginning::Staged => &[],
            Beginning::LivedIn => &LIVED_IN,
            Beginning::Resized => &RESIZED,
        }
    }
}

/// A disk with a snapshot, whose other blocks are in the tree or only in the log, and a clone of the snapshot that
/// went its own way.
const LIVED_IN: [Operation; 8] = [
    Operation { verb: Verb::Delete, disk: 1, block: 0 },
    Operation { verb: Verb::Large, disk: 0, block: 0 },
    Operation { verb: Verb::Snapshot, disk: 0, block: 0 },
    Operation { verb: Verb::CloneSnapshot, disk: 0, block: 0 },
    Operation { verb: Verb::Write, disk: 0, block: 2 },
    Operation { verb: Verb::Part, disk: 1, block: 1 },
    Operation { verb: Verb::Checkpoint, disk: 0, block: 0 },
    Operation { verb: Verb::Write, disk: 0, block: 1 },
];

/// A disk that is smaller than its snapshot, with no write between the two, and one that grew a level.
const RESIZED: [Operation; 5] = [
    Operation { verb: Verb::Write, disk: 0, block: 2 },
    Operation { verb: Verb::Snapshot, disk: 0, block: 0 },
    Operation { verb: Verb::Resize, disk: 0, block: 0 },
    Operation { verb: Verb::Write, disk: 1, block: 1 },
    Operation { verb: Verb::Grow, disk: 1, block: 0 },
];

/// Beginnings, each made when it is first needed.
#[derive(Default)]
pub struct Starts(BTreeMap<Beginning, Start>);

impl Starts {
    /// The world as it is there.
    pub fn get(&mut self, beginning: Beginning) -> Result<&Start, String> {
        match self.0.entry(beginning) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(room) => Ok({
                let start = Start::fresh()?.after(beginning.operations())?;
                room.insert(Start { staged: beginning == Beginning::Staged, ..start })
            }),
        }
    }
}

/// A world at rest.
pub struct Start {
    /// What the disks hold.
    pub image: Image,
    /// What everybody knows.
    pub model: Model,
    /// Whether daemons have memory from here on that outlives them.
    pub staged: bool,
}

/// The settings of every world here: the smallest store and log, disks that never fail and take no time.
pub fn options(staged: bool) -> Options {
    Options {
        log_inside: false,
        store_bytes: STORE_BYTES_MIN,
        log_bytes: RING_OFFSET_BYTES + LOG_RING_BYTES_MIN,
        shards_max: 1,
        disks_max: 0,
        outages: false,
        disks: 2,
        in_flight_max: 1,
        operations: 0,
        cycles: 0,
        hot_blocks: BLOCKS,
        write_through: false,
        staged,
        large: false,
        write_blocks_max: BLOCKS,
        heavy: false,
        full: false,
        lazy: false,
        liar: None,
        engine: EngineOptions {
            cache_bytes: 1 << 18,
            staging_bytes: 1 << 18,
            out_of_line_bytes: 2 * BLOCK_BYTES as usize,
            checkpoint_age_ns: u64::MAX / 4,
            tidy_when_idle: false,
            rewrite_blocks_min: 2,
            ..EngineOptions::default()
        },
        verbs: Vec::new(),
        store_faults: Faults::default(),
        log_faults: Faults::default(),
    }
}

impl Start {
    /// Format a store and create two disks that nobody has written to.
    fn fresh() -> Result<Start, String> {
        let mut world = World::with(options(false), Random::new(SEED_OF_START));
        format(&mut world, FormatOptions { vdis_max: Some(8), ..FormatOptions::default() })?;
        recover(&mut world)?;
        for name in &NAMES[..2] {
            let engine = world.engines.clone();
            let made = world.run(async move { engine.create(name, BLOCKS * BLOCK_BYTES).await });
            made.map_err(ended)?.map_err(|e| format!("create: {e:?}"))?;
            let disk = Disk { size_bytes: BLOCKS * BLOCK_BYTES, ..Disk::default() };
            world.model.borrow_mut().disks.insert((*name).to_owned(), disk);
        }
        let engine = world.engines.clone();
        world
            .run(async move { engine.close().await })
            .map_err(ended)?
            .map_err(|e| format!("close: {e:?}"))?;
        Ok(Start::at_rest(&mut world))
    }
    /// After these operations and a kill.
    fn after(self, operations: &[Operation]) -> Result<Start, String> {
        if operations.is_empty() {
            return Ok(self);
        }
        let mut world = World::with(options(false), Random::new(SEED_OF_LIFE));
        resume(&mut world, &self)?;
        let kill = Operation { verb: Verb::Kill, disk: 0, block: 0 };
        for operation in operations.iter().copied().chain([kill]) {
            if !operate(&mut world, operation, None)? {
                return Err(format!("{operation} is not possible"));
            }
        }
        Ok(Start::at_rest(&mut world))
    }
    /// The daemon stops, and all that it wrote becomes durable.
    fn at_rest(world: &mut World) -> Start {
        world.kill();
        world.forget();
        let model = world.model.borrow().clone();
        Start { image: Image::of(world), model, staged: false }
    }
}
