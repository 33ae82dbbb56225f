//! One flipped bit of a sealed structure can be put right: no two single flips change a CRC-32C alike, so the change says which
//! it was, and what comes of it must be the structure that was expected there, reserved fields and all. Not for what a
//! parent's checksum alone vouches for: one in a hundred thousand of any other damage would pass for a flip.
//!
//! The remainder of one bit follows from that of the next by a step of the shift register (Peterson and Brown, "Cyclic Codes
//! for Error Detection", 1961).

use super::CRC_AT;
use crate::buffer::crc32c;

/// CRC-32C, reflected.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// The sealed structure `bytes` with the one bit put right that makes it `sound`; None when that is not one bit, or
/// not one for certain.
#[must_use]
pub fn put_right(bytes: &[u8], sound: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
    let mut unsealed = bytes.to_vec();
    let said = u32::from_le_bytes(unsealed.get(CRC_AT..CRC_AT + 4)?.try_into().ok()?);
    unsealed[CRC_AT..CRC_AT + 4].fill(0);
    let difference = said ^ crc32c(&unsealed);
    let in_checksum =
        (difference.count_ones() == 1).then(|| CRC_AT * 8 + difference.trailing_zeros() as usize);
    let mut found = None;
    for bit in flipped_bit(bytes.len(), difference).into_iter().chain(in_checksum) {
        let mut right = bytes.to_vec();
        right[bit / 8] ^= 1 << (bit % 8);
        if sound(&right) && found.replace(right).is_some() {
            return None;
        }
    }
    found
}

/// The bit of `bytes` bytes whose flip changes their CRC-32C by `difference`.
fn flipped_bit(bytes: usize, difference: u32) -> Option<usize> {
    let mut change = POLYNOMIAL;
    for bit in (0..bytes * 8).rev() {
        if change == difference {
            return Some(bit);
        }
        change = (change >> 1) ^ if change & 1 == 1 { POLYNOMIAL } else { 0 };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{Expect, Kind, seal, verify};
    use crate::units::{Generation, Uuid};

    #[test]
    fn every_flipped_bit_is_put_right_and_two_never() {
        let expect = Expect { kind: Kind::Registry, place: 7, owner: Uuid(9) };
        let mut good: Vec<u8> = (0..512u32).map(|n| (n * 7) as u8).collect();
        seal(&mut good, expect, Generation(3));
        let sound = |b: &[u8]| verify(b, expect).is_ok();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(put_right(&bad, sound).as_deref(), Some(&good[..]), "bit {bit}");
            let other = (bit + 1 + bit * 31 % 4000) % (good.len() * 8);
            bad[other / 8] ^= 1 << (other % 8);
            assert_eq!(put_right(&bad, sound), None, "bits {bit} and {other}");
        }
        assert_eq!(put_right(&[0; 512], sound), None);
        assert_eq!(put_right(&[0x5a; 512], sound), None);
        assert_eq!(put_right(&good[..20], sound), None);
    }
}
