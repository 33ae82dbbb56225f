//! The virtio-blk configuration space (virtio 1.2, section 5.2.4), little-endian.

use std::mem::offset_of;

use vdi_core::units::{SECTOR_BYTES, SECTORS_PER_BLOCK};
use virtio_bindings::virtio_blk::virtio_blk_config as Layout;

use super::features::{RANGE_SECTORS_MAX, RANGES_MAX, SEGMENTS_MAX};

/// Byte offset of `wce`, the only field a driver may write.
pub const WRITE_CACHE_OFFSET: u32 = offset_of!(Layout, wce) as u32;

/// The bytes `offset..offset + len` of the configuration space of a disk of `sectors` sectors;
/// zeros beyond its end (front ends ask for the structure of their own virtio version).
#[must_use]
pub fn read(sectors: u64, queues: u16, write_back: bool, offset: u32, len: u32) -> Vec<u8> {
    let mut space = [0; size_of::<Layout>()];
    let mut put = |at: usize, bytes: &[u8]| space[at..at + bytes.len()].copy_from_slice(bytes);
    put(offset_of!(Layout, capacity), &sectors.to_le_bytes());
    put(offset_of!(Layout, seg_max), &u32::from(SEGMENTS_MAX).to_le_bytes());
    put(offset_of!(Layout, blk_size), &(SECTOR_BYTES as u32).to_le_bytes());
    put(offset_of!(Layout, physical_block_exp), &[SECTORS_PER_BLOCK.trailing_zeros() as u8]);
    put(offset_of!(Layout, min_io_size), &(SECTORS_PER_BLOCK as u16).to_le_bytes());
    put(offset_of!(Layout, wce), &[u8::from(write_back)]);
    put(offset_of!(Layout, num_queues), &queues.to_le_bytes());
    put(offset_of!(Layout, max_discard_sectors), &RANGE_SECTORS_MAX.to_le_bytes());
    put(offset_of!(Layout, max_discard_seg), &RANGES_MAX.to_le_bytes());
    put(offset_of!(Layout, discard_sector_alignment), &(SECTORS_PER_BLOCK as u32).to_le_bytes());
    put(offset_of!(Layout, max_write_zeroes_sectors), &RANGE_SECTORS_MAX.to_le_bytes());
    put(offset_of!(Layout, max_write_zeroes_seg), &RANGES_MAX.to_le_bytes());
    put(offset_of!(Layout, write_zeroes_may_unmap), &[1]);
    let padded = space.iter().copied().chain(std::iter::repeat(0));
    padded.skip(offset as usize).take(len as usize).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_space_has_the_layout_of_virtio_1_2() {
        let bytes = read(0x0102_0304_0506, 64, true, 0, 60);
        assert_eq!(bytes.len(), 60);
        assert_eq!(bytes[..8], [6, 5, 4, 3, 2, 1, 0, 0]);
        assert_eq!(bytes[12..16], 1022u32.to_le_bytes());
        assert_eq!(bytes[20..24], 512u32.to_le_bytes());
        assert_eq!(bytes[24], 3, "physical block of 8 sectors");
        assert_eq!(bytes[32], 1, "write back");
        assert_eq!(bytes[34..36], 64u16.to_le_bytes());
        assert_eq!(bytes[40..44], 256u32.to_le_bytes());
        assert_eq!(bytes[56], 1, "may unmap");
    }

    #[test]
    fn bytes_beyond_the_structure_are_zero() {
        assert_eq!(read(1, 1, true, 90, 20), [0; 20]);
        assert_eq!(read(1, 1, false, WRITE_CACHE_OFFSET, 1), [0]);
        assert_eq!(read(1, 1, true, u32::MAX, 4), [0; 4]);
    }
}
