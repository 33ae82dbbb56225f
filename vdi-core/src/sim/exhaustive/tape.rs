//! Records what a crash could leave at each moment of an operation, with what was promised by then.

use std::cell::RefCell;
use std::rc::Rc;

use crate::device::simulated::{Exposure, SimulatedDisk};
use crate::sim::model::Model;
use crate::sim::staging::{Memories, Staged};
use crate::sim::world::World;

/// A stretch between two events of the devices, at its end: what was promised during it is promised.
#[derive(Clone)]
pub struct Moment {
    /// The store, then the logs.
    pub disks: Vec<Exposure>,
    /// What lies in memory that outlives the daemon, where there is such.
    pub staged: Option<Rc<Staged>>,
    /// What everybody knows.
    pub model: Rc<Model>,
    /// Counts promises that a power loss must not break.
    pub promises: u64,
    /// Counts operations that ended: what they did survives a kill.
    pub endings: u64,
    /// Whether this is the life in which the acknowledged was acknowledged, so that a kill loses nothing of it.
    pub same_life: bool,
}

/// The recording.
pub struct Tape {
    model: Rc<RefCell<Model>>,
    memories: Option<Rc<RefCell<Memories>>>,
    write_through: bool,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    disks: Vec<Exposure>,
    moments: Vec<Moment>,
    other_life: bool,
}

impl Tape {
    /// Record what happens to the disks of `world` from now on.
    pub fn start(world: &World) -> Rc<Tape> {
        let tape = Rc::new(Tape {
            model: Rc::clone(&world.model),
            memories: world.options.staged.then(|| Rc::clone(&world.staging)),
            write_through: world.options.write_through,
            state: RefCell::default(),
        });
        for (nth, disk) in world.disks().enumerate() {
            tape.state.borrow_mut().disks.push(Exposure::default());
            let tape = Rc::clone(&tape);
            disk.watch(move |exposure| tape.change(|state| state.disks[nth] = exposure));
        }
        // The first changes only told how things are.
        tape.state.borrow_mut().moments.clear();
        tape
    }
    /// Power was lost: what was acknowledged and not flushed is gone, until somebody looks what is there.
    pub fn power_lost(&self, lost: bool) {
        self.mark();
        self.state.borrow_mut().other_life = lost;
    }
    /// A moment ends although the devices do nothing.
    pub fn mark(&self) {
        self.change(|_| {});
    }
    fn change(&self, change: impl FnOnce(&mut State)) {
        let model = self.model.borrow();
        let mut state = self.state.borrow_mut();
        let moment = Moment {
            disks: state.disks.clone(),
            staged: self.memories.as_ref().map(|m| Rc::new(m.borrow().staged())),
            promises: if self.write_through { endings(&model) } else { promises(&model) },
            endings: endings(&model),
            same_life: !state.other_life,
            model: Rc::new(model.clone()),
        };
        state.moments.push(moment);
        change(&mut state);
    }
    /// Stop recording. The first moment is that before the operation.
    pub fn stop(&self, world: &World) -> Vec<Moment> {
        world.disks().for_each(SimulatedDisk::unwatch);
        self.mark();
        std::mem::take(&mut self.state.borrow_mut().moments)
    }
}

/// Operations that ended, and looks at what a stop left.
fn endings(model: &Model) -> u64 {
    model.report.operations.values().sum::<u64>() + model.report.cycles
}

/// Those of them that promise something which a power loss must not take.
fn promises(model: &Model) -> u64 {
    const WRITTEN_BACK: [&str; 4] = ["read", "write", "discard", "write zeroes"];
    let durable = model.report.operations.iter().filter(|(verb, _)| !WRITTEN_BACK.contains(verb));
    durable.map(|(_, n)| n).sum::<u64>() + model.report.cycles
}
