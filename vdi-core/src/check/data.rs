//! Data blocks against their checksums, neighbours in one read.

use super::Check;
use super::hurt::Damage;
use super::reader::CHUNK_BYTES;
use crate::buffer::{AlignedBuf, crc32c};
use crate::error::{Error, Result};
use crate::executor::{LocalFuture, join_all};
use crate::format::catalogue::ExtentKind;
use crate::format::node::Entry;
use crate::units::{BLOCK_SIZE, VirtualBlock};

/// Reads at once; with [`CHUNK_BYTES`] each, also the bound of memory.
const READS_AT_ONCE: usize = 8;
const DATA_HINT: &str = "the guest gets an error for this block; restore it from a snapshot or a backup";

impl Check {
    /// Read the data blocks `entries` (of one leaf) and compare them with their checksums.
    pub(super) async fn verify_data(&mut self, mut entries: Vec<(VirtualBlock, Entry)>) {
        entries.sort_unstable_by_key(|(_, e)| e.addr);
        let geometry = self.reader.superblock.geometry;
        let runs: Vec<&[(VirtualBlock, Entry)]> = entries
            .chunk_by(|(_, a), (_, b)| {
                a.addr.plus(1) == b.addr && geometry.extent(a.addr) == geometry.extent(b.addr)
            })
            .flat_map(|run| run.chunks(CHUNK_BYTES / BLOCK_SIZE))
            .collect();
        for some in runs.chunks(READS_AT_ONCE) {
            let reader = &self.reader;
            let reads = some.iter().map(|run| {
                let read = async move {
                    let offset = reader.offset_bytes(run[0].1.addr, ExtentKind::Data)?;
                    reader.device.read(offset, run.len() * BLOCK_SIZE).await
                };
                Box::pin(read) as LocalFuture<'_, Result<AlignedBuf>>
            });
            for (run, bytes) in some.iter().zip(join_all(reads.collect()).await) {
                match bytes {
                    Ok(bytes) => self.compare(run, &bytes),
                    Err(_) => self.verify_singly(run).await,
                }
            }
        }
    }
    /// A run that cannot be read at once, block by block.
    async fn verify_singly(&mut self, run: &[(VirtualBlock, Entry)]) {
        for (at, entry) in run {
            let read = match self.reader.offset_bytes(entry.addr, ExtentKind::Data) {
                Ok(offset) => self.reader.device.read(offset, BLOCK_SIZE).await,
                Err(e) => Err(e),
            };
            match read {
                Ok(bytes) => self.compare(&[(*at, *entry)], &bytes),
                Err(e) => self.damaged(&e, DATA_HINT, Damage::data(*at, entry.addr)),
            }
        }
    }
    fn compare(&mut self, run: &[(VirtualBlock, Entry)], bytes: &[u8]) {
        for ((at, entry), block) in run.iter().zip(bytes.chunks_exact(BLOCK_SIZE)) {
            self.report.counts.data_blocks_verified += 1;
            let found = crc32c(block);
            if found != entry.crc {
                let detail = format!("checksum is {found:#010x}, its leaf says {:#010x}", entry.crc);
                let error = Error::corrupt("data block", entry.addr, detail);
                self.damaged(&error, DATA_HINT, Damage::data(*at, entry.addr));
            }
        }
    }
}
