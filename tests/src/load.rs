//! A guest that writes, reads, discards, zeroes and flushes on all its queues, knows what each block must hold, and
//! looks at everything it reads. No two requests in flight touch the same block.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use crate::front_end::{DISCARD_REQUEST, FLUSH_REQUEST, FrontEnd, READ_REQUEST, Shape, WRITE_ZEROES_REQUEST};

/// A request that takes longer is stuck.
pub const LIMIT: Duration = Duration::from_secs(30);
/// Blocks that the guest uses.
pub const BLOCKS: u64 = 700;
/// Bytes of a block.
pub const BLOCK: usize = 4096;
/// Blocks of the largest request: enough to go out of line.
const BLOCKS_EACH_MAX: u64 = 16;
const SECTORS: u64 = 8;

/// Dice: xorshift64.
pub struct Draw(u64);

impl Draw {
    /// Dice of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Draw {
        Draw(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// A block says which one it is and which version, all over.
#[must_use]
pub fn stamp(block: u64, version: u64) -> Vec<u8> {
    let words = [block.to_le_bytes(), version.to_le_bytes()].concat();
    words.iter().copied().cycle().take(BLOCK).collect()
}

/// What blocks must hold: a version each, 0 for zeros.
pub type Versions = Vec<u64>;

/// The bytes of `blocks` as they must be.
#[must_use]
pub fn expected(versions: &[u64], blocks: Range<u64>) -> Vec<u8> {
    let of = |block: u64| match versions[block as usize] {
        0 => vec![0; BLOCK],
        version => stamp(block, version),
    };
    blocks.flat_map(of).collect()
}

enum Request {
    Write(Range<u64>, u64),
    Zero(Range<u64>),
    Read(Range<u64>),
    Flush,
}

impl Request {
    fn blocks(&self) -> Range<u64> {
        match self {
            Request::Write(blocks, _) | Request::Zero(blocks) | Request::Read(blocks) => blocks.clone(),
            Request::Flush => 0..0,
        }
    }
}

/// The guest.
pub struct Load {
    /// Its front end.
    pub guest: FrontEnd,
    /// Its dice.
    pub draw: Draw,
    /// What was acknowledged.
    pub versions: Versions,
    /// Requests that ended.
    pub completed: u64,
    /// By queue and slot.
    in_flight: BTreeMap<(usize, u16), Request>,
    last_version: u64,
}

impl Load {
    /// A guest with so many queues on the disk at `socket`, which is empty.
    ///
    /// # Errors
    /// When it cannot connect.
    pub fn start(socket: &Path, queues: u16, seed: u64) -> std::io::Result<Load> {
        let data_bytes = BLOCKS_EACH_MAX * BLOCK as u64;
        let guest = FrontEnd::start(socket, Shape { queues, size: 64, data_bytes, ..Shape::default() })?;
        Ok(Load {
            guest,
            draw: Draw::new(seed),
            versions: vec![0; BLOCKS as usize],
            completed: 0,
            in_flight: BTreeMap::new(),
            last_version: 0,
        })
    }
    fn is_busy(&self, blocks: &Range<u64>) -> bool {
        let touches = |r: &Request| r.blocks().start < blocks.end && blocks.start < r.blocks().end;
        self.in_flight.values().any(touches)
    }
    /// Offer requests on every queue, forty in all.
    pub fn submit(&mut self) {
        let queues = self.guest.queues.len();
        for q in 0..queues {
            for _ in 0..(40 / queues).max(1) {
                if self.guest.queues[q].room() > 0 {
                    self.offer(q);
                }
            }
            self.guest.queue(q).0.kick();
        }
    }
    fn offer(&mut self, q: usize) {
        let first = self.draw.below(BLOCKS);
        let most = if self.draw.below(4) == 0 { BLOCKS_EACH_MAX } else { 2 };
        let blocks = first..(first + 1 + self.draw.below(most)).min(BLOCKS);
        if self.is_busy(&blocks) {
            return;
        }
        let (sector, count) = (first * SECTORS, blocks.end - first);
        let sectors = (count * SECTORS) as u32;
        let what = self.draw.below(16);
        self.last_version += 1;
        let version = self.last_version;
        let (queue, ram) = self.guest.queue(q);
        let (slot, request) = match what {
            0..8 => {
                let bytes: Vec<u8> = blocks.clone().flat_map(|b| stamp(b, version)).collect();
                (queue.submit_write(ram, sector, &bytes), Request::Write(blocks, version))
            }
            8..12 => {
                let bytes = count as u32 * BLOCK as u32;
                (queue.submit(ram, READ_REQUEST, sector, bytes, 1), Request::Read(blocks))
            }
            12 | 13 => {
                let slot = queue.submit_ranges(ram, DISCARD_REQUEST, &[(sector, sectors, 0)]);
                (slot, Request::Zero(blocks))
            }
            14 => {
                let slot = queue.submit_ranges(ram, WRITE_ZEROES_REQUEST, &[(sector, sectors, 0)]);
                (slot, Request::Zero(blocks))
            }
            _ => (queue.submit(ram, FLUSH_REQUEST, 0, 0, 1), Request::Flush),
        };
        self.in_flight.insert((q, slot), request);
    }
    /// Take completions of a queue, at least `count` if so many are in flight. Panics at an error, at wrong data,
    /// and when they do not come.
    pub fn take(&mut self, q: usize, count: usize) {
        let count = count.min(self.left(q));
        let (queue, ram) = self.guest.queue(q);
        for done in queue.wait(ram, count, LIMIT) {
            assert_eq!(done.status, 0, "the guest sees no error");
            self.completed += 1;
            match self.in_flight.remove(&(q, done.slot)) {
                Some(Request::Write(blocks, version)) => {
                    blocks.for_each(|b| self.versions[b as usize] = version);
                }
                Some(Request::Zero(blocks)) => blocks.for_each(|b| self.versions[b as usize] = 0),
                Some(Request::Read(blocks)) => {
                    let (queue, ram) = self.guest.queue(q);
                    let found =
                        ram.read(queue.data_at(done.slot), (blocks.end - blocks.start) as usize * BLOCK);
                    assert!(found == expected(&self.versions, blocks.clone()), "a read of blocks {blocks:?}");
                }
                Some(Request::Flush) => {}
                None => panic!("slot {} of queue {q} ended without having begun", done.slot),
            }
        }
    }
    /// Requests of a queue that have not ended.
    #[must_use]
    pub fn left(&self, q: usize) -> usize {
        self.in_flight.keys().filter(|(of, _)| *of == q).count()
    }
    /// Requests that have not ended.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }
    /// Wait for everything in flight.
    pub fn drain(&mut self) {
        for q in 0..self.guest.queues.len() {
            self.take(q, usize::MAX);
            assert!(self.guest.queue(q).0.in_flight().is_empty());
        }
    }
    /// Read the whole disk and compare it.
    pub fn verify(&mut self) {
        verify(&mut self.guest, &self.versions);
    }
}

/// Read a whole disk and compare it.
pub fn verify(guest: &mut FrontEnd, versions: &[u64]) {
    for block in 0..BLOCKS {
        let found = guest.read(block * SECTORS, BLOCK);
        assert!(found == expected(versions, block..block + 1), "block {block}");
    }
}
