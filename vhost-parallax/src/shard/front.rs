//! The home shard's side of the control socket: it knows which shard has a VDI, and has the command done there. What
//! concerns several shards is put together here.
//!
//! Invariants:
//! - a VDI changes shard only while no command on it is under way, and while it is not attached;
//! - what is attached is on disk (`attached.json`) before anyone hears that it is.

mod attach;
mod report;

pub(super) use report::Part;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use vdi_core::ErrorKind;
use vdi_core::executor::{LocalFuture, Signal, TaskLock, join_all};
use vdi_core::latency::Measured;
use vdi_core::peers::Peers;

use super::attached_file::{Attachment, Keeper};
use super::place::Here;
use super::{World, answer};
use crate::control::api::command::Command;
use crate::control::api::error::{Code, ErrorBody, Result};
use crate::control::api::{CollectReport, LatencyReport, SnapshotSelector, VdiInfo, VdiName};

/// What the commands of the control socket share.
pub(super) struct Front {
    /// The home shard's own world.
    home: Rc<World>,
    worlds: Peers<Here>,
    shards: u16,
    keeper: Keeper,
    /// What is attached, by name.
    attached: RefCell<BTreeMap<String, Attached>>,
    /// Held by whoever attaches, detaches, deletes or rolls back.
    lifecycle: TaskLock,
    /// Commands under way, by VDI; None while it changes shard.
    under_way: RefCell<BTreeMap<String, Option<u64>>>,
    on_end: Signal,
}

/// An attachment that is to outlive the daemon.
struct Attached {
    attachment: Attachment,
    /// The shard that serves it; None when it was attached before and cannot be served now. A later daemon tries
    /// again.
    shard: Option<u16>,
}

/// A command on a VDI that is under way.
struct UnderWay<'a> {
    front: &'a Front,
    name: String,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut all = self.front.under_way.borrow_mut();
        match all.get_mut(&self.name) {
            Some(Some(n)) if *n > 1 => *n -= 1,
            _ => drop(all.remove(&self.name)),
        }
        drop(all);
        self.front.on_end.notify();
    }
}

