//! Reading what can be read: a sector that cannot leaves its neighbours as they are.

use std::ops::Range;

use super::DeviceHandle;
use crate::buffer::AlignedBuf;
use crate::error::{Error, Result};
use crate::units::BLOCK_SIZE;

const CHUNK_BYTES: usize = 1 << 20;
/// Blocks looked for one by one; beyond, a stretch of which a part cannot be read counts as unread. A device that is
/// gone takes long for each.
const UNREAD_MAX: usize = 256;

/// Bytes of a device. What could not be read is known, and never looks like zeros.
#[derive(Debug, Default)]
pub struct Pieces {
    bytes: Vec<u8>,
    unread: Vec<(Range<usize>, Error)>,
}

impl Pieces {
    /// These bytes; the device's error when it could not read one of them.
    pub fn get(&self, range: Range<usize>) -> Result<&[u8]> {
        let overlaps =
            |(unread, _): &&(Range<usize>, Error)| unread.start < range.end && range.start < unread.end;
        match self.unread.iter().find(overlaps) {
            Some((_, e)) => Err(e.duplicate()),
            None => Ok(&self.bytes[range]),
        }
    }
    /// Everything before the first byte that could not be read.
    #[must_use]
    pub fn prefix(&self) -> &[u8] {
        &self.bytes[..self.unread.first().map_or(self.bytes.len(), |(range, _)| range.start)]
    }
    /// Why there is something that could not be read.
    #[must_use]
    pub fn unread(&self) -> Option<&Error> {
        self.unread.first().map(|(_, e)| e)
    }
    fn push(&mut self, read: Result<AlignedBuf>, bytes: usize) {
        let start = self.bytes.len();
        match read {
            Ok(read) => self.bytes.extend_from_slice(&read),
            Err(e) => {
                self.unread.push((start..start + bytes, e));
                self.bytes.resize(start + bytes, 0);
            }
        }
    }
}

impl DeviceHandle {
    /// Read `bytes` from `offset_bytes`, a multiple of a block, on; block by block where they cannot be read at once.
    pub async fn read_pieces(&self, offset_bytes: u64, bytes: usize) -> Pieces {
        let mut pieces = Pieces::default();
        while pieces.bytes.len() < bytes {
            let at = pieces.bytes.len();
            let chunk = (bytes - at).min(CHUNK_BYTES).next_multiple_of(BLOCK_SIZE);
            let read = self.read(offset_bytes + at as u64, chunk).await;
            if read.is_ok() || pieces.unread.len() >= UNREAD_MAX || chunk == BLOCK_SIZE {
                pieces.push(read, chunk);
                continue;
            }
            for block in (at..at + chunk).step_by(BLOCK_SIZE) {
                let read = self.read(offset_bytes + block as u64, BLOCK_SIZE).await;
                pieces.push(read, BLOCK_SIZE);
            }
        }
        pieces.bytes.truncate(bytes);
        pieces
    }
}
