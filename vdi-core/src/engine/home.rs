//! The home shard's side of `store::home`, and the others' way to it.

use std::rc::Rc;

use super::{Engine, EngineOptions, Env, Peers};
use crate::device::DeviceHandle;
use crate::error::{Error, ErrorKind, Result};
use crate::executor::LocalFuture;
use crate::format::catalogue::CatalogueEntry;
use crate::store::home::Home;
use crate::store::{ExtentKind, HOME_SLOT, Store};
use crate::units::ExtentNumber;
use crate::vdi::Vdi;

/// For a shard on the home shard's own thread.
struct Direct {
    home: Engine,
    slot: u16,
}

impl Home for Direct {
    fn lease(&self, kind: ExtentKind) -> LocalFuture<'static, Result<(ExtentNumber, CatalogueEntry)>> {
        let (home, slot) = (self.home.clone(), self.slot);
        Box::pin(async move { home.store().lease_extent(kind, slot).await })
    }
    fn publish(&self, _: ExtentNumber, _: CatalogueEntry) {}
    fn failed(&self, why: Error) {
        self.home.store().fail(why);
    }
    fn allow(&self, extents: u64) -> LocalFuture<'static, u64> {
        let spare = self.home.store().spare_extents(extents);
        Box::pin(async move { spare })
    }
}

struct ByMessage(Peers);

impl Home for ByMessage {
    fn lease(&self, kind: ExtentKind) -> LocalFuture<'static, Result<(ExtentNumber, CatalogueEntry)>> {
        let (peers, slot) = (self.0.clone(), self.0.own());
        Box::pin(async move {
            peers
                .ask(HOME_SLOT, move |home| async move { home.store().lease_extent(kind, slot).await })
                .await?
        })
    }
    fn publish(&self, number: ExtentNumber, entry: CatalogueEntry) {
        for shard in self.0.others() {
            self.0.tell(shard, move |engine| engine.store().learn_extent(number, entry));
        }
    }
    fn failed(&self, why: Error) {
        for shard in self.0.others() {
            let why = why.duplicate();
            self.0.tell(shard, move |engine| {
                engine.poison(&why);
                engine.store().fail(why);
            });
        }
    }
    fn allow(&self, extents: u64) -> LocalFuture<'static, u64> {
        let peers = self.0.clone();
        Box::pin(async move {
            let own = peers.own();
            let asked = peers.ask(HOME_SLOT, move |home| async move { home.allow(own, extents).await });
            asked.await.unwrap_or(0)
        })
    }
}

impl Engine {
    /// Open the store as the home shard of several. The others are opened after it, on their own threads, while
    /// this one takes their questions; then [`Engine::settle`] is called.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub async fn open_home(
        env: Env,
        store: DeviceHandle,
        log: DeviceHandle,
        options: EngineOptions,
        peers: Peers,
    ) -> Result<Engine> {
        let store = Store::open_home(store, Some(Rc::new(ByMessage(peers.clone())))).await?;
        Engine::open_on(env, store, log, options, Some(peers)).await
    }
    /// Open the store as another shard than the home shard, which must be open.
    ///
    /// # Errors
    /// As [`Engine::open`]; `Poisoned` when the home shard has ended.
    pub async fn open_shard(
        env: Env,
        store: DeviceHandle,
        log: DeviceHandle,
        options: EngineOptions,
        peers: Peers,
    ) -> Result<Engine> {
        let slot = peers.own();
        let copy = peers.ask(HOME_SLOT, move |home| async move { home.store().system_copy(slot) }).await?;
        let store = Store::open_shard(store, slot, copy, Rc::new(ByMessage(peers.clone()))).await?;
        let engine = Engine::open_on(env, store, log, options, Some(peers.clone())).await?;
        peers.ask(HOME_SLOT, move |home| async move { home.0.joined.borrow_mut().insert(slot) }).await?;
        Ok(engine)
    }
    /// On the home shard, before the others are opened: take over what shard `slot` has, which is not served any
    /// more. Its log is replayed and everything in it checkpointed; then its VDIs and extents are the home shard's,
    /// and nothing names its log.
    ///
    /// # Errors
    /// As [`Engine::open`]; `Busy` when one of its VDIs is held, so that its log is still needed.
    pub async fn take_over(
        &self,
        slot: u16,
        env: Env,
        devices: (DeviceHandle, DeviceHandle),
        options: EngineOptions,
    ) -> Result<()> {
        let (store, log) = devices;
        let home = Rc::new(Direct { home: self.clone(), slot });
        let store = Store::open_shard(store, slot, self.store().system_copy(slot), home).await?;
        let leaving = Engine::open_on(env, store.clone(), log, options, None).await?;
        leaving.has_room_for_promises().await;
        leaving.checkpoint_round().await?;
        // The second round gives back what the first one freed.
        leaving.close().await?;
        let unsettled = leaving.0.vdis.borrow().values().find(|v| !v.is_settled()).map(Vdi::name);
        let unsettled = unsettled.map(|name| (name, "it was not checkpointed".to_owned()));
        if let Some((name, why)) = leaving.held().into_iter().next().or(unsettled) {
            return Err(Error::new(
                ErrorKind::Busy,
                format!("the log of shard {slot} is still needed for VDI '{name}': {why}"),
                "start the daemon with as many --shards as before, and mend or delete the VDI",
            ));
        }
        self.inherit_vdis(slot, &leaving).await?;
        for (id, stranger) in leaving.0.strangers.take() {
            self.0.strangers.borrow_mut().entry(id).and_modify(|s| s.join(stranger)).or_insert(stranger);
        }
        leaving.shared().log.retire().await?;
        store.retire().await?;
        self.store().add_extents(store.give_up_extents());
        self.store().inherit_extents(slot).await?;
        self.store().return_log(slot).await
    }
    /// On the home shard: free extents for the shard `for_shard` to promise, from those that nobody needs. Its own
    /// stay in its account until they are leased; it gets those of the others.
    async fn allow(&self, for_shard: u16, extents: u64) -> u64 {
        let store = self.store();
        let mut found = if for_shard == HOME_SLOT { 0 } else { store.spare_extents(extents) };
        let others: Vec<u16> = self.0.joined.borrow().iter().copied().filter(|s| *s != for_shard).collect();
        for shard in others {
            let (Some(peers), true) = (&self.0.peers, found < extents) else { break };
            let missing = extents - found;
            let asked = peers.ask(shard, move |engine| async move { engine.store().spare_extents(missing) });
            found += asked.await.unwrap_or(0);
        }
        found
    }
}
