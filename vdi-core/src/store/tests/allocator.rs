//! Whatever is claimed, freed, trimmed and lost, no block has two lives, and in the end each is accounted for.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::super::reuse::ReadPin;
use super::*;
use crate::ErrorKind;
use crate::clock::ManualClock;
use crate::device::simulated::{CrashPoint, Faults, Random, SimulatedDisk, Survival};
use crate::format::extent::overhead_blocks;
use crate::gc::sweep;
use crate::sabotage::Bug;
use crate::sabotage::property::finds;
use crate::tree::walk::BlockSet;

const STORE_BYTES: u64 = 24 << 20;
const KINDS: [ExtentKind; 2] = [ExtentKind::Data, ExtentKind::Metadata];

#[derive(Clone, Debug)]
enum Act {
    /// Allocate a run of one of [`KINDS`], of this many blocks at most.
    Allocate(usize, u32),
    /// A run that is referenced, or soon would be, is replaced.
    Free(prop::sample::Index),
    /// What is allocated becomes referenced, what was replaced goes into quarantine.
    Commit,
    /// The log goes on.
    Append,
    /// The log is trimmed up to this many segments before its end.
    Trim(u64),
    /// A read begins.
    Read,
    /// A read ends.
    EndRead(prop::sample::Index),
    /// Writes to the device begin to fail, or no longer do.
    Errors(bool),
    /// The machine stops after so many device events and an attempt to do this first; unreachable blocks are found.
    Crash(Survival, Option<(u8, bool)>),
}

fn survival() -> impl Strategy<Value = Survival> {
    prop_oneof![
        Just(Survival::Nothing),
        Just(Survival::Everything),
        (0..=1_000_000u32).prop_map(Survival::Writes),
        (0..=1_000_000u32).prop_map(Survival::Sectors),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    let blocks = prop_oneof![6 => 1u32..40, 2 => 100u32..600];
    let late = proptest::option::of((1u8..12, any::<bool>()));
    prop_oneof![
        12 => (0usize..2, blocks).prop_map(|(k, n)| Act::Allocate(k, n)),
        6 => any::<prop::sample::Index>().prop_map(Act::Free),
        4 => Just(Act::Commit),
        3 => Just(Act::Append),
        4 => (0u64..3).prop_map(Act::Trim),
        2 => Just(Act::Read),
        2 => any::<prop::sample::Index>().prop_map(Act::EndRead),
        1 => any::<bool>().prop_map(Act::Errors),
        2 => (survival(), late).prop_map(|(s, late)| Act::Crash(s, late)),
    ]
}

/// Runs by first block, so that those that touch stay apart.
type Runs = BTreeMap<BlockAddr, Run>;

/// What the store must know.
#[derive(Default)]
struct Model {
    /// What durable records name.
    referenced: Runs,
    /// Allocated since the last commit.
    new: Runs,
    /// Replaced since the last commit, with whether durable records name them.
    replaced: Vec<(Run, bool)>,
    /// In quarantine: with the reads that had begun and the segment that may name them.
    waiting: Vec<(Run, u64, u64)>,
    reads: Vec<(u64, ReadPin)>,
    next_read: u64,
    newest: u64,
    tail: u64,
}

impl Model {
    fn alive(&self) -> impl Iterator<Item = Run> + '_ {
        let waiting = self.waiting.iter().map(|(run, ..)| run);
        let replaced = self.replaced.iter().map(|(run, _)| run);
        self.referenced.values().chain(self.new.values()).chain(replaced).chain(waiting).copied()
    }
    fn blocks(&self) -> BTreeSet<BlockAddr> {
        let mut all = BTreeSet::new();
        for run in self.alive() {
            for i in 0..u64::from(run.blocks) {
                assert!(all.insert(run.start.plus(i)), "{run:?} has two lives");
            }
        }
        all
    }
    /// Take out of quarantine what nobody can name any more, as far as the oldest that somebody can.
    fn trim(&mut self) {
        let blocked = |(_, begun, segment): &(Run, u64, u64)| {
            self.reads.iter().any(|(read, _)| read < begun) || *segment >= self.tail
        };
        let out = self.waiting.iter().position(blocked).unwrap_or(self.waiting.len());
        self.waiting.drain(..out);
    }
}

