//! Reading: overlay first, then the node cache, then the store. Device reads go straight into the
//! guest's memory where alignment allows; checksums are verified before completion.

use smallvec::SmallVec;

use super::content::{Content, Staged};
use super::overlay::Piece;
use super::{Vdi, blocks_of};
use crate::buffer::{AlignedBuf, GuestBufs, HostMemory, crc32c};
use crate::error::{Error, Result};
use crate::executor::{LocalFuture, join_all};
use crate::sabotage::{Bug, seeded_bug};
use crate::tree::{Mapping, Root, lookup};
use crate::units::{BLOCK_BYTES, BLOCK_SIZE, BlockAddr, VirtualBlock};

impl Vdi {
    /// Fill `bufs` from `sector` on.
    ///
    /// # Errors
    /// Whatever makes it unsure what the disk holds there, and nothing is shown then: `Corrupt` and device errors for
    /// a damaged block, and for all of a VDI that may have gone back to an earlier state (it is held then).
    pub async fn read(&self, sector: u64, bufs: &GuestBufs) -> Result<()> {
        self.check_certain()?;
        self.salvage(sector, bufs).await
    }
    /// As [`Vdi::read`], but even when the VDI may have gone back to an earlier state: for whoever only looks at what
    /// is left.
    ///
    /// # Errors
    /// As [`Vdi::read`] for damaged blocks.
    pub async fn salvage(&self, sector: u64, bufs: &GuestBufs) -> Result<()> {
        let start = self.check_range(sector, bufs.len() as u64)?;
        if bufs.is_empty() {
            return Ok(());
        }
        let _active = self.enter();
        let blocks = blocks_of(start, bufs.len() as u64);
        let skip = (start - blocks.start * BLOCK_BYTES) as usize;
        let whole = (blocks.end - blocks.start) as usize * BLOCK_SIZE;
        if whole == bufs.len() {
            return self.read_blocks(blocks.start, bufs).await;
        }
        let memory = HostMemory::slice(whole);
        self.read_blocks(blocks.start, &memory.clone().into()).await?;
        let mut bytes = AlignedBuf::zeroed(bufs.len());
        memory.sub(skip..skip + bufs.len()).copy_to(&mut bytes);
        bufs.copy_from(&bytes);
        Ok(())
    }
    /// Fill `bufs`, whole blocks, from virtual block `first` on.
    pub(super) async fn read_blocks(&self, first: u64, bufs: &GuestBufs) -> Result<()> {
        let blocks = bufs.len() as u64 / BLOCK_BYTES;
        let _pin = self.0.shared.store.read_pin();
        let root = self.0.root.get();
        let mut pieces = self.0.overlay.borrow().lookup(first..first + blocks);
        if pieces.len() == 1 {
            return self.read_piece(root, pieces.remove(0), bufs).await;
        }
        let mut waits: Vec<LocalFuture<'_, Result<()>>> = Vec::new();
        for p in pieces {
            let from = ((p.at - first) * BLOCK_BYTES) as usize;
            let part = bufs.range(from..from + (p.blocks * BLOCK_BYTES) as usize);
            waits.push(Box::pin(async move { self.read_piece(root, p, &part).await }));
        }
        join_all(waits).await.into_iter().collect()
    }
    async fn read_piece(&self, root: Root, piece: Piece, part: &GuestBufs) -> Result<()> {
        match piece.content {
            Some(Content::Zero) if !seeded_bug(Bug::ZeroIsAHole) => {
                part.fill_zero();
                Ok(())
            }
            Some(Content::Staged(s, skip)) => match s.memory() {
                Some(m) => {
                    part.copy_from(&m[skip as usize * BLOCK_SIZE..][..part.len()]);
                    Ok(())
                }
                None => self.read_staged(s, skip, part).await,
            },
            Some(content @ Content::Placed(..)) => self.read_placed(piece.at, content, part).await,
            None | Some(Content::Zero) => self.read_tree(root, piece.at, part).await,
        }
    }
    async fn read_staged(&self, staged: std::rc::Rc<Staged>, skip: u32, part: &GuestBufs) -> Result<()> {
        let blocks = (part.len() / BLOCK_SIZE) as u32;
        let data = self.0.shared.log.read_data(&staged.segment, staged.first_block + skip, blocks).await?;
        for (i, block) in data.chunks_exact(BLOCK_SIZE).enumerate() {
            verify(block, staged.crcs[skip as usize + i], || format!("log data of VDI '{}'", self.name()))?;
        }
        part.copy_from(&data);
        Ok(())
    }
    async fn read_placed(&self, at: u64, content: Content, part: &GuestBufs) -> Result<()> {
        let blocks = part.len() as u64 / BLOCK_BYTES;
        let crcs = content.crcs(blocks);
        let mut done = 0;
        for run in content.placed_runs(blocks) {
            let n = run.blocks as usize;
            let piece = part.range(done * BLOCK_SIZE..(done + n) * BLOCK_SIZE);
            self.read_run(at + done as u64, run.start, &crcs[done..done + n], &piece).await?;
            done += n;
        }
        Ok(())
    }
    async fn read_tree(&self, root: Root, at: u64, part: &GuestBufs) -> Result<()> {
        let blocks = (part.len() / BLOCK_SIZE) as u32;
        let mappings = lookup(&self.0.shared.cache, &root, VirtualBlock(at), blocks)
            .await
            .map_err(|e| e.context(format!("VDI '{}'", self.name())))?;
        if let [Mapping { blocks: all, target: Some((addr, crcs)), .. }] = &mappings[..]
            && *all == blocks
        {
            return self.read_run(at, *addr, crcs, part).await;
        }
        let mut waits: Vec<LocalFuture<'_, Result<()>>> = Vec::new();
        for m in mappings {
            let from = (m.at.0 - at) as usize * BLOCK_SIZE;
            let piece = part.range(from..from + m.blocks as usize * BLOCK_SIZE);
            match m.target {
                None => piece.fill_zero(),
                Some((addr, crcs)) => {
                    waits.push(Box::pin(async move { self.read_run(m.at.0, addr, &crcs, &piece).await }));
                }
            }
        }
        join_all(waits).await.into_iter().collect()
    }
    /// Read adjacent blocks of the store into guest memory and check them.
    async fn read_run(&self, at: u64, addr: BlockAddr, crcs: &[u32], part: &GuestBufs) -> Result<()> {
        let store = &self.0.shared.store;
        let align = store.device().info().align_bytes as usize;
        let direct = part
            .slices()
            .iter()
            .all(|s| (s.as_ptr() as usize).is_multiple_of(align) && s.len().is_multiple_of(align));
        if direct {
            store.read_blocks_into(addr, part).await?;
            let mut block = [0; BLOCK_SIZE];
            let good = crcs.iter().enumerate().all(|(i, crc)| {
                part.copy_out(i * BLOCK_SIZE, &mut block);
                crc32c(&block) == *crc
            });
            if good {
                return Ok(());
            }
            // The guest may have scribbled on its own buffer: only private memory can convict the disk.
        }
        let data = store.read_blocks(addr, crcs.len() as u32).await?;
        for (i, block) in data.chunks_exact(BLOCK_SIZE).enumerate() {
            verify(block, crcs[i], || {
                format!("virtual block {} of VDI '{}' at {}", at + i as u64, self.name(), addr.plus(i as u64))
            })?;
        }
        part.copy_from(&data);
        Ok(())
    }
    /// The newest data of `blocks` blocks in private memory.
    pub(super) async fn read_private(&self, first: u64, blocks: u64) -> Result<AlignedBuf> {
        let memory = HostMemory::slice((blocks * BLOCK_BYTES) as usize);
        self.read_blocks(first, &memory.clone().into()).await?;
        let mut out = AlignedBuf::zeroed(memory.len());
        memory.copy_to(&mut out);
        Ok(out)
    }
}

fn verify(block: &[u8], expected: u32, what: impl FnOnce() -> String) -> Result<()> {
    let found = crc32c(block);
    if found == expected || seeded_bug(Bug::DataUnchecked) {
        return Ok(());
    }
    let detail = format!("checksum is {found:#010x}, expected {expected:#010x}");
    Err(Error::corrupt("data", what(), detail))
}

/// Checksums of whole blocks.
pub(super) fn crcs_of(data: &[u8]) -> SmallVec<[u32; 4]> {
    data.chunks_exact(BLOCK_SIZE).map(crc32c).collect()
}

/// Check whole blocks of log data against their checksums.
pub(super) fn verify_all(data: &[u8], crcs: &[u32], vdi: &str) -> Result<()> {
    for (block, crc) in data.chunks_exact(BLOCK_SIZE).zip(crcs) {
        verify(block, *crc, || format!("log data of VDI '{vdi}'"))?;
    }
    Ok(())
}
