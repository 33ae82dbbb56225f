//! Does a second shard cost more for each request? Two disks under load at once, served by one thread and by two.

use std::io;
use std::time::Duration;

use parallax_benches::load::{Load, Report};
use parallax_benches::place::Place;
use parallax_benches::ratios::Ratio;
use parallax_benches::rows::{Sheet, Subject};
use parallax_benches::settings::number;
use parallax_benches::target::parallax::{Options, Parallax};
use parallax_benches::target::{Fill, Target, run_at};

const SPAN_BYTES: u64 = 1 << 30;

struct Pair {
    parallax: Parallax,
    second: std::path::PathBuf,
}

fn main() -> io::Result<()> {
    let place = Place::open("two-shards")?;
    let sheet = Sheet::open(&place)?;
    let time = Duration::from_millis(number("PARALLAX_BENCH_MS", 3000));
    place.need(18 * SPAN_BYTES)?;
    let start = |shards: usize| -> io::Result<Pair> {
        let dir = place.dir.join(format!("shards-{shards}"));
        let options = Options { shards, sparse: true, ..Options::new(&dir, 8 * SPAN_BYTES, SPAN_BYTES) };
        let mut parallax = Parallax::start(options)?;
        let second = parallax.create("second")?;
        parallax.prepare(Fill::Overwrite)?;
        run_at(&second, &Load::fill(SPAN_BYTES))?;
        parallax.settle()?;
        parallax.process().freeze()?;
        Ok(Pair { parallax, second })
    };
    let mut pairs = [start(1)?, start(2)?];
    let random = |read_percent, depth| Load::random(read_percent, depth, SPAN_BYTES, time);
    for (nth, (name, load)) in
        [("randread-4k-qd32", random(100, 32)), ("randwrite-4k-qd32", random(0, 32))].into_iter().enumerate()
    {
        let mut iops: [Vec<f64>; 2] = Default::default();
        let mut cpu: [Vec<f64>; 2] = Default::default();
        for round in 0..number("PARALLAX_BENCH_ROUNDS", 10) {
            for turn in 0..2 {
                let which = (turn + round as usize) % 2;
                let pair = &mut pairs[which];
                pair.parallax.process().thaw()?;
                pair.parallax.settle()?;
                let (speed, cost) = pair.both(&load.of_round(round, nth))?;
                pair.parallax.process().freeze()?;
                iops[which].push(speed);
                cpu[which].push(cost);
            }
        }
        for (shards, pair) in pairs.iter().enumerate() {
            let subject = Subject {
                bench: format!("two-shards/{name}-shards-{}", shards + 1),
                target: "parallax".into(),
                log: pair.parallax.log(),
                fill: "overwrite".into(),
            };
            sheet.row(&subject, "iops", "1/s", &iops[shards])?;
            sheet.row(&subject, "cpu_per_io", "us", &cpu[shards])?;
            if shards == 1 {
                let ratios: Vec<_> = cpu[1].iter().copied().zip(cpu[0].iter().copied()).collect();
                Ratio::of(&ratios).map_or(Ok(()), |r| sheet.ratio(&subject, "cpu_per_io/shards-1", &r))?;
            }
        }
    }
    Ok(())
}

impl Pair {
    /// `load` on both disks at once: requests a second, and CPU time for each in microseconds.
    fn both(&mut self, load: &Load) -> io::Result<(f64, f64)> {
        let before = self.parallax.process().usage()?.cpu_ns;
        let reports = std::thread::scope(|scope| {
            let second = scope.spawn(|| run_at(&self.second, load));
            let first = run_at(self.parallax.socket(), load)?;
            io::Result::Ok([first, second.join().expect("the load does not panic")?])
        })?;
        self.parallax.settle()?;
        let cpu_ns = self.parallax.process().usage()?.cpu_ns - before;
        let ios: u64 = reports.iter().map(|r| r.ios).sum();
        Ok((reports.iter().map(Report::iops).sum(), cpu_ns as f64 / 1e3 / ios.max(1) as f64))
    }
}
