//! Logs that lie in the store: extents leased for a shard's log. Together, in the order of their numbers, they are the
//! device of that log; which log that is, its own head and the host record say.

use std::collections::BTreeMap;
use std::ops::Range;

use super::{ExtentKind, HOME_SLOT, Store};
use crate::buffer::AlignedBuf;
use crate::error::{Error, ErrorKind, Result};
use crate::format::catalogue::CatalogueEntry;
use crate::format::extent::log_stretches;
use crate::format::log_head::{SLOT_BYTES, SLOTS, slot_offset_bytes};
use crate::sabotage::{Point, crash_point};
use crate::units::ExtentNumber;

impl Store {
    /// Where the logs lie that are in the store: for each slot that has log extents the stretches of the device, in bytes and
    /// in order.
    #[must_use]
    pub fn logs_inside(&self) -> BTreeMap<u16, Vec<Range<u64>>> {
        let catalogue = self.0.catalogue.borrow();
        let of_log = catalogue.entries.iter().filter(|e| e.kind == ExtentKind::Log);
        let slots = of_log.map(|e| (e.host, log_stretches(&catalogue.entries, e.host, self.geometry())));
        slots.collect()
    }
    /// For the home shard, before the log of `slot` is made: lease extents until they are as many as `bytes` take. What an
    /// extent holds of itself makes the log a little shorter.
    ///
    /// # Errors
    /// `NoSpace` when the store has not so many to spare; then none was leased. Those of the device.
    pub async fn lease_log(&self, slot: u16, bytes: u64) -> Result<()> {
        let extent_bytes = self.geometry().extent_bytes();
        let wanted = bytes.div_ceil(extent_bytes);
        let missing = wanted.saturating_sub(self.log_extents_of(slot).len() as u64);
        let mut spare = self.spare_extents(missing);
        if spare < missing {
            self.add_extents(spare);
            return Err(Error::new(
                ErrorKind::NoSpace,
                format!(
                    "a log of {bytes} bytes takes {missing} extents of {extent_bytes} bytes, and store {} has {spare} to spare",
                    self.device().info().name
                ),
                "ask for a smaller log with --log-size, or name a file or block device of this host with --log",
            ));
        }
        let mut leased = Ok(());
        while leased.is_ok() && spare > 0 {
            leased = self.lease_extent(ExtentKind::Log, slot).await.map(drop);
            spare -= u64::from(leased.is_ok());
        }
        self.add_extents(spare);
        leased?;
        // Whatever lay there is no head of a log.
        let stretches = self.logs_inside().remove(&slot).unwrap_or_default();
        let device = self.device().joined("the new log".to_owned(), stretches);
        for slot in 0..SLOTS {
            device.write(slot_offset_bytes(slot), AlignedBuf::zeroed(SLOT_BYTES)).await?;
        }
        self.flush().await
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
