//! The reuse rule as types. A freed block passes through the [`Quarantine`]; it comes out only when
//!
//! 1. the checkpoint that freed it is durable (the caller admits it no earlier),
//! 2. every read that could still name its old life is over (each holds a [`ReadPin`]), and
//! 3. no untrimmed log record refers to it (the log is trimmed beyond where it was when it was freed).
//!
//! Only [`Released`] blocks can be given back to the bitmap.
//!
//! A bitmap that was damaged may have handed out a block that another tree has. Such a block is freed by both: the
//! disk that frees it last is held ([`Store::announce_freed`]), and what comes to light later goes to nobody.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use super::extents::first_bits;
use super::{ExtentKind, Freed, Run, Store};
use crate::error::{Error, Result};
use crate::format::extent::{self, RegionBits};
use crate::sabotage::{Bug, seeded_bug};
use crate::units::{BlockAddr, SegmentSeq};

/// Held by every read from before it looks up an address until its device read is over.
#[derive(Clone, Debug)]
pub struct ReadPin(#[expect(dead_code, reason = "its reference count is its meaning")] Rc<()>);

/// Blocks that may be handed out again.
#[derive(Debug)]
pub struct Released(Vec<Freed>);

impl Released {
    /// The blocks, as runs.
    pub fn runs(&self) -> impl Iterator<Item = Run> + '_ {
        self.0.iter().flat_map(Freed::runs)
    }
}

struct Batch {
    readers: Rc<()>,
    log_through: SegmentSeq,
    freed: Freed,
}

/// What is wrong when two trees had a block.
pub(crate) const FREED_TWICE: &str = "it is freed a second time, so two had it: a bitmap was damaged once";

fn first_of(start: BlockAddr, bits: &RegionBits, of: &RegionBits) -> Option<BlockAddr> {
    let common = (0..).zip(bits.iter().zip(of)).map(|(word, (b, o))| (word, b & o)).find(|(_, c)| *c != 0);
    common.map(|(word, c)| start.plus(word * 64 + u64::from(c.trailing_zeros())))
}

/// Freed blocks that are not reusable yet, oldest first.
#[derive(Default)]
pub(super) struct Quarantine {
    current: Rc<()>,
    batches: VecDeque<Batch>,
    /// All blocks of all batches.
    all: Freed,
    /// What the checkpoint round under way is about to free.
    announced: Freed,
}

impl Quarantine {
    pub fn runs(&self) -> Vec<Run> {
        self.batches.iter().flat_map(|b| b.freed.runs()).collect()
    }
    fn release(&mut self, log_trimmed_before: SegmentSeq) -> Released {
        let mut released = Vec::new();
        while let Some(b) = self.batches.front() {
            // A reader holds the pin of the batch it started in or of an earlier one, so batches leave in order.
            let read = Rc::strong_count(&b.readers) > 1 && !seeded_bug(Bug::ReuseUnderReader);
            let logged = b.log_through >= log_trimmed_before && !seeded_bug(Bug::ReuseBeforeTrim);
            if read || logged {
                break;
            }
            if let Some(b) = self.batches.pop_front() {
                self.all.remove(&b.freed);
                released.push(b.freed);
            }
        }
        Released(released)
    }
    fn push(&mut self, freed: Freed, log_through: SegmentSeq) {
        if !freed.is_empty() {
            let readers = std::mem::take(&mut self.current);
            self.batches.push_back(Batch { readers, log_through, freed });
        }
    }
}

