//! Every short sequence of operations on a tiny store, crashed everywhere: what CrashMonkey and ACE do to file systems
//! (Mohan and others, OSDI 2018), which found that nearly all crash bugs need three operations or fewer.
//!
//! A sequence runs once, with the real engine on simulated disks, while a recorder keeps for each stretch between two
//! events of the devices what is durable, which writes are pending, and what the model knows. From that the disks
//! are put together as each crash could leave them; the engine recovers from each, and the checker and the model of
//! the simulator judge what it finds. An image is judged as left by a *kill* when all completed writes are in it
//! (then everything acknowledged must be there), else as left by a *power loss* (then everything promised to be
//! durable). After a power loss power is lost once more with all that recovery did not flush, and the same must be found
//! again; at the end of each sequence a collection and an orderly end must leave no block that nothing names.
//!
//! What is tried:
//! - sequences in which every operation is possible, from a *fresh* store with two empty disks of three blocks, and from
//!   a *lived-in* one: a snapshot, a clone that has gone its own way, a log that is not empty; and from one whose disks
//!   were *resized*. A third disk can be made; and from the fresh one under a daemon that acknowledges what is *staged* in
//!   memory that a kill leaves as it is at that moment, and a power loss does not;
//! - a crash at the submission and at the completion of every write and flush of both disks, during recovery too;
//! - of up to four pending writes every subset, of more none, all, each one alone, each one missing;
//! - each pending write of more than one sector torn after its first, in the log also in the middle, either part
//!   surviving, with all other pending writes or with none.
//!
//! What is left out, and why nothing is lost by it:
//! - crashes in any operation but the last of a sequence: they are those of a shorter sequence;
//! - an image whose bytes were judged at a later moment of the same operation, where at least as much was promised, or
//!   at the end of the sequence without its last operation, if nothing was promised since;
//! - sequences that differ in names only: of disks that no operation has named yet the first stands for all, of blocks
//!   the last one. What a smaller disk loses is its last block, so the blocks' names are not quite symmetric: a block
//!   that survives the cut is only tried as the second one named.
//!
//! What is left out for its price: operations side by side, which the random worlds have; slow or failing devices;
//! older writes landing on newer ones; larger subsets.

mod image;
mod judge;
mod operation;
mod outline;
mod plan;
mod sequence;
mod series;
mod start;
mod tape;

#[cfg(test)]
mod tests;

pub use plan::Plan;
pub use sequence::Tally;
pub use series::{Broken, Progress, Run, run};