struct World {
    disk: SimulatedDisk,
    crash: CrashPoint,
    executor: Executor,
    device: DeviceHandle,
    store: Option<Store>,
    model: Model,
    errors: bool,
}

impl World {
    fn new(seed: u64) -> World {
        let crash = CrashPoint::default();
        let clock = ManualClock::default();
        let disk = SimulatedDisk::new("store", STORE_BYTES, &clock, Random::new(seed), &crash);
        let device = DeviceHandle::new(Box::new(disk.open()));
        let model = Model { newest: 1, tail: 1, ..Model::default() };
        let mut world =
            World { disk, crash, executor: Executor::new(), device, store: None, model, errors: false };
        let dev = world.device.clone();
        let made = async move { Store::create(&dev, Uuid(1), Uuid(2), 3, CreateOptions::default()).await };
        world.run(made).unwrap().unwrap();
        world.open();
        world
    }
    /// None when the machine stopped first.
    fn run<T: 'static>(&self, work: impl Future<Output = T> + 'static) -> Option<T> {
        let out = Rc::new(RefCell::new(None));
        let slot = Rc::clone(&out);
        self.executor.spawn(async move {
            let value = work.await;
            *slot.borrow_mut() = Some(value);
        });
        while self.executor.run_until_stalled() > 0 || self.device.poll() {}
        let value = out.borrow_mut().take();
        assert!(value.is_some() || self.crash.reached(), "the work waits for what never comes");
        value
    }
    fn open(&mut self) {
        let dev = self.device.clone();
        self.store = Some(self.run(Store::open(dev)).unwrap().unwrap());
    }
    fn store(&self) -> Store {
        self.store.clone().unwrap()
    }
    /// Whether the store went on.
    fn act(&mut self, act: &Act) -> bool {
        match act {
            Act::Allocate(kind, most) => return self.allocate(KINDS[*kind], *most),
            Act::Free(which) => {
                let model = &mut self.model;
                let named = !model.referenced.is_empty();
                let of = if named { &mut model.referenced } else { &mut model.new };
                if !of.is_empty() {
                    let start = *of.keys().nth(which.index(of.len())).unwrap();
                    model.replaced.push((of.remove(&start).unwrap(), named));
                }
            }
            Act::Commit => return self.commit(),
            Act::Append => self.model.newest += 1,
            Act::Trim(back) => {
                self.model.tail = self.model.tail.max((self.model.newest + 1).saturating_sub(*back));
                self.model.trim();
                let store = self.store();
                let released = store.release(SegmentSeq(self.model.tail));
                assert!(store.give_back(released).is_empty());
            }
            Act::Read => {
                self.model.reads.push((self.model.next_read, self.store().read_pin()));
                self.model.next_read += 1;
            }
            Act::EndRead(which) => {
                if !self.model.reads.is_empty() {
                    let which = which.index(self.model.reads.len());
                    drop(self.model.reads.remove(which));
                }
            }
            Act::Errors(on) => {
                self.errors = *on;
                let write_error = if *on { 300_000 } else { 0 };
                self.disk.set_faults(Faults { write_error, ..Faults::default() });
            }
            Act::Crash(survival, late) => self.crash(*survival, *late),
        }
        true
    }
    fn allocate(&mut self, kind: ExtentKind, most: u32) -> bool {
        let store = self.store();
        match self.run(async move { store.allocate(kind, most).await }) {
            Some(Ok(run)) => {
                assert!(run.blocks >= 1 && run.blocks <= most, "{run:?} of {most}");
                self.model.new.insert(run.start, run);
                self.model.blocks();
            }
            Some(Err(e)) if e.kind() == ErrorKind::NoSpace => self.must_be_full(kind),
            Some(Err(e)) => assert!(self.errors, "{e:?}"),
            None => return false,
        }
        true
    }
    /// Every block of every extent of this kind is in the model, or the store has given up too early.
    fn must_be_full(&self, kind: ExtentKind) {
        let (store, g) = (self.store(), self.store().geometry());
        let catalogue = store.0.catalogue.borrow();
        let is_of = |addr| catalogue.entries[g.extent(addr).0 as usize].kind == kind;
        let extents = catalogue.entries.iter().filter(|e| e.kind == kind).count() as u64;
        let held = self.model.blocks().into_iter().filter(|addr| is_of(*addr)).count() as u64;
        let usable = extents * (g.extent_blocks() - u64::from(overhead_blocks(g)));
        assert_eq!(held, usable, "no space for {kind:?} in {extents} extents");
        assert_eq!(catalogue.entries.iter().filter(|e| e.kind == ExtentKind::Free).count(), 0);
    }
    fn commit(&mut self) -> bool {
        let store = self.store();
        let written = self.run(async move {
            store.write_host_record().await?;
            store.write_dirty_bitmaps().await?;
            store.flush().await
        });
        match written {
            Some(Ok(())) => {}
            Some(Err(e)) => {
                assert!(self.errors, "{e:?}");
                return true;
            }
            None => return false,
        }
        let model = &mut self.model;
        model.referenced.append(&mut model.new);
        let freed: Vec<Run> = model.replaced.drain(..).map(|(run, _)| run).collect();
        if !freed.is_empty() {
            model.waiting.extend(freed.iter().map(|run| (*run, model.next_read, model.newest)));
            self.store().quarantine(freed.into_iter().collect(), SegmentSeq(self.model.newest));
        }
        true
    }
    fn crash(&mut self, survival: Survival, late: Option<(u8, bool)>) {
        if let Some((events, commits)) = late {
            self.crash.arm(u64::from(events));
            // Whether that ends before the stop does not matter.
            let _ = if commits { self.commit() } else { self.allocate(ExtentKind::Data, 600) };
        }
        self.model.reads.clear();
        self.store = None;
        self.executor.abandon_all();
        self.executor = Executor::new();
        self.crash.disarm();
        self.errors = false;
        self.disk.set_faults(Faults::default());
        self.disk.power_loss(survival);
        self.device = DeviceHandle::new(Box::new(self.disk.open()));
        self.open();
        // What was replaced and not committed is still named, if it ever was.
        let model = &mut self.model;
        let back = model.replaced.drain(..).filter(|(_, named)| *named);
        model.referenced.extend(back.map(|(run, _)| (run.start, run)));
        model.new.clear();
        model.waiting.clear();
        self.find_unreachable();
    }
    /// As a restart on a full store does: what nothing names is free, and then nothing else is in use.
    fn find_unreachable(&mut self) {
        let (store, g) = (self.store(), self.store().geometry());
        let mut reached = BlockSet::new(g, store.superblock().extents);
        for addr in self.model.blocks() {
            assert!(store.is_used(addr), "{addr} is referenced and free");
            assert_eq!(reached.insert(addr), Some(true));
        }
        for run in store.untouchable() {
            for i in 0..u64::from(run.blocks) {
                reached.insert(run.start.plus(i));
            }
        }
        for (number, used) in store.owned_bitmaps() {
            store.give_back_unreachable(sweep(g, number, &used, &reached).into_iter().collect());
        }
    }
    fn account(&self) {
        let space = self.store().space();
        let used = (space.data_bytes + space.metadata_bytes) / BLOCK_BYTES;
        assert_eq!(used, self.model.blocks().len() as u64, "blocks in use, {space:?}");
        let waiting = self.model.waiting.iter().map(|(run, ..)| u64::from(run.blocks)).sum::<u64>();
        assert_eq!(space.quarantined_bytes, waiting * BLOCK_BYTES, "in quarantine");
    }
}

fn live(seed: u64, acts: &[Act]) {
    let mut world = World::new(seed);
    for act in acts {
        world.act(act);
        world.account();
    }
    world.crash(Survival::Nothing, None);
    world.account();
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    proptest::collection::vec(act(), 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn no_block_has_two_lives_and_each_is_accounted_for(seed in any::<u64>(), acts in acts()) {
        live(seed, &acts);
    }
}

#[test]
fn seeded_bugs_of_the_allocator_are_found() {
    for bug in [Bug::SkipBitmaps, Bug::FailedClaimLost, Bug::ReuseBeforeTrim, Bug::ReuseUnderReader] {
        let law = |(seed, acts): (u64, Vec<Act>)| {
            live(seed, &acts);
            Ok(())
        };
        assert!(finds(bug, &(any::<u64>(), acts()), law), "{bug:?} hides");
    }
}
