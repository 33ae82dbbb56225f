//! What one shard does for all, the home shard: it alone has the registry and changes the extent catalogue. The
//! others know the catalogue as it was when they opened the store, and are told of each change before anything can
//! name a block of the extent it is about.
//!
//! Free extents are promised before they are leased: a shard may acknowledge writes only against room that no other
//! shard can take. So each has an allowance of free extents, and asks for more when credit is short; the home shard
//! gives what it has not promised itself, and asks the others for what they do not need.

use std::collections::{BTreeMap, BTreeSet};

use super::{ExtentKind, HOME_SLOT, Store};
use crate::error::{Error, Result};
use crate::executor::LocalFuture;
use crate::format::catalogue::CatalogueEntry;
use crate::format::host::{HostLog, HostRecord};
use crate::format::registry::RegistryEntry;
use crate::limits::HOSTS_MAX;
use crate::units::{BLOCK_SIZE, ExtentNumber};

use super::host::host_offset;

/// How a shard reaches what it does not have itself.
pub trait Home {
    /// For another than the home shard: a free extent of its allowance becomes its own, durably.
    fn lease(&self, kind: ExtentKind) -> LocalFuture<'static, Result<(ExtentNumber, CatalogueEntry)>>;
    /// For the home shard: an extent has a new owner; the others must hear of it before anything else from here.
    fn publish(&self, number: ExtentNumber, entry: CatalogueEntry);
    /// A flush of the store failed: what that lost may be any shard's.
    fn failed(&self, why: Error);
    /// Up to `extents` more free extents that this shard may promise; how many that were.
    fn allow(&self, extents: u64) -> LocalFuture<'static, u64>;
}

/// The system area as the home shard tells it to another.
pub struct SystemCopy {
    pub(super) extents: Vec<CatalogueEntry>,
    pub(super) vdis: Vec<RegistryEntry>,
    pub(super) misses_vdis: bool,
}

impl Store {
    /// For the home shard: what the shard in `slot` must know to open the store.
    #[must_use]
    pub fn system_copy(&self, slot: u16) -> SystemCopy {
        assert_eq!(self.slot(), HOME_SLOT, "the home shard knows the system area");
        SystemCopy {
            extents: self.0.catalogue.borrow().entries.clone(),
            vdis: self.known_vdis().into_iter().filter(|e| e.host == slot).collect(),
            misses_vdis: self.0.registry.borrow().misses_some,
        }
    }
    /// The shards besides the home shard that have a log, an extent or a VDI in this store.
    pub async fn other_shards(&self) -> Result<Vec<u16>> {
        let mut slots: BTreeSet<u16> = self.known_vdis().iter().map(|e| e.host).collect();
        let leased = |e: &&CatalogueEntry| matches!(e.kind, ExtentKind::Data | ExtentKind::Metadata);
        slots.extend(self.0.catalogue.borrow().entries.iter().filter(leased).map(|e| e.host));
        let records = self.host_records().await?;
        let used = |r: &HostRecord| !r.logs.is_empty() || !r.claims.is_empty();
        slots.extend(records.iter().filter(|(_, r)| used(r)).map(|(slot, _)| *slot));
        slots.remove(&HOME_SLOT);
        Ok(slots.into_iter().collect())
    }
    /// The log of each shard that has one.
    ///
    /// # Errors
    /// `Io` from the device.
    pub async fn logs(&self) -> Result<BTreeMap<u16, HostLog>> {
        let records = self.host_records().await?;
        Ok(records.into_iter().filter_map(|(slot, r)| Some((slot, *r.logs.first()?))).collect())
    }
    /// The newest host record in each slot that has one. Either copy names the same log.
    async fn host_records(&self) -> Result<BTreeMap<u16, HostRecord>> {
        let sb = *self.superblock();
        let blocks = usize::from(HOSTS_MAX) * 2;
        let bytes = self.device().read_pieces(host_offset(&sb, 0, 0), blocks * BLOCK_SIZE).await;
        let mut newest: BTreeMap<u16, HostRecord> = BTreeMap::new();
        let mut unread = BTreeMap::new();
        for n in 0..blocks {
            let slot = (n / 2) as u16;
            let block = match bytes.get(n * BLOCK_SIZE..(n + 1) * BLOCK_SIZE) {
                Ok(block) => block,
                Err(e) => {
                    unread.insert(slot, e);
                    continue;
                }
            };
            let Ok(record) = HostRecord::verify(block, slot, (n % 2) as u64, sb.uuid) else { continue };
            if newest.get(&slot).is_none_or(|r| r.generation < record.generation) {
                newest.insert(slot, record);
            }
        }
        // Of a slot whose other copy says nothing, nobody knows whether it is empty.
        match unread.into_iter().find(|(slot, _)| !newest.contains_key(slot)) {
            Some((_, e)) => Err(e),
            None => Ok(newest),
        }
    }
    /// The last that this shard does: it gives up its claims and names no log any more. Everything its log holds is
    /// in the trees.
    pub async fn retire(&self) -> Result<()> {
        let claims = std::mem::take(&mut *self.0.claims.borrow_mut());
        for c in claims {
            self.0.bitmaps.borrow_mut().unclaim(self.geometry(), c.claim.start, &c.claim.unused());
        }
        self.write_dirty_bitmaps().await?;
        self.flush().await?;
        self.set_log(None).await
    }
    /// Ask for free extents to promise, when there is not room enough; true when some came.
    pub async fn ask_for_room(&self) -> bool {
        // One of each kind.
        const EXTENTS: u64 = 2;
        let Some(home) = &self.0.home else { return false };
        let extents = home.allow(EXTENTS).await;
        self.add_extents(extents);
        extents > 0
    }
    /// Give away every free extent: this shard promises nothing any more.
    #[must_use]
    pub fn give_up_extents(&self) -> u64 {
        self.0.space.borrow_mut().give_up_extents()
    }
    /// Take back what [`Store::spare_extents`] gave.
    pub fn add_extents(&self, extents: u64) {
        self.0.space.borrow_mut().add_extents(extents);
    }
    /// Give away up to `extents` free extents that are not promised; how many that are.
    #[must_use]
    pub fn spare_extents(&self, extents: u64) -> u64 {
        self.0.space.borrow_mut().spare_extents(extents)
    }
}
