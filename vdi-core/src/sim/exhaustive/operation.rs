//! The operations, and what each means in a world.

use std::fmt;

use crate::sim::admin::Order;
use crate::sim::guest::Request;
use crate::sim::model::Model;
use crate::sim::workload::Action;
use crate::units::{BLOCK_BYTES, SECTORS_PER_BLOCK};

/// Names of disks, in the order in which they are given out.
pub const NAMES: [&str; 3] = ["a", "b", "c"];
/// Blocks of a disk.
pub const BLOCKS: u64 = 3;
/// Blocks of a disk that was made so large that its tree has a level more.
pub const GROWN_BLOCKS: u64 = 300;

/// What is done.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Verb {
    /// A block is written.
    Write,
    /// A few sectors within a block are written.
    Part,
    /// A block is discarded.
    Discard,
    /// A block is zeroed.
    Zero,
    /// The guest flushes.
    Flush,
    /// A snapshot.
    Snapshot,
    /// A clone of the present state.
    Clone,
    /// Back to the newest snapshot.
    RollBack,
    /// The disk is deleted with its snapshots.
    Delete,
    /// The disk loses its last block, or gets it back.
    Resize,
    /// A checkpoint.
    Checkpoint,
    /// A collection.
    Collect,
    /// A block is written and durable when that is acknowledged.
    WriteThrough,
    /// Half of one block and half of the next are written at once.
    Straddle,
    /// The whole disk is written at once, out of line.
    Large,
    /// Some sectors of a block are zeroed, with leave to unmap.
    Unmap,
    /// The whole disk is discarded.
    DiscardAll,
    /// A new disk.
    Create,
    /// The newest snapshot gets a label.
    Label,
    /// The newest snapshot is removed.
    RemoveSnapshot,
    /// A clone of the oldest snapshot.
    CloneSnapshot,
    /// Back to the oldest snapshot, where there are several.
    RollBackFar,
    /// The disk grows until its tree is deeper.
    Grow,
    /// What lies scattered is put in order.
    Tidy,
    /// The daemon ends in order and starts.
    Restart,
    /// The daemon is killed and starts.
    Kill,
    /// Power goes, with everything that was not flushed, and comes back.
    PowerLoss,
}

impl Verb {
    /// Every verb; the first [`Verb::CORE`] of them are the core.
    pub const ALL: [Verb; 27] = [
        Verb::Write,
        Verb::Part,
        Verb::Discard,
        Verb::Zero,
        Verb::Flush,
        Verb::Snapshot,
        Verb::Clone,
        Verb::RollBack,
        Verb::Delete,
        Verb::Resize,
        Verb::Checkpoint,
        Verb::Collect,
        Verb::WriteThrough,
        Verb::Straddle,
        Verb::Large,
        Verb::Unmap,
        Verb::DiscardAll,
        Verb::Create,
        Verb::Label,
        Verb::RemoveSnapshot,
        Verb::CloneSnapshot,
        Verb::RollBackFar,
        Verb::Grow,
        Verb::Tidy,
        Verb::Restart,
        Verb::Kill,
        Verb::PowerLoss,
    ];
    /// How many verbs are core.
    pub const CORE: usize = 12;
    /// Whether it names a block.
    #[must_use]
    pub fn names_a_block(self) -> bool {
        matches!(
            self,
            Verb::Write | Verb::Part | Verb::Discard | Verb::Zero | Verb::WriteThrough | Verb::Unmap
        )
    }
    /// Whether it names a disk that must be there.
    #[must_use]
    pub fn names_a_disk(self) -> bool {
        !matches!(
            self,
            Verb::Checkpoint
                | Verb::Collect
                | Verb::Create
                | Verb::Tidy
                | Verb::Restart
                | Verb::Kill
                | Verb::PowerLoss
        )
    }
}

/// What an operation is in a world.
#[derive(Debug)]
pub enum Deed {
    /// A client of the engine does it.
    Client(Action),
    /// The daemon stops and starts.
    Stop,
    /// It is not possible: what it needs is not there. Two snapshots with nothing between them are one, so an
    /// outline cannot know.
    Nothing,
}

