//! Targets take turns at the same works. Only the one whose turn it is runs; who is first changes with each round; each work's rows are
//! written when its rounds are over.

use std::io;

use crate::block_device::BlockDevice;
use crate::chart::Work as Charted;
use crate::load::{Load, Order};
use crate::numbers::{METRICS, Metric, Numbers};
use crate::place::Place;
use crate::ratios::Ratio;
use crate::rows::{Sheet, Subject};
use crate::target::{Fill, Target};

/// What is asked of each target.
#[derive(Clone, Debug)]
pub struct Work {
    /// For rows: `randread-4k-qd1`.
    pub name: String,
    /// The disk it starts with.
    pub fill: Fill,
    /// What is done to it.
    pub load: Load,
}

impl Work {
    /// A work.
    #[must_use]
    pub fn new(name: impl Into<String>, fill: Fill, load: Load) -> Work {
        Work { name: name.into(), fill, load }
    }
    fn is_sequential(&self) -> bool {
        matches!(self.load.order, Order::Sequential | Order::Fill)
    }
    fn speed(&self) -> Metric {
        METRICS[usize::from(self.is_sequential())]
    }
    /// What is kept of it: of throughput one of the two.
    fn metrics(&self) -> impl Iterator<Item = Metric> {
        let other = METRICS[usize::from(!self.is_sequential())].0;
        METRICS.into_iter().filter(move |(name, ..)| *name != other)
    }
}

/// Several targets, the first of which is compared with each other one.
pub struct Contest<'a> {
    /// Where rows go.
    pub sheet: &'a Sheet,
    /// For rows: the question.
    pub bench: &'a str,
    /// How often each target does each work.
    pub rounds: u64,
    /// Who takes part.
    pub targets: Vec<Box<dyn Target>>,
    device: Option<BlockDevice>,
}

/// The rounds of each target, in their order.
pub type Results = Vec<Vec<Numbers>>;

impl<'a> Contest<'a> {
    /// Nobody runs from here on but in its turn.
    ///
    /// # Errors
    /// When one of the targets is gone.
    pub fn new(
        place: &Place,
        sheet: &'a Sheet,
        bench: &'a str,
        rounds: u64,
        targets: Vec<Box<dyn Target>>,
    ) -> io::Result<Contest<'a>> {
        let contest = Contest { sheet, bench, rounds, targets, device: BlockDevice::below(&place.dir) };
        for target in &contest.targets {
            target.daemon().map_or(Ok(()), |d| d.freeze())?;
        }
        Ok(contest)
    }

    /// All rounds of all `works`, and their rows. Returns for each how much faster the first target is than each other one.
    ///
    /// # Errors
    /// Of the first target that fails; the rows of the works before it are written.
    pub fn hold(&mut self, works: &[Work]) -> io::Result<Vec<Charted>> {
        let mut charted = Vec::new();
        for (nth, work) in works.iter().enumerate() {
            println!("{}, {} ({} of {})", work.name, work.fill.name(), nth + 1, works.len());
            let results = self.rounds_of(work, nth)?;
            charted.push(self.write_rows(work, &results)?);
        }
        Ok(charted)
    }

    /// All rounds of one work; none for a target that has no such thing.
    ///
    /// # Errors
    /// Of the first target that fails.
    pub fn rounds_of(&mut self, work: &Work, nth: usize) -> io::Result<Results> {
        let count = self.targets.len();
        let mut results = vec![Vec::new(); count];
        // The first round does not count: memory is touched for the first time, and maps are read.
        for round in 0..=self.rounds {
            let load = work.load.of_round(round, nth);
            for turn in 0..count {
                let which = (turn + round as usize) % count;
                let target = &mut self.targets[which];
                let numbers = in_turn(target.as_mut(), |target| match target.prepare(work.fill)? {
                    true => {
                        target.settle()?;
                        target.measure(&load, self.device.as_ref())
                    }
                    false => Ok(None),
                });
                let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", target.name()));
                results[which].extend(numbers.map_err(named)?.filter(|_| round > 0));
            }
        }
        Ok(results)
    }

    fn write_rows(&self, work: &Work, results: &Results) -> io::Result<Charted> {
        let name = format!("{} {}", work.name, work.fill.name());
        let mut charted = Charted { name, speeds: Vec::new() };
        for (target, rounds) in self.targets.iter().zip(results).filter(|(_, r)| !r.is_empty()) {
            let subject = self.subject(work, target.as_ref());
            for (metric, unit, of) in work.metrics() {
                let values: Vec<f64> = rounds.iter().filter_map(of).collect();
                if !values.is_empty() {
                    self.sheet.row(&subject, metric, unit, &values)?;
                }
            }
        }
        let Some((ours, first)) = results.first().zip(self.targets.first()) else { return Ok(charted) };
        let subject = self.subject(work, first.as_ref());
        for (theirs, other) in results.iter().zip(&self.targets).skip(1) {
            for (metric, _, of) in [work.speed(), of_name("p50"), of_name("cpu_per_io")] {
                let pairs: Vec<(f64, f64)> =
                    ours.iter().zip(theirs).filter_map(|(a, b)| of(a).zip(of(b))).collect();
                if let Some(ratio) = Ratio::of(&pairs) {
                    self.sheet.ratio(&subject, &format!("{metric}/{}", other.name()), &ratio)?;
                    if metric == work.speed().0 {
                        charted.speeds.push((other.name().to_owned(), ratio.middle));
                    }
                }
            }
        }
        Ok(charted)
    }

    fn subject(&self, work: &Work, target: &dyn Target) -> Subject {
        Subject {
            bench: format!("{}/{}", self.bench, work.name),
            target: target.name().into(),
            log: target.log(),
            fill: work.fill.name().into(),
        }
    }
}

/// Let `target` run while `f` has it.
///
/// # Errors
/// Those of `f`; when the target is gone.
pub fn in_turn<T>(
    target: &mut dyn Target,
    f: impl FnOnce(&mut dyn Target) -> io::Result<T>,
) -> io::Result<T> {
    target.daemon().map_or(Ok(()), |d| d.thaw())?;
    let out = f(target);
    target.daemon().map_or(Ok(()), |d| d.freeze())?;
    out
}

fn of_name(name: &str) -> Metric {
    METRICS.into_iter().find(|(n, ..)| *n == name).expect("a metric that there is")
}
