//! Logs that lie in the store: extents leased for a shard's log. Together, in the order of their numbers, they are the
//! device of that log; which log that is, its own head and the host record say.

use std::collections::BTreeMap;
use std::ops::Range;

use super::{ExtentKind, HOME_SLOT, Store};
use crate::error::{Error, ErrorKind, Result};
use crate::format::catalogue::CatalogueEntry;
use crate::format::extent::{log_stretch, overhead_blocks};
use crate::sabotage::{Point, crash_point};
use crate::units::{BLOCK_BYTES, ExtentNumber};

impl Store {
    /// Where the logs lie that are in the store: for each slot that has log extents the stretches of the device, in bytes and
    /// in order.
    #[must_use]
    pub fn logs_inside(&self) -> BTreeMap<u16, Vec<Range<u64>>> {
        let catalogue = self.0.catalogue.borrow();
        let mut slots: BTreeMap<u16, Vec<Range<u64>>> = BTreeMap::new();
        for e in catalogue.entries.iter().filter(|e| e.kind == ExtentKind::Log) {
            slots.entry(e.host).or_default().push(log_stretch(e, self.geometry()));
        }
        slots
    }
    /// Bytes of the store that are leased for logs.
    #[must_use]
    pub fn log_bytes(&self) -> u64 {
        let extents = self.0.catalogue.borrow().entries.iter().filter(|e| e.kind == ExtentKind::Log).count();
        extents as u64 * self.geometry().extent_bytes()
    }
    /// For the home shard, before the log of `slot` is made: lease extents until they are as many as `bytes` take, if `kept`
    /// more stay: for other shards, which may have promised them.
    ///
    /// # Errors
    /// `NoSpace` when the store has not so many to spare; then none was leased. Those of the device.
    pub async fn lease_log(&self, slot: u16, bytes: u64, kept: u64) -> Result<()> {
        let g = self.geometry();
        let extent_bytes = g.extent_bytes();
        let wanted = bytes.div_ceil(extent_bytes - u64::from(overhead_blocks(g)) * BLOCK_BYTES);
        let missing = wanted.saturating_sub(self.log_extents_of(slot).len() as u64);
        if missing == 0 {
            return Ok(());
        }
        let mut spare = self.spare_extents(missing + kept);
        if spare < missing + kept {
            self.add_extents(spare);
            spare = spare.saturating_sub(kept);
            return Err(Error::new(
                ErrorKind::NoSpace,
                format!(
                    "a log of {bytes} bytes takes {missing} extents of {extent_bytes} bytes, and store {} has {spare} to spare",
                    self.device().info().name
                ),
                "ask for a smaller log with --log-size or for fewer --shards, or name a file or block device of this host with --log",
            ));
        }
        self.add_extents(kept);
        spare -= kept;
        let mut leased = Ok(());
        while leased.is_ok() && spare > 0 {
            leased = self.lease_extent(ExtentKind::Log, slot).await.map(drop);
            spare -= u64::from(leased.is_ok());
        }
        self.add_extents(spare);
        leased
    }
    /// For the home shard: the log extents of `slot` are free again. Nothing names a log there any more, durably.
    ///
    /// # Errors
    /// Those of the device; what was not returned still counts as that log's.
    pub async fn return_log(&self, slot: u16) -> Result<()> {
        assert_eq!(self.slot(), HOME_SLOT, "extents go back to the home shard");
        for (number, entry) in self.log_extents_of(slot) {
            self.return_extent(number, entry).await?;
            crash_point(Point::LogReturned);
            self.add_extents(1);
        }
        Ok(())
    }
    fn log_extents_of(&self, slot: u16) -> Vec<(ExtentNumber, CatalogueEntry)> {
        self.extents_where(|e| e.kind == ExtentKind::Log && e.host == slot)
    }
}
