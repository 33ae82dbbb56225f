//! How much room there is, and the promise that acknowledged writes will find theirs.

use super::{ExtentKind, Store};
use crate::error::{Error, ErrorKind};
use crate::sabotage::{Bug, seeded_bug};
use crate::units::BLOCK_BYTES;

/// Blocks a set of writes may need at its checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Need {
    /// Data blocks.
    pub data: u64,
    /// Tree nodes and snapshot-log blocks.
    pub metadata: u64,
}

impl Need {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Need) -> Need {
        Need { data: self.data + other.data, metadata: self.metadata + other.metadata }
    }
}

/// Blocks by state, and free extents.
#[derive(Clone, Copy, Debug, Default)]
pub struct SpaceReport {
    /// Bytes of the whole store.
    pub total_bytes: u64,
    /// Bytes that a new write can use.
    pub free_bytes: u64,
    /// Bytes of data in use, claimed runs not counted.
    pub data_bytes: u64,
    /// Bytes of metadata in use, claimed runs not counted.
    pub metadata_bytes: u64,
    /// Bytes freed and waiting in quarantine (part of data or metadata).
    pub quarantined_bytes: u64,
    /// Bytes promised to writes that are not checkpointed yet.
    pub reserved_bytes: u64,
    /// Free extents.
    pub free_extents: u64,
}

/// Blocks kept back of each kind, so that delete, collect and the last checkpoint work at 100 %.
const RESERVE_BLOCKS: u64 = 96;

#[derive(Default)]
pub(super) struct Space {
    free_data: u64,
    free_metadata: u64,
    owned_data: u64,
    owned_metadata: u64,
    free_extents: u64,
    /// How many of these are being leased: nobody else can have them.
    leasing: u64,
    extent_usable: u64,
    reserved: Need,
}

impl Space {
    pub fn new(free_extents: u64, extent_usable: u64) -> Space {
        Space { free_extents, extent_usable, ..Space::default() }
    }
    pub fn add_extent(&mut self, kind: ExtentKind, free: u64) {
        self.add_free(kind, free);
        match kind {
            ExtentKind::Data => self.owned_data += self.extent_usable,
            _ => self.owned_metadata += self.extent_usable,
        }
    }
    /// Begin to lease a free extent; false when there is none: others may have promised the rest of the store's.
    pub fn begin_lease(&mut self) -> bool {
        let any = self.free_extents > self.leasing;
        self.leasing += u64::from(any);
        any
    }
    /// A lease that was begun is over.
    pub fn end_lease(&mut self, leased: bool) {
        self.leasing -= 1;
        self.free_extents -= u64::from(leased);
    }
    pub fn add_extents(&mut self, extents: u64) {
        self.free_extents += extents;
    }
    /// Take up to `extents` free extents that no promise needs.
    pub fn spare_extents(&mut self, extents: u64) -> u64 {
        let needed = self.extents_needed(self.reserved, RESERVE_BLOCKS).max(self.leasing);
        let spare = self.free_extents.saturating_sub(needed);
        let given = spare.min(extents);
        self.free_extents -= given;
        given
    }
    pub fn give_up_extents(&mut self) -> u64 {
        std::mem::take(&mut self.free_extents)
    }
    /// Whether there is a free extent that no promise needs.
    pub fn has_spare_extent(&self) -> bool {
        self.free_extents > self.extents_needed(self.reserved, RESERVE_BLOCKS)
    }
    /// Free blocks of this kind, claimed or not.
    pub fn free(&self, kind: ExtentKind) -> u64 {
        if kind == ExtentKind::Data { self.free_data } else { self.free_metadata }
    }
    pub fn owned(&self, kind: ExtentKind) -> u64 {
        match kind {
            ExtentKind::Data => self.owned_data,
            _ => self.owned_metadata,
        }
    }
    pub fn add_free(&mut self, kind: ExtentKind, blocks: u64) {
        match kind {
            ExtentKind::Data => self.free_data += blocks,
            _ => self.free_metadata += blocks,
        }
    }
    pub fn take_free(&mut self, kind: ExtentKind, blocks: u64) {
        let free = match kind {
            ExtentKind::Data => &mut self.free_data,
            _ => &mut self.free_metadata,
        };
        *free = free.checked_sub(blocks).expect("only free blocks are taken");
    }
    /// The one place that decides whether `need` more fits beside what is promised already.
    fn fits(&self, need: Need, reserve: u64) -> bool {
        let want = self.reserved.plus(need);
        let metadata = self.extents_short(want.metadata + reserve, self.free_metadata);
        // What takes no data blocks does not care how few there are.
        need.data == 0 && metadata == 0 && !seeded_bug(Bug::DiscardNeedsRoom)
            || self.extents_needed(want, reserve) <= self.free_extents
    }
    /// Free extents that `want` takes beside what is free in those we have.
    fn extents_needed(&self, want: Need, reserve: u64) -> u64 {
        self.extents_short(want.data + reserve, self.free_data)
            + self.extents_short(want.metadata + reserve, self.free_metadata)
    }
    fn extents_short(&self, want: u64, free: u64) -> u64 {
        want.saturating_sub(free).div_ceil(self.extent_usable)
    }
}

