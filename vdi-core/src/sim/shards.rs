//! The shards of a world: an engine each, all on one executor, with queues between them as between threads.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use crate::device::DeviceHandle;
use crate::engine::{Collected, Engine, EngineOptions, Env, Peers, VdiInfo};
use crate::error::Result;
use crate::peers::{Job, Link};
use crate::store::Store;
use crate::units::Epoch;
use crate::vdi::{SnapshotInfo, Vdi};

#[derive(Default)]
struct Queue(Mutex<VecDeque<Job<Engine>>>);

impl Queue {
    fn take(&self) -> Option<Job<Engine>> {
        self.0.lock().expect("the world has one thread").pop_front()
    }
}

impl Link<Engine> for Queue {
    fn post(&self, job: Job<Engine>) {
        self.0.lock().expect("the world has one thread").push_back(job);
    }
    fn wake(&self) {}
}

/// Where the logs are.
pub enum Logs {
    /// A disk each, by shard.
    Disks(Vec<DeviceHandle>),
    /// In the store, so many bytes each.
    Inside(u64),
}

impl Logs {
    /// The device of the log of `slot`; its extents are leased if it is not made yet.
    async fn of(&self, store: &Store, slot: u16) -> Result<DeviceHandle> {
        let bytes = match self {
            Logs::Disks(disks) => return Ok(disks[usize::from(slot)].clone()),
            Logs::Inside(bytes) => *bytes,
        };
        if !store.logs().await?.contains_key(&slot) {
            store.lease_log(slot, bytes, 0).await?;
        }
        let stretches = store.logs_inside().remove(&slot).unwrap_or_default();
        Ok(store.device().joined("log".to_owned(), stretches))
    }
}

/// What is open of the shards, and what they want of each other; clones share it.
#[derive(Clone, Default)]
pub struct Engines {
    open: Rc<RefCell<BTreeMap<u16, Engine>>>,
    queues: Arc<[Arc<Queue>]>,
}

