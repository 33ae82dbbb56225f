//! A data thread: an epoll loop around one engine. It serves the rings of the attached disks, does what other shards
//! and the control socket ask, and drives the engine's tasks; kicks, completions and timers all arrive here, and
//! nothing here ever blocks but `epoll_wait`. There may be several; the first is the home shard, whose `front`
//! takes the commands of the control socket.
//!
//! One turn of the loop: take requests from the rings that have some (each becomes a task), deliver what
//! the devices have done, run every task that can go on, let the log send what it has collected, put what
//! has ended into the used rings, tell each guest once. When a turn finds nothing the loop polls on for a
//! moment if that has paid lately, then asks the guests to kick, and sleeps.
//!
//! Invariants:
//! - a ring is given up only when none of its requests is in flight;
//! - requests in flight are bounded by the rings' sizes, commands by the control socket's connections.

mod answer;
mod attach;
pub mod attached_file;
mod command;
pub mod devices;
mod event_loop;
pub mod execute;
mod front;
mod place;
mod polling;
mod reorder;
mod serve;
pub mod staging;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vdi_core::clock::Clock;
use vdi_core::engine::Engine;
use vdi_core::executor::{Executor, Signal};
use vdi_core::vdi::Vdi;

use crate::control::api::command::CommandSender;
use crate::control::api::run_dir::RunDir;
use crate::vhost::{DataLink, DataPort, DeviceId, DeviceState, Endpoint, Event, SocketAccess};
use attached_file::{Attachment, Keeper};
use front::Front;
use place::Inbox;
use serve::Finished;

pub use event_loop::Shard;
pub use place::{Place, places};

/// Disks attached at once at most: each has a socket and a thread.
pub const ATTACHED_MAX: usize = 512;
/// A checkpoint at the end of the daemon takes no longer than this, ns.
const LAST_CHECKPOINT_NS: u64 = 10_000_000_000;
/// Rings at the end of the daemon are given this long to finish what is in flight, ns.
const LAST_REQUESTS_NS: u64 = 5_000_000_000;

/// What a shard is told at its start.
#[derive(Clone)]
pub struct ShardOptions {
    /// Where the sockets go.
    pub run_dir: RunDir,
    /// Who may connect to them.
    pub access: SocketAccess,
    /// Complete requests in an order drawn from this seed (for tests).
    pub reorder_seed: Option<u64>,
    /// Answer requests and do nothing else: what is left to measure is the loop (for benches).
    pub null_disks: bool,
    /// The store as the user named it.
    pub store_url: String,
    /// The log as the user named it.
    pub log_path: String,
    /// The file of its staging memory, which nobody needs after a stop in good order.
    pub staging: PathBuf,
    /// Bound of the node cache, for `status`.
    pub cache_bytes: u64,
}

/// Asks the shard to end, from any thread.
#[derive(Clone)]
pub struct Stop {
    asked: Arc<AtomicBool>,
    wake: Event,
}

impl Stop {
    /// Checkpoint (for 10 s at most), finish what is in flight, end. Attachments stay for the next daemon.
    pub fn ask(&self) {
        self.asked.store(true, Ordering::SeqCst);
        self.wake.ring();
    }
    fn is_asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }
}

/// What the tasks of a shard share.
struct World {
    executor: Executor,
    clock: Rc<dyn Clock>,
    engine: Engine,
    options: ShardOptions,
    link: DataLink,
    disks: RefCell<BTreeMap<DeviceId, Rc<Disk>>>,
    next_id: Cell<u64>,
    /// Ended requests on their way to the used rings.
    finished: RefCell<Vec<Finished>>,
    started_ns: u64,
    /// Everything is given up: the loop may end.
    over: Cell<bool>,
    /// The end has begun.
    leaving: Cell<bool>,
    /// Something is in the staging memory only.
    left_behind: Cell<bool>,
}

/// An attached disk.
struct Disk {
    attachment: Attachment,
    vdi: Vdi,
    device: Arc<DeviceState>,
    endpoint: RefCell<Option<Endpoint>>,
    /// No ring may be started: a roll-back is going on.
    closed: Cell<bool>,
    /// The socket's thread has given up everything.
    gone: Cell<bool>,
    on_gone: Signal,
}

impl World {
    fn disk(&self, name: &str) -> Option<Rc<Disk>> {
        self.disks.borrow().values().find(|d| d.attachment.vdi == name).cloned()
    }
}

/// The ends that other threads hold.
pub struct Ends {
    /// For the control socket.
    pub commands: CommandSender,
    /// For signals.
    pub stop: Stop,
}

/// A shard around `engine`. Nothing runs before [`Shard::run`].
///
/// # Errors
/// Where the process has no descriptors left.
pub fn shard(
    place: Place,
    engine: Engine,
    executor: Executor,
    clock: Rc<dyn Clock>,
    options: ShardOptions,
) -> vdi_core::Result<Shard> {
    let (world, port, inbox) = world(place, engine, executor, clock, options);
    Shard::new(world, port, inbox, None)
}

/// As [`shard`] for the home shard, with the ends for other threads.
///
/// # Errors
/// Where the process has no descriptors or threads left.
pub fn home_shard(
    place: Place,
    engine: Engine,
    executor: Executor,
    clock: Rc<dyn Clock>,
    options: ShardOptions,
) -> vdi_core::Result<(Shard, Ends)> {
    let (wake, worlds) = (place.link.waker(), place.worlds.clone());
    let (commands, receiver) = {
        let wake = wake.clone();
        crate::control::api::command::channel(move || wake.ring())
    };
    let stop = Stop { asked: Arc::default(), wake: wake.clone() };
    let keeper = Keeper::start(options.run_dir.attached_json(), wake)?;
    let (world, port, inbox) = world(place, engine, executor, clock, options);
    let front = Rc::new(Front::new(Rc::clone(&world), worlds, keeper));
    let orders = event_loop::Orders { front, commands: receiver, stop: stop.clone() };
    let shard = Shard::new(world, port, inbox, Some(orders))?;
    Ok((shard, Ends { commands, stop }))
}

fn world(
    place: Place,
    engine: Engine,
    executor: Executor,
    clock: Rc<dyn Clock>,
    options: ShardOptions,
) -> (Rc<World>, DataPort, Arc<Inbox>) {
    let started_ns = clock.now_ns();
    let world = Rc::new(World {
        executor,
        clock,
        engine,
        options,
        link: place.link,
        disks: RefCell::default(),
        next_id: Cell::new(1),
        finished: RefCell::default(),
        started_ns,
        over: Cell::new(false),
        leaving: Cell::new(false),
        left_behind: Cell::new(false),
    });
    (world, place.port, place.inbox)
}
