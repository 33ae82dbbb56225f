//! The world's machinery: disks, clock, executor and engine, driven until something is over.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::rc::Rc;

use super::admin::Admin;
use super::guest::Guest;
use super::model::{Disk, Model};
use super::options::Options;
use super::shards::Engines;
use super::staging::Memories;
use super::workload::{self, Action};
use crate::clock::{Clock, ManualClock};
use crate::device::DeviceHandle;
use crate::device::simulated::{CrashPoint, Faults, Random, SimulatedDisk, Survival};
use crate::engine::Env;
use crate::executor::Executor;
use crate::log::StagingMemory;
use crate::sabotage::Point;
use crate::vdi::Vdi;

/// An operation that takes longer, in virtual time, is stuck.
const STUCK_NS: u64 = 600_000_000_000;
/// Rounds without the end of an operation after which the world is stuck although time stands still.
const STUCK_ROUNDS: u64 = 200_000;
/// Bounds of a world that follows a script.
const SCRIPTED_DISKS_MAX: u64 = 2;
const SCRIPTED_OPERATIONS_MAX: u64 = 80;

/// How a stretch of the world's life ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// What was waited for happened.
    Done,
    /// The crash point was reached.
    Crash,
    /// The model noted a broken promise.
    Failure,
}

/// Which disks may have lost what was acknowledged and not flushed.
#[derive(Clone, PartialEq, Eq, Default)]
pub enum Lost {
    /// None: the daemon was killed, or closed.
    #[default]
    Nothing,
    /// These: what was staged of them was given up for want of it.
    Staged(BTreeSet<String>),
    /// All: power was lost.
    Unflushed,
}

impl Lost {
    /// What a stop takes, with or without the power.
    #[must_use]
    pub fn with(power_lost: bool) -> Lost {
        if power_lost { Lost::Unflushed } else { Lost::Nothing }
    }
    /// Whether `disk` is one of them.
    #[must_use]
    pub fn is_of(&self, disk: &str) -> bool {
        match self {
            Lost::Nothing => false,
            Lost::Staged(disks) => disks.contains(disk),
            Lost::Unflushed => true,
        }
    }
}

/// A seeded world.
pub struct World {
    /// Its settings.
    pub options: Options,
    /// Its dice.
    pub random: Random,
    /// What everybody knows.
    pub model: Rc<RefCell<Model>>,
    /// The disk of the store.
    pub store: SimulatedDisk,
    /// The disks of the logs, by shard.
    pub logs: Vec<SimulatedDisk>,
    /// What outlives the daemon but not the host.
    pub staging: Rc<RefCell<Memories>>,
    /// What the last stop, and the starts after it, may have taken.
    pub lost: Lost,
    /// Where it stops.
    pub crash_point: CrashPoint,
    /// The engines, while they run.
    pub engines: Engines,
    executor: Executor,
    clock: ManualClock,
    pub devices: Vec<DeviceHandle>,
    open: BTreeMap<String, Vdi>,
    scripted: bool,
}

