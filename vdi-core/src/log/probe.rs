//! Reading segments from the ring: large sequential reads, and the look ahead behind a bad segment.

use smallvec::smallvec;

use super::ring::{Position, Ring};
use crate::buffer::{AlignedBuf, IoBuf};
use crate::device::DeviceHandle;
use crate::error::Result;
use crate::format::log_head::RING_OFFSET_BYTES;
use crate::format::segment::{VerifiedSegment, peek, verify_at};
use crate::limits::SEGMENT_HEAD_BYTES_MAX;
use crate::units::{BLOCK_BYTES, BLOCK_SIZE, Uuid};

/// Read ahead while segments are small, for a disk reads all of them sooner than their heads one by one; a large
/// one is skipped over and costs one head area. A small ring is read in several windows too.
const WINDOW_BYTES_MAX: u64 = 8 << 20;
const WINDOW_BYTES_MIN: u64 = 128 << 10;
const WINDOWS_IN_RING: u64 = 16;
const SMALL_SEGMENT_BYTES: u64 = 512 << 10;
const _: () = assert!(WINDOW_BYTES_MIN > SEGMENT_HEAD_BYTES_MAX as u64);

/// A window on the ring.
pub(super) struct Reader {
    device: DeviceHandle,
    log: Uuid,
    pub ring: Ring,
    window_offset: u64,
    window: AlignedBuf,
    /// How much to read when the window is left.
    ahead_bytes: u64,
}

impl Reader {
    pub fn new(device: &DeviceHandle, log: Uuid, ring: Ring) -> Reader {
        let window = AlignedBuf::zeroed(0);
        let ahead_bytes = Self::window_bytes(&ring);
        Reader { device: device.clone(), log, ring, window_offset: 0, window, ahead_bytes }
    }
    fn window_bytes(ring: &Ring) -> u64 {
        (ring.bytes / WINDOWS_IN_RING).clamp(WINDOW_BYTES_MIN, WINDOW_BYTES_MAX).next_multiple_of(BLOCK_BYTES)
    }
    /// The bytes from `at` on, a head area of the largest size at least.
    async fn head_area(&mut self, at: Position) -> Result<&[u8]> {
        let offset = self.ring.device_offset(at);
        let end = self.window_offset + self.window.len() as u64;
        if offset < self.window_offset || offset + SEGMENT_HEAD_BYTES_MAX as u64 > end {
            let ring_end = RING_OFFSET_BYTES + self.ring.bytes;
            let len = self.ahead_bytes.min(ring_end - offset);
            let len = usize::try_from(len).expect("a window fits memory");
            let mut window = std::mem::replace(&mut self.window, AlignedBuf::zeroed(0));
            if window.len() != len {
                window = AlignedBuf::zeroed(len);
            }
            let (result, bufs) = self.device.read_bufs(offset, smallvec![IoBuf::Owned(window)]).await;
            result?;
            if let Some(IoBuf::Owned(window)) = bufs.into_iter().next() {
                self.window = window;
            }
            self.window_offset = offset;
        }
        let within = usize::try_from(offset - self.window_offset).expect("within the window");
        Ok(&self.window[within..])
    }
    /// The valid segment at `at`, if there is one. What it is worth is the caller's to judge.
    pub async fn segment_at(&mut self, at: Position) -> Result<Option<VerifiedSegment<'_>>> {
        let (log, offset) = (self.log, self.ring.device_offset(at));
        let bytes = self.head_area(at).await?;
        Ok(verify_at(bytes, log, offset).ok())
    }
    /// The bytes where a valid segment was expected, for a guess at what it held.
    pub async fn bytes_at(&mut self, at: Position) -> Result<Vec<u8>> {
        let bytes = self.head_area(at).await?;
        Ok(bytes[..peek(bytes).unwrap_or(BLOCK_SIZE).min(bytes.len())].to_vec())
    }
    /// The last segment took `bytes`: read ahead accordingly.
    pub fn passed(&mut self, bytes: u64) {
        self.ahead_bytes = if bytes < SMALL_SEGMENT_BYTES {
            Self::window_bytes(&self.ring)
        } else {
            SEGMENT_HEAD_BYTES_MAX as u64
        };
    }
    /// The first place after `at` and before `end` where a valid segment of this log lies.
    pub async fn next_valid(&mut self, at: Position, end: Position) -> Result<Option<Position>> {
        self.ahead_bytes = Self::window_bytes(&self.ring);
        let mut at = self.ring.start_after(at.plus(BLOCK_BYTES));
        while at < end {
            let (log, offset) = (self.log, self.ring.device_offset(at));
            let bytes = self.head_area(at).await?;
            if peek(bytes).is_some() && verify_at(bytes, log, offset).is_ok() {
                return Ok(Some(at));
            }
            at = self.ring.start_after(at.plus(BLOCK_BYTES));
        }
        Ok(None)
    }
}
