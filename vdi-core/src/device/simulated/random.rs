//! The simulator's dice: everything random in a simulated world comes from its one seed, or from a script.

/// A small generator (SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
    /// What the next draws begin with, in reverse.
    script: Vec<u8>,
}

impl Random {
    /// A generator; equal seeds give equal sequences.
    #[must_use]
    pub fn new(seed: u64) -> Random {
        Random { state: seed, script: Vec::new() }
    }
    /// Loaded dice: each draw takes its highest eight bits from the next byte of `script`, as long as there is one.
    /// So a byte decides a small choice and nearly decides a large one.
    #[must_use]
    pub fn scripted(script: &[u8]) -> Random {
        Random { state: 0, script: script.iter().rev().copied().collect() }
    }
    /// Bytes of the script still to come.
    #[must_use]
    pub fn script_left(&self) -> usize {
        self.script.len()
    }
    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        self.script.pop().map_or(z, |byte| u64::from(byte) << 56 | z >> 8)
    }
    /// A number in `0..bound`; zero when the bound is.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64 }
    }
    /// A number in `range`.
    pub fn within(&mut self, range: std::ops::Range<u64>) -> u64 {
        range.start + self.below(range.end.saturating_sub(range.start))
    }
    /// True `per_million` times in a million.
    pub fn chance(&mut self, per_million: u32) -> bool {
        per_million > 0 && self.below(1_000_000) < u64::from(per_million)
    }
    /// True every other time.
    pub fn coin(&mut self) -> bool {
        self.bits() >> 63 == 1
    }
    /// One of `choices`. Panics when there are none.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len() as u64) as usize]
    }
    /// An independent generator.
    #[must_use]
    pub fn fork(&mut self) -> Random {
        Random::new(self.bits())
    }
    /// Put `items` in random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}
