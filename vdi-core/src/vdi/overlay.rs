//! What the log holds and the tree does not yet: an ordered range map from virtual block to its
//! versions, newest first.
//!
//! Invariants:
//! - ranges are disjoint, not empty, and every range has at least one version;
//! - versions of a range fall in (epoch, batch) from front to back; an equal pair is replaced;
//! - a version is removed only when its batch is in the tree.
//!
//! A batch is what one checkpoint takes: versions of an earlier batch are never replaced by later
//! writes, so a checkpoint applies exactly what was there at its cut. A read looks at one version,
//! however many epochs are open.

use std::collections::BTreeMap;
use std::ops::Range;

use smallvec::{SmallVec, smallvec};

use super::content::Content;
use crate::sabotage::{Bug, seeded_bug};
use crate::store::Run;
use crate::units::Epoch;

/// One version of a range.
#[derive(Clone, Debug)]
pub struct Version {
    /// Epoch in which it was written.
    pub epoch: Epoch,
    /// Checkpoint batch it belongs to.
    pub batch: u64,
    /// What it holds; block 0 of the content is the first block of the range.
    pub content: Content,
}

#[derive(Clone, Debug)]
struct Entry {
    blocks: u64,
    versions: SmallVec<[Version; 1]>,
}

impl Entry {
    /// Put `new` on top; returns what it replaced for good, which is of the same epoch and batch.
    fn put(&mut self, new: Version) -> Option<Content> {
        let top = &mut self.versions[0];
        assert!((top.epoch, top.batch) <= (new.epoch, new.batch), "writes come in order");
        if (top.epoch, top.batch) == (new.epoch, new.batch) {
            return Some(std::mem::replace(top, new).content);
        }
        self.versions.insert(0, new);
        None
    }
}

/// What a write replaced for good: so many blocks of each content.
pub type Replaced = SmallVec<[(u64, Content); 1]>;

/// A piece of a lookup: `blocks` blocks at `at` with their newest content, or None where the tree decides.
#[derive(Clone, Debug)]
pub struct Piece {
    /// First virtual block.
    pub at: u64,
    /// How many.
    pub blocks: u64,
    /// Newest content, its block 0 at `at`.
    pub content: Option<Content>,
}

/// The range map of one VDI.
#[derive(Default, Debug)]
pub struct Overlay {
    map: BTreeMap<u64, Entry>,
    versions: usize,
}

/// What a checkpoint takes from one epoch, in order of virtual block: (first block, blocks, content).
pub type EpochChanges = Vec<(u64, u64, Content)>;

/// What a checkpoint takes.
#[derive(Default, Debug)]
pub struct Batch {
    /// By epoch, oldest first.
    pub epochs: BTreeMap<Epoch, EpochChanges>,
    /// Versions that newer ones of their own epoch hide for good (left by a checkpoint that failed).
    pub hidden: Vec<(u64, Content)>,
}

