//! Guest durability.

use super::{Shared, Vdi};
use crate::error::Result;
use crate::sabotage::{Bug, Point, crash_point, seeded_bug};

impl Vdi {
    /// Everything acknowledged before this call is on stable storage when it returns.
    pub async fn flush(&self) -> Result<()> {
        let _active = self.enter();
        if seeded_bug(Bug::FlushAtOnce) {
            return Ok(());
        }
        self.0.shared.log.flush().await
    }
}

impl Shared {
    /// Flush the store if out-of-line data was written since it last was. The log calls this before each
    /// flush of its own, so that no durable record names data in a volatile cache.
    pub async fn flush_placed(&self) -> Result<()> {
        let written = self.placed_written.get();
        if self.placed_flushed.get() < written && !seeded_bug(Bug::FlushForgetsOutOfLine) {
            self.store.flush().await?;
            self.placed_flushed.set(self.placed_flushed.get().max(written));
            crash_point(Point::BarrierFlushed);
        }
        Ok(())
    }
}
