//! One shard's world: its store, log, node cache and open VDIs. It recovers, orders checkpoints, trims
//! the log, applies back-pressure, and creates, clones and deletes VDIs. It knows nothing of vhost,
//! threads, command lines or HTTP.
//!
//! Order of a checkpoint, and why: data, nodes and the host record are written, then store and log are
//! flushed, then the VDI records are written and flushed, then the log is trimmed. So a record never
//! names what a power loss can take, never claims more of the log than is durable, and nothing the log
//! alone holds is forgotten.

mod checkpoint;
mod clone;
mod collect;
mod held;
mod home;
mod lifecycle;
mod open;
mod options;
mod shards;
mod snapshots;
mod status;
mod tidy;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::RawFd;
use std::rc::Rc;

use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::executor::{Executor, TaskLock};
use crate::latency::Latencies;
use crate::log::StagingMemory;
use crate::store::{Run, Store};
use crate::units::{Generation, Uuid, VdiId};
use crate::vdi::{Shared, Vdi};

pub use clone::TreeVdi;
pub use collect::{Collected, Reclaimable};
pub use options::{EngineOptions, FormatOptions};

/// The shards of this host, as their engines see each other.
pub type Peers = crate::peers::Peers<Engine>;
pub use status::{CheckpointStats, Status, VdiInfo};
pub use tidy::Tidied;

/// What the engine gets from outside.
#[derive(Clone)]
pub struct Env {
    /// Runs every task; whoever drives it calls [`Engine::poll`] and [`Engine::kick`].
    pub executor: Executor,
    /// Boot time for decisions, wall time for people.
    pub clock: Rc<dyn Clock>,
    /// Random bits for identities.
    pub entropy: Rc<dyn Fn() -> u64>,
    /// Memory that outlives the daemon, if there is any; the shard's own.
    pub staging: StagingMemory,
}

impl Env {
    /// 128 random bits, never zero.
    #[must_use]
    pub fn uuid(&self) -> Uuid {
        let (a, b) = ((self.entropy)(), (self.entropy)());
        Uuid(((u128::from(a) << 64) | u128::from(b)).max(1))
    }
}

/// Handle on an open engine; clones share it.
#[derive(Clone)]
pub struct Engine(Rc<Inner>);

struct Inner {
    env: Env,
    shared: Rc<Shared>,
    options: EngineOptions,
    /// None when this is the only shard.
    peers: Option<Peers>,
    /// On the home shard: the others that are open.
    joined: RefCell<BTreeSet<u16>>,
    /// On the home shard: held by whoever takes a VDI out of a shard, or needs those of all shards.
    between: TaskLock,
    /// Everything that changes trees waits while a mark goes on.
    paused: RefCell<Option<collect::Paused>>,
    /// VDIs on their way to or from another shard: not to be opened before they have arrived.
    away: RefCell<BTreeSet<VdiId>>,
    /// Blocks that the log named when it was replayed, until [`Engine::settle`].
    named: RefCell<Vec<Run>>,
    vdis: RefCell<BTreeMap<VdiId, Vdi>>,
    opening: TaskLock,
    /// Held during a checkpoint round or a collection.
    round: TaskLock,
    /// Least (lease epoch, generation) each VDI's record must have, from the log's head.
    remembered: RefCell<BTreeMap<VdiId, (u64, Generation)>>,
    /// What the log knows of VDIs that are not this shard's, until [`Engine::settle`].
    strangers: RefCell<BTreeMap<VdiId, shards::Stranger>>,
    /// Of VDIs that could not be opened when the log was replayed.
    stranded: RefCell<BTreeMap<VdiId, held::Stranded>>,
    /// Ring bytes that the copied records of held VDIs take.
    copies: RefCell<BTreeMap<VdiId, u64>>,
    failed_rounds: Cell<u32>,
    poisoned: RefCell<Option<Error>>,
    stats: Cell<CheckpointStats>,
    closing: Cell<bool>,
    recovery: Cell<Recovery>,
    /// What the last mark found dead; None when something was deleted since.
    reclaimable: Cell<Option<Reclaimable>>,
    tidying: RefCell<tidy::Tidying>,
}

