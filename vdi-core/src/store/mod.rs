//! The store: superblock, extents and their catalogue, allocation, the reuse rule, the VDI registry.
//!
//! It knows blocks and who owns them, never what a virtual block is.
//!
//! Invariants:
//! - the bitmap on disk errs towards used: a bit is cleared only after the freed block left the
//!   quarantine (`reuse`), and a block is referenced only after its claim is durable (`claims`);
//! - each claim is consumed in ascending order, and the host record that says how far is durable before
//!   any VDI record that references the blocks;
//! - the two slots of a record are never both unflushed.

mod bitmap;
mod census;
mod claims;
mod create;
mod extents;
mod freed;
pub mod home;
mod host;
pub mod lease;
mod log_extents;
mod open;
mod registry;
pub mod reuse;
mod space;
mod vdi_records;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

use crate::buffer::{AlignedBuf, GuestBufs, IoBuf, IoBufs};
use crate::device::DeviceHandle;
use crate::error::{Error, ErrorKind, Result};
use crate::executor::TaskLock;
use crate::format::catalogue::CatalogueEntry;
pub use crate::format::catalogue::ExtentKind;
pub use crate::format::host::HOME_SLOT;
use crate::format::host::{Claim, HostRecord};
use crate::format::record::Body;
use crate::format::superblock::Superblock;
use crate::limits::LEASES_MAX;
use crate::units::{BLOCK_BYTES, BLOCK_SIZE, BlockAddr, ExtentNumber, Geometry, Uuid};

pub use create::{CreateOptions, STORE_BYTES_MIN};
pub use freed::Freed;
#[cfg(any(test, feature = "sim"))]
pub(crate) use reuse::FREED_TWICE;
pub use space::{Need, SpaceReport};
pub use vdi_records::FoundRecord;

/// A run of adjacent blocks in one extent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Run {
    /// First block.
    pub start: BlockAddr,
    /// How many, at least one.
    pub blocks: u32,
}

impl Run {
    /// The blocks of the store that a log record names.
    #[must_use]
    pub fn named_by(body: &Body) -> Vec<Run> {
        match body {
            Body::WriteOut { runs, .. } => {
                runs.iter().map(|(start, blocks)| Run { start: *start, blocks: *blocks }).collect()
            }
            _ => Vec::new(),
        }
    }
}

/// An open store; clones share it.
#[derive(Clone)]
pub struct Store(Rc<Inner>);

struct Inner {
    device: DeviceHandle,
    superblock: Superblock,
    /// The host slot of the shard that has opened the store.
    slot: u16,
    /// Who gives extents; None where there is one shard only.
    home: Option<Rc<dyn home::Home>>,
    leasing: TaskLock,
    /// Free extents that were about to be leased when the catalogue could not be written.
    doubtful: RefCell<BTreeSet<ExtentNumber>>,
    catalogue: RefCell<Catalogue>,
    bitmaps: RefCell<bitmap::Bitmaps>,
    /// Claims in order of use; exhausted ones leave.
    claims: RefCell<Vec<ActiveClaim>>,
    claiming: TaskLock,
    bitmap_writes: TaskLock,
    host: RefCell<HostRecord>,
    host_lock: TaskLock,
    /// Generation of the newest host record whose write has completed.
    host_written: Cell<u64>,
    /// Generation of the newest host record that a flush has made durable.
    host_flushed: Cell<u64>,
    registry: RefCell<registry::Registry>,
    lease: lease::StoreLease,
    quarantine: RefCell<reuse::Quarantine>,
    space: RefCell<space::Space>,
    warnings: RefCell<Vec<Error>>,
    /// The first flush that failed.
    failed: RefCell<Option<Error>>,
    /// Data are zeros, whatever was written.
    keeps_no_data: Cell<bool>,
}

struct Catalogue {
    entries: Vec<CatalogueEntry>,
    /// Of its sectors; none where another shard writes them. Zero for one that was damaged, and is made from the headers of its
    /// extents, until it is written.
    generations: Vec<crate::units::Generation>,
}

impl Catalogue {
    /// Free extents, by number.
    fn free(&self) -> impl Iterator<Item = usize> + '_ {
        let numbered = self.entries.iter().enumerate();
        let free = numbered.filter(|(_, e)| e.kind == ExtentKind::Free && e.lease_generation < LEASES_MAX);
        free.map(|(n, _)| n)
    }
}

struct ActiveClaim {
    claim: Claim,
    /// Durable on disk, so its blocks may be handed out.
    usable: bool,
}