impl World {
    /// The world of this seed, before anything is formatted.
    #[must_use]
    pub fn new(seed: u64) -> World {
        let mut random = Random::new(seed);
        let options = Options::draw(&mut random);
        World::with(options, random)
    }
    /// A world with these settings and dice, before anything is formatted.
    #[must_use]
    pub fn with(options: Options, mut random: Random) -> World {
        let store = random.fork();
        let logs = (0..options.shards_max).map(|_| random.fork()).collect();
        World::with_dice(options, random, store, logs)
    }
    /// The world whose dice are loaded with `script`: what happens, and what the store's and the log's disk do.
    /// Small and short, and it ends with its script.
    #[must_use]
    pub fn scripted(script: &[u8]) -> World {
        let (lengths, script) = script.split_at_checked(2).unwrap_or((&[0, 0], &[]));
        let (what, disks) = script.split_at(script.len() - script.len() * usize::from(lengths[0]) / 512);
        let (store, logs) = disks.split_at(disks.len() * usize::from(lengths[1]) / 256);
        let mut random = Random::scripted(what);
        let drawn = Options::draw(&mut random);
        let options = Options {
            disks: drawn.disks.min(SCRIPTED_DISKS_MAX),
            operations: drawn.operations.min(SCRIPTED_OPERATIONS_MAX),
            ..drawn
        };
        let logs = (0..options.shards_max).map(|_| Random::scripted(logs)).collect();
        let world = World::with_dice(options, random, Random::scripted(store), logs);
        World { scripted: true, ..world }
    }
    fn with_dice(options: Options, random: Random, store: Random, logs: Vec<Random>) -> World {
        let mut model = Model::default();
        model.verbose = std::env::var_os("VERBOSE").is_some();
        let clock = ManualClock::default();
        let crash_point = CrashPoint::default();
        let store = SimulatedDisk::new("store", options.store_bytes, &clock, store, &crash_point);
        let log = |dice| SimulatedDisk::new("log", options.log_bytes, &clock, dice, &crash_point);
        let logs: Vec<SimulatedDisk> = logs.into_iter().map(log).collect();
        let staging = Rc::new(RefCell::new(Memories::new(&options)));
        World {
            options,
            random,
            model: Rc::new(RefCell::new(model)),
            store,
            logs,
            staging,
            lost: Lost::default(),
            crash_point,
            engines: Engines::default(),
            executor: Executor::new(),
            clock,
            devices: Vec::new(),
            open: BTreeMap::new(),
            scripted: false,
        }
    }
    /// Whether it followed a script that has come to its end.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.scripted && self.random.script_left() == 0
    }
    /// What an engine needs of its surroundings.
    pub fn env(&mut self) -> Env {
        let entropy = RefCell::new(self.random.fork());
        Env {
            executor: self.executor.clone(),
            clock: Rc::new(self.clock.clone()),
            entropy: Rc::new(move || entropy.borrow_mut().bits()),
            staging: StagingMemory::default(),
        }
    }
    /// Fresh handles on the disks of store and logs.
    pub fn open_devices(&mut self) -> (DeviceHandle, Vec<DeviceHandle>) {
        let open = |disk: &SimulatedDisk| DeviceHandle::new(Box::new(disk.open()));
        let (store, logs) = (open(&self.store), self.logs.iter().map(open).collect::<Vec<_>>());
        self.devices = std::iter::once(&store).chain(&logs).cloned().collect();
        (store, logs)
    }
    /// The store's disk, then those of the logs.
    pub fn disks(&self) -> impl Iterator<Item = &SimulatedDisk> {
        std::iter::once(&self.store).chain(&self.logs)
    }
    /// The daemon dies; the disks go on.
    pub fn kill(&self) {
        self.disks().for_each(SimulatedDisk::kill);
    }
    /// Power goes and comes back.
    pub fn power_loss(&mut self, survival: Survival) {
        self.disks().for_each(|disk| drop(disk.power_loss(survival)));
        self.staging.borrow_mut().reboot(&mut self.random);
    }
    /// One bit of what lies on one of the logs turns.
    pub fn rot_a_log(&mut self) {
        self.random.pick(&self.logs).rot();
    }
    /// Stop at the moment that the dice say: at some event of a device, `2^scale` of them from now at most, or at
    /// a named point.
    pub fn arm(&mut self, scale: u64) {
        self.arm_among(scale, &Point::ALL);
    }
    /// As [`World::arm`], for a start.
    pub fn arm_start(&mut self, scale: u64) {
        match self.random.coin() {
            true => self.arm_among(scale, &Point::AT_START),
            false => self.arm(scale),
        }
    }
    fn arm_among(&mut self, scale: u64, points: &[Point]) {
        let events = 1 + self.random.below(1 << scale);
        if self.random.coin() {
            let point = *self.random.pick(points);
            let passes = *self.random.pick(&[3, 3, 30]);
            self.crash_point.arm_at(point, 1 + self.random.below(passes));
        } else {
            self.crash_point.arm(events);
        }
    }
    /// Everything in memory is gone; the disks are what they are.
    pub fn forget(&mut self) {
        for engine in self.engines.all() {
            let stats = engine.shared().log.stats();
            let mut model = self.model.borrow_mut();
            model.report.laps += stats.segment_bytes_written / stats.ring_bytes;
            model.report.waits += stats.waits;
        }
        self.open.clear();
        self.engines.forget();
        self.executor.abandon_all();
        self.executor = Executor::new();
        self.devices.clear();
        let mut model = self.model.borrow_mut();
        model.in_flight = 0;
        model.restart = None;
    }
    /// Let the devices fail as the settings say, or not at all.
    pub fn set_faults(&mut self, on: bool) {
        let calm = |f: &Faults| Faults { delay_ns_max: f.delay_ns_max, ..Faults::default() };
        let (store, log) = (&self.options.store_faults, &self.options.log_faults);
        self.store.set_faults(if on { store.clone() } else { calm(store) });
        self.logs.iter().for_each(|disk| disk.set_faults(if on { log.clone() } else { calm(log) }));
        self.model.borrow_mut().errors_expected = on && self.options.is_faulty();
    }
    /// Run `work` to its end, or to the crash, or to a broken promise.
    pub fn run<T: 'static>(&mut self, work: impl Future<Output = T> + 'static) -> Result<T, End> {
        let out = Rc::new(RefCell::new(None));
        let slot = Rc::clone(&out);
        self.executor.spawn(async move {
            let value = work.await;
            *slot.borrow_mut() = Some(value);
        });
        self.touch();
        match self.drive(|_| out.borrow().is_some()) {
            End::Done => Ok(out.borrow_mut().take().expect("the work is done")),
            end => Err(end),
        }
    }
    /// Let guests and administrator do `operations` things, and wait for them.
    pub fn busy(&mut self, operations: u64) -> End {
        let mut left = operations;
        loop {
            let mut patience = 20;
            while left > 0 && patience > 0 && self.model.borrow().in_flight < self.options.in_flight_max {
                patience -= 1;
                let action = workload::draw(&mut self.model.borrow_mut(), &self.options, &mut self.random);
                let Some(action) = action else { continue };
                left -= 1;
                if let Err(end) = self.begin(action) {
                    return end;
                }
                // Now and then the engine gets to run between two arrivals.
                if self.random.coin() {
                    break;
                }
            }
            if patience == 0 && self.model.borrow().in_flight == 0 {
                // Nothing of what the dice offer is possible here.
                left = 0;
            }
            if self.model.borrow().restart.is_some() || left == 0 && self.model.borrow().in_flight == 0 {
                return End::Done;
            }
            let before = self.model.borrow().in_flight;
            if before == 0 {
                // What was to begin could not: its disk did not open.
                continue;
            }
            let room = left > 0 && before < self.options.in_flight_max;
            let mut rounds = self.random.below(4);
            let end = self.drive(|world| {
                let model = world.model.borrow();
                rounds = rounds.saturating_sub(1);
                model.in_flight < before || model.restart.is_some() || room && rounds == 0
            });
            if end != End::Done {
                return end;
            }
        }
    }
    /// Begin to do something; [`World::settle`] waits for its end.
    pub fn begin(&mut self, action: Action) -> Result<(), End> {
        let engine = self.engines.clone();
        let model = Rc::clone(&self.model);
        model.borrow().say(|| format!("{action:?}"));
        match action {
            Action::Guest(name, request) => {
                if !self.open.contains_key(&name) {
                    let (e, n) = (engine.clone(), name.clone());
                    match self.run(async move { e.open_vdi(&n).await })? {
                        Ok(vdi) => {
                            self.model.borrow_mut().report.opened_late += 1;
                            self.open.insert(name.clone(), vdi);
                        }
                        Err(e) => {
                            self.model.borrow_mut().judge("open", &name, &e);
                            return Ok(());
                        }
                    }
                    // Other things happened while it was opened.
                    if self.model.borrow().disks.get(&name).is_none_or(|d: &Disk| d.exclusive) {
                        self.open.remove(&name);
                        return Ok(());
                    }
                }
                let write_through = self.options.write_through;
                let guest = Guest { vdi: self.open[&name].clone(), name, model, write_through };
                guest.model.borrow_mut().in_flight += 1;
                guest.model.borrow_mut().disk(&guest.name).requests += 1;
                self.spawn(guest.run(request));
            }
            Action::Admin(order) => {
                if let (_, Some(name)) = order.verb_and_disk() {
                    let mut model = self.model.borrow_mut();
                    let disk = model.disk(name);
                    (disk.claimed, disk.exclusive) = (true, order.is_exclusive());
                    if order.is_exclusive() {
                        self.open.remove(name);
                    }
                }
                model.borrow_mut().in_flight += 1;
                self.spawn(Admin { engine, model }.run(order));
            }
        }
        Ok(())
    }
    fn spawn(&self, work: impl Future<Output = ()> + 'static) {
        let (model, clock) = (Rc::clone(&self.model), self.clock.clone());
        self.executor.spawn(async move {
            work.await;
            let mut model = model.borrow_mut();
            model.in_flight -= 1;
            model.last_end_ns = clock.now_ns();
        });
    }
    /// Wait for the end of everything begun, and until the engine rests: nothing is under way that time alone would
    /// not start.
    pub fn settle(&mut self) -> End {
        let end = self.drive(|world| world.model.borrow().in_flight == 0);
        if end != End::Done {
            return end;
        }
        self.rest()
    }
    /// Run what can run; the end, if that was one.
    fn run_tasks(&self) -> Option<End> {
        self.executor.run_until_stalled();
        if self.crash_point.reached() {
            return Some(End::Crash);
        }
        self.model.borrow().failure.is_some().then_some(End::Failure)
    }
    /// Wait until the engine rests.
    pub fn rest(&mut self) -> End {
        loop {
            if let Some(end) = self.run_tasks() {
                return end;
            }
            let now_ns = self.clock.now_ns();
            if !self.stir() && self.next_completion_ns().is_none_or(|next_ns| next_ns > now_ns) {
                return End::Done;
            }
        }
    }
    fn touch(&self) {
        self.model.borrow_mut().last_end_ns = self.clock.now_ns();
    }
    /// Turn the wheel until `done`, a crash, or a failure.
    fn drive(&mut self, mut done: impl FnMut(&World) -> bool) -> End {
        let mut idle_rounds = 0;
        let mut seen_end_ns = self.model.borrow().last_end_ns;
        loop {
            if let Some(end) = self.run_tasks() {
                return end;
            }
            if done(self) {
                return End::Done;
            }
            let last_end_ns = self.model.borrow().last_end_ns;
            idle_rounds = if last_end_ns == seen_end_ns { idle_rounds + 1 } else { 0 };
            seen_end_ns = last_end_ns;
            if let Some(why) = self.turn(idle_rounds) {
                let held = self.engines.all().iter().any(|e| !e.status().held.is_empty());
                if self.options.liar.is_some() && held && self.model.borrow().restart.is_none() {
                    // What a held disk has in the log cannot be trimmed: when the ring is full the others wait.
                    self.model.borrow_mut().restart = Some(why);
                } else {
                    self.model.borrow_mut().fail(why);
                }
            }
        }
    }
    /// Deliver completions, or else pass on what shards ask of each other and send what was collected; false when there
    /// is nothing of the kind.
    fn stir(&mut self) -> bool {
        if self.devices.iter().filter(|device| device.poll()).count() > 0 {
            return true;
        }
        let asked = self.engines.pass_on();
        self.engines.all().iter().for_each(|e| _ = e.kick());
        asked | (self.executor.run_until_stalled() > 0)
    }
    fn next_completion_ns(&self) -> Option<u64> {
        self.disks().filter_map(SimulatedDisk::next_completion_ns).min()
    }
    /// One turn: deliver completions, or send what was collected, or let time pass. Says why if nothing moves.
    fn turn(&mut self, idle_rounds: u64) -> Option<String> {
        if self.stir() && idle_rounds < STUCK_ROUNDS {
            return None;
        }
        let (now_ns, waiting_ns) = (self.clock.now_ns(), self.model.borrow().last_end_ns);
        let next = [self.next_completion_ns(), self.executor.next_timer_ns()];
        let Some(next_ns) = next.into_iter().flatten().min() else {
            return Some(format!(
                "stuck: {} tasks wait and nothing is under way",
                self.executor.task_count()
            ));
        };
        if now_ns.saturating_sub(waiting_ns) > STUCK_NS || idle_rounds >= STUCK_ROUNDS {
            return Some(format!(
                "stuck: {} tasks, no operation ended for {} ms and {idle_rounds} rounds; held: {:?}",
                self.executor.task_count(),
                (now_ns - waiting_ns) / 1_000_000,
                self.engines.all().iter().flat_map(|e| e.status().held).collect::<Vec<_>>()
            ));
        }
        self.clock.advance_ns(next_ns.saturating_sub(now_ns));
        self.executor.advance_to(self.clock.now_ns());
        None
    }
}
