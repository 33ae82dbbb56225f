//! Changing the record outside a checkpoint: size, and the tree a roll-back returns to.

use super::{Ack, Parts, Vdi, root_of};
use crate::error::{Error, ErrorKind, Result};
use crate::executor::TaskGuard;
use crate::format::vdi_record::VdiRecord;
use crate::limits::VDI_BYTES_MAX;
use crate::log::VdiGeneration;
use crate::sabotage::{Bug, Point, crash_point, seeded_bug};
use crate::tree::grow;
use crate::units::{Epoch, Generation, SECTOR_BYTES, SegmentSeq};

impl Vdi {
    /// Wait for the right to change root, size or record.
    pub async fn lock_turn(&self) -> TaskGuard {
        self.0.turn.lock().await
    }
    /// Grow, or shrink with `force`, to `size_bytes`.
    pub async fn resize(&self, size_bytes: u64, force: bool) -> Result<()> {
        check_size(size_bytes)?;
        let _alone = self.0.reshaping.lock().await;
        let shown = SizeShown(self);
        let old = self.size_bytes();
        if size_bytes < old && !seeded_bug(Bug::ShrinkKeepsData) {
            self.cut_off(size_bytes, old, force).await?;
        }
        let _turn = self.lock_turn().await;
        self.check_writable()?;
        let mut record = self.0.record.get();
        let depth = VdiRecord::depth_for(size_bytes).max(record.depth);
        if depth > record.depth {
            let grown = grow(&self.0.shared.cache, &root_of(&record), depth, record.epoch).await?;
            (record.root, record.root_crc) = (grown.root.addr, grown.root.crc);
            (record.root_birth, record.depth) = (grown.root.birth, depth);
            *self.0.attempt.borrow_mut() = grown.allocated;
        }
        record.size_bytes = size_bytes;
        self.swing(record).await?;
        drop(shown);
        self.0.changed.set(true);
        Ok(())
    }
    /// Discard what a smaller disk no longer has, so that growing again shows zeros.
    async fn cut_off(&self, size_bytes: u64, old: u64, force: bool) -> Result<()> {
        if !force {
            return Err(Error::new(
                ErrorKind::BadRequest,
                format!("VDI '{}' has {old} bytes; {size_bytes} would cut data off", self.name()),
                "shrink the file system first, then use --force",
            ));
        }
        self.check_writable()?;
        // A write that was let in before would come back when the disk grows.
        if !seeded_bug(Bug::ShrinkWaitsForNobody) {
            self.0.size_bytes.set(size_bytes);
            self.wait_for_earlier_requests().await;
        }
        let _active = self.enter();
        self.zero_range(size_bytes..old, &Parts::default(), Ack::WriteThrough).await
    }
    /// Return to the tree, size and depth of the checkpointed snapshot `epoch`. The present state was snapshotted and
    /// everything is checkpointed; [`ErrorKind::Busy`] when somebody writes all the same.
    pub async fn roll_back_to(&self, epoch: Epoch) -> Result<()> {
        let _alone = self.0.reshaping.lock().await;
        let _turn = self.lock_turn().await;
        self.check_writable()?;
        // What is logged from here on would be of an epoch that is over.
        let _nobody = Standstill::of(self);
        if !self.0.oldest.borrow().is_empty() || self.active() > 0 {
            return Err(Error::new(
                ErrorKind::Busy,
                format!("VDI '{}' is being written", self.name()),
                "stop the guest, then roll back",
            ));
        }
        // Only now: one that was removed meanwhile may have been collected.
        let to = self.durable_snapshot(epoch).ok_or_else(|| self.no_snapshot(epoch))?;
        let mut record = self.0.record.get();
        let latest = Epoch(record.epoch.0.max(to.epoch.0));
        (record.root, record.root_crc) = (to.root.addr, to.root.crc);
        (record.root_birth, record.depth) = (to.root.birth, to.root.depth);
        record.size_bytes = to.size_bytes;
        record.threshold = if seeded_bug(Bug::RollBackLowersThreshold) { to.epoch } else { latest };
        record.epoch = if seeded_bug(Bug::RollBackReusesEpoch) { to.epoch.next() } else { latest.next() };
        self.swing(record).await?;
        self.0.size_bytes.set(record.size_bytes);
        self.0.epoch.set(record.epoch);
        self.0.changed.set(true);
        // What was logged before is not in this state: a request offered again must be executed.
        self.0.logged.take();
        Ok(())
    }
    /// Write `record` as the next generation, durably, and go over to it.
    async fn swing(&self, mut record: VdiRecord) -> Result<()> {
        let store = &self.0.shared.store;
        // What the record names, and how far the claims are used, must be durable before it is.
        let mut ready = store.write_host_record().await;
        if ready.is_ok() {
            ready = store.flush().await;
        }
        if ready.is_err() {
            self.abandon_attempt();
            return ready;
        }
        record.generation = Generation(record.generation.0 + 1);
        let mut written = store.write_record(self.0.slots, &record).await;
        if written.is_ok() {
            crash_point(Point::SwingWritten);
            written = store.flush().await;
        }
        if let Err(e) = written {
            // It may be there all the same.
            match self.take_back(record.generation).await {
                Ok(()) => self.abandon_attempt(),
                Err(_) => self.hold_until_restart(e.duplicate()),
            }
            return Err(e);
        }
        self.0.attempt.take();
        self.0.record.set(record);
        self.0.root.set(root_of(&record));
        Ok(())
    }
    /// Write the record that stands over one of `generation` that may be on the device or not. The log's head knows it when
    /// this returns: what that other one names may be freed.
    pub async fn take_back(&self, generation: Generation) -> Result<()> {
        let shared = &self.0.shared;
        let record = VdiRecord { generation: Generation(generation.0 + 1), ..self.0.record.get() };
        shared.store.write_record(self.0.slots, &record).await?;
        shared.store.flush().await?;
        self.0.record.set(record);
        let VdiRecord { lease_epoch, generation, .. } = record;
        shared.log.trim(SegmentSeq(0), &[VdiGeneration { vdi: self.0.id, lease_epoch, generation }]).await
    }
    /// The VDI is about to be deleted: take no more writes, and wait for those on their way.
    pub async fn retire(&self) {
        self.0.deleted.set(true);
        self.0.shared.pressure.refused.notify();
        self.quiesce().await;
    }
    /// The VDI was not deleted after all.
    pub fn unretire(&self) {
        self.0.deleted.set(false);
    }
    /// The VDI is deleted: drop what is not in the tree.
    pub async fn forget_all(&self) {
        let _turn = self.lock_turn().await;
        // Blocks of out-of-line writes are the collector's, like the rest of the tree.
        drop(self.0.overlay.borrow_mut().take_all());
        self.0.events.borrow_mut().clear();
        self.0.oldest.borrow_mut().clear();
        self.0.shared.store.unreserve(self.0.reserved.take());
    }
}

