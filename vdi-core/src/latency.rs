//! How long things take, layer by layer, while somebody wants to know. Otherwise it costs the look at a flag.
//!
//! A time is taken from when a thing is asked for to when it is done, waiting included: what is below a layer is in the
//! layer's own times too. Histograms after G. Tene's HdrHistogram, with two significant digits.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use hdrhistogram::Histogram;

use crate::clock::Clock;

/// What is timed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layer {
    /// A guest's read, from the ring to the ring.
    Read,
    /// A guest's write.
    Write,
    /// A guest's flush.
    Flush,
    /// A guest's discard or write-zeroes.
    Discard,
    /// Waiting for room in the log.
    LogRoom,
    /// Writing a segment to the log's device.
    LogWrite,
    /// A flush of the log's device.
    LogFlush,
    /// A read from the store: data, or a node that is not in the cache.
    StoreRead,
    /// A write to the store, for a checkpoint or of data that skip the ring.
    StoreWrite,
    /// A flush of the store.
    StoreFlush,
    /// A whole checkpoint.
    Checkpoint,
}

impl Layer {
    /// All, from the guest down.
    pub const ALL: [Layer; 11] = [
        Layer::Read,
        Layer::Write,
        Layer::Flush,
        Layer::Discard,
        Layer::LogRoom,
        Layer::LogWrite,
        Layer::LogFlush,
        Layer::StoreRead,
        Layer::StoreWrite,
        Layer::StoreFlush,
        Layer::Checkpoint,
    ];
    /// For people and tools.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Layer::Read => "read",
            Layer::Write => "write",
            Layer::Flush => "flush",
            Layer::Discard => "discard",
            Layer::LogRoom => "log-room",
            Layer::LogWrite => "log-write",
            Layer::LogFlush => "log-flush",
            Layer::StoreRead => "store-read",
            Layer::StoreWrite => "store-write",
            Layer::StoreFlush => "store-flush",
            Layer::Checkpoint => "checkpoint",
        }
    }
}

/// The times of one layer, ns.
pub type Times = Histogram<u64>;

/// Longer times count as this, ns: an hour.
const LONGEST_NS: u64 = 3_600_000_000_000;
const DIGITS: u8 = 2;

/// The times of one shard; clones share them.
#[derive(Clone)]
pub struct Latencies(Rc<Inner>);

struct Inner {
    clock: Rc<dyn Clock>,
    on: Cell<bool>,
    /// When measuring began, and how long it went on.
    began_ns: Cell<u64>,
    lasted_ns: Cell<u64>,
    /// By layer; empty until first wanted.
    times: RefCell<Vec<Times>>,
}

/// What was measured.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Measuring goes on.
    pub on: bool,
    /// For how long, ns.
    pub lasted_ns: u64,
    /// By layer, as [`Layer::ALL`]; empty where nothing ever was.
    pub times: Vec<Times>,
}

/// When something began; None when nobody wants to know.
#[must_use]
#[derive(Clone, Copy)]
pub struct Started(Option<u64>);

