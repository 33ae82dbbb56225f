//! What a version of a range holds: zeros, data in the log (and, while there is room, in memory), or
//! data already at its final place.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};

use smallvec::SmallVec;

use crate::buffer::AlignedBuf;
use crate::log::Segment;
use crate::store::Run;
use crate::units::BLOCK_SIZE;

/// Content of a range, from its first block on.
#[derive(Clone, Debug)]
pub enum Content {
    /// Zeros: a discard or write-zeroes. Hides older data in every version.
    Zero,
    /// Blocks of a log segment, starting `first` blocks into the record's data.
    Staged(Rc<Staged>, u32),
    /// Blocks at their final place, starting `first` blocks into the record's runs.
    Placed(Rc<Placed>, u32),
}

impl Content {
    /// Content of out-of-line runs.
    #[must_use]
    pub fn placed(placed: Rc<Placed>) -> Content {
        Content::Placed(placed, 0)
    }
    /// The same content without its first `blocks` blocks.
    #[must_use]
    pub fn skip(&self, blocks: u64) -> Content {
        let n = blocks as u32;
        match self {
            Content::Zero => Content::Zero,
            Content::Staged(s, first) => Content::Staged(Rc::clone(s), first + n),
            Content::Placed(p, first) => Content::Placed(Rc::clone(p), first + n),
        }
    }
    /// The runs that the first `blocks` blocks occupy; empty unless they are placed.
    #[must_use]
    pub fn placed_runs(&self, blocks: u64) -> Vec<Run> {
        match self {
            Content::Placed(p, first) => p.runs(*first, blocks as u32),
            _ => Vec::new(),
        }
    }
    /// Checksums of the first `blocks` blocks; empty for zeros.
    #[must_use]
    pub fn crcs(&self, blocks: u64) -> &[u32] {
        let (crcs, first) = match self {
            Content::Zero => return &[],
            Content::Staged(s, first) => (&s.crcs[..], *first),
            Content::Placed(p, first) => (&p.crcs[..], *first),
        };
        &crcs[first as usize..][..blocks as usize]
    }
}

/// Data blocks of one inline record.
pub struct Staged {
    /// The segment that holds them; pinned while this lives.
    pub segment: Rc<Segment>,
    /// Index of the first among the segment's data blocks.
    pub first_block: u32,
    /// Checksum of each block.
    pub crcs: SmallVec<[u32; 4]>,
    memory: RefCell<Option<Rc<AlignedBuf>>>,
    gauge: Rc<Cell<usize>>,
}

impl Staged {
    /// The blocks in memory, if they are still there.
    #[must_use]
    pub fn memory(&self) -> Option<Rc<AlignedBuf>> {
        self.memory.borrow().clone()
    }
    fn evict(&self) {
        if let Some(buf) = self.memory.borrow_mut().take() {
            self.gauge.set(self.gauge.get() - buf.len());
        }
    }
}
impl Drop for Staged {
    fn drop(&mut self) {
        self.evict();
    }
}
impl std::fmt::Debug for Staged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Staged({} blocks)", self.crcs.len())
    }
}

/// Blocks of one out-of-line record.
#[derive(Debug)]
pub struct Placed {
    /// Where they lie, in order.
    pub runs: Vec<Run>,
    /// Checksum of each block.
    pub crcs: Vec<u32>,
}

impl Placed {
    fn runs(&self, first: u32, blocks: u32) -> Vec<Run> {
        let (mut skip, mut left) = (first, blocks);
        let mut out = Vec::new();
        for r in &self.runs {
            if skip >= r.blocks {
                skip -= r.blocks;
                continue;
            }
            let n = (r.blocks - skip).min(left);
            if n > 0 {
                out.push(Run { start: r.start.plus(u64::from(skip)), blocks: n });
            }
            skip = 0;
            left -= n;
            if left == 0 {
                break;
            }
        }
        assert_eq!(left, 0, "a placed range is as long as its runs");
        out
    }
}

/// Data of the log kept in memory, bounded: the oldest leaves first, and is then read from the log. What a running
/// checkpoint found here it keeps until it is written: at most as much again.
pub struct Staging {
    bytes: Rc<Cell<usize>>,
    bytes_max: usize,
    /// Staged since the last checkpoint took what there was.
    fresh_bytes: Cell<usize>,
    order: RefCell<VecDeque<Weak<Staged>>>,
}

impl Staging {
    /// Keep at most about `bytes_max` bytes (one request more at times).
    #[must_use]
    pub fn new(bytes_max: usize) -> Staging {
        Staging { bytes: Rc::default(), bytes_max, fresh_bytes: Cell::new(0), order: RefCell::default() }
    }
    /// Bytes in memory now.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.get()
    }
    /// True when so much is new that a checkpoint should take it: while that one writes, as much again has
    /// room, and it finds all its data in memory.
    #[must_use]
    pub fn wants_checkpoint(&self) -> bool {
        self.fresh_bytes.get() > self.bytes_max / 2
    }
    /// A checkpoint took what there is.
    pub fn taken(&self) {
        self.fresh_bytes.set(0);
    }
    /// Stage the data of a record just appended.
    pub fn keep(
        &self,
        segment: Rc<Segment>,
        first_block: u32,
        crcs: SmallVec<[u32; 4]>,
        memory: Rc<AlignedBuf>,
    ) -> Rc<Staged> {
        assert_eq!(memory.len(), crcs.len() * BLOCK_SIZE);
        self.bytes.set(self.bytes.get() + memory.len());
        self.fresh_bytes.set(self.fresh_bytes.get() + memory.len());
        let gauge = Rc::clone(&self.bytes);
        let staged =
            Rc::new(Staged { segment, first_block, crcs, memory: RefCell::new(Some(memory)), gauge });
        self.order.borrow_mut().push_back(Rc::downgrade(&staged));
        self.make_room();
        staged
    }
    /// Data found in the log by a replay: not in memory.
    #[must_use]
    pub fn recovered(&self, segment: Rc<Segment>, first_block: u32, crcs: SmallVec<[u32; 4]>) -> Rc<Staged> {
        Rc::new(Staged {
            segment,
            first_block,
            crcs,
            memory: RefCell::default(),
            gauge: Rc::clone(&self.bytes),
        })
    }
    fn make_room(&self) {
        let mut order = self.order.borrow_mut();
        while self.bytes.get() > self.bytes_max {
            let Some(oldest) = order.front() else { break };
            if let Some(s) = oldest.upgrade() {
                s.evict()
            }
            order.pop_front();
        }
        // Dropped entries at the front cost nothing to keep until here, but the queue must not grow for ever.
        while order.front().is_some_and(|w| w.strong_count() == 0) {
            order.pop_front();
        }
    }
}
