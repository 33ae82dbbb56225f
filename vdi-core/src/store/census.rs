//! What a collection must know of this host's extents.

use super::{Run, Store};
use crate::format::extent::RegionBits;
use crate::limits::REGION_BLOCKS;
use crate::store::bitmap::test;
use crate::units::ExtentNumber;

impl Store {
    /// A copy of the bitmaps of all extents this host owns.
    #[must_use]
    pub fn owned_bitmaps(&self) -> Vec<(ExtentNumber, Vec<RegionBits>)> {
        self.0.bitmaps.borrow().all()
    }
    /// Blocks that their bitmap calls used and that are on their way: claimed and not handed out yet, or in
    /// quarantine.
    #[must_use]
    pub fn untouchable(&self) -> Vec<Run> {
        let mut runs = self.0.quarantine.borrow().runs();
        for c in self.0.claims.borrow().iter() {
            let unused = u32::from(c.claim.used_through)..REGION_BLOCKS;
            let blocks = unused.filter(|b| test(&c.claim.mask, *b));
            runs.extend(blocks.map(|b| Run { start: c.claim.start.plus(u64::from(b)), blocks: 1 }));
        }
        runs
    }
}