impl Latencies {
    /// Off.
    #[must_use]
    pub fn new(clock: Rc<dyn Clock>) -> Latencies {
        let (on, began_ns, lasted_ns, times) = Default::default();
        Latencies(Rc::new(Inner { clock, on, began_ns, lasted_ns, times }))
    }
    /// Begin anew, or end; what was measured stays to be read.
    pub fn set(&self, on: bool) {
        let (inner, now) = (&self.0, self.0.clock.now_ns());
        if on {
            let empty =
                || Times::new_with_bounds(1, LONGEST_NS, DIGITS).expect("bounds that a histogram can have");
            *inner.times.borrow_mut() = Layer::ALL.iter().map(|_| empty()).collect();
            inner.began_ns.set(now);
        } else if inner.on.get() {
            inner.lasted_ns.set(now - inner.began_ns.get());
        }
        inner.on.set(on);
    }
    /// Something begins.
    #[inline]
    pub fn start(&self) -> Started {
        Started(self.0.on.get().then(|| self.0.clock.now_ns()))
    }
    /// What `started` is done.
    #[inline]
    pub fn end(&self, layer: Layer, started: Started) {
        if let Started(Some(ns)) = started {
            self.note(layer, ns);
        }
    }
    #[cold]
    fn note(&self, layer: Layer, started_ns: u64) {
        let inner = &self.0;
        // It began before measuring began anew, or ends after its end.
        if !inner.on.get() || started_ns < inner.began_ns.get() {
            return;
        }
        let ns = inner.clock.now_ns() - started_ns;
        inner.times.borrow_mut()[layer as usize].saturating_record(ns);
    }
    /// What was measured so far.
    #[must_use]
    pub fn measured(&self) -> Measured {
        let (inner, on) = (&self.0, self.0.on.get());
        let lasted_ns = if on { inner.clock.now_ns() - inner.began_ns.get() } else { inner.lasted_ns.get() };
        Measured { on, lasted_ns, times: inner.times.borrow().clone() }
    }
}

impl Measured {
    /// Add what another shard measured meanwhile.
    pub fn merge(&mut self, other: Measured) {
        self.on |= other.on;
        self.lasted_ns = self.lasted_ns.max(other.lasted_ns);
        if self.times.is_empty() {
            self.times = other.times;
            return;
        }
        for (mine, theirs) in self.times.iter_mut().zip(&other.times) {
            mine.add(theirs).expect("made with the same bounds");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    fn take(latencies: &Latencies, clock: &ManualClock, layer: Layer, ns: u64) {
        let started = latencies.start();
        clock.advance_ns(ns);
        latencies.end(layer, started);
    }

    #[test]
    fn times_count_while_somebody_wants_to_know() {
        let clock = ManualClock::default();
        let latencies = Latencies::new(Rc::new(clock.clone()));
        take(&latencies, &clock, Layer::Read, 10);
        assert!(latencies.measured().times.is_empty());
        let early = latencies.start();
        latencies.set(true);
        latencies.end(Layer::Read, early);
        let late = latencies.start();
        take(&latencies, &clock, Layer::Read, 1000);
        take(&latencies, &clock, Layer::Read, 3000);
        take(&latencies, &clock, Layer::Checkpoint, 2 * LONGEST_NS);
        latencies.set(false);
        latencies.end(Layer::Read, late);
        clock.advance_ns(5);
        let measured = latencies.measured();
        assert!(!measured.on);
        assert_eq!(measured.lasted_ns, 4000 + 2 * LONGEST_NS);
        let reads = &measured.times[Layer::Read as usize];
        assert_eq!((reads.len(), reads.min_nz() / 100, reads.max() / 100), (2, 10, 30));
        assert!(measured.times[Layer::Checkpoint as usize].max() >= LONGEST_NS);
    }
    #[test]
    fn a_clock_that_began_at_zero_is_a_clock() {
        let clock = ManualClock::default();
        let latencies = Latencies::new(Rc::new(clock.clone()));
        latencies.set(true);
        take(&latencies, &clock, Layer::Flush, 7);
        assert_eq!(latencies.measured().times[Layer::Flush as usize].max(), 7);
    }
    #[test]
    fn beginning_anew_forgets_and_shards_add_up() {
        let clock = ManualClock::default();
        let latencies = Latencies::new(Rc::new(clock.clone()));
        latencies.set(true);
        take(&latencies, &clock, Layer::Write, 50);
        latencies.set(true);
        take(&latencies, &clock, Layer::Write, 60);
        let mut all = Measured::default();
        all.merge(latencies.measured());
        all.merge(latencies.measured());
        assert!(all.on);
        assert_eq!(all.times[Layer::Write as usize].len(), 2);
        assert_eq!(all.times[Layer::Write as usize].min(), 60);
    }
    #[test]
    fn each_layer_is_where_its_number_says() {
        assert!(Layer::ALL.iter().enumerate().all(|(n, layer)| *layer as usize == n));
    }
}
