//! Completions out of order on purpose (`--test-reorder-completions SEED`): each waits a few
//! milliseconds, drawn from the seed. Tests of restarts must not pass by luck of order.

use super::serve::Finished;

/// Longest wait, ns.
const WAIT_NS_MAX: u64 = 4_000_000;

/// Completions held back.
pub(super) struct Reorder {
    state: u64,
    /// With the time each is due.
    held: Vec<(u64, Finished)>,
}

impl Reorder {
    pub(super) fn new(seed: u64) -> Reorder {
        Reorder { state: seed | 1, held: Vec::new() }
    }
    /// xorshift64 (Marsaglia 2003).
    fn draw(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }
    /// Take in what has ended, give out what is due.
    pub(super) fn pass(&mut self, ended: &mut Vec<Finished>, now_ns: u64) {
        for finished in ended.drain(..) {
            let due = now_ns + self.draw() % WAIT_NS_MAX;
            self.held.push((due, finished));
        }
        self.held.sort_by_key(|(due, _)| *due);
        let n = self.held.partition_point(|(due, _)| *due <= now_ns);
        ended.extend(self.held.drain(..n).map(|(_, finished)| finished));
    }
    /// When the next one is due.
    pub(super) fn next_ns(&self) -> Option<u64> {
        self.held.iter().map(|(due, _)| *due).min()
    }
}
