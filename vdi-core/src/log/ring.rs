//! Arithmetic of the ring: positions, where segments may start, and the sizes that follow from its length.

use crate::error::{Error, ErrorKind, Result};
use crate::format::log_head::RING_OFFSET_BYTES;
use crate::format::segment::SEGMENT_HEADER_BYTES;
use crate::limits::{
    LOG_COPIES_SHARE, LOG_RING_BYTES_MIN, LOG_STAGED_SEGMENTS_MAX, LOG_UNFLUSHED_BYTES_MAX,
    SEGMENT_DATA_BLOCKS_MAX, SEGMENT_HEAD_BYTES_MAX,
};
use crate::units::{BLOCK_BYTES, BLOCK_SIZE};

/// A place in the ring that also counts laps: `lap * ring + offset`. So later is always greater.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Position(pub u64);

impl Position {
    pub fn plus(self, bytes: u64) -> Position {
        Position(self.0 + bytes)
    }
    /// Bytes from `earlier` to here. Panics when it is later.
    pub fn since(self, earlier: Position) -> u64 {
        self.0.checked_sub(earlier.0).expect("positions only grow")
    }
}

/// The ring's length and what follows from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ring {
    pub bytes: u64,
    /// Data blocks in a segment at most: small rings have small segments, eight at least.
    pub data_blocks_max: u32,
    /// How far a segment may start after the end of the durable part.
    pub unflushed_bytes_max: u64,
}

impl Ring {
    /// The ring on a device of `device_bytes`.
    pub fn on_device(device_bytes: u64) -> Result<Ring> {
        let bytes = device_bytes.saturating_sub(RING_OFFSET_BYTES) / BLOCK_BYTES * BLOCK_BYTES;
        if bytes < LOG_RING_BYTES_MIN {
            return Err(Error::new(
                ErrorKind::BadRequest,
                format!(
                    "a log needs {} bytes, the device has {device_bytes}",
                    RING_OFFSET_BYTES + LOG_RING_BYTES_MIN
                ),
                "give the log a larger file or device (--log-size)",
            ));
        }
        Ok(Ring::of(bytes))
    }
    /// A ring of `bytes`.
    pub fn of(bytes: u64) -> Ring {
        assert!(bytes >= LOG_RING_BYTES_MIN && bytes.is_multiple_of(BLOCK_BYTES));
        let head_blocks = (SEGMENT_HEAD_BYTES_MAX / BLOCK_SIZE) as u64;
        let data_blocks = (bytes / BLOCK_BYTES / 8 - head_blocks).min(SEGMENT_DATA_BLOCKS_MAX as u64);
        let ring = Ring {
            bytes,
            data_blocks_max: u32::try_from(data_blocks).expect("bounded by a segment's blocks"),
            unflushed_bytes_max: (bytes / 4).min(LOG_UNFLUSHED_BYTES_MAX),
        };
        // A window that is half full starts a flush; the other half must still take a whole segment.
        assert!(ring.segment_bytes_max() * 2 <= ring.unflushed_bytes_max);
        ring
    }
    /// Bytes of the largest segment.
    pub fn segment_bytes_max(&self) -> u64 {
        SEGMENT_HEAD_BYTES_MAX as u64 + u64::from(self.data_blocks_max) * BLOCK_BYTES
    }
    /// Bytes of records in a segment at most.
    pub fn record_bytes_max(&self) -> usize {
        SEGMENT_HEAD_BYTES_MAX - SEGMENT_HEADER_BYTES
    }
    /// Bytes that segments and promises may take: all but the skip at the ring's end.
    pub fn usable_bytes(&self) -> u64 {
        self.bytes - self.segment_bytes_max()
    }
    /// Of [`Ring::usable_bytes`], what only copies of records may take: see [`LOG_COPIES_SHARE`].
    pub fn copies_bytes_max(&self) -> u64 {
        self.bytes / LOG_COPIES_SHARE / BLOCK_BYTES * BLOCK_BYTES
    }
    /// Bytes of records and data in memory, reserved ones included, at most.
    pub fn staged_bytes_max(&self) -> u64 {
        self.segment_bytes_max() * LOG_STAGED_SEGMENTS_MAX
    }
    /// Where the next segment starts when the one before ends at `end`: there, or at the start of the
    /// next lap when the largest segment would not fit.
    pub fn start_after(&self, end: Position) -> Position {
        let left = self.bytes - end.0 % self.bytes;
        if left < self.segment_bytes_max() { end.plus(left) } else { end }
    }
    /// Bytes from the start of the device.
    pub fn device_offset(&self, at: Position) -> u64 {
        RING_OFFSET_BYTES + at.0 % self.bytes
    }
    /// The first position at or after `at` that lies at `device_offset`; None when no segment can start there.
    pub fn position_from(&self, at: Position, device_offset: u64) -> Option<Position> {
        let within = device_offset.checked_sub(RING_OFFSET_BYTES)?;
        if within >= self.bytes || !within.is_multiple_of(BLOCK_BYTES) {
            return None;
        }
        let lap = at.0 / self.bytes * self.bytes;
        let found = if within >= at.0 % self.bytes { lap + within } else { lap + self.bytes + within };
        (self.start_after(Position(found)) == Position(found)).then_some(Position(found))
    }
    /// How far behind a bad segment proof of its durability can lie.
    ///
    /// Say it ends at E and was flushed. The first segment that starts after E + W (W the unflushed
    /// window) says so, and so does every later one; if the first is itself torn, it was never
    /// flushed, and nothing starts beyond its end + W. So a witness, if any reached the device, starts before
    /// E + 2 W + 2 segments.
    pub fn probe_bytes(&self) -> u64 {
        (2 * self.unflushed_bytes_max + 4 * self.segment_bytes_max()).min(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_starts_where_the_largest_fits_or_on_the_next_lap() {
        let ring = Ring::of(1 << 20);
        let largest = ring.segment_bytes_max();
        assert_eq!(largest, 128 << 10);
        let last = Position((1 << 20) - largest);
        assert_eq!(ring.start_after(last), last);
        assert_eq!(ring.start_after(last.plus(4096)), Position(1 << 20));
        assert_eq!(ring.start_after(Position(1 << 20)), Position(1 << 20));
        assert_eq!(ring.device_offset(Position((1 << 20) + 8192)), RING_OFFSET_BYTES + 8192);
    }

    #[test]
    fn a_device_offset_names_the_next_position_there() {
        let ring = Ring::of(1 << 20);
        let at = Position((3 << 20) + 8192);
        let find = |within| ring.position_from(at, RING_OFFSET_BYTES + within);
        assert_eq!(find(8192), Some(at));
        assert_eq!(find(12288), Some(at.plus(4096)));
        assert_eq!(find(4096), Some(Position((4 << 20) + 4096)));
        assert_eq!(find(1), None);
        assert_eq!(find((1 << 20) - 4096), None);
        assert_eq!(find(1 << 20), None);
        assert_eq!(ring.position_from(at, 0), None);
    }

    #[test]
    fn the_default_log_has_segments_of_full_size() {
        let ring = Ring::of(crate::limits::LOG_BYTES_DEFAULT - RING_OFFSET_BYTES);
        assert_eq!(ring.data_blocks_max as usize, SEGMENT_DATA_BLOCKS_MAX);
        assert_eq!(ring.unflushed_bytes_max, LOG_UNFLUSHED_BYTES_MAX);
        assert_eq!(Ring::on_device(1 << 20).unwrap_err().kind(), ErrorKind::BadRequest);
    }
}
