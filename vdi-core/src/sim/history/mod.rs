//! What one disk may hold: the state last known for certain, and every change asked for since.
//!
//! Each change has the moments when it was issued and ended. The promise "after a crash the disk is a prefix of
//! the acknowledged order, each 4 KiB block old or new, flushed never lost" becomes one number, the *bound*:
//! changes that were acknowledged before it must be there. A flush or an acknowledged snapshot sets it, and so
//! does every change that is seen: what was acknowledged before that was issued comes before it in any order.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::Rc;

use smallvec::SmallVec;

use super::content::{BlockStamps, Stamp, UNSEEN, ZEROS};
use crate::units::SECTORS_PER_BLOCK;

#[cfg(test)]
mod tests;

/// A moment of a world: a counter, so that no two events are simultaneous.
pub type Tick = u64;

/// Later than everything.
pub const NEVER: Tick = Tick::MAX;

#[derive(Clone, Debug)]
struct Change {
    stamp: Stamp,
    issued: Tick,
    ended: Tick,
    /// Acknowledged; a change that failed, or that a crash cut short, may have happened or not, block by block.
    done: bool,
    /// Acknowledged as durable by itself (write-through).
    durable: bool,
}

/// A change of more blocks is noted as a range.
const NARROW_BLOCKS_MAX: u64 = 512;

/// Names a change within its history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChangeId(u32);

/// The changes of one disk, or of a frozen copy of it.
#[derive(Clone, Debug, Default)]
pub struct History {
    base: Rc<BTreeMap<u64, BlockStamps>>,
    changes: Vec<Change>,
    /// Per block the changes that touch it, in order of issue, with a bit per sector.
    touched: BTreeMap<u64, SmallVec<[(u32, u8); 2]>>,
    /// Zeroing of so many sectors that only the blocks somebody wrote are noted one by one.
    wide: Vec<(u32, Range<u64>)>,
    /// What was acknowledged before this moment is certain.
    floor: Tick,
}

/// A state that the history does not allow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation(pub String);

/// How strictly to look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Look {
    /// While changes go on: each sector by itself.
    Live,
    /// At rest after a crash: whole blocks, and one prefix for the whole disk.
    Recovered,
}

