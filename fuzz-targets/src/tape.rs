//! Bytes as a tape of decisions: every byte string means something, and a longer one means more.

/// What is left of the input. At its end it gives zeros for ever.
#[derive(Clone, Copy)]
pub struct Tape<'a>(&'a [u8]);

impl<'a> Tape<'a> {
    /// From the first byte on.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Tape<'a> {
        Tape(bytes)
    }
    /// Whether it has come to its end.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.is_empty()
    }
    /// The next `len` bytes, or as many as there are.
    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        bytes
    }
    /// What is left, all of it.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
    fn number(&mut self, len: usize) -> u64 {
        let mut word = [0; 8];
        let bytes = self.bytes(len);
        word[..bytes.len()].copy_from_slice(bytes);
        u64::from_le_bytes(word)
    }
    /// One byte.
    pub fn u8(&mut self) -> u8 {
        self.number(1) as u8
    }
    /// Two bytes, little-endian.
    pub fn u16(&mut self) -> u16 {
        self.number(2) as u16
    }
    /// Four bytes, little-endian.
    pub fn u32(&mut self) -> u32 {
        self.number(4) as u32
    }
    /// Eight bytes, little-endian.
    pub fn u64(&mut self) -> u64 {
        self.number(8)
    }
    /// One byte: true when it is odd.
    pub fn coin(&mut self) -> bool {
        self.u8() & 1 == 1
    }
    /// A number in `0..bound`, zero when the bound is: from one byte when that can reach all of them, else from two,
    /// else from eight.
    pub fn below(&mut self, bound: u64) -> u64 {
        let drawn = match bound {
            0 => return 0,
            1..=0x100 => self.number(1),
            0x101..=0x1_0000 => self.number(2),
            _ => self.number(8),
        };
        drawn % bound
    }
    /// One of `choices`.
    ///
    /// # Panics
    /// When there are none.
    pub fn pick<'c, T>(&mut self, choices: &'c [T]) -> &'c T {
        &choices[self.below(choices.len() as u64) as usize]
    }
    /// A 64-bit number worth trying: small, at an edge, a power of two with a step beside it, or any.
    pub fn interesting(&mut self) -> u64 {
        match self.u8() {
            small @ 0..=127 => u64::from(small),
            shift @ 128..=191 => 1 << (shift - 128),
            192 => u64::MAX,
            193 => u64::MAX - 1,
            194 => 1 << 63,
            shift @ 195..=223 => (1 << (shift - 180)) - 1,
            224..=239 => u64::from(self.u16()),
            240..=247 => u64::from(self.u32()),
            _ => self.u64(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_tape_gives_zeros_for_ever() {
        let mut tape = Tape::new(&[]);
        assert!(tape.is_over());
        assert_eq!((tape.u8(), tape.u64(), tape.below(7), tape.interesting()), (0, 0, 0, 0));
    }

    #[test]
    fn a_tape_gives_its_bytes_in_order_once() {
        let mut tape = Tape::new(&[1, 2, 3, 0x2c, 1, 9]);
        assert_eq!((tape.u8(), tape.u16(), tape.below(300)), (1, 0x0302, 0));
        assert_eq!(tape.rest(), [9]);
        assert!(tape.is_over());
    }
}
