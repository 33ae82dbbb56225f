//! Reading segments from the ring: large sequential reads, and the look ahead behind a bad segment.

use smallvec::smallvec;

use super::ring::{Position, Ring};
use crate::buffer::{AlignedBuf, IoBuf};
use crate::device::DeviceHandle;
use crate::error::{Error, ErrorKind, Result};
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
    /// Blocks of the window that could not be read, by offset on the device: there it holds zeros.
    holes: Vec<u64>,
    /// Why the last of them could not be read.
    unreadable: Option<Error>,
    /// How much to read when the window is left.
    ahead_bytes: u64,
}

impl Reader {
    pub fn new(device: &DeviceHandle, log: Uuid, ring: Ring) -> Reader {
        let window = AlignedBuf::zeroed(0);
        let ahead_bytes = Self::window_bytes(&ring);
        Reader {
            device: device.clone(),
            log,
            ring,
            window_offset: 0,
            window,
            holes: Vec::new(),
            unreadable: None,
            ahead_bytes,
        }
    }
    fn window_bytes(ring: &Ring) -> u64 {
        (ring.bytes / WINDOWS_IN_RING).clamp(WINDOW_BYTES_MIN, WINDOW_BYTES_MAX).next_multiple_of(BLOCK_BYTES)
    }
    /// Whatever is asked for next comes from the device.
    pub fn forget(&mut self) {
        self.window = AlignedBuf::zeroed(0);
    }
    /// The bytes from `at` on, a head area of the largest size at least.
    async fn head_area(&mut self, at: Position) -> Result<&[u8]> {
        let offset = self.ring.device_offset(at);
        let end = self.window_offset + self.window.len() as u64;
        if offset < self.window_offset || offset + SEGMENT_HEAD_BYTES_MAX as u64 > end {
            let ring_end = RING_OFFSET_BYTES + self.ring.bytes;
            let len = self.ahead_bytes.min(ring_end - offset);
            if self.fill(offset, len).await.is_err() {
                // What is behind the area that is asked for may be nobody's.
                let least = (SEGMENT_HEAD_BYTES_MAX as u64).min(ring_end - offset);
                self.fill_by_blocks(offset, least).await?;
            }
        }
        let within = usize::try_from(offset - self.window_offset).expect("within the window");
        Ok(&self.window[within..])
    }
    /// Move the window to the `len` bytes at `offset`.
    async fn fill(&mut self, offset: u64, len: u64) -> Result<()> {
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
        self.holes.clear();
        Ok(())
    }
    /// As [`Reader::fill`], with holes where the device cannot read.
    async fn fill_by_blocks(&mut self, offset: u64, len: u64) -> Result<()> {
        let mut window = AlignedBuf::zeroed(usize::try_from(len).expect("a head area fits memory"));
        self.holes.clear();
        for (nth, block) in (0..).zip(window.chunks_exact_mut(BLOCK_SIZE)) {
            let at = offset + nth * BLOCK_BYTES;
            match self.device.read(at, BLOCK_SIZE).await {
                Ok(bytes) => block.copy_from_slice(&bytes),
                Err(e) if matches!(e.kind(), ErrorKind::Io(_)) => {
                    self.holes.push(at);
                    self.unreadable = Some(e);
                }
                Err(e) => return Err(e),
            }
        }
        (self.window, self.window_offset) = (window, offset);
        Ok(())
    }
    /// An error when one of the blocks from `offset` to `end` is a hole.
    fn check_readable(&self, offset: u64, end: u64) -> Result<()> {
        match &self.unreadable {
            Some(e) if self.holes.iter().any(|at| (offset..end).contains(at)) => Err(e.duplicate()),
            _ => Ok(()),
        }
    }
    /// The valid segment at `at`, if there is one. What it is worth is the caller's to judge. An error when it cannot be
    /// read whether there is one.
    pub async fn segment_at(&mut self, at: Position) -> Result<Option<VerifiedSegment<'_>>> {
        let (log, offset) = (self.log, self.ring.device_offset(at));
        self.head_area(at).await?;
        self.check_readable(offset, offset + BLOCK_BYTES)?;
        let bytes = &self.window[usize::try_from(offset - self.window_offset).expect("within the window")..];
        self.check_readable(offset, offset + peek(bytes).unwrap_or(0) as u64)?;
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
