//! Which of the pending writes happen, and what the disks hold then.

use std::collections::BTreeSet;
use std::fmt;

use super::tape::Moment;
use crate::device::memory::Media;
use crate::device::simulated::{Exposure, PendingWrite, SimulatedDisk};
use crate::sim::world::World;
use crate::units::SECTOR_BYTES;

/// Of so many pending writes every subset is tried.
const ALL_SUBSETS_MAX: usize = 4;
const SECTOR: usize = SECTOR_BYTES as usize;

/// What a crash leaves of one write.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// Nothing.
    Lost,
    /// All.
    Whole,
    /// Only the sectors from the first number to before the second.
    Torn(usize, usize),
}

impl fmt::Debug for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fate::Lost => write!(f, "lost"),
            Fate::Whole => write!(f, "whole"),
            Fate::Torn(start, end) => write!(f, "only sectors {start}..{end}"),
        }
    }
}

fn fate(whole: bool) -> Fate {
    if whole { Fate::Whole } else { Fate::Lost }
}

/// What a crash leaves of each pending write, in the order of [`Moment::pending`].
pub type Fates = Vec<Fate>;

/// What the disks hold: the store, then the logs.
#[derive(Clone)]
pub struct Image(Vec<Media>);

impl Image {
    /// What the disks of `world` show.
    #[must_use]
    pub fn of(world: &World) -> Image {
        Image(world.disks().map(SimulatedDisk::media).collect())
    }
    /// Put it on the disks of a new world.
    pub fn load(&self, world: &World) {
        world.disks().zip(&self.0).for_each(|(disk, media)| disk.load(media));
    }
    /// Equal for equal bytes, and else almost certainly not.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        self.0.iter().fold(0, |sum, media| media.fingerprint() ^ u64::rotate_left(sum, 1))
    }
}

/// A write that a crash may take.
#[derive(Clone, Copy)]
pub struct Pending<'a> {
    write: &'a PendingWrite,
    /// Zero for the store, then the logs.
    disk: usize,
    in_flight: bool,
}

impl fmt::Debug for Pending<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let disk = if self.disk > 0 { "log" } else { "store" };
        let (at, len) = (self.write.offset_bytes, self.write.bytes.len());
        let state = if self.in_flight { ", under way" } else { "" };
        write!(f, "{disk} {at:#x}+{len:#x}{state}")
    }
}

impl Moment {
    /// Every write that a power loss may take, those of the store first, each disk's in the order of completion.
    pub fn pending(&self) -> Vec<Pending<'_>> {
        fn of((disk, e): (usize, &Exposure)) -> Vec<Pending<'_>> {
            let completed = e.unflushed.iter().map(|w| (w, false));
            let all = completed.chain(e.in_flight.iter().map(|w| (w, true)));
            all.map(|(write, in_flight)| Pending { write, disk, in_flight }).collect()
        }
        self.disks.iter().enumerate().flat_map(of).collect()
    }
    /// What a kill may leave: completed writes stay.
    pub fn fates_after_kill(&self) -> BTreeSet<Fates> {
        let pending = self.pending();
        let open: Vec<usize> = (0..pending.len()).filter(|i| pending[*i].in_flight).collect();
        fates(&pending, &open, &vec![Fate::Whole; pending.len()])
    }
    /// What a power loss may leave.
    pub fn fates_after_power_loss(&self) -> BTreeSet<Fates> {
        let pending = self.pending();
        let open: Vec<usize> = (0..pending.len()).collect();
        fates(&pending, &open, &vec![Fate::Lost; pending.len()])
    }
    /// Tells `image` from all others, with what is left beside it.
    pub fn fingerprint(&self, image: &Image, kill: bool) -> u64 {
        let staged = self.staged.as_ref().filter(|_| kill).map_or(0, |s| s.fingerprint());
        image.fingerprint() ^ staged
    }
    /// The disks when this became of the pending writes.
    pub fn image(&self, fates: &Fates) -> Image {
        let image = Image(self.disks.iter().map(|e| e.durable.fork()).collect());
        for (pending, fate) in self.pending().iter().zip(fates) {
            let bytes = &pending.write.bytes;
            let range = match fate {
                Fate::Lost => continue,
                Fate::Whole => 0..bytes.len(),
                Fate::Torn(start, end) => start * SECTOR..end * SECTOR,
            };
            image.0[pending.disk].write(pending.write.offset_bytes + range.start as u64, &bytes[range]);
        }
        image
    }
}

/// The interesting fates of the pending writes numbered in `open`; the others fare as in `rest`.
fn fates(pending: &[Pending<'_>], open: &[usize], rest: &Fates) -> BTreeSet<Fates> {
    let with = |whole: &dyn Fn(usize) -> bool| -> Fates {
        let mut fates = rest.clone();
        for (nth, i) in open.iter().enumerate() {
            fates[*i] = fate(whole(nth));
        }
        fates
    };
    let mut found: BTreeSet<Fates> = BTreeSet::new();
    if open.len() <= ALL_SUBSETS_MAX {
        found.extend((0..1u32 << open.len()).map(|subset| with(&|nth| subset & 1 << nth != 0)));
    } else {
        found.insert(with(&|_| false));
        found.insert(with(&|_| true));
        for one in 0..open.len() {
            found.insert(with(&|nth| nth == one));
            found.insert(with(&|nth| nth != one));
        }
    }
    for i in open {
        for (start, end) in cuts(pending[*i]) {
            for others in [false, true] {
                let mut fates = with(&|_| others);
                fates[*i] = Fate::Torn(start, end);
                found.insert(fates);
            }
        }
    }
    found
}

/// Where a write is torn: after its first sector, and in the log also in the middle.
fn cuts(pending: Pending<'_>) -> BTreeSet<(usize, usize)> {
    let sectors = pending.write.bytes.len() / SECTOR;
    let mut at = BTreeSet::from([1]);
    if pending.disk > 0 {
        at.insert(sectors / 2);
    }
    at.into_iter().filter(|at| *at < sectors).flat_map(|at| [(0, at), (at, sectors)]).collect()
}
