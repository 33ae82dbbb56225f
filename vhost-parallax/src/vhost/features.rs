//! The features we offer, and the bounds that go with them.

use ::vhost::vhost_user::VhostUserProtocolFeatures;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH,
    VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

/// Queues of one device at most.
pub const QUEUES_MAX: u16 = 64;
/// Entries of one ring at most.
pub const QUEUE_DEPTH_MAX: u16 = 1024;
/// Data segments of one request at most: a ring's depth less header and status.
pub const SEGMENTS_MAX: u16 = QUEUE_DEPTH_MAX - 2;
/// Memory regions of one front end at most.
pub const MEMORY_REGIONS_MAX: usize = 32;
/// Bytes of memory of one front end at most; no guest has more.
pub const MEMORY_BYTES_MAX: u64 = 16 << 40;
/// Bytes of memory of all front ends together: half of the address space of a process on x86-64. Without room in it
/// nothing can be allocated, and the process ends.
pub const MAPPED_BYTES_MAX: u64 = 64 << 40;
/// Ranges of one discard or write-zeroes request at most.
pub const RANGES_MAX: u32 = 256;
/// Sectors of one such range at most (2 TiB less a block).
pub const RANGE_SECTORS_MAX: u32 = u32::MAX - 7;

/// `VHOST_USER_F_PROTOCOL_FEATURES`: the front end may ask for protocol features.
pub const PROTOCOL_FEATURES_BIT: u64 = 30;

/// True when `features` has bit `bit`.
#[must_use]
pub const fn has(features: u64, bit: u32) -> bool {
    features & (1 << bit) != 0
}

/// The virtio features offered for a disk.
#[must_use]
pub fn offered(read_only: bool) -> u64 {
    let mut bits = vec![
        VIRTIO_F_VERSION_1,
        VIRTIO_RING_F_INDIRECT_DESC,
        VIRTIO_RING_F_EVENT_IDX,
        VIRTIO_BLK_F_SEG_MAX,
        VIRTIO_BLK_F_BLK_SIZE,
        VIRTIO_BLK_F_TOPOLOGY,
        VIRTIO_BLK_F_FLUSH,
        VIRTIO_BLK_F_CONFIG_WCE,
        VIRTIO_BLK_F_MQ,
        VIRTIO_BLK_F_DISCARD,
        VIRTIO_BLK_F_WRITE_ZEROES,
    ];
    if read_only {
        bits.push(VIRTIO_BLK_F_RO);
    }
    bits.iter().fold(1 << PROTOCOL_FEATURES_BIT, |all, bit| all | 1 << bit)
}

/// The vhost-user protocol features offered.
#[must_use]
pub fn offered_protocol() -> VhostUserProtocolFeatures {
    VhostUserProtocolFeatures::MQ
        | VhostUserProtocolFeatures::CONFIG
        | VhostUserProtocolFeatures::REPLY_ACK
        | VhostUserProtocolFeatures::INFLIGHT_SHMFD
        | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
        | VhostUserProtocolFeatures::BACKEND_REQ
        | VhostUserProtocolFeatures::RESET_DEVICE
}

const _: () = {
    assert!(QUEUE_DEPTH_MAX.is_power_of_two());
    assert!(SEGMENTS_MAX == 1022);
    assert!(2 * MEMORY_BYTES_MAX <= MAPPED_BYTES_MAX);
};