impl Store {
    /// Start reading: addresses looked up after this stay what they are until the pin is dropped.
    #[must_use]
    pub fn read_pin(&self) -> ReadPin {
        ReadPin(Rc::clone(&self.0.quarantine.borrow().current))
    }
    /// A checkpoint round begins: nothing is announced yet.
    pub fn begin_announcing(&self) {
        self.0.quarantine.borrow_mut().announced = Freed::default();
    }
    /// A checkpoint is about to free these blocks. [`ErrorKind::Corrupt`](crate::error::ErrorKind::Corrupt) when one
    /// of them is free already, or another disk of this round frees it too: it was handed out while it was in use.
    pub fn announce_freed(&self, freed: &Freed) -> Result<()> {
        for (start, _) in freed.regions() {
            self.offset_bytes(start, 1)?;
        }
        let nobodys = |(start, bits): (BlockAddr, &RegionBits)| {
            let announced = self.0.quarantine.borrow().announced.of_region(start);
            first_of(start, bits, &announced).or_else(|| first_of(start, bits, &self.nobodys(start)))
        };
        match freed.twice().or_else(|| freed.regions().find_map(nobodys)) {
            Some(block) => Err(Error::corrupt("allocation", block, FREED_TWICE)),
            None => {
                self.0.quarantine.borrow_mut().announced.merge(freed.clone());
                Ok(())
            }
        }
    }
    /// Blocks of the region at `start` that no tree can have: the extent's own, freed already, free by the bitmap, or
    /// claimed and not handed out. What another shard's bitmap says is that shard's to judge.
    fn nobodys(&self, start: BlockAddr) -> RegionBits {
        let g = self.geometry();
        let mut bits = first_bits(if g.block(start) == 0 { extent::overhead_blocks(g) } else { 0 });
        let freed = self.0.quarantine.borrow().all.of_region(start);
        let free = self.0.bitmaps.borrow().free_in_region(g, start);
        let claims = self.0.claims.borrow();
        let claimed = claims.iter().filter(|c| c.claim.start == start).map(|c| c.claim.unused());
        for more in claimed.chain([freed, free]) {
            bits.iter_mut().zip(more).for_each(|(b, m)| *b |= m);
        }
        bits
    }
    /// Put blocks in quarantine. Call only when what freed them is durable; `log_through` is the
    /// newest log segment that may hold a record naming them.
    pub fn quarantine(&self, mut freed: Freed, log_through: SegmentSeq) {
        let again = freed.take_out(|start, _| self.nobodys(start));
        if let Some(block) = again.runs().next().map(|run| run.start).or(freed.twice()) {
            self.warn(Error::corrupt("allocation", block, FREED_TWICE));
        }
        let mut q = self.0.quarantine.borrow_mut();
        q.all.merge(freed.clone());
        q.push(freed, log_through);
    }
    /// Records were written again: those of `named` that are in quarantine stay there until the log is trimmed
    /// beyond `log_through`.
    pub fn quarantine_longer(&self, named: &[Run], log_through: SegmentSeq) {
        let named: Freed = named.iter().copied().collect();
        let mut q = self.0.quarantine.borrow_mut();
        let mut again = Freed::default();
        for batch in &mut q.batches {
            again.merge(batch.freed.take_out(|start, _| named.of_region(start)));
        }
        q.push(again, log_through);
    }
    /// Blocks in quarantine.
    #[must_use]
    pub fn quarantined_blocks(&self) -> u64 {
        self.0.quarantine.borrow().all.len()
    }
    /// Take out what has become reusable now that the log is trimmed before `log_trimmed_before`.
    /// Forget what is cached about it, then hand it to [`Store::give_back`].
    #[must_use]
    pub fn release(&self, log_trimmed_before: SegmentSeq) -> Released {
        self.0.quarantine.borrow_mut().release(log_trimmed_before)
    }
    /// Those of `released` that may have been tree nodes: what a cache of nodes must forget.
    pub fn nodes_among<'a>(&self, released: &'a Released) -> impl Iterator<Item = BlockAddr> + 'a {
        let store = self.clone();
        let metadata = released.runs().filter(move |run| store.kind_at(run.start) == ExtentKind::Metadata);
        metadata.flat_map(|run| (0..u64::from(run.blocks)).map(move |i| run.start.plus(i)))
    }
    pub(super) fn kind_at(&self, addr: BlockAddr) -> ExtentKind {
        self.0.catalogue.borrow().entries[self.geometry().extent(addr).0 as usize].kind
    }
    /// Return blocks that nothing names and nobody is writing: what a restart found unreachable before anything reads or
    /// writes, or what an attempt that failed had allocated, once its writes have ended.
    pub fn give_back_unreachable(&self, freed: Freed) {
        let foreign = self.give_back(Released(vec![freed]));
        debug_assert!(foreign.is_empty(), "only own extents are swept");
    }
    /// Return released blocks to the bitmap; the disk learns of it with the next checkpoint. Those in extents of
    /// other shards are returned with the owner's slot: it puts them in its own quarantine, as its log may name
    /// them too.
    #[must_use]
    pub fn give_back(&self, released: Released) -> BTreeMap<u16, Freed> {
        let g = self.geometry();
        let mut bitmaps = self.0.bitmaps.borrow_mut();
        let mut space = self.0.space.borrow_mut();
        let mut foreign: BTreeMap<u16, Freed> = BTreeMap::new();
        for (start, bits) in released.0.iter().flat_map(Freed::regions) {
            if bitmaps.owns(g.extent(start)) {
                let (kind, blocks) = bitmaps.set_free(g, start, bits);
                space.add_free(kind, blocks);
            } else {
                let owner = self.0.catalogue.borrow().entries[g.extent(start).0 as usize].host;
                foreign.entry(owner).or_default().insert_region(start, bits);
            }
        }
        foreign
    }
}
