//! What the simulated guests write: every sector names the write it came from and its own place, so that a
//! read tells which write it sees, and data of another write, place or disk cannot pass.

use crate::units::{BLOCK_SIZE, SECTOR_BYTES, SECTORS_PER_BLOCK};

/// Identity of a write's content, unique in a world; [`ZEROS`] for none.
pub type Stamp = u64;

/// What unwritten, discarded and zeroed sectors hold.
pub const ZEROS: Stamp = 0;

/// Stamps of the sectors of one block.
pub type BlockStamps = [Stamp; SECTORS_PER_BLOCK as usize];

const SECTOR: usize = SECTOR_BYTES as usize;

/// Fill `bytes` (whole sectors from `sector` on) with the content of `stamp`.
pub fn fill(stamp: Stamp, sector: u64, bytes: &mut [u8]) {
    for (i, chunk) in bytes.chunks_exact_mut(SECTOR).enumerate() {
        fill_sector(stamp, sector + i as u64, chunk);
    }
}

fn words(stamp: Stamp, sector: u64) -> impl Iterator<Item = u64> {
    let mixed = (stamp ^ sector.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let body = (1..63).map(move |i: u64| mixed.wrapping_mul(2 * i + 1));
    [stamp, sector].into_iter().chain(body)
}

fn fill_sector(stamp: Stamp, sector: u64, chunk: &mut [u8]) {
    if stamp == ZEROS {
        return chunk.fill(0);
    }
    for (word, value) in chunk.chunks_exact_mut(8).zip(words(stamp, sector)) {
        word.copy_from_slice(&value.to_le_bytes());
    }
}

/// Which write the `sector` holding `chunk` shows; None when it is no write's content for that place.
#[must_use]
pub fn stamp_of(sector: u64, chunk: &[u8]) -> Option<Stamp> {
    let word = |i: usize| u64::from_le_bytes(chunk[i * 8..i * 8 + 8].try_into().expect("eight bytes"));
    let stamp = word(0);
    if stamp == ZEROS {
        return chunk.iter().all(|b| *b == 0).then_some(ZEROS);
    }
    words(stamp, sector).enumerate().all(|(i, value)| word(i) == value).then_some(stamp)
}

/// The stamps of the whole blocks in `bytes`, from virtual block `first` on; or the sector that holds garbage.
pub fn block_stamps(first: u64, bytes: &[u8]) -> Result<Vec<BlockStamps>, u64> {
    let mut blocks = Vec::with_capacity(bytes.len() / BLOCK_SIZE);
    for (i, block) in bytes.chunks_exact(BLOCK_SIZE).enumerate() {
        let mut stamps = BlockStamps::default();
        for (j, (stamp, chunk)) in stamps.iter_mut().zip(block.chunks_exact(SECTOR)).enumerate() {
            let sector = (first + i as u64) * SECTORS_PER_BLOCK + j as u64;
            *stamp = stamp_of(sector, chunk).ok_or(sector)?;
        }
        blocks.push(stamps);
    }
    Ok(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_tells_its_write_and_its_place() {
        let mut bytes = vec![0; BLOCK_SIZE];
        fill(7, 80, &mut bytes);
        assert_eq!(block_stamps(10, &bytes), Ok(vec![[7; 8]]));
        assert_eq!(block_stamps(11, &bytes), Err(88), "content of another place");
        bytes[513] ^= 1;
        assert_eq!(block_stamps(10, &bytes), Err(81));
        assert_eq!(block_stamps(0, &[0; BLOCK_SIZE]), Ok(vec![[ZEROS; 8]]));
        bytes.fill(0);
        bytes[4095] = 1;
        assert_eq!(block_stamps(10, &bytes), Err(87), "zeros but for one bit");
    }
}
