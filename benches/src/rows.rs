//! Results: `benches/runs/DATE-MACHINE.csv`, one row per number, appended and kept in git.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use crate::chart::{self, Work};
use crate::place::{Place, root};
use crate::process::run;
use crate::ratios::Ratio;

const HEADER: &str = "date,commit,machine,bench,target,log,fill,metric,value,unit,rounds,spread";

/// What a number is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject {
    /// The question and the pattern: `side-by-side/randread-4k-qd1`.
    pub bench: String,
    /// As [`Target::name`](crate::target::Target::name).
    pub target: String,
    /// Size of the log, `-` without one.
    pub log: String,
    /// What the blocks held before ([`Fill::name`](crate::target::Fill::name)), `-` for what has none.
    pub fill: String,
}

/// The rows of one run. They are written at the end of each subject.
pub struct Sheet {
    date: String,
    commit: String,
    machine: String,
    path: Option<PathBuf>,
}

impl Sheet {
    /// A sheet for this commit. With `PARALLAX_BENCH_DRY` set rows are only printed.
    ///
    /// # Errors
    /// When the tree is dirty: a row must be repeatable from its commit.
    pub fn open(place: &Place) -> io::Result<Sheet> {
        let dry = std::env::var_os("PARALLAX_BENCH_DRY").is_some();
        let top = root();
        let top = top.to_str().ok_or_else(|| io::Error::other("the repository's path is not UTF-8"))?;
        let status = run(&["git", "-C", top, "status", "--porcelain", "--", ".", ":!benches/runs"])?;
        if !status.trim().is_empty() && !dry {
            return Err(io::Error::other(format!(
                "the tree is dirty, so its numbers could not be repeated:\n{status}commit first, or set PARALLAX_BENCH_DRY=1 to only print"
            )));
        }
        let commit = run(&["git", "-C", top, "rev-parse", "--short=10", "HEAD"])?.trim().to_string();
        let date = run(&["date", "-u", "+%F"])?.trim().to_string();
        let path = (!dry).then(|| root().join(format!("benches/runs/{date}-{}.csv", place.machine)));
        Ok(Sheet { date, commit, machine: place.machine.clone(), path })
    }

    /// A sheet that is only printed.
    #[must_use]
    pub fn printing(place: &Place) -> Sheet {
        Sheet { date: String::new(), commit: String::new(), machine: place.machine.clone(), path: None }
    }

    /// Draw `works` beside the rows: `DATE-MACHINE-NAME.svg`. Nothing when rows are only printed.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn chart(&self, name: &str, works: &[Work]) -> io::Result<()> {
        let Some(rows) = &self.path else { return Ok(()) };
        let title = format!("{name}, {} {}, {}", self.date, self.commit, self.machine);
        chart::write(&rows.with_extension("").with_extension(format!("{name}.svg")), &title, works)
    }

    /// Append the median of `values`, one per round, and print it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn row(&self, subject: &Subject, metric: &str, unit: &str, values: &[f64]) -> io::Result<()> {
        let spread = spread_percent(values);
        self.write(subject, (metric, unit), median(values), values.len(), &format!("{spread:.1}%"))
    }

    /// Append how a target compares with another, and print it; the spread is the interval.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn ratio(&self, subject: &Subject, metric: &str, ratio: &Ratio) -> io::Result<()> {
        let interval = format!("{:.2}..{:.2}", ratio.low, ratio.high);
        self.write(subject, (metric, "x"), ratio.middle, ratio.pairs, &interval)
    }

    fn write(
        &self,
        subject: &Subject,
        (metric, unit): (&str, &str),
        value: f64,
        rounds: usize,
        spread: &str,
    ) -> io::Result<()> {
        let Subject { bench, target, log, fill } = subject;
        println!("{bench:38} {target:13} {fill:11} {metric:24} {value:12.2} {unit:7} {spread}");
        let Some(path) = &self.path else { return Ok(()) };
        let new = !path.exists();
        let mut file = fs::OpenOptions::new().create(true).append(true).open(path)?;
        if new {
            writeln!(file, "{HEADER}")?;
        }
        let (date, commit, machine) = (&self.date, &self.commit, &self.machine);
        writeln!(
            file,
            "{date},{commit},{machine},{bench},{target},{log},{fill},{metric},{value:.2},{unit},{rounds},{spread}"
        )
    }
}

/// The middle value; the mean of the two middle ones of an even number.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

/// Largest less smallest, as percent of the median's size.
#[must_use]
pub fn spread_percent(values: &[f64]) -> f64 {
    let max = values.iter().copied().fold(f64::MIN, f64::max);
    let min = values.iter().copied().fold(f64::MAX, f64::min);
    let middle = median(values);
    if middle == 0.0 { 0.0 } else { (max - min) / middle.abs() * 100.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_spread_are_those_of_the_rounds() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0]), 2.5);
        assert_eq!(spread_percent(&[9.0, 10.0, 11.0]), 20.0);
    }
}
