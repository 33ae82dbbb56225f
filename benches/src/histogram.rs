//! Latencies in buckets of equal relative width: 64 per power of two, so an error of at most 1.6 %.

const SUB_BITS: u32 = 6;
const SUBS: u64 = 1 << SUB_BITS;

/// Counts of nanosecond values.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max_ns: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { counts: vec![0; (SUBS * (64 - u64::from(SUB_BITS) + 1)) as usize], total: 0, max_ns: 0 }
    }
}

impl Histogram {
    /// Count one value.
    pub fn record(&mut self, ns: u64) {
        self.counts[bucket(ns)] += 1;
        self.total += 1;
        self.max_ns = self.max_ns.max(ns);
    }

    /// Add all of another.
    pub fn merge(&mut self, other: &Histogram) {
        for (a, b) in self.counts.iter_mut().zip(&other.counts) {
            *a += b;
        }
        self.total += other.total;
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    /// Values counted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The largest value.
    #[must_use]
    pub fn max_ns(&self) -> u64 {
        self.max_ns
    }

    /// The value that a share `quantile` (0 to 1) of all values do not exceed; zero when there are none.
    #[must_use]
    pub fn quantile_ns(&self, quantile: f64) -> u64 {
        let rank = ((self.total as f64 * quantile).ceil() as u64).max(1);
        let mut seen = 0;
        for (i, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper(i).min(self.max_ns);
            }
        }
        0
    }
}

fn bucket(ns: u64) -> usize {
    if ns < SUBS {
        return ns as usize;
    }
    let shift = 63 - ns.leading_zeros() - SUB_BITS;
    (u64::from(shift) * SUBS + (ns >> shift)) as usize
}

/// The largest value of a bucket.
fn upper(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * SUBS {
        return bucket;
    }
    let shift = bucket / SUBS - 1;
    let low = (bucket - shift * SUBS) << shift;
    low + ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket_within_two_percent() {
        for ns in (0..4096).chain((12..63).flat_map(|b| [(1u64 << b) - 1, 1 << b, (1 << b) + (1 << b) / 3])) {
            let top = upper(bucket(ns));
            assert!(
                top >= ns && (top - ns) as f64 <= 0.016 * ns as f64 + 1.0,
                "{ns} in a bucket up to {top}"
            );
        }
    }

    #[test]
    fn quantiles_are_those_of_the_values() {
        let mut h = Histogram::default();
        (1..=1000).for_each(|n| h.record(n * 1000));
        let near = |q: f64, ns: f64| (h.quantile_ns(q) as f64 / ns - 1.0).abs() < 0.02;
        assert!(near(0.5, 500_000.0) && near(0.99, 990_000.0) && h.quantile_ns(1.0) == 1_000_000);
        assert_eq!(Histogram::default().quantile_ns(0.5), 0);
    }
}
