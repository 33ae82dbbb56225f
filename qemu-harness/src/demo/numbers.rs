//! The demo's numbers.

use std::fmt;
use std::time::Duration;

/// Latencies of one kind of call.
pub(super) struct Latencies(Vec<Duration>);

impl Latencies {
    pub(super) fn new() -> Latencies {
        Latencies(Vec::new())
    }
    pub(super) fn add(&mut self, took: Duration) {
        self.0.push(took);
        self.0.sort_unstable();
    }
    /// The latency that `percent` of the calls did not exceed (nearest rank).
    fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.0.len() * percent).div_ceil(100);
        self.0.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }
}

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |percent| self.percentile(percent).as_secs_f64() * 1e3;
        write!(f, "p50 {:.2} ms, p99 {:.2} ms, slowest {:.2} ms", ms(50), ms(99), ms(100))
    }
}

/// Bytes for people.
pub(super) fn human(bytes: u64) -> String {
    match bytes {
        0..0x10_0000 => format!("{} KiB", bytes >> 10),
        0x10_0000..0x4000_0000 => format!("{} MiB", bytes >> 20),
        _ => format!("{}.{} GiB", bytes >> 30, (bytes >> 20) % 1024 * 10 / 1024),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let mut latencies = Latencies::new();
        for ms in (1..=100).rev() {
            latencies.add(Duration::from_millis(ms));
        }
        assert_eq!(latencies.to_string(), "p50 50.00 ms, p99 99.00 ms, slowest 100.00 ms");
    }

    #[test]
    fn bytes_are_shown_in_the_unit_that_fits() {
        assert_eq!([4096, 5 << 20, 3 << 29].map(human), ["4 KiB", "5 MiB", "1.5 GiB"]);
    }
}