impl History {
    /// A change of `sectors` to `stamp` begins.
    pub fn begin(&mut self, stamp: Stamp, sectors: Range<u64>, now: Tick) -> ChangeId {
        let id = u32::try_from(self.changes.len()).expect("a world is short");
        self.changes.push(Change { stamp, issued: now, ended: NEVER, done: false, durable: false });
        let blocks = sectors.start / SECTORS_PER_BLOCK..sectors.end.div_ceil(SECTORS_PER_BLOCK);
        if blocks.end - blocks.start > NARROW_BLOCKS_MAX {
            assert_eq!(stamp, ZEROS, "a write of that size");
            for block in self.known().into_iter().filter(|b| blocks.contains(b)) {
                self.touch(block, id, &sectors);
            }
            self.wide.push((id, sectors));
        } else {
            for block in blocks {
                self.touch(block, id, &sectors);
            }
        }
        ChangeId(id)
    }
    fn touch(&mut self, block: u64, id: u32, sectors: &Range<u64>) {
        let touching = self.touched.entry(block).or_insert_with(|| {
            // What zeroed it before anybody knew of it may still be under way.
            let before = self.wide.iter().map(|(id, range)| (*id, sectors_within(block, range)));
            before.filter(|(_, mask)| *mask != 0).collect()
        });
        touching.push((id, sectors_within(block, sectors)));
    }
    /// Every block that anybody ever wrote or zeroed by itself, in order.
    #[must_use]
    pub fn known(&self) -> BTreeSet<u64> {
        self.base.keys().chain(self.touched.keys()).copied().collect()
    }
    /// The change was acknowledged (`done`), perhaps as durable, or failed.
    pub fn end(&mut self, id: ChangeId, now: Tick, done: bool, durable: bool) {
        let change = &mut self.changes[id.0 as usize];
        assert_eq!(change.ended, NEVER, "a change ends once");
        (change.ended, change.done, change.durable) = (now, done, durable);
    }
    /// The state as a snapshot taken between `issued` and `now` holds it: what was acknowledged before is in, what
    /// went on meanwhile may be.
    #[must_use]
    pub fn freeze(&self, issued: Tick, now: Tick) -> History {
        let mut copy = self.clone();
        copy.floor = copy.floor.max(issued);
        for change in copy.changes.iter_mut().filter(|c| c.ended >= issued) {
            change.ended = change.ended.min(now);
            change.done = false;
        }
        copy
    }
    /// The history of a disk whose device may have forgotten what it called durable.
    #[must_use]
    pub fn without_promises(&self) -> History {
        let mut copy = self.clone();
        copy.changes.iter_mut().for_each(|c| c.durable = false);
        copy
    }
    /// Whether `observed` may be what the disk holds, given that what was acknowledged before `bound` must be there.
    pub fn check(
        &self,
        observed: &BTreeMap<u64, BlockStamps>,
        bound: Tick,
        look: Look,
    ) -> Result<(), Violation> {
        let mut bound = self.floor.max(bound);
        loop {
            let mut raised = bound;
            for (block, stamps) in observed {
                raised = raised.max(self.check_block(*block, stamps, bound, look)?);
            }
            if look == Look::Live || raised == bound {
                return Ok(());
            }
            bound = raised;
        }
    }
    /// The history of a disk whose state is now known. Blocks in `known` stay known: what was there must not
    /// come back.
    #[must_use]
    pub fn settled(observed: &BTreeMap<u64, BlockStamps>, known: &BTreeSet<u64>) -> History {
        let base = observed.iter().filter(|(b, s)| **s != [ZEROS; 8] || known.contains(b));
        History { base: Rc::new(base.map(|(b, s)| (*b, *s)).collect()), ..History::default() }
    }
    /// What the disk held before it became this one must not come back either.
    pub fn remember(&mut self, known: &BTreeSet<u64>) {
        let base = Rc::make_mut(&mut self.base);
        for block in known {
            base.entry(*block).or_default();
        }
    }
    fn check_block(
        &self,
        block: u64,
        stamps: &BlockStamps,
        bound: Tick,
        look: Look,
    ) -> Result<Tick, Violation> {
        let base = self.base.get(&block).copied().unwrap_or_default();
        let Some(touching) = self.touched.get(&block) else {
            if stamps.iter().zip(base).all(|(seen, certain)| *seen == UNSEEN || *seen == certain) {
                return Ok(0);
            }
            return Err(Violation(format!("block {block} holds {stamps:?}, certain is {base:?}")));
        };
        let mut raised = 0;
        // Per sector the latest end of any change it may show (0: the base).
        let mut latest_end = [0; 8];
        for (sector, stamp) in stamps.iter().enumerate().filter(|(_, stamp)| **stamp != UNSEEN) {
            let candidates = self.candidates(touching, sector, base[sector], *stamp, (bound, look));
            match candidates[..] {
                [] => return Err(self.violation(block, sector, *stamp, base[sector], touching, bound)),
                [Some(only)] => raised = raised.max(self.changes[only as usize].issued),
                _ => {}
            }
            latest_end[sector] = candidates
                .iter()
                .map(|c| c.map_or(0, |id| self.changes[id as usize].ended))
                .max()
                .unwrap_or(0);
        }
        if look == Look::Recovered {
            self.check_torn(block, stamps, touching, &latest_end)?;
        }
        Ok(raised)
    }
    /// The changes (None: the base) that the sector may show.
    fn candidates(
        &self,
        touching: &[(u32, u8)],
        sector: usize,
        base: Stamp,
        stamp: Stamp,
        (bound, look): (Tick, Look),
    ) -> SmallVec<[Option<u32>; 4]> {
        let mine = || touching.iter().filter(|(_, mask)| mask & 1 << sector != 0).map(|(id, _)| *id);
        let required = |id: u32| {
            let c = &self.changes[id as usize];
            // A read that began before a durable write ended may still show what was there before.
            c.done && (c.ended < bound || c.durable && look == Look::Recovered)
        };
        let buried = |ended: Tick| mine().any(|z| required(z) && ended < self.changes[z as usize].issued);
        let mut found = SmallVec::new();
        if base == stamp && !buried(0) {
            found.push(None);
        }
        for id in mine() {
            let change = &self.changes[id as usize];
            if change.stamp == stamp && !buried(change.ended) {
                found.push(Some(id));
            }
        }
        found
    }
    /// A block never shows a part of a change beside something older.
    fn check_torn(
        &self,
        block: u64,
        stamps: &BlockStamps,
        touching: &[(u32, u8)],
        latest_end: &[Tick; 8],
    ) -> Result<(), Violation> {
        for (id, mask) in touching {
            let change = &self.changes[*id as usize];
            let sectors = || (0..8).filter(|s| mask & 1 << s != 0);
            let new = change.stamp != ZEROS && sectors().any(|s| stamps[s] == change.stamp);
            let old = sectors().any(|s| stamps[s] != change.stamp && latest_end[s] < change.issued);
            if new && old {
                return Err(Violation(format!(
                    "block {block} is torn: {stamps:?} shows write {} only in part",
                    change.stamp
                )));
            }
        }
        Ok(())
    }
    fn violation(
        &self,
        block: u64,
        sector: usize,
        stamp: Stamp,
        base: Stamp,
        touching: &[(u32, u8)],
        bound: Tick,
    ) -> Violation {
        let changes: Vec<&Change> = touching
            .iter()
            .filter(|(_, mask)| mask & 1 << sector != 0)
            .map(|(id, _)| &self.changes[*id as usize])
            .collect();
        let known = self.changes.iter().any(|c| c.stamp == stamp);
        Violation(format!(
            "block {block} sector {sector} holds {stamp} ({}), bound {bound}; before the changes it held {base}; changes {changes:#?}",
            if known { "lost or undone changes" } else { "not of this history" },
        ))
    }
}

/// A bit for each sector of `block` that lies in `sectors`.
fn sectors_within(block: u64, sectors: &Range<u64>) -> u8 {
    let first = block * SECTORS_PER_BLOCK;
    (0..SECTORS_PER_BLOCK).filter(|s| sectors.contains(&(first + s))).fold(0, |mask, s| mask | 1 << s)
}