/// What the last recovery did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Recovery {
    /// Segments found in the log.
    pub segments: u64,
    /// Records put back into overlays.
    pub records: u64,
    /// Findings in the log that name corruption.
    pub findings: u64,
    /// How long it took, ns.
    pub ns: u64,
}

impl crate::peers::World for Engine {
    fn executor(&self) -> &Executor {
        &self.0.env.executor
    }
}

impl Engine {
    /// Deliver what the devices have done; true when there was something.
    pub fn poll(&self) -> bool {
        let store = self.0.shared.store.device().poll();
        self.0.shared.log.device().poll() | store
    }
    /// Call when no task can go on: sends what the log has collected. True when there is something to run for it.
    pub fn kick(&self) -> bool {
        self.0.shared.log.kick()
    }
    /// File descriptors that become readable when [`Engine::poll`] has something to do.
    #[must_use]
    pub fn fds(&self) -> Vec<RawFd> {
        let mut fds = Vec::new();
        self.0.shared.store.device().fds(&mut fds);
        self.0.shared.log.device().fds(&mut fds);
        fds
    }
    /// The store under the engine.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.0.shared.store
    }
    /// What the VDIs of this shard share.
    #[must_use]
    pub fn shared(&self) -> &Rc<Shared> {
        &self.0.shared
    }
    /// How long things take in this shard.
    #[must_use]
    pub fn latencies(&self) -> &Latencies {
        &self.0.shared.latencies
    }
    /// The VDI called `name`, opened if it is not yet.
    pub async fn open_vdi(&self, name: &str) -> Result<Vdi> {
        let entry = self.store().find_vdi(name).ok_or_else(|| no_vdi(name))?;
        self.open_entry(&entry).await
    }
    /// The store failed in a way that only a restart can mend: no VDI takes writes any more.
    fn poison(&self, cause: &Error) {
        let error = Error::new(
            ErrorKind::Poisoned,
            format!("the store failed: {}", cause.message()),
            "check the device and the kernel log, then restart the daemon, which recovers",
        );
        for vdi in self.0.vdis.borrow().values() {
            vdi.hold_until_restart(error.duplicate());
        }
        self.0.poisoned.borrow_mut().get_or_insert(error);
    }
    /// Checkpoint everything that is there now, held VDIs too.
    ///
    /// # Errors
    /// Why the round failed, or why a VDI is held whose checkpoint fails.
    pub async fn checkpoint(&self) -> Result<()> {
        let vdis: Vec<Vdi> = self.0.vdis.borrow().values().cloned().collect();
        self.checkpoint_round_of_all().await?;
        let stuck = vdis.iter().find(|v| v.is_stuck()).and_then(|v| Some((v.name(), v.held()?)));
        stuck.map_or(Ok(()), |(name, why)| Err(why.context(format!("VDI '{name}' is held"))))
    }
    /// Acknowledge writes when they are on the log's device from now on, and bring everything there, durably: the daemon is
    /// about to stop.
    pub async fn leave_staging(&self) -> Result<()> {
        self.0.shared.log.leave_staging().await
    }
    /// Checkpoint everything and stop the background work. Nothing may be in flight.
    pub async fn close(&self) -> Result<()> {
        self.0.closing.set(true);
        self.0.shared.pressure.request();
        self.end_tidying().await;
        let checkpointed = self.checkpoint_round_of_all().await;
        self.leave_staging().await?;
        checkpointed
    }
}

fn no_vdi(name: &str) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("there is no VDI named '{name}'"),
        "list the VDIs with 'parallax ls'; make one with 'parallax create'",
    )
}

#[cfg(test)]
mod tests;
