//! What a script changes in an image: single fields and whole blocks, where anything lies at all.

use vdi_core::device::memory::Media;
use vdi_core::units::{BLOCK_BYTES, BLOCK_SIZE};

use super::base::Image;
use crate::tape::Tape;

/// Changes of one image at most.
const CHANGES_MAX: u8 = 16;

/// Change `media` in up to [`CHANGES_MAX`] places as `tape` says, somewhere in `blocks`; returns how many.
pub fn damage(media: &Media, blocks: &[u64], tape: &mut Tape<'_>) -> u8 {
    let changes = tape.u8() % (CHANGES_MAX + 1);
    for _ in 0..changes {
        change(media, blocks, tape);
    }
    changes
}

fn change(media: &Media, blocks: &[u64], tape: &mut Tape<'_>) {
    let how = tape.u8() % 9;
    let block = *tape.pick(blocks);
    let within = usize::from(tape.u16()) % BLOCK_SIZE;
    let word = within / 8 * 8;
    let mut bytes = Image::block(media, block);
    match how {
        0 => bytes[within] = tape.u8(),
        1 => bytes[within] ^= 1 << (tape.u8() % 8),
        2 => put(&mut bytes, within / 2 * 2, &tape.u16().to_le_bytes()),
        3 => put(&mut bytes, within / 4 * 4, &(tape.interesting() as u32).to_le_bytes()),
        4 => put(&mut bytes, word, &tape.interesting().to_le_bytes()),
        5 => {
            let old = u64::from_le_bytes(bytes[word..word + 8].try_into().expect("eight bytes"));
            let step = i64::from(tape.u8() as i8);
            put(&mut bytes, word, &old.wrapping_add_signed(step).to_le_bytes());
        }
        6 => {
            // A field, or an entry, from elsewhere.
            let other = Image::block(media, *tape.pick(blocks));
            let from = usize::from(tape.u16()) % BLOCK_SIZE / 8 * 8;
            let len = *tape.pick(&[8, 16, 32, 512]);
            let len = len.min(BLOCK_SIZE - from).min(BLOCK_SIZE - word);
            bytes[word..word + len].copy_from_slice(&other[from..from + len]);
        }
        7 => bytes = Image::block(media, *tape.pick(blocks)),
        _ => bytes[word..].fill(0),
    }
    media.write(block * BLOCK_BYTES, &bytes);
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}
