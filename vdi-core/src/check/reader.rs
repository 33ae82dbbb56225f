//! The checker's own way from block addresses to bytes: through the catalogue as it was read, never
//! through the store.

use crate::buffer::AlignedBuf;
use crate::device::DeviceHandle;
use crate::error::{Error, Result};
use crate::format::catalogue::{CatalogueEntry, ExtentKind};
use crate::format::extent::overhead_blocks;
use crate::format::node::{Entry, Node};
use crate::format::superblock::Superblock;
use crate::tree::walk::NodeSource;
use crate::units::{BLOCK_BYTES, BLOCK_SIZE, BlockAddr, ExtentNumber};

/// Bytes read at once of long stretches.
pub(super) const CHUNK_BYTES: usize = 1 << 20;

/// A store to read from.
pub(super) struct Reader {
    pub device: DeviceHandle,
    pub superblock: Superblock,
    /// None where the sector of the catalogue does not verify.
    pub catalogue: Vec<Option<CatalogueEntry>>,
}

impl Reader {
    pub fn new(
        device: DeviceHandle,
        superblock: Superblock,
        catalogue: Vec<Option<CatalogueEntry>>,
    ) -> Reader {
        Reader { device, superblock, catalogue }
    }
    /// Where block `addr` of a `kind` extent lies, bytes from the start of the device.
    pub fn offset_bytes(&self, addr: BlockAddr, kind: ExtentKind) -> Result<u64> {
        let g = self.superblock.geometry;
        let bad = |detail: String| Err(Error::corrupt("block address", addr, detail));
        let number = addr.0 >> g.extent_bits;
        let entry = usize::try_from(number).ok().and_then(|n| self.catalogue.get(n));
        match entry {
            None => bad("the store has no such block".into()),
            Some(None) => bad(format!("the catalogue entry of extent {number} is unreadable")),
            Some(Some(e)) if e.kind != kind => {
                bad(format!("a {kind:?} block is expected there, extent {number} is {:?}", e.kind))
            }
            Some(Some(_)) if g.block(addr) < overhead_blocks(g) => {
                bad(format!("the header and bitmap of extent {number} are there"))
            }
            Some(Some(e)) => Ok((e.start_block + u64::from(g.block(addr))) * BLOCK_BYTES),
        }
    }
    /// Read metadata block `addr`.
    pub async fn metadata(&self, addr: BlockAddr) -> Result<AlignedBuf> {
        let offset = self.offset_bytes(addr, ExtentKind::Metadata)?;
        self.device.read(offset, BLOCK_SIZE).await
    }
    /// The catalogue entry of an extent, where it verifies.
    pub fn entry(&self, number: ExtentNumber) -> Option<&CatalogueEntry> {
        self.catalogue.get(number.0 as usize)?.as_ref()
    }
}

impl NodeSource for Reader {
    async fn node(&self, link: Entry, _level: u8) -> Result<Node> {
        Node::verify(self.metadata(link.addr).await?, link)
    }
}
