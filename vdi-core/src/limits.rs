//! Every bound in one place, with the relations between them asserted.

use crate::units::{BLOCK_BYTES, BLOCK_SIZE};

/// Smallest extent, blocks: one allocation region.
pub const REGION_BLOCKS: u32 = 512;
/// log2 of the default extent (1 GiB).
pub const EXTENT_BITS_DEFAULT: u32 = 18;
/// log2 of the smallest extent (2 MiB).
pub const EXTENT_BITS_MIN: u32 = 9;
/// log2 of the largest extent (16 GiB).
pub const EXTENT_BITS_MAX: u32 = 22;
/// A store has at most this many extents (catalogue kept in memory: 32 bytes each).
pub const EXTENTS_MAX: u64 = 1 << 22;
/// Entries per tree node.
pub const NODE_ENTRIES: usize = 256;
/// Levels of the deepest tree: 256^5 blocks of 4 KiB are 4 PiB.
pub const DEPTH_MAX: u8 = 5;
/// Largest VDI, bytes (4 PiB).
pub const VDI_BYTES_MAX: u64 = 1 << 52;
/// Longest VDI name, bytes.
pub const NAME_BYTES_MAX: usize = 63;
/// Longest snapshot label, bytes.
pub const LABEL_BYTES_MAX: usize = 63;
/// Records in one VDI's snapshot log (snapshots, labels, removals).
pub const SNAPSHOT_RECORDS_MAX: u64 = 1 << 20;
/// Snapshots of a VDI: as many again fit its list before it must be written anew.
pub const SNAPSHOTS_MAX: u64 = SNAPSHOT_RECORDS_MAX / 2;
/// Generations, sequence numbers, incarnations and lease epochs count up by one: none ever gets here, so a larger
/// number on a disk is damage, and whoever counts on from a verified one cannot overflow.
pub const COUNTER_MAX: u64 = 1 << 62;
/// Changes of an extent's owner: its bitmap sectors count on from this number times 2^32.
pub const LEASES_MAX: u64 = 1 << 29;
/// Findings that one check lists; more are counted.
pub const CHECK_FINDINGS_MAX: usize = 1000;
/// Slots for hosts in a store; each shard of a host takes one.
pub const HOSTS_MAX: u16 = 64;
/// Shards of one host.
pub const SHARDS_MAX: u16 = 16;
/// Data blocks in one log segment at most (2 MiB).
pub const SEGMENT_DATA_BLOCKS_MAX: usize = 512;
/// Bytes of header and records in one log segment at most.
pub const SEGMENT_HEAD_BYTES_MAX: usize = 16 * BLOCK_SIZE;
/// Segments being written at once.
pub const SEGMENTS_IN_FLIGHT_MAX: usize = 4;
/// Smallest ring the log code works with, bytes (simulation and tests; segments shrink with it).
pub const LOG_RING_BYTES_MIN: u64 = 1 << 20;
/// VDIs that a log's head can remember.
pub const LOG_VDIS_MAX: usize = 4000;
/// Bytes written to the log and not yet flushed; also bounds what a recovery must verify and look ahead.
pub const LOG_UNFLUSHED_BYTES_MAX: u64 = 16 << 20;
/// One part in this many of a log's ring is kept free of ordinary records: room to write those of VDIs that
/// cannot checkpoint again further on, so that the log can be trimmed past them. All such copies together take no
/// more than this.
pub const LOG_COPIES_SHARE: u64 = 16;
/// Where what is staged is safe from the daemon's end, segments are sent when so much is collected, or so long after.
pub const LOG_COLLECTED_BYTES: u64 = 128 << 10;
/// See [`LOG_COLLECTED_BYTES`].
pub const LOG_COLLECTING_NS: u64 = 500_000;
/// Segments of copied records appended between two flushes: they wait for nobody.
pub const LOG_COPY_BATCHES_PER_FLUSH: usize = 16;
/// Segments' worth of records waiting in memory to be written, in flight included.
pub const LOG_STAGED_SEGMENTS_MAX: u64 = 8;
/// Smallest log ring, bytes: several segments of the largest size.
pub const LOG_BYTES_MIN: u64 = 32 << 20;
/// Default log ring, bytes.
pub const LOG_BYTES_DEFAULT: u64 = 1 << 30;
/// Largest guest request, bytes: a chain can name the same memory again and again, and add up to terabytes.
pub const GUEST_REQUEST_BYTES_MAX: usize = 1 << 30;
/// Bytes of a guest request that are executed at once.
pub const REQUEST_BYTES_MAX: usize = 4 << 20;
/// Epochs of one VDI that are not checkpointed yet.
pub const OPEN_EPOCHS_MAX: u64 = 1024;
/// Log records of one VDI whose guest requests a restarted daemon remembers: all that can be in flight, on 64
/// queues of 1,024 requests.
pub const LOGGED_REQUESTS_MAX: usize = 64 << 10;
/// Versions in one VDI's overlay: about 100 bytes each.
pub const OVERLAY_VERSIONS_MAX: usize = 1 << 20;
/// Largest single device write of a checkpoint, bytes.
pub const CHECKPOINT_WRITE_BYTES_MAX: usize = 1 << 20;
/// Bytes that a checkpoint reads back from the log at once, and keeps until they are written.
pub const CHECKPOINT_READ_BYTES_MAX: usize = 64 << 20;
/// Checkpoint writes in flight at once: what a disk needs to be busy where only small runs are free.
pub const CHECKPOINT_WRITES_MAX: usize = 32;
/// Bytes of checkpoint writes in flight at once.
pub const CHECKPOINT_INFLIGHT_BYTES_MAX: usize = 8 << 20;

const _: () = {
    assert!(EXTENT_BITS_MIN <= EXTENT_BITS_DEFAULT && EXTENT_BITS_DEFAULT <= EXTENT_BITS_MAX);
    assert!(1 << EXTENT_BITS_MIN == REGION_BLOCKS);
    assert!((EXTENTS_MAX << EXTENT_BITS_DEFAULT) < (1 << crate::units::BlockAddr::BITS));
    assert!(EXTENTS_MAX < u32::MAX as u64);
    assert!(LEASES_MAX << 32 < COUNTER_MAX);
    assert!(VDI_BYTES_MAX == BLOCK_BYTES << (8 * DEPTH_MAX as u32));
    assert!(NODE_ENTRIES == 1 << 8);
    assert!(NODE_ENTRIES * 16 == BLOCK_SIZE);
    let segment = (SEGMENT_DATA_BLOCKS_MAX * BLOCK_SIZE + SEGMENT_HEAD_BYTES_MAX) as u64;
    assert!(segment * (SEGMENTS_IN_FLIGHT_MAX as u64 + 1) < LOG_BYTES_MIN);
    // The smallest ring's share takes one batch of copies.
    assert!(LOG_RING_BYTES_MIN / LOG_COPIES_SHARE >= SEGMENT_HEAD_BYTES_MAX as u64);
    // Its records are numbered with 16 bits. Each piece makes one for each MiB, and one more where it begins within a block.
    assert!(
        GUEST_REQUEST_BYTES_MAX / REQUEST_BYTES_MAX * ((REQUEST_BYTES_MAX >> 20) + 1) < u16::MAX as usize
    );
    // A request that starts and ends within a block touches one block more than it fills.
    assert!(CHECKPOINT_WRITE_BYTES_MAX <= CHECKPOINT_INFLIGHT_BYTES_MAX);
};