/// While it lives the disk may show another size than its record has.
struct SizeShown<'a>(&'a Vdi);

impl Drop for SizeShown<'_> {
    fn drop(&mut self) {
        self.0.0.size_bytes.set(self.0.0.record.get().size_bytes);
    }
}

/// While it lives nothing is logged for the VDI.
struct Standstill<'a>(&'a Vdi);

impl Standstill<'_> {
    fn of(vdi: &Vdi) -> Standstill<'_> {
        vdi.0.standstill.set(true);
        Standstill(vdi)
    }
}

impl Drop for Standstill<'_> {
    fn drop(&mut self) {
        self.0.0.standstill.set(false);
    }
}

/// A size a VDI can have.
pub(crate) fn check_size(size_bytes: u64) -> Result<()> {
    if size_bytes == 0 || !size_bytes.is_multiple_of(SECTOR_BYTES) {
        return Err(Error::new(
            ErrorKind::BadRequest,
            format!("{size_bytes} bytes is no size for a VDI"),
            "use a positive multiple of 512 bytes, for example 20G",
        ));
    }
    if size_bytes > VDI_BYTES_MAX {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("{size_bytes} bytes is too large for a VDI: at most {VDI_BYTES_MAX} (4 PiB)"),
            "choose a smaller size; the disk is thin and can grow later",
        ));
    }
    Ok(())
}
