//! The world's machinery: disks, clock, executor and engine, driven until something is over.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;

use super::admin::Admin;
use super::guest::Guest;
use super::model::{Disk, Model};
use super::options::Options;
use super::workload::{self, Action};
use crate::clock::{Clock, ManualClock};
use crate::device::DeviceHandle;
use crate::device::simulated::{CrashPoint, Faults, Random, SimulatedDisk};
use crate::engine::{Engine, Env};
use crate::executor::Executor;
use crate::sabotage::Point;
use crate::vdi::Vdi;

/// An operation that takes longer, in virtual time, is stuck.
const STUCK_NS: u64 = 600_000_000_000;
/// Rounds without the end of an operation after which the world is stuck although time stands still.
const STUCK_ROUNDS: u64 = 200_000;

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
    /// The disk of the log.
    pub log: SimulatedDisk,
    /// Where it stops.
    pub crash_point: CrashPoint,
    /// The engine, while it runs.
    pub engine: Option<Engine>,
    executor: Executor,
    clock: ManualClock,
    devices: Vec<DeviceHandle>,
    open: BTreeMap<String, Vdi>,
}

impl World {
    /// The world of this seed, before anything is formatted.
    #[must_use]
    pub fn new(seed: u64) -> World {
        let mut random = Random::new(seed);
        let options = Options::draw(&mut random);
        let mut model = Model::default();
        model.verbose = std::env::var_os("VERBOSE").is_some();
        let clock = ManualClock::default();
        let crash_point = CrashPoint::default();
        let store = SimulatedDisk::new("store", options.store_bytes, &clock, random.fork(), &crash_point);
        let log = SimulatedDisk::new("log", options.log_bytes, &clock, random.fork(), &crash_point);
        World {
            options,
            random,
            model: Rc::new(RefCell::new(model)),
            store,
            log,
            crash_point,
            engine: None,
            executor: Executor::new(),
            clock,
            devices: Vec::new(),
            open: BTreeMap::new(),
        }
    }
    /// What an engine needs of its surroundings.
    pub fn env(&mut self) -> Env {
        let entropy = RefCell::new(self.random.fork());
        Env {
            executor: self.executor.clone(),
            clock: Rc::new(self.clock.clone()),
            entropy: Rc::new(move || entropy.borrow_mut().bits()),
        }
    }
    /// Fresh handles on store and log.
    pub fn open_devices(&mut self) -> (DeviceHandle, DeviceHandle) {
        let store = DeviceHandle::new(Box::new(self.store.open()));
        let log = DeviceHandle::new(Box::new(self.log.open()));
        self.devices = vec![store.clone(), log.clone()];
        (store, log)
    }
    /// Stop at the moment that the dice say: at some event of a device, `2^scale` of them from now at most, or at
    /// a named point.
    pub fn arm(&mut self, scale: u64) {
        let events = 1 + self.random.below(1 << scale);
        if self.random.below(3) == 0 {
            let point = *self.random.pick(&Point::ALL);
            self.crash_point.arm_at(point, 1 + self.random.below(3));
        } else {
            self.crash_point.arm(events);
        }
    }
    /// Everything in memory is gone; the disks are what they are.
    pub fn forget(&mut self) {
        if let Some(engine) = &self.engine {
            let stats = engine.shared().log.stats();
            self.model.borrow_mut().report.laps += stats.segment_bytes_written / stats.ring_bytes;
        }
        self.open.clear();
        self.engine = None;
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
        self.log.set_faults(if on { log.clone() } else { calm(log) });
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
    fn begin(&mut self, action: Action) -> Result<(), End> {
        let engine = self.engine.clone().expect("the engine runs");
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
    fn touch(&self) {
        self.model.borrow_mut().last_end_ns = self.clock.now_ns();
    }
    /// Turn the wheel until `done`, a crash, or a failure.
    fn drive(&mut self, mut done: impl FnMut(&World) -> bool) -> End {
        let mut idle_rounds = 0;
        let mut seen_end_ns = self.model.borrow().last_end_ns;
        loop {
            self.executor.run_until_stalled();
            if self.crash_point.reached() {
                return End::Crash;
            }
            if self.model.borrow().failure.is_some() {
                return End::Failure;
            }
            if done(self) {
                return End::Done;
            }
            let last_end_ns = self.model.borrow().last_end_ns;
            idle_rounds = if last_end_ns == seen_end_ns { idle_rounds + 1 } else { 0 };
            seen_end_ns = last_end_ns;
            if let Some(why) = self.turn(idle_rounds) {
                let held = self.engine.as_ref().is_some_and(|e| !e.status().held.is_empty());
                if self.options.liar.is_some() && held && self.model.borrow().restart.is_none() {
                    // What a held disk has in the log cannot be trimmed: when the ring is full the others wait.
                    self.model.borrow_mut().restart = Some(why);
                } else {
                    self.model.borrow_mut().fail(why);
                }
            }
        }
    }
    /// One turn: deliver completions, or send what was collected, or let time pass. Says why if nothing moves.
    fn turn(&mut self, idle_rounds: u64) -> Option<String> {
        let delivered = self.devices.iter().filter(|device| device.poll()).count() > 0;
        if delivered && idle_rounds < STUCK_ROUNDS {
            return None;
        }
        if let Some(engine) = &self.engine {
            engine.kick();
            if self.executor.run_until_stalled() > 0 && idle_rounds < STUCK_ROUNDS {
                return None;
            }
        }
        let (now_ns, waiting_ns) = (self.clock.now_ns(), self.model.borrow().last_end_ns);
        let next =
            [self.store.next_completion_ns(), self.log.next_completion_ns(), self.executor.next_timer_ns()];
        let Some(next_ns) = next.into_iter().flatten().min() else {
            return Some(format!(
                "stuck: {} tasks wait and nothing is under way",
                self.executor.task_count()
            ));
        };
        if now_ns.saturating_sub(waiting_ns) > STUCK_NS || idle_rounds >= STUCK_ROUNDS {
            return Some(format!(
                "stuck: {} tasks, no operation ended for {} ms and {idle_rounds} rounds",
                self.executor.task_count(),
                (now_ns - waiting_ns) / 1_000_000
            ));
        }
        self.clock.advance_ns(next_ns.saturating_sub(now_ns));
        self.executor.advance_to(self.clock.now_ns());
        None
    }
}
