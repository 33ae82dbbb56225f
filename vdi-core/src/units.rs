//! Numbers with a unit. Conversions between units live here and nowhere else.

use std::fmt;

/// Bytes in a guest sector (virtio-blk's unit).
pub const SECTOR_BYTES: u64 = 512;
/// Bytes in a block, the unit of mapping, checksums and allocation.
pub const BLOCK_BYTES: u64 = 4096;
/// [`BLOCK_BYTES`] for indexing memory.
pub const BLOCK_SIZE: usize = BLOCK_BYTES as usize;
/// Guest sectors in a block.
pub const SECTORS_PER_BLOCK: u64 = BLOCK_BYTES / SECTOR_BYTES;

const _: () = assert!(BLOCK_BYTES.is_multiple_of(SECTOR_BYTES));

/// Blocks needed to hold `bytes` (rounded up).
#[must_use]
pub const fn blocks_for_bytes(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK_BYTES)
}

/// A block of a virtual disk: guest byte offset divided by 4 KiB.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct VirtualBlock(pub u64);

/// Where a block lies in the store: extent number and block within the extent, 48 bits
/// together; [`Geometry`] splits it. Zero is the superblock and so never a child: "absent".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct BlockAddr(pub u64);

impl BlockAddr {
    /// Bits of an address.
    pub const BITS: u32 = 48;
    /// "No block".
    pub const NONE: BlockAddr = BlockAddr(0);
    /// The block `n` further on. The caller stays within one extent; from an address that no store has, no store has
    /// what this gives.
    #[must_use]
    pub const fn plus(self, n: u64) -> BlockAddr {
        BlockAddr(self.0.saturating_add(n))
    }
    /// True for [`BlockAddr::NONE`].
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for BlockAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block {:#x}", self.0)
    }
}

/// Number of an extent: its index in the catalogue.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ExtentNumber(pub u32);

/// How addresses split: every extent holds `1 << extent_bits` blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// log2 of blocks per extent.
    pub extent_bits: u32,
}

impl Geometry {
    /// Blocks per extent.
    #[must_use]
    pub const fn extent_blocks(self) -> u64 {
        1 << self.extent_bits
    }
    /// Bytes per extent.
    #[must_use]
    pub const fn extent_bytes(self) -> u64 {
        BLOCK_BYTES << self.extent_bits
    }
    /// The address of block `block` of extent `extent`.
    #[must_use]
    pub const fn addr(self, extent: ExtentNumber, block: u32) -> BlockAddr {
        BlockAddr(((extent.0 as u64) << self.extent_bits) | block as u64)
    }
    /// The extent of an address; of one that is in none, a number that no extent has.
    #[must_use]
    pub const fn extent(self, addr: BlockAddr) -> ExtentNumber {
        let number = addr.0 >> self.extent_bits;
        ExtentNumber(if number < u32::MAX as u64 { number as u32 } else { u32::MAX })
    }
    /// The block within its extent.
    #[must_use]
    pub const fn block(self, addr: BlockAddr) -> u32 {
        (addr.0 & (self.extent_blocks() - 1)) as u32
    }
}

/// A VDI's count of ended snapshots plus one; 40 bits on disk. Blocks carry their birth epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The highest epoch that fits on disk.
    pub const MAX: Epoch = Epoch((1 << 40) - 1);
    /// The epoch after this one.
    #[must_use]
    pub const fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }
}

/// A VDI's identity, never reused: 128 random bits, shown as a UUID.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct VdiId(pub u128);

/// Identity of a store or a log: 128 random bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Uuid(pub u128);

fn fmt_uuid(v: u128, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(
        f,
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        v >> 96,
        (v >> 80) & 0xffff,
        (v >> 64) & 0xffff,
        (v >> 48) & 0xffff,
        v & 0xffff_ffff_ffff
    )
}

impl fmt::Display for VdiId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_uuid(self.0, f)
    }
}
impl fmt::Debug for VdiId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_uuid(self.0, f)
    }
}
impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_uuid(self.0, f)
    }
}
impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_uuid(self.0, f)
    }
}

/// Sequence number of a log segment: one more than its predecessor's, across incarnations.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct SegmentSeq(pub u64);

/// One recovery's life of a log: each recovery opens a new one before its first append.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Incarnation(pub u64);

/// A VDI's own sequence number of a log record; consecutive, starting at 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct VdiSeq(pub u64);

/// Version counter of a record with two slots; the higher valid one wins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Generation(pub u64);
