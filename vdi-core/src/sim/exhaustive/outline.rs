//! Which operations are possible after which, without an engine: enough of a disk's state to fold symmetric names.

use super::operation::{BLOCKS, GROWN_BLOCKS, NAMES, Operation, Verb};

/// What an enumeration knows of a disk.
#[derive(Clone, Debug)]
struct Disk {
    blocks: u64,
    /// A bit for each block that an operation named.
    touched: u8,
    /// Blocks and touched blocks of each snapshot.
    snapshots: Vec<(u64, u8)>,
    /// Whether an operation named the disk; of those that none named only the first is tried.
    used: bool,
}

impl Disk {
    fn new(used: bool) -> Disk {
        Disk { blocks: BLOCKS, touched: 0, snapshots: Vec::new(), used }
    }
    /// The touched blocks, and of the others the last.
    fn choices(&self) -> Vec<u64> {
        let within = (0..self.blocks.min(BLOCKS)).rev();
        let fresh = within.clone().find(|b| !self.is_touched(*b));
        within.filter(|b| self.is_touched(*b) || Some(*b) == fresh).collect()
    }
    fn is_touched(&self, block: u64) -> bool {
        self.touched & 1 << block != 0
    }
}

/// What an enumeration knows of the store.
#[derive(Clone, Debug)]
pub struct Outline([Option<Disk>; NAMES.len()]);

impl Outline {
    /// Two disks that nobody has used.
    #[must_use]
    pub fn fresh() -> Outline {
        Outline([Some(Disk::new(false)), Some(Disk::new(false)), None])
    }
    /// Every operation of `verbs` that is possible now, but one for each that symmetry makes the same.
    #[must_use]
    pub fn operations(&self, verbs: &[Verb]) -> Vec<Operation> {
        verbs.iter().flat_map(|verb| self.of_verb(*verb)).collect()
    }
    fn of_verb(&self, verb: Verb) -> Vec<Operation> {
        if verb == Verb::Create {
            return self.free().map(|disk| Operation { verb, disk, block: 0 }).into_iter().collect();
        }
        if !verb.names_a_disk() {
            return vec![Operation { verb, disk: 0, block: 0 }];
        }
        let mut fresh_seen = false;
        let mut found = Vec::new();
        for (disk, state) in self.0.iter().enumerate().filter_map(|(i, d)| Some((i, d.as_ref()?))) {
            if !state.used && std::mem::replace(&mut fresh_seen, true) || !self.is_possible(verb, state) {
                continue;
            }
            let blocks = if verb.names_a_block() { state.choices() } else { vec![0] };
            found.extend(blocks.into_iter().map(|block| Operation { verb, disk, block }));
        }
        found
    }
    fn is_possible(&self, verb: Verb, disk: &Disk) -> bool {
        match verb {
            Verb::Clone => self.free().is_some(),
            Verb::CloneSnapshot => self.free().is_some() && !disk.snapshots.is_empty(),
            Verb::RollBack | Verb::Label | Verb::RemoveSnapshot => !disk.snapshots.is_empty(),
            Verb::RollBackFar => disk.snapshots.len() > 1,
            Verb::Large => disk.blocks <= BLOCKS,
            Verb::Grow => disk.blocks < GROWN_BLOCKS,
            _ => true,
        }
    }
    fn free(&self) -> Option<usize> {
        self.0.iter().position(Option::is_none)
    }
    /// The outline after `operation`.
    #[must_use]
    pub fn after(&self, operation: Operation) -> Outline {
        let mut next = self.clone();
        let free = self.free();
        if operation.verb == Verb::Create {
            next.0[operation.disk] = Some(Disk::new(true));
        }
        if !operation.verb.names_a_disk() {
            return next;
        }
        let disk = next.0[operation.disk].as_mut().expect("it was possible");
        disk.used = true;
        let whole = (1 << BLOCKS) - 1;
        match operation.verb {
            v if v.names_a_block() => disk.touched |= 1 << operation.block,
            Verb::Straddle | Verb::Large => disk.touched = whole,
            Verb::Snapshot => disk.snapshots.push((disk.blocks, disk.touched)),
            Verb::RemoveSnapshot => drop(disk.snapshots.pop()),
            Verb::Resize => disk.blocks = if disk.blocks == BLOCKS { BLOCKS - 1 } else { BLOCKS },
            Verb::Grow => disk.blocks = GROWN_BLOCKS,
            Verb::RollBack | Verb::RollBackFar => {
                let present = (disk.blocks, disk.touched);
                let target = if operation.verb == Verb::RollBack { disk.snapshots.len() - 1 } else { 0 };
                disk.blocks = disk.snapshots[target].0;
                disk.touched |= disk.snapshots[target].1;
                disk.snapshots.push(present);
            }
            Verb::Clone => {
                disk.snapshots.push((disk.blocks, disk.touched));
                let clone = Disk { snapshots: Vec::new(), ..disk.clone() };
                next.0[free.expect("it was possible")] = Some(clone);
            }
            Verb::CloneSnapshot => {
                let (blocks, touched) = disk.snapshots[0];
                let clone = Disk { blocks, touched, snapshots: Vec::new(), used: true };
                next.0[free.expect("it was possible")] = Some(clone);
            }
            Verb::Delete => next.0[operation.disk] = None,
            _ => {}
        }
        next
    }
}