impl Store {
    /// Promise room for `need`; false when there is not enough now. Pair with [`Store::unreserve`].
    #[must_use]
    pub fn try_reserve(&self, need: Need) -> bool {
        self.reserve_beside(need, RESERVE_BLOCKS)
    }
    /// As [`Store::try_reserve`] for what leads to free space: a part of what is kept back is for that.
    #[must_use]
    pub fn try_reserve_to_free(&self, need: Need) -> bool {
        self.reserve_beside(need, RESERVE_BLOCKS / if seeded_bug(Bug::DiscardNeedsRoom) { 1 } else { 2 })
    }
    fn reserve_beside(&self, need: Need, kept_back: u64) -> bool {
        let mut s = self.0.space.borrow_mut();
        let ok = s.fits(need, kept_back);
        if ok {
            s.reserved = s.reserved.plus(need);
        }
        ok
    }
    /// Promise room for `need` whether there is any or not: it was promised before a restart.
    pub fn reserve_again(&self, need: Need) {
        let mut s = self.0.space.borrow_mut();
        s.reserved = s.reserved.plus(need);
    }
    /// Whether there is room for everything that is promised.
    #[must_use]
    pub fn keeps_its_promises(&self) -> bool {
        let any = Need { data: 1, metadata: 1 };
        self.0.space.borrow().fits(any, RESERVE_BLOCKS)
    }
    /// Whether what is kept back for everything that frees space is there.
    #[must_use]
    pub fn can_free(&self) -> bool {
        self.0.space.borrow().fits(Need { data: 0, metadata: 1 }, RESERVE_BLOCKS)
    }
    /// End a promise: the blocks were allocated, or are not needed.
    pub fn unreserve(&self, need: Need) {
        let mut s = self.0.space.borrow_mut();
        s.reserved.data = s.reserved.data.checked_sub(need.data).expect("promises end once");
        s.reserved.metadata = s.reserved.metadata.checked_sub(need.metadata).expect("promises end once");
    }
    /// The error of a store that is full.
    #[must_use]
    pub fn no_space(&self) -> Error {
        Error::new(
            ErrorKind::NoSpace,
            format!("store {} is full", self.device().info().name),
            "delete VDIs or snapshots and run 'parallax collect', or trim file systems in the guests",
        )
    }
    /// Numbers for `status`.
    #[must_use]
    pub fn space(&self) -> SpaceReport {
        let s = self.0.space.borrow();
        let bytes = |blocks: u64| blocks * BLOCK_BYTES;
        let free = s.free_data + s.free_metadata + s.free_extents * s.extent_usable;
        let promised = s.reserved.data + s.reserved.metadata + 2 * RESERVE_BLOCKS;
        SpaceReport {
            total_bytes: self.superblock().store_bytes(),
            free_bytes: bytes(free.saturating_sub(promised)),
            data_bytes: bytes(s.owned_data.saturating_sub(s.free_data)),
            metadata_bytes: bytes(s.owned_metadata.saturating_sub(s.free_metadata)),
            quarantined_bytes: bytes(self.quarantined_blocks()),
            reserved_bytes: bytes(s.reserved.data + s.reserved.metadata),
            free_extents: s.free_extents,
        }
    }
}
