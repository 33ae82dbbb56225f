//! How two targets compare, from rounds in which they took turns: the ratio of each pair, the middle of these, and an
//! interval for it.

use crate::rows::median;

/// The chance that the true median lies outside of [`Ratio::low`] to [`Ratio::high`], at most.
const ERROR: f64 = 0.05;

/// The median of paired ratios.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Ratio {
    /// The median.
    pub middle: f64,
    /// The 95 % interval of the median, by order statistics (Conover, Practical Nonparametric Statistics, 3.2); smallest and
    /// largest of fewer than six pairs, which have none.
    pub low: f64,
    /// See `low`.
    pub high: f64,
    /// Pairs.
    pub pairs: usize,
}

impl Ratio {
    /// Of `pairs`: ours and theirs of each round. None without rounds.
    #[must_use]
    pub fn of(pairs: &[(f64, f64)]) -> Option<Ratio> {
        let mut ratios: Vec<f64> = pairs.iter().map(|(ours, theirs)| ours / theirs).collect();
        ratios.sort_by(f64::total_cmp);
        let (first, last) = (*ratios.first()?, *ratios.last()?);
        let skip = outside(ratios.len());
        let (low, high) = match ratios.len() {
            n if n < 6 => (first, last),
            n => (ratios[skip], ratios[n - 1 - skip]),
        };
        Some(Ratio { middle: median(&ratios), low, high, pairs: ratios.len() })
    }
    /// Whether the interval says that the ratio is not 1.
    #[must_use]
    pub fn is_certain(&self) -> bool {
        self.pairs >= 6 && (self.low > 1.0 || self.high < 1.0)
    }
}

impl std::fmt::Display for Ratio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let interval = if self.pairs < 6 { "range" } else { "95 %" };
        write!(
            f,
            "{:.2}x ({interval}: {:.2} to {:.2}, {} pairs)",
            self.middle, self.low, self.high, self.pairs
        )
    }
}

/// How many of `n` ordered values lie outside of the interval at each end: as many as a fair coin thrown `n` times shows heads,
/// or fewer, with a chance of half of [`ERROR`] at most, less one.
fn outside(n: usize) -> usize {
    let mut term = 0.5f64.powi(n as i32);
    let (mut below, mut count) = (0.0, 0);
    for heads in 0..n {
        below += term;
        if below > ERROR / 2.0 {
            break;
        }
        count = heads + 1;
        term *= (n - heads) as f64 / (heads + 1) as f64;
    }
    count.max(1) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_that_of_the_tables() {
        // Of ten values the second and the ninth, of twenty the sixth and the fifteenth.
        assert_eq!([6, 10, 15, 20].map(outside), [0, 1, 3, 5]);
        let pairs: Vec<(f64, f64)> = (1..=10).map(|ours| (f64::from(ours), 1.0)).collect();
        let ratio = Ratio::of(&pairs).unwrap();
        assert_eq!((ratio.low, ratio.middle, ratio.high), (2.0, 5.5, 9.0));
        assert!(ratio.is_certain());
        assert_eq!(Ratio::of(&[]), None);
        assert!(!Ratio::of(&[(2.0, 1.0); 3]).unwrap().is_certain());
    }
}