impl Store {
    /// How addresses split.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.0.superblock.geometry
    }
    /// The host slot of the shard that has opened it.
    #[must_use]
    pub fn slot(&self) -> u16 {
        self.0.slot
    }
    /// The store's identity.
    #[must_use]
    pub fn uuid(&self) -> Uuid {
        self.0.superblock.uuid
    }
    /// The verified superblock.
    #[must_use]
    pub fn superblock(&self) -> &Superblock {
        &self.0.superblock
    }
    /// The device under the store.
    #[must_use]
    pub fn device(&self) -> &DeviceHandle {
        &self.0.device
    }
    /// What was found damaged at open, or since, and worked around (bounded by the number of structures read).
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        self.0.warnings.borrow().iter().map(|e| e.message().to_owned()).collect()
    }
    /// Damage that shows while the store is open; the first few are remembered.
    pub fn warn(&self, what: Error) {
        const WARNINGS_MAX: usize = 64;
        let mut warnings = self.0.warnings.borrow_mut();
        if warnings.len() < WARNINGS_MAX {
            warnings.push(what);
        }
    }
    /// Device offset of `blocks` blocks at `addr`; an address outside every data or metadata extent,
    /// or a run over an extent's end, is corruption of whatever named it.
    pub fn offset_bytes(&self, addr: BlockAddr, blocks: u32) -> Result<u64> {
        let g = self.geometry();
        let (extent, block) = (g.extent(addr), g.block(addr));
        let catalogue = self.0.catalogue.borrow();
        let entry = catalogue.entries.get(extent.0 as usize);
        let entry = entry.filter(|e| matches!(e.kind, ExtentKind::Data | ExtentKind::Metadata));
        let Some(entry) = entry.filter(|_| u64::from(block) + u64::from(blocks) <= g.extent_blocks()) else {
            return Err(Error::corrupt(
                "block address",
                addr,
                format!("{blocks} blocks there are outside every data and metadata extent"),
            ));
        };
        Ok((entry.start_block + u64::from(block)) * BLOCK_BYTES)
    }
    /// Read `blocks` blocks. Contents are the caller's to verify.
    pub async fn read_blocks(&self, addr: BlockAddr, blocks: u32) -> Result<AlignedBuf> {
        let offset = self.offset_bytes(addr, blocks)?;
        if self.is_null(addr) {
            return Ok(AlignedBuf::zeroed(blocks as usize * BLOCK_SIZE));
        }
        self.0.device.read(offset, blocks as usize * BLOCK_SIZE).await
    }
    /// Read whole blocks at `addr` into the memory of a guest, which may have changed them when this returns.
    pub async fn read_blocks_into(&self, addr: BlockAddr, part: &GuestBufs) -> Result<()> {
        let offset = self.offset_bytes(addr, (part.len() / BLOCK_SIZE) as u32)?;
        if self.is_null(addr) {
            part.fill_zero();
            return Ok(());
        }
        let bufs: IoBufs = part.slices().iter().cloned().map(IoBuf::Guest).collect();
        self.0.device.read_bufs(offset, bufs).await.0
    }
    /// For benches: from now on data are neither written nor read, only nodes. Whatever was written reads as zeros, which is
    /// damage unless it was zeros.
    pub fn keep_no_data(&self) {
        self.0.keeps_no_data.set(true);
    }
    fn is_null(&self, addr: BlockAddr) -> bool {
        self.0.keeps_no_data.get() && self.kind_at(addr) == ExtentKind::Data
    }
    /// Write whole blocks at `addr`; not durable before a flush.
    pub async fn write_blocks(&self, addr: BlockAddr, bufs: IoBufs) -> Result<()> {
        let bytes: usize = bufs.iter().map(crate::buffer::IoBuf::len).sum();
        assert!(bytes > 0 && bytes.is_multiple_of(BLOCK_SIZE), "{bytes} bytes are not whole blocks");
        let offset = self.offset_bytes(addr, (bytes / BLOCK_SIZE) as u32)?;
        if self.is_null(addr) {
            return Ok(());
        }
        self.0.device.write_bufs(offset, bufs).await
    }
    /// No flush succeeds any more: one failed, here or in another shard.
    pub fn fail(&self, why: Error) {
        self.0.failed.borrow_mut().get_or_insert(why);
    }
    /// Why no flush succeeds any more, if so.
    #[must_use]
    pub fn failure(&self) -> Option<Error> {
        self.0.failed.borrow().as_ref().map(Error::duplicate)
    }
    /// Make every write completed so far durable. After one failure every flush fails: what that one lost nobody
    /// knows, and a later success would say nothing about it.
    pub async fn flush(&self) -> Result<()> {
        let written = self.0.host_written.get();
        let flushed = self.0.device.flush().await;
        if let Err(e) = &flushed
            && self.0.failed.borrow().is_none()
        {
            let why = Error::new(
                ErrorKind::Poisoned,
                format!("a flush of the store failed: {}", e.message()),
                "check the device and the kernel log, then restart the daemon, which recovers",
            );
            if let Some(home) = &self.0.home {
                home.failed(why.duplicate());
            }
            self.fail(why);
        }
        if let Some(why) = self.0.failed.borrow().as_ref() {
            return Err(why.duplicate());
        }
        self.0.host_flushed.set(self.0.host_flushed.get().max(written));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