/// A verb with what it is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Operation {
    /// What is done.
    pub verb: Verb,
    /// To which of [`NAMES`].
    pub disk: usize,
    /// To which block.
    pub block: u64,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, block) = (NAMES[self.disk], self.block);
        match self.verb {
            v if v.names_a_block() => write!(f, "{v:?} {name}:{block}"),
            v if v.names_a_disk() || v == Verb::Create => write!(f, "{v:?} {name}"),
            v => write!(f, "{v:?}"),
        }
    }
}

impl Operation {
    /// What happens in a world that is as `model` says.
    pub fn deed(self, model: &Model) -> Deed {
        match self.verb {
            Verb::Restart | Verb::Kill | Verb::PowerLoss => Deed::Stop,
            _ => self.action(model).map_or(Deed::Nothing, Deed::Client),
        }
    }
    fn action(self, model: &Model) -> Option<Action> {
        let name = NAMES[self.disk].to_owned();
        let first = self.block * SECTORS_PER_BLOCK;
        let block = first..first + SECTORS_PER_BLOCK;
        let part = first + 2..first + 5;
        let disk = model.disks.get(&name);
        let sectors = disk.map_or(0, |d| d.sectors());
        if self.verb.names_a_block() && block.end > sectors {
            return None;
        }
        let epochs: Vec<u64> = disk.map_or_else(Vec::new, |d| d.snapshots.keys().copied().collect());
        let (oldest, newest) = (epochs.first().copied(), epochs.last().copied());
        let free = || NAMES.iter().find(|n| !model.disks.contains_key(**n)).map(|n| (*n).to_owned());
        let guest = |request| Action::Guest(name.clone(), request);
        Some(match self.verb {
            Verb::Write | Verb::WriteThrough => guest(Request::Write(block, vec![SECTORS_PER_BLOCK])),
            Verb::Part => guest(Request::Write(part, vec![1, 2])),
            Verb::Straddle => {
                let end = sectors - SECTORS_PER_BLOCK / 2;
                guest(Request::Write(end - SECTORS_PER_BLOCK..end, vec![SECTORS_PER_BLOCK]))
            }
            Verb::Large => guest(Request::Write(0..sectors, vec![sectors])),
            Verb::Discard => guest(Request::Discard(block)),
            Verb::DiscardAll => guest(Request::Discard(0..sectors)),
            Verb::Zero => guest(Request::WriteZeroes(block, false)),
            Verb::Unmap => guest(Request::WriteZeroes(part, true)),
            Verb::Flush => guest(Request::Flush),
            Verb::Snapshot => Action::Admin(Order::Snapshot(name, None)),
            Verb::Label => Action::Admin(Order::Label(name, newest?, "label".to_owned())),
            Verb::RemoveSnapshot => Action::Admin(Order::RemoveSnapshot(name, newest?)),
            Verb::Clone => Action::Admin(Order::Clone(name, None, free()?)),
            Verb::CloneSnapshot => Action::Admin(Order::Clone(name, Some(oldest?), free()?)),
            Verb::RollBack => Action::Admin(Order::RollBack(name, newest?)),
            Verb::RollBackFar => Action::Admin(Order::RollBack(name, oldest?)),
            Verb::Create => Action::Admin(Order::Create(name, BLOCKS * BLOCK_BYTES)),
            Verb::Delete => Action::Admin(Order::Delete(name)),
            Verb::Resize if sectors == BLOCKS * SECTORS_PER_BLOCK => {
                Action::Admin(Order::Resize(name, (BLOCKS - 1) * BLOCK_BYTES))
            }
            Verb::Resize => Action::Admin(Order::Resize(name, BLOCKS * BLOCK_BYTES)),
            Verb::Grow => Action::Admin(Order::Resize(name, GROWN_BLOCKS * BLOCK_BYTES)),
            Verb::Checkpoint => Action::Admin(Order::Checkpoint),
            Verb::Collect => Action::Admin(Order::Collect(false)),
            Verb::Tidy => Action::Admin(Order::Tidy),
            Verb::Restart | Verb::Kill | Verb::PowerLoss => return None,
        })
    }
}
