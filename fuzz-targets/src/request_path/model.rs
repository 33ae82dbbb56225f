//! What a disk must hold: its bytes, sector by sector, and which of them are certain.

use std::ops::Range;

use super::reading::Effect;

const SECTOR: usize = 512;
const BLOCK_SECTORS: u64 = 8;

/// The disk as a plain array.
pub struct Model {
    bytes: Vec<u8>,
    certain: Vec<bool>,
}

impl Model {
    /// A disk of zeros.
    #[must_use]
    pub fn new(size_bytes: u64) -> Model {
        let len = size_bytes as usize;
        Model { bytes: vec![0; len], certain: vec![true; len / SECTOR] }
    }
    /// A request has ended well, alone.
    pub fn apply(&mut self, effect: &Effect) {
        match effect {
            Effect::Write(sector, data) => self.set(*sector, data),
            Effect::Discard(ranges) => ranges.iter().for_each(|r| self.zero(whole_blocks(*r))),
            Effect::Zero(ranges) => ranges.iter().for_each(|(s, n)| self.zero(*s..s + n)),
            Effect::None | Effect::Read(_) | Effect::Say(_) => {}
        }
    }
    /// A request may have been done in part, or together with others: what it names could be anything.
    pub fn forget(&mut self, effect: &Effect) {
        let ranges = match effect {
            Effect::Write(sector, data) => vec![(*sector, (data.len() / SECTOR) as u64)],
            Effect::Discard(ranges) | Effect::Zero(ranges) => ranges.clone(),
            Effect::None | Effect::Read(_) | Effect::Say(_) => return,
        };
        for (sector, sectors) in ranges {
            self.certain[sector as usize..(sector + sectors) as usize].fill(false);
        }
    }
    /// A read has given `data`.
    ///
    /// # Panics
    /// When that is not what the disk holds.
    pub fn compare(&mut self, sector: u64, data: &[u8]) {
        for (at, got) in (sector as usize..).zip(data.chunks_exact(SECTOR)) {
            let held = &mut self.bytes[at * SECTOR..(at + 1) * SECTOR];
            if std::mem::replace(&mut self.certain[at], true) {
                assert!(
                    held == got,
                    "sector {at} reads {:x?}..., and holds {:x?}...",
                    &got[..16],
                    &held[..16]
                );
            }
            held.copy_from_slice(got);
        }
    }
    fn set(&mut self, sector: u64, data: &[u8]) {
        let first = sector as usize;
        self.bytes[first * SECTOR..first * SECTOR + data.len()].copy_from_slice(data);
        self.certain[first..first + data.len() / SECTOR].fill(true);
    }
    fn zero(&mut self, sectors: Range<u64>) {
        if !sectors.is_empty() {
            let sectors = sectors.start as usize..sectors.end as usize;
            self.bytes[sectors.start * SECTOR..sectors.end * SECTOR].fill(0);
            self.certain[sectors].fill(true);
        }
    }
}

fn whole_blocks((sector, sectors): (u64, u64)) -> Range<u64> {
    sector.div_ceil(BLOCK_SECTORS) * BLOCK_SECTORS..(sector + sectors) / BLOCK_SECTORS * BLOCK_SECTORS
}
