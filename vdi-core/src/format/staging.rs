//! The staging memory of a log: records and data that are appended and perhaps not durable on the log's device yet. Not on a disk,
//! but it outlives the daemon, and a newer release may find it; a reboot ends it. Words are 8 bytes, native and aligned,
//! each written at once: what one store of a word does is there or not there, whenever the daemon is killed.
//!
//! | offset | size | unit | field |
//! |---|---|---|---|
//! | 0 | 8 | | magic `PLXVSTG1`; zero while the fields below are written |
//! | 8 | 16 | | UUID of the log |
//! | 24 | 8 | | zero |
//! | 32 | 8 | bytes | ring, which starts at 4096; the arena begins at the next multiple of 4096 behind it |
//! | 64 | 8 | | life of the log that stages here, as its head says |
//! | 72 | 8 | | the life before |
//! | 128 | 8 | bytes | tail: where the oldest entry starts, counting laps |
//! | 136 | 8 | | durable through: every segment up to this one is stable on the log's device |
//! | 192 | 8 | bytes | head: where the next one goes |
//! | 4096 | | | the ring |
//!
//! An entry of the ring, a multiple of 8 bytes, never across the ring's end:
//!
//! | offset | size | unit | field |
//! |---|---|---|---|
//! | 0 | 8 | | sequence of its segment; 2^64 - 1: the next entry starts at the ring's start |
//! | 8 | 8 | bytes | its record |
//! | 16 | 8 | | 2^32 x CRC-32C of its record, and the pieces of its data |
//! | 24 | 8 each | | pieces: 2^32 x blocks, and the block of the arena where they lie, or 2^32 - 1: here |
//! | | | | record, as in a segment, padded with zeros; then the pieces that lie here |

use crate::units::BLOCK_SIZE;

/// `PLXVSTG1`.
pub const MAGIC: u64 = u64::from_le_bytes(*b"PLXVSTG1");
/// Where the UUID of the log is: two words.
pub const LOG: usize = 8;
/// Where the length of the ring is.
pub const RING_BYTES: usize = 32;
/// Where the life is.
pub const LIFE: usize = 64;
/// Where the life before is.
pub const LIFE_BEFORE: usize = 72;
/// Where the tail is.
pub const TAIL: usize = 128;
/// Where it says what is durable.
pub const DURABLE: usize = 136;
/// Where the head is.
pub const HEAD: usize = 192;
/// Where the ring starts.
pub const RING: usize = BLOCK_SIZE;
/// Bytes of an entry before its pieces.
pub const ENTRY_BYTES: usize = 24;
/// Instead of a block of the arena: the piece lies in the entry.
pub const HERE: u32 = u32::MAX;
/// Instead of a sequence: nothing more in this lap.
pub const SKIP: u64 = u64::MAX;

/// Bytes of an entry with a record of `record_bytes` and so many pieces, of which `blocks` blocks lie in it.
#[must_use]
pub const fn entry_bytes(record_bytes: usize, pieces: usize, blocks: usize) -> usize {
    ENTRY_BYTES + 8 * pieces + record_bytes.next_multiple_of(8) + blocks * BLOCK_SIZE
}

/// Where the arena begins, from the start of the memory.
#[must_use]
pub const fn arena(ring_bytes: usize) -> usize {
    (RING + ring_bytes).next_multiple_of(BLOCK_SIZE)
}
