//! One segment as its readers see it. Whoever holds the `Rc` keeps its space in the ring.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::ring::Position;
use crate::buffer::AlignedBuf;
use crate::units::{BLOCK_BYTES, BLOCK_SIZE, Incarnation, SegmentSeq};

/// A segment of the log. Its data are in memory until its write has ended, then on the device.
pub struct Segment {
    seq: SegmentSeq,
    incarnation: Incarnation,
    place: Cell<Option<Place>>,
    staged: RefCell<Vec<Staged>>,
    written: Cell<bool>,
    /// Records that count, where a recovery voided the rest.
    records: Cell<Option<usize>>,
}

/// Where a sealed segment lies, and how it is chained.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub at: Position,
    /// Head area and data.
    pub bytes: u64,
    /// First data block, from the start of the device.
    pub data_offset_bytes: u64,
    pub data_blocks: u32,
    /// Checksum of the head area.
    pub crc: u32,
    pub previous_crc: u32,
}

impl Place {
    pub fn end(&self) -> Position {
        self.at.plus(self.bytes)
    }
}

struct Staged {
    first: u32,
    buf: Rc<AlignedBuf>,
}

impl Segment {
    /// An empty segment in memory.
    pub(super) fn open(seq: SegmentSeq, incarnation: Incarnation) -> Segment {
        Segment {
            seq,
            incarnation,
            place: Cell::new(None),
            staged: RefCell::default(),
            written: Cell::new(false),
            records: Cell::new(None),
        }
    }
    /// A segment found on the device.
    pub(super) fn found(seq: SegmentSeq, incarnation: Incarnation, place: Place) -> Segment {
        let segment = Segment::open(seq, incarnation);
        segment.place.set(Some(place));
        segment.written.set(true);
        segment
    }
    /// Its sequence number.
    #[must_use]
    pub fn seq(&self) -> SegmentSeq {
        self.seq
    }
    /// The life of the log that wrote it.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }
    /// Byte offset of data block `index` on the log device; None while the block is not there yet, and
    /// then [`Segment::staged`] has it.
    #[must_use]
    pub fn block_offset(&self, index: u32) -> Option<u64> {
        if !self.written.get() {
            return None;
        }
        let place = self.place();
        assert!(index < place.data_blocks, "block {index} of {}", place.data_blocks);
        Some(place.data_offset_bytes + u64::from(index) * BLOCK_BYTES)
    }
    /// The buffer that holds data block `index` and the byte in it where the block starts; None once the
    /// segment is on the device.
    #[must_use]
    pub fn staged(&self, index: u32) -> Option<(Rc<AlignedBuf>, usize)> {
        let staged = self.staged.borrow();
        let n = staged.partition_point(|s| s.first <= index).checked_sub(1)?;
        let at = (index - staged[n].first) as usize * BLOCK_SIZE;
        (at < staged[n].buf.len()).then(|| (Rc::clone(&staged[n].buf), at))
    }
    /// Where it lies. Panics while it is open.
    pub(super) fn place(&self) -> Place {
        self.place.get().expect("the segment is sealed")
    }
    /// A recovery kept only the first `records` records.
    pub(super) fn keep_records(&self, records: usize) {
        self.records.set(Some(records));
    }
    /// How many records count, if not all do.
    pub(super) fn records_kept(&self) -> usize {
        self.records.get().unwrap_or(usize::MAX)
    }
    pub(super) fn stage(&self, first: u32, buf: Rc<AlignedBuf>) {
        self.staged.borrow_mut().push(Staged { first, buf });
    }
    /// The staged buffers in order, to be written.
    pub(super) fn buffers(&self) -> Vec<Rc<AlignedBuf>> {
        self.staged.borrow().iter().map(|s| Rc::clone(&s.buf)).collect()
    }
    pub(super) fn seal(&self, place: Place) {
        assert!(self.place.replace(Some(place)).is_none(), "a segment is sealed once");
    }
    /// Its write has ended: readers find the data on the device from now on.
    pub(super) fn set_written(&self) {
        assert!(!self.written.replace(true) && self.place.get().is_some());
        self.staged.take();
    }
}

impl std::fmt::Debug for Segment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Segment({}, written {})", self.seq.0, self.written.get())
    }
}