impl Front {
    pub(super) fn new(home: Rc<World>, worlds: Peers<Here>, keeper: Keeper) -> Front {
        let shards = 1 + worlds.others().count() as u16;
        Front {
            home,
            worlds,
            shards,
            keeper,
            attached: RefCell::default(),
            lifecycle: TaskLock::default(),
            under_way: RefCell::default(),
            on_end: Signal::default(),
        }
    }
    /// Execute `command` and answer it.
    pub(super) async fn run(self: Rc<Front>, command: Command) {
        let f = &*self;
        match command {
            Command::Create { name, size_bytes, reply } => reply.answer(f.create(&name, size_bytes).await),
            Command::Delete { vdi, recursive, reply } => reply.answer(f.delete(&vdi, recursive).await),
            Command::List { reply } => reply.answer(f.list().await),
            Command::Show { vdi, reply } => reply.answer(f.show(&vdi).await),
            Command::Attach { vdi, num_queues, read_only, reply } => {
                let wanted = Attachment { vdi: vdi.as_str().to_owned(), num_queues, read_only };
                reply.answer(f.attach(wanted).await);
            }
            Command::Detach { vdi, force, reply } => reply.answer(f.detach(&vdi, force).await),
            Command::Snapshot { vdi, label, reply } => {
                let v = vdi.clone();
                reply.answer(f.on(&vdi, |w| async move { w.snapshot(&v, label.as_ref()).await }).await);
            }
            Command::Snapshots { vdi, reply } => {
                let v = vdi.clone();
                reply.answer(f.on(&vdi, |w| async move { w.snapshots(&v).await }).await);
            }
            Command::Label { vdi, snapshot, label, reply } => {
                let v = vdi.clone();
                let work = |w: Rc<World>| async move { w.label(&v, &snapshot, label.as_ref()).await };
                reply.answer(f.on(&vdi, work).await);
            }
            Command::RemoveSnapshot { vdi, snapshot, reply } => {
                let v = vdi.clone();
                reply.answer(f.on(&vdi, |w| async move { w.remove_snapshot(&v, &snapshot).await }).await);
            }
            Command::Clone { source, snapshot, name, reply } => {
                reply.answer(f.clone_vdi(&source, snapshot, &name).await);
            }
            Command::Rollback { vdi, snapshot, reply } => {
                let _turn = f.lifecycle.lock().await;
                let v = vdi.clone();
                reply.answer(f.on(&vdi, |w| async move { w.roll_back(&v, &snapshot).await }).await);
            }
            Command::Resize { vdi, size_bytes, force, reply } => {
                let v = vdi.clone();
                let done = f.on(&vdi, move |w| async move { w.resize(&v, size_bytes, force).await }).await;
                reply.answer(done.map(|info| f.with_origin(info)));
            }
            Command::Tree { reply } => reply.answer(f.tree().await),
            Command::Status { reply } => reply.answer(f.status().await),
            Command::Latency { enable, reply } => reply.answer(f.latency(enable).await),
            Command::Collect { dry_run, reply } => reply.answer(f.collect(dry_run).await),
            Command::Checkpoint { reply } => reply.answer(f.checkpoint().await),
        }
    }
    /// Do `work` on the shard that has `vdi`, which stays there meanwhile.
    async fn on<T, F>(&self, vdi: &VdiName, work: impl FnOnce(Rc<World>) -> F + Send + 'static) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + 'static,
    {
        let _stays = self.stay(vdi).await;
        let shard = self.home.engine.owner(vdi.as_str())?;
        self.at(shard, work).await
    }
    /// Do `work` on a shard.
    async fn at<T, F>(&self, shard: u16, work: impl FnOnce(Rc<World>) -> F + Send + 'static) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + 'static,
    {
        if shard == self.worlds.own() {
            return work(Rc::clone(&self.home)).await;
        }
        self.worlds.ask(shard, |here| work(here.0)).await?
    }
    /// Do `work` on all shards at once; what they answer, the home shard's first.
    async fn on_all<T, F>(&self, work: impl Fn(Rc<World>) -> F + Clone + Send + 'static) -> Result<Vec<T>>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + 'static,
    {
        let one = |shard| Box::pin(self.at(shard, work.clone())) as LocalFuture<'_, Result<T>>;
        join_all((0..self.shards).map(one).collect()).await.into_iter().collect()
    }
    /// Keep a VDI on its shard as long as the guard lives.
    async fn stay(&self, vdi: &VdiName) -> UnderWay<'_> {
        let name = vdi.as_str().to_owned();
        loop {
            let ended = self.on_end.wait();
            if let Some(n) = self.under_way.borrow_mut().entry(name.clone()).or_insert(Some(0)) {
                *n += 1;
                break;
            }
            ended.await;
        }
        UnderWay { front: self, name }
    }
    /// Wait until no command on the VDI is under way, and let none begin while the guard lives.
    async fn alone(&self, vdi: &VdiName) -> UnderWay<'_> {
        let name = vdi.as_str().to_owned();
        loop {
            let ended = self.on_end.wait();
            if !self.under_way.borrow().contains_key(&name) {
                self.under_way.borrow_mut().insert(name.clone(), None);
                break;
            }
            ended.await;
        }
        UnderWay { front: self, name }
    }
    async fn create(&self, name: &VdiName, size_bytes: u64) -> Result<VdiInfo> {
        match self.home.engine.create(name.as_str(), size_bytes).await {
            Ok(info) => Ok(self.home.vdi_info(&info)),
            Err(e) if e.kind() == ErrorKind::Exists => {
                // The same once more is a success, as long as it is the same: empty of history, no clone.
                let there = self.show(name).await?;
                if there.size_bytes == size_bytes && there.origin.is_none() {
                    return Ok(there);
                }
                Err(e.into())
            }
            Err(e) => Err(e.into()),
        }
    }
    async fn delete(&self, vdi: &VdiName, recursive: bool) -> Result<()> {
        let _turn = self.lifecycle.lock().await;
        if self.attached.borrow().get(vdi.as_str()).is_some_and(|a| a.shard.is_some()) {
            return Err(ErrorBody::new(
                Code::Busy,
                format!("VDI '{vdi}' is attached"),
                format!("'parallax detach {vdi}' first"),
            ));
        }
        self.home.engine.delete(vdi.as_str(), recursive).await.map_err(Into::into)
    }
    async fn clone_vdi(
        &self,
        source: &VdiName,
        which: Option<SnapshotSelector>,
        name: &VdiName,
    ) -> Result<VdiInfo> {
        let _stays = self.stay(source).await;
        let epoch = match which {
            Some(which) => {
                let shard = self.home.engine.owner(source.as_str())?;
                let s = source.clone();
                Some(self.at(shard, |w| async move { w.epoch(&s, &which).await }).await?)
            }
            None => None,
        };
        let info = self.home.engine.clone_vdi(source.as_str(), epoch, name.as_str()).await?;
        Ok(self.with_origin(self.home.vdi_info(&info)))
    }
    async fn collect(&self, dry_run: bool) -> Result<CollectReport> {
        let found = self.home.engine.collect(dry_run).await?;
        Ok(CollectReport { dry_run, freed_bytes: found.dead_bytes, live_bytes: found.live_bytes })
    }
    async fn latency(&self, enable: Option<bool>) -> Result<LatencyReport> {
        let work = move |w: Rc<World>| async move {
            let latencies = w.engine.latencies();
            if let Some(on) = enable {
                latencies.set(on);
            }
            Ok(latencies.measured())
        };
        let mut all = Measured::default();
        self.on_all(work).await?.into_iter().for_each(|m| all.merge(m));
        Ok(answer::latency(&all))
    }
    async fn checkpoint(&self) -> Result<()> {
        let done = self.on_all(|w| async move { w.engine.checkpoint().await.map_err(Into::into) }).await;
        done.map(drop)
    }
    /// The end of all shards; this one goes last, as the others may need it.
    pub(super) async fn end(&self) {
        let others = self.worlds.others().map(|shard| {
            let ended = self.worlds.ask(shard, |here| async move { here.0.end().await });
            Box::pin(async move { drop(ended.await) }) as LocalFuture<'_, ()>
        });
        let own = Box::pin(self.home.finish()) as LocalFuture<'_, ()>;
        join_all(others.chain([own]).collect()).await;
        self.home.over.set(true);
    }
}