impl Overlay {
    /// Versions held (the bound is the caller's).
    #[must_use]
    pub fn len(&self) -> usize {
        self.versions
    }
    /// True when the tree is all there is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }
    /// Cut the entry that spans `at` in two.
    fn split(&mut self, at: u64) {
        let Some((&start, entry)) = self.map.range_mut(..at).next_back() else { return };
        let head = at - start;
        if head >= entry.blocks {
            return;
        }
        let tail = Entry {
            blocks: entry.blocks - head,
            versions: entry
                .versions
                .iter()
                .map(|v| Version { content: v.content.skip(head), ..v.clone() })
                .collect(),
        };
        entry.blocks = head;
        self.versions += tail.versions.len();
        self.map.insert(at, tail);
    }
    /// Put `content` over `blocks` blocks at `at`; returns what it replaced for good (same epoch and batch).
    pub fn insert(&mut self, at: u64, blocks: u64, epoch: Epoch, batch: u64, content: &Content) -> Replaced {
        assert!(blocks > 0);
        // Most writes meet nothing, or exactly what an earlier one of the same size left.
        match self.map.range_mut(..at + blocks).next_back() {
            Some((start, entry)) if *start == at && entry.blocks == blocks => {
                let new = Version { epoch, batch, content: content.clone() };
                let replaced = entry.put(new);
                self.versions += usize::from(replaced.is_none());
                return replaced.map(|old| (blocks, old)).into_iter().collect();
            }
            Some((start, entry)) if start + entry.blocks > at => {}
            _ => {
                let versions = smallvec![Version { epoch, batch, content: content.clone() }];
                self.map.insert(at, Entry { blocks, versions });
                self.versions += 1;
                return Replaced::new();
            }
        }
        self.insert_across(at, blocks, epoch, batch, content)
    }
    /// [`Overlay::insert`] over parts of ranges, or several.
    fn insert_across(
        &mut self,
        at: u64,
        blocks: u64,
        epoch: Epoch,
        batch: u64,
        content: &Content,
    ) -> Replaced {
        let end = at + blocks;
        self.split(at);
        self.split(end);
        let mut replaced = Replaced::new();
        let covered: SmallVec<[(u64, u64); 8]> =
            self.map.range(at..end).map(|(s, e)| (*s, e.blocks)).collect();
        let version = |skip: u64| Version { epoch, batch, content: content.skip(skip) };
        let alone = covered.iter().all(|(s, _)| {
            let v = &self.map[s].versions;
            v.len() == 1
                && ((v[0].epoch, v[0].batch) == (epoch, batch) || seeded_bug(Bug::DropOverlayVersion))
        });
        if alone {
            // Nothing older to keep: one entry replaces them all, so overwrites do not fragment the map.
            for (s, n) in covered {
                if let Some(e) = self.map.remove(&s) {
                    self.versions -= e.versions.len();
                    replaced.extend(e.versions.into_iter().map(|v| (n, v.content)));
                }
            }
            self.map.insert(at, Entry { blocks, versions: smallvec![version(0)] });
            self.versions += 1;
            return replaced;
        }
        let mut next = at;
        for (s, n) in covered {
            if next < s {
                self.map.insert(next, Entry { blocks: s - next, versions: smallvec![version(next - at)] });
                self.versions += 1;
            }
            let entry = self.map.get_mut(&s).expect("collected above");
            match entry.put(version(s - at)) {
                Some(old) => replaced.push((n, old)),
                None => self.versions += 1,
            }
            next = s + n;
        }
        if next < end {
            self.map.insert(next, Entry { blocks: end - next, versions: smallvec![version(next - at)] });
            self.versions += 1;
        }
        replaced
    }
    /// The newest content of each part of `range`, in order, holes included.
    #[must_use]
    pub fn lookup(&self, range: Range<u64>) -> SmallVec<[Piece; 4]> {
        let mut out: SmallVec<[Piece; 4]> = SmallVec::new();
        let mut next = range.start;
        let first = self.map.range(..=range.start).next_back().map_or(range.start, |(s, _)| *s);
        for (&s, e) in self.map.range(first..range.end) {
            let (from, to) = (s.max(range.start), (s + e.blocks).min(range.end));
            if from >= to {
                continue;
            }
            if next < from {
                out.push(Piece { at: next, blocks: from - next, content: None });
            }
            out.push(Piece {
                at: from,
                blocks: to - from,
                content: Some(e.versions[0].content.skip(from - s)),
            });
            next = to;
        }
        if next < range.end {
            out.push(Piece { at: next, blocks: range.end - next, content: None });
        }
        out
    }
    /// Part of what a checkpoint through `batch` applies: the newest version of each epoch, of at most
    /// `entries_max` entries that start at or after `from`. Returns where to go on. Versions of the batch do
    /// not change between the parts; entries may be split, and a piece of one already taken starts before `from`.
    pub fn take_batch(&self, batch: u64, from: u64, entries_max: usize, into: &mut Batch) -> Option<u64> {
        let mut next = from;
        for (nth, (&at, e)) in self.map.range(from..).enumerate() {
            if nth == entries_max {
                return Some(next);
            }
            let mut newer = None;
            for v in e.versions.iter().filter(|v| v.batch <= batch) {
                if newer == Some(v.epoch) {
                    into.hidden.push((e.blocks, v.content.clone()));
                } else {
                    into.epochs.entry(v.epoch).or_default().push((at, e.blocks, v.content.clone()));
                }
                newer = Some(v.epoch);
            }
            next = at + e.blocks;
        }
        None
    }
    /// Put what `new` says in place of the content of versions that lie whole within `blocks` blocks at `at`; returns
    /// the runs that the new contents occupy. The content must be the same bytes elsewhere.
    pub fn exchange(&mut self, at: u64, blocks: u64, new: impl Fn(&Content) -> Option<Content>) -> Vec<Run> {
        let mut runs = Vec::new();
        for entry in self.map.range_mut(at..at + blocks).map(|(_, e)| e) {
            for v in &mut entry.versions {
                if let Some(content) = new(&v.content) {
                    runs.extend(content.placed_runs(entry.blocks));
                    v.content = content;
                }
            }
        }
        runs
    }
    /// Where out-of-line data of any version lie.
    #[must_use]
    pub fn placed_runs(&self) -> Vec<Run> {
        let all = self.map.values().flat_map(|e| e.versions.iter().map(|v| v.content.placed_runs(e.blocks)));
        all.flatten().collect()
    }
    /// Forget versions through `batch`, which the tree has, of at most `entries_max` entries that start at or
    /// after `from`. Returns where to go on.
    pub fn forget(&mut self, batch: u64, from: u64, entries_max: usize) -> Option<u64> {
        let (mut seen, mut last) = (0, from);
        let mut empty: SmallVec<[u64; 64]> = SmallVec::new();
        for (at, entry) in self.map.range_mut(from..).take(entries_max) {
            let before = entry.versions.len();
            entry.versions.retain(|v| v.batch > batch + u64::from(seeded_bug(Bug::ForgetNewerVersion)));
            self.versions -= before - entry.versions.len();
            if entry.versions.is_empty() {
                empty.push(*at);
            }
            (seen, last) = (seen + 1, *at);
        }
        for at in empty {
            self.map.remove(&at);
        }
        (seen == entries_max).then_some(last + 1)
    }
    /// Forget everything and return it (the VDI is deleted).
    pub fn take_all(&mut self) -> Vec<(u64, Content)> {
        self.versions = 0;
        let map = std::mem::take(&mut self.map);
        map.into_values().flat_map(|e| e.versions.into_iter().map(move |v| (e.blocks, v.content))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sabotage::property::finds;
    use crate::units::BlockAddr;
    use proptest::prelude::*;
    use proptest::test_runner::TestCaseResult;
    use std::rc::Rc;

    fn placed(tag: u64, blocks: u64) -> Content {
        let runs = vec![crate::store::Run { start: BlockAddr(tag << 20), blocks: blocks as u32 }];
        Content::placed(Rc::new(super::super::content::Placed {
            runs,
            crcs: vec![tag as u32; blocks as usize],
        }))
    }
    fn addr_of(c: &Content) -> Option<u64> {
        c.placed_runs(1).first().map(|r| r.start.0)
    }

    #[derive(Clone, Debug)]
    enum Step {
        Write(u64, u64),
        Zero(u64, u64),
        Snapshot,
        Cut,
        Checkpoint,
    }
    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0u64..40, 1u64..12).prop_map(|(a, n)| Step::Write(a, n)),
            2 => (0u64..40, 1u64..20).prop_map(|(a, n)| Step::Zero(a, n)),
            1 => Just(Step::Snapshot),
            1 => Just(Step::Cut),
            1 => Just(Step::Checkpoint),
        ]
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        proptest::collection::vec(step(), 1..60)
    }

    proptest! {
        #[test]
        fn lookup_shows_the_newest_write_and_a_batch_is_exactly_what_was_there_at_its_cut(steps in steps()) {
            live(steps)?;
        }
    }

    #[test]
    fn seeded_bugs_of_the_overlay_are_found() {
        for bug in [Bug::DropOverlayVersion, Bug::ForgetNewerVersion] {
            assert!(finds(bug, &steps(), live), "{bug:?} hides");
        }
    }

    fn live(steps: Vec<Step>) -> TestCaseResult {
        let mut overlay = Overlay::default();
        // Model: newest value per block; the tree; what was there at the last cut; and what each epoch
        // that a snapshot ended held, until the tree has it.
        let mut newest: BTreeMap<u64, Option<u64>> = BTreeMap::new();
        let mut tree: BTreeMap<u64, Option<u64>> = BTreeMap::new();
        let mut at_cut: BTreeMap<u64, Option<u64>> = BTreeMap::new();
        let mut at_end: BTreeMap<Epoch, BTreeMap<u64, Option<u64>>> = BTreeMap::new();
        let mut cut_epoch = Epoch(0);
        let (mut epoch, mut batch, mut tag) = (Epoch(1), 1u64, 0u64);
        for s in steps {
            match s {
                Step::Write(a, n) => {
                    tag += 1;
                    overlay.insert(a, n, epoch, batch, &placed(tag, n));
                    for i in 0..n {
                        newest.insert(a + i, Some((tag << 20) + i));
                    }
                }
                Step::Zero(a, n) => {
                    overlay.insert(a, n, epoch, batch, &Content::Zero);
                    for i in 0..n {
                        newest.insert(a + i, None);
                    }
                }
                Step::Snapshot => {
                    at_end.insert(epoch, newest.clone());
                    epoch = epoch.next();
                }
                Step::Cut => {
                    batch += 1;
                    at_cut = newest.clone();
                    cut_epoch = epoch;
                }
                Step::Checkpoint => {
                    let mut taken = Batch::default();
                    let mut from = Some(0);
                    while let Some(at) = from {
                        from = overlay.take_batch(batch - 1, at, 3, &mut taken);
                    }
                    let mut ends = at_end.clone();
                    for (of, changes) in taken.epochs {
                        // Epochs without changes ended as the one before.
                        let later = ends.split_off(&of);
                        for held in std::mem::replace(&mut ends, later).values() {
                            for (b, v) in held {
                                prop_assert_eq!(tree.get(b), Some(v));
                            }
                        }
                        for (a, n, c) in changes {
                            for i in 0..n {
                                tree.insert(a + i, addr_of(&c.skip(i)));
                            }
                        }
                    }
                    // Of epochs that ended before the cut the tree now has been everything they held.
                    ends.split_off(&cut_epoch);
                    for held in ends.values() {
                        for (b, v) in held {
                            prop_assert_eq!(tree.get(b), Some(v));
                        }
                    }
                    at_end.retain(|of, _| *of >= cut_epoch);
                    for (b, v) in &at_cut {
                        prop_assert_eq!(tree.get(b), Some(v));
                    }
                    let mut from = Some(0);
                    while let Some(at) = from {
                        from = overlay.forget(batch - 1, at, 3);
                    }
                }
            }
            let mut next = 0;
            for p in overlay.lookup(0..64) {
                prop_assert_eq!(p.at, next);
                next += p.blocks;
                for i in 0..p.blocks {
                    let got = match &p.content {
                        Some(c) => addr_of(&c.skip(i)),
                        None => tree.get(&(p.at + i)).copied().flatten(),
                    };
                    prop_assert_eq!(got, newest.get(&(p.at + i)).copied().flatten());
                }
            }
            prop_assert_eq!(next, 64);
            prop_assert_eq!(overlay.len(), overlay.map.values().map(|e| e.versions.len()).sum::<usize>());
        }
        Ok(())
    }
}