impl Engines {
    /// None of `shards` shards open yet.
    #[must_use]
    pub fn new(shards: u16) -> Engines {
        Engines { open: Rc::default(), queues: (0..shards).map(|_| Arc::default()).collect() }
    }
    /// Open the store as so many shards as there are queues; those that the store has beyond that are taken over.
    ///
    /// # Errors
    /// Why a shard could not be opened.
    pub async fn open(
        &self,
        env: impl Fn(u16) -> Env,
        store: DeviceHandle,
        logs: Logs,
        options: EngineOptions,
    ) -> Result<()> {
        let links: Arc<[Arc<dyn Link<Engine>>]> =
            self.queues.iter().map(|q| Arc::clone(q) as Arc<dyn Link<Engine>>).collect();
        let peers = |own| Peers::new(own, Arc::clone(&links));
        let log = match &logs {
            Logs::Disks(disks) => disks[0].clone(),
            Logs::Inside(_) => logs.of(&Store::open(store.clone()).await?, 0).await?,
        };
        let home = Engine::open_home(env(0), store.clone(), log, options, peers(0)).await?;
        self.open.borrow_mut().insert(0, home.clone());
        let shards = links.len() as u16;
        for slot in home.store().other_shards().await?.into_iter().filter(|s| *s >= shards) {
            let devices = (store.clone(), logs.of(home.store(), slot).await?);
            home.take_over(slot, env(slot), devices, options).await?;
        }
        for slot in home.store().logs_inside().into_keys().filter(|slot| *slot >= shards) {
            // Of a start that came no further.
            home.store().return_log(slot).await?;
        }
        for own in 1..shards {
            let log = logs.of(home.store(), own).await?;
            let engine = Engine::open_shard(env(own), store.clone(), log, options, peers(own)).await?;
            self.open.borrow_mut().insert(own, engine);
        }
        home.settle().await
    }
    /// All that are open, the home shard first.
    #[must_use]
    pub fn all(&self) -> Vec<Engine> {
        self.open.borrow().values().cloned().collect()
    }
    /// Do one thing that each open shard is asked for; true when there was any.
    pub fn pass_on(&self) -> bool {
        let mut any = false;
        for (shard, engine) in self.open.borrow().iter() {
            let job = self.queues.get(usize::from(*shard)).and_then(|q| q.take());
            if let Some(job) = job {
                job(engine);
                any = true;
            }
        }
        any
    }
    /// Everything in memory is gone.
    pub fn forget(&self) {
        self.open.borrow_mut().clear();
        self.queues.iter().for_each(|q| q.0.lock().expect("the world has one thread").clear());
    }
    fn home(&self) -> Engine {
        self.open.borrow().get(&0).cloned().expect("the home shard is open")
    }
    /// The engine that has the disk; the home shard's for one that is nowhere.
    fn of(&self, name: &str) -> Engine {
        let shard = self.home().owner(name).unwrap_or(0);
        self.open.borrow().get(&shard).cloned().unwrap_or_else(|| self.home())
    }
    /// Which shard has which disk.
    #[must_use]
    pub fn owners(&self) -> BTreeMap<String, u16> {
        self.home().store().known_vdis().into_iter().map(|e| (e.name, e.host)).collect()
    }
    /// See [`Engine::open_vdi`]; so for the others below.
    pub async fn open_vdi(&self, name: &str) -> Result<Vdi> {
        self.of(name).open_vdi(name).await
    }
    pub async fn list(&self) -> Result<Vec<VdiInfo>> {
        let mut all = Vec::new();
        for engine in self.all() {
            all.extend(engine.list().await?);
        }
        Ok(all)
    }
    pub async fn create(&self, name: &str, size_bytes: u64) -> Result<VdiInfo> {
        self.home().create(name, size_bytes).await
    }
    pub async fn delete(&self, name: &str, recursive: bool) -> Result<()> {
        self.home().delete(name, recursive).await
    }
    pub async fn clone_vdi(&self, source: &str, epoch: Option<Epoch>, new: &str) -> Result<VdiInfo> {
        self.home().clone_vdi(source, epoch, new).await
    }
    pub async fn move_vdi(&self, name: &str, shard: u16) -> Result<()> {
        self.home().move_vdi(name, shard).await
    }
    pub async fn tidy(&self) {
        for engine in self.all() {
            engine.tidy().await;
        }
    }
    pub async fn leave_staging(&self) -> Result<()> {
        for engine in self.all() {
            engine.leave_staging().await?;
        }
        Ok(())
    }
    pub async fn snapshot(&self, name: &str, label: Option<&str>) -> Result<SnapshotInfo> {
        self.of(name).snapshot(name, label).await
    }
    pub async fn snapshots(&self, name: &str) -> Result<Vec<SnapshotInfo>> {
        self.of(name).snapshots(name).await
    }
    pub async fn label(&self, name: &str, epoch: Epoch, label: Option<&str>) -> Result<SnapshotInfo> {
        self.of(name).label(name, epoch, label).await
    }
    pub async fn remove_snapshot(&self, name: &str, epoch: Epoch) -> Result<()> {
        self.of(name).remove_snapshot(name, epoch).await
    }
    pub async fn rollback(&self, name: &str, epoch: Epoch) -> Result<SnapshotInfo> {
        self.of(name).rollback(name, epoch).await
    }
    pub async fn resize(&self, name: &str, size_bytes: u64, force: bool) -> Result<VdiInfo> {
        self.of(name).resize(name, size_bytes, force).await
    }
    pub async fn collect(&self, dry_run: bool) -> Result<Collected> {
        self.home().collect(dry_run).await
    }
    pub async fn checkpoint(&self) -> Result<()> {
        for engine in self.all() {
            engine.checkpoint().await?;
        }
        Ok(())
    }
    /// The home shard last: the others may need it.
    pub async fn close(&self) -> Result<()> {
        for engine in self.all().into_iter().rev() {
            engine.close().await?;
        }
        Ok(())
    }
}
