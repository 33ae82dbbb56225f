//! Data that only the log has: acknowledged, not in any tree yet, and so nowhere else.

use super::{Check, Hurt};
use crate::buffer::crc32c;
use crate::device::DeviceHandle;
use crate::error::{Error, Result};
use crate::format::record::{Body, Crcs, Record};
use crate::units::{BLOCK_SIZE, SegmentSeq, VirtualBlock};

const HINT: &str = "what the guest wrote there last is lost: restore the range from a snapshot or a backup";

impl Check {
    /// Compare the data that lie in the logs, of records that no tree has yet, with their checksums.
    pub(super) async fn logged_data(&mut self) {
        if !self.options.data {
            return;
        }
        for (device, scan) in std::mem::take(&mut self.scans) {
            for (segment, _, record, first_block) in scan.records() {
                let Body::Write { at, crcs } = &record.body else { continue };
                let Some(name) = self.waits(record) else { continue };
                if crcs.is_empty() {
                    continue;
                }
                let Some(offset_bytes) = segment.block_offset(first_block) else { continue };
                self.report.counts.data_blocks_verified += crcs.len() as u64;
                let wrong = match wrong_blocks(&device, offset_bytes, crcs).await {
                    Ok(wrong) => wrong,
                    Err(_) => (0..crcs.len() as u64).collect(),
                };
                for n in wrong {
                    self.logged_wrong(&name, VirtualBlock(at.0.saturating_add(n)), segment.seq());
                }
            }
        }
    }
    /// The name of the record's VDI when its tree does not have the record yet.
    fn waits(&self, record: &Record) -> Option<String> {
        let (name, applied) = self.applied.get(&record.vdi)?;
        (*applied < record.seq).then(|| name.clone())
    }
    fn logged_wrong(&mut self, name: &str, first: VirtualBlock, segment: SegmentSeq) {
        let detail = format!("its data for block {} of VDI '{name}' are not what was written", first.0);
        let error = Error::corrupt("log", format!("segment {}", segment.0), detail);
        if let Some(finding) = self.report.corrupt(&error, HINT) {
            let hurt = Hurt { vdi: name.to_owned(), snapshot: None, first, blocks: 1 };
            self.report.findings[finding].hurt.push(hurt);
        }
    }
}

/// Which of the blocks at `offset_bytes` are not as `crcs` say.
async fn wrong_blocks(device: &DeviceHandle, offset_bytes: u64, crcs: &Crcs) -> Result<Vec<u64>> {
    let bytes = device.read(offset_bytes, crcs.len() * BLOCK_SIZE).await?;
    let blocks = (0..).zip(bytes.chunks_exact(BLOCK_SIZE)).zip(crcs);
    Ok(blocks.filter(|((_, block), crc)| crc32c(block) != **crc).map(|((n, _), _)| n).collect())
}
