//! Holds the store's place until it lands: block `n` lies at `n` times 4 KiB, allocation counts up.

use std::cell::Cell;
use std::rc::Rc;

use crate::buffer::{AlignedBuf, IoBufs};
use crate::device::DeviceHandle;
use crate::error::Result;
use crate::units::{BLOCK_BYTES, BLOCK_SIZE, BlockAddr, Geometry};

/// What blocks are allocated for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExtentKind {
    /// Data blocks.
    Data,
    /// Nodes and snapshot logs.
    Metadata,
}

/// Contiguous blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// First block.
    pub start: BlockAddr,
    /// How many.
    pub blocks: u32,
}

/// Blocks on a device.
#[derive(Clone)]
pub struct Store {
    device: DeviceHandle,
    next: Rc<Cell<u64>>,
}

impl Store {
    /// All of `device`, from block 1.
    pub fn new(device: DeviceHandle) -> Store {
        Store { device, next: Rc::new(Cell::new(1)) }
    }
    /// How addresses split.
    pub fn geometry(&self) -> Geometry {
        Geometry { extent_bits: 22 }
    }
    /// Claim up to `max_blocks`.
    pub async fn allocate(&self, _kind: ExtentKind, max_blocks: u32) -> Result<Run> {
        let start = BlockAddr(self.next.get());
        self.next.set(start.0 + u64::from(max_blocks));
        Ok(Run { start, blocks: max_blocks })
    }
    /// Read `blocks` from `addr`.
    pub async fn read_blocks(&self, addr: BlockAddr, blocks: u32) -> Result<AlignedBuf> {
        self.device.read(addr.0 * BLOCK_BYTES, blocks as usize * BLOCK_SIZE).await
    }
    /// Write `bufs` at `addr`.
    pub async fn write_blocks(&self, addr: BlockAddr, bufs: IoBufs) -> Result<()> {
        self.device.write_bufs(addr.0 * BLOCK_BYTES, bufs).await
    }
}
