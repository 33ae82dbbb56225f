//! What the simulated guests write: every sector names the write it came from and its own place, so that a
//! read tells which write it sees, and data of another write, place or disk cannot pass.

use crate::units::{SECTOR_BYTES, SECTORS_PER_BLOCK};

/// Identity of a write's content, unique in a world; [`ZEROS`] for none.
pub type Stamp = u64;

/// What unwritten, discarded and zeroed sectors hold.
pub const ZEROS: Stamp = 0;

/// Stands for a sector that nobody looked at.
pub const UNSEEN: Stamp = Stamp::MAX;

/// Stamps of the sectors of one block.
pub type BlockStamps = [Stamp; SECTORS_PER_BLOCK as usize];

const SECTOR: usize = SECTOR_BYTES as usize;

/// Fill `bytes` (whole sectors from `sector` on) with the content of `stamp`.
pub fn fill(stamp: Stamp, sector: u64, bytes: &mut [u8]) {
    for (i, chunk) in bytes.chunks_exact_mut(SECTOR).enumerate() {
        chunk.copy_from_slice(&content(stamp, sector + i as u64));
    }
}

/// The stamp and the place, over and over.
fn content(stamp: Stamp, sector: u64) -> [u8; SECTOR] {
    let mut bytes = [0; SECTOR];
    if stamp != ZEROS {
        bytes[..8].copy_from_slice(&stamp.to_le_bytes());
        bytes[8..16].copy_from_slice(&sector.to_le_bytes());
        for half in [16, 32, 64, 128, 256] {
            bytes.copy_within(..half, half);
        }
    }
    bytes
}

/// Which write the `sector` holding `chunk` shows; None when it is no write's content for that place.
#[must_use]
pub fn stamp_of(sector: u64, chunk: &[u8]) -> Option<Stamp> {
    let stamp = Stamp::from_le_bytes(chunk[..8].try_into().expect("a sector is longer"));
    (*chunk == content(stamp, sector)).then_some(stamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_tells_its_write_and_its_place() {
        let mut bytes = vec![0; 2 * SECTOR];
        fill(7, 80, &mut bytes);
        assert_eq!(stamp_of(80, &bytes[..SECTOR]), Some(7));
        assert_eq!(stamp_of(81, &bytes[SECTOR..]), Some(7));
        assert_eq!(stamp_of(81, &bytes[..SECTOR]), None, "content of another place");
        bytes[300] ^= 1;
        assert_eq!(stamp_of(80, &bytes[..SECTOR]), None);
        assert_eq!(stamp_of(0, &[0; SECTOR]), Some(ZEROS));
        let mut nearly = [0; SECTOR];
        nearly[511] = 1;
        assert_eq!(stamp_of(0, &nearly), None, "zeros but for one bit");
    }
}
