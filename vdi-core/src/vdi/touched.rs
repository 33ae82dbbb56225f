//! Which leaves of a disk's tree changed since somebody last looked at them: where idle work may find something to do.

use std::collections::BTreeSet;

use super::Vdi;

/// Beyond so many it is all of them: some 50 KiB of memory a disk.
const LEAVES_MAX: usize = 4096;

/// Leaves, by their number: that of their first block divided by the entries of a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Touched {
    /// This one and all after it.
    From(u64),
    /// These.
    These(BTreeSet<u64>),
}

impl Default for Touched {
    fn default() -> Touched {
        Touched::These(BTreeSet::new())
    }
}

impl Touched {
    /// Every leaf.
    pub const ALL: Touched = Touched::From(0);

    /// These too.
    pub fn add(&mut self, leaves: impl IntoIterator<Item = u64>) {
        match self {
            Touched::From(first) => {
                if leaves.into_iter().any(|leaf| leaf < *first) {
                    *self = Touched::ALL;
                }
            }
            Touched::These(all) => {
                all.extend(leaves);
                if all.len() > LEAVES_MAX {
                    *self = Touched::ALL;
                }
            }
        }
    }
    /// The first one.
    #[must_use]
    pub fn first(&self) -> Option<u64> {
        match self {
            Touched::From(first) => Some(*first),
            Touched::These(all) => all.first().copied(),
        }
    }
    /// Those before `leaf` have been looked at.
    pub fn done_before(&mut self, leaf: u64) {
        match self {
            Touched::From(first) => *first = leaf.max(*first),
            Touched::These(all) => *all = all.split_off(&leaf),
        }
    }
}

impl Vdi {
    /// What was touched since this was last called; everything since the disk was opened.
    #[must_use]
    pub fn take_touched(&self) -> Touched {
        self.0.touched.take()
    }
    /// Look at these again.
    pub fn touch(&self, leaves: impl IntoIterator<Item = u64>) {
        self.0.touched.borrow_mut().add(leaves);
    }
    /// Look at all of it again.
    pub fn touch_all(&self) {
        self.0.touched.replace(Touched::ALL);
    }
    /// What is written from now on needs the paths of its leaves anew.
    pub(super) fn forget_paths(&self) {
        let leaves = self.0.leaves.take();
        self.touch(leaves);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_touched_is_looked_at_once() {
        let mut touched = Touched::default();
        touched.add([7, 3, 7]);
        assert_eq!(touched.first(), Some(3));
        touched.done_before(4);
        assert_eq!(touched.first(), Some(7));
        touched.done_before(8);
        assert_eq!(touched, Touched::default());
    }

    #[test]
    fn beyond_its_bound_it_is_everything() {
        let mut touched = Touched::default();
        touched.add(0..=LEAVES_MAX as u64);
        assert_eq!(touched, Touched::ALL);
        touched.done_before(100);
        touched.add([100, 1 << 40]);
        assert_eq!(touched.first(), Some(100));
        touched.add([99]);
        assert_eq!(touched.first(), Some(0));
    }
}
