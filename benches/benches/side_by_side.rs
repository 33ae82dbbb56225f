//! How does a disk compare with peers on the same machine, in the same minutes: raw and qcow2 files behind
//! `qemu-storage-daemon`, clones and internal snapshots of qcow2, and a plain file without a daemon?

use std::io;
use std::time::Duration;

use parallax_benches::chart::Work;
use parallax_benches::direct::Direct;
use parallax_benches::load::{Load, Order};
use parallax_benches::place::Place;
use parallax_benches::process::pin_client;
use parallax_benches::ratios::Ratio;
use parallax_benches::rows::{Sheet, Subject};
use parallax_benches::settings::{number, words};
use parallax_benches::target::parallax::{Options, Parallax};
use parallax_benches::target::storage_daemon::{Image, StorageDaemon};
use parallax_benches::target::{Fill, Numbers, Target, measure};

#[derive(Clone, Copy)]
struct Pattern {
    name: &'static str,
    fill: Fill,
    load: Load,
}

fn patterns(span_bytes: u64, seconds: f64) -> Vec<Pattern> {
    let time = Duration::from_secs_f64(seconds);
    let random = |read_percent, depth| Load::random(read_percent, depth, span_bytes, time);
    let sequential = |read_percent, block_kib: usize| Load {
        block_bytes: block_kib << 10,
        order: Order::Sequential,
        ..random(read_percent, 8)
    };
    let once = |depth| Load { order: Order::Once, ..random(0, depth) };
    // Each block of a new disk once.
    let fill = |block_kib: usize| Load { block_bytes: block_kib << 10, order: Order::Fill, ..random(0, 8) };
    let flushed = |every| Load { flush_every: Some(every), ..random(0, 32) };
    let pattern = |name, fill, load| Pattern { name, fill, load };
    use Fill::{Clone, FirstWrite, InOrder, Overwrite, Scattered, Snapshot};
    vec![
        pattern("randwrite-4k-qd1", FirstWrite, once(1)),
        pattern("randwrite-4k-qd32", FirstWrite, once(32)),
        pattern("seqwrite-128k-qd8", FirstWrite, fill(128)),
        pattern("seqwrite-1m-qd8", FirstWrite, fill(1024)),
        pattern("seqread-128k-qd8", InOrder, sequential(100, 128)),
        pattern("seqread-128k-qd8", Scattered, sequential(100, 128)),
        pattern("randread-4k-qd1", Overwrite, random(100, 1)),
        pattern("randread-4k-qd32", Overwrite, random(100, 32)),
        pattern("randwrite-4k-qd1", Overwrite, random(0, 1)),
        pattern("randwrite-4k-qd32", Overwrite, random(0, 32)),
        pattern("randwrite-4k-qd32-flush1", Overwrite, flushed(1)),
        pattern("randwrite-4k-qd32-flush16", Overwrite, flushed(16)),
        pattern("randwrite-4k-qd32-flush64", Overwrite, flushed(64)),
        pattern("mix7030-4k-qd32", Overwrite, random(70, 32)),
        pattern("randwrite-4k-qd32", Snapshot, once(32)),
        pattern("randwrite-4k-qd32", Clone, once(32)),
        pattern("seqwrite-128k-qd8", Overwrite, sequential(0, 128)),
        pattern("seqwrite-1m-qd8", Overwrite, sequential(0, 1024)),
    ]
}

/// What the chart compares with.
const REFERENCE: &str = "qsd-raw";

/// Who takes part.
enum Contestant {
    Daemon(Box<dyn Target>),
    Direct(Direct),
}

impl Contestant {
    fn start(name: &str, place: &Place, span_bytes: u64) -> io::Result<Option<Contestant>> {
        let daemon = |image| -> io::Result<Option<Contestant>> {
            let daemon = StorageDaemon::start(image, &place.dir, span_bytes, true)?;
            Ok(Some(Contestant::Daemon(Box::new(daemon))))
        };
        match name {
            "qsd-raw" => daemon(Image::Raw),
            "qsd-qcow2" => daemon(Image::Qcow2),
            "qsd-clone" => daemon(Image::Clone),
            "qsd-clone-el2" => daemon(Image::CloneExtended),
            "qsd-isnap8" => daemon(Image::Snapshots),
            "fio-direct" => Ok(Direct::start(&place.dir, span_bytes)?.map(Contestant::Direct)),
            "parallax" => {
                let parallax = Parallax::start(Options {
                    dir: place.dir.clone(),
                    store_bytes: 6 * span_bytes,
                    log_size: "1G".into(),
                    vdi_bytes: span_bytes,
                    pin: true,
                    late_checkpoints: false,
                    null: false,
                    bins: None,
                })?;
                Ok(Some(Contestant::Daemon(Box::new(parallax))))
            }
            _ => Err(io::Error::other(format!("there is no target '{name}'"))),
        }
    }
    fn name(&self) -> &str {
        match self {
            Contestant::Daemon(target) => target.name(),
            Contestant::Direct(_) => "fio-direct",
        }
    }
    fn log(&self) -> String {
        match self {
            Contestant::Daemon(target) => target.log(),
            Contestant::Direct(_) => "-".into(),
        }
    }
    /// One round of `pattern`; None when it has nothing of the kind.
    fn measure(&mut self, pattern: &Pattern, load: &Load) -> io::Result<Option<Numbers>> {
        match self {
            Contestant::Direct(_) if !matches!(pattern.fill, Fill::Overwrite | Fill::InOrder) => Ok(None),
            Contestant::Direct(direct) => direct.measure(load),
            Contestant::Daemon(target) => match target.prepare(pattern.fill)? {
                true => Ok(Some((&measure(target.as_ref(), load)?).into())),
                false => Ok(None),
            },
        }
    }
}

fn main() -> io::Result<()> {
    let place = Place::open("side-by-side")?;
    let sheet = Sheet::open(&place)?;
    let span_bytes = number("PARALLAX_BENCH_MIB", 2048) << 20;
    let rounds = number("PARALLAX_BENCH_ROUNDS", 5);
    let only_patterns = words("PARALLAX_BENCH_PATTERNS", "");
    let only_fills = words("PARALLAX_BENCH_FILLS", "");
    let mut patterns = patterns(span_bytes, number("PARALLAX_BENCH_MS", 3000) as f64 / 1e3);
    patterns.retain(|p| only_patterns.is_empty() || only_patterns.iter().any(|o| o == p.name));
    patterns.retain(|p| only_fills.is_empty() || only_fills.iter().any(|o| o == p.fill.name()));
    let only = words(
        "PARALLAX_BENCH_TARGETS",
        "parallax qsd-raw qsd-qcow2 qsd-clone qsd-clone-el2 qsd-isnap8 fio-direct",
    );
    pin_client();
    let mut contestants = Vec::new();
    for name in &only {
        contestants.extend(Contestant::start(name, &place, span_bytes)?);
    }
    let mut all: Vec<Vec<Vec<Numbers>>> = vec![vec![Vec::new(); contestants.len()]; patterns.len()];
    for round in 0..rounds {
        println!("round {} of {rounds}", round + 1);
        for (pattern, results) in patterns.iter().zip(&mut all) {
            for (contestant, results) in contestants.iter_mut().zip(results) {
                let load = Load { seed: round + 1, ..pattern.load };
                results.extend(contestant.measure(pattern, &load)?);
            }
        }
    }
    for (pattern, results) in patterns.iter().zip(&all) {
        for (contestant, results) in contestants.iter().zip(results).filter(|(_, r)| !r.is_empty()) {
            let subject = Subject {
                bench: format!("side-by-side/{}", pattern.name),
                target: contestant.name().into(),
                log: contestant.log(),
                fill: pattern.fill.name().into(),
            };
            write_rows(&sheet, &subject, results)?;
        }
    }
    for (pattern, results) in patterns.iter().zip(&all) {
        compare(pattern, &contestants, results);
    }
    let works: Vec<Work> = patterns
        .iter()
        .zip(&all)
        .filter_map(|(pattern, results)| work(pattern, &contestants, results))
        .collect();
    sheet.chart("side-by-side", REFERENCE, &works)
}

/// Throughput against the reference's, for the chart.
fn work(pattern: &Pattern, contestants: &[Contestant], results: &[Vec<Numbers>]) -> Option<Work> {
    let mbps = |r: &[Numbers]| r.iter().map(|n| n.mbps).collect::<Vec<f64>>();
    let reference = contestants.iter().position(|c| c.name() == REFERENCE)?;
    let speed = |r: &Vec<Numbers>| Ratio::of(&mbps(r), &mbps(&results[reference])).map(|ratio| ratio.middle);
    let named = contestants.iter().zip(results);
    let speeds: Vec<_> = named.filter_map(|(c, r)| Some((c.name().to_owned(), speed(r)?))).collect();
    Some(Work { name: format!("{} {}", pattern.name, pattern.fill.name()), speeds })
}

fn is_sequential(pattern: &str) -> bool {
    pattern.starts_with("seq")
}

fn write_rows(sheet: &Sheet, subject: &Subject, results: &[Numbers]) -> io::Result<()> {
    let each = |f: &dyn Fn(&Numbers) -> f64| results.iter().map(f).collect::<Vec<f64>>();
    if subject.bench.split('/').any(is_sequential) {
        sheet.row(subject, "mbps", "MB/s", &each(&|m| m.mbps))?;
    } else {
        sheet.row(subject, "iops", "1/s", &each(&|m| m.iops))?;
    }
    sheet.row(subject, "p50", "us", &each(&|m| m.p50_us))?;
    sheet.row(subject, "p99", "us", &each(&|m| m.p99_us))?;
    sheet.row(subject, "p999", "us", &each(&|m| m.p999_us))?;
    sheet.row(subject, "cpu_per_io", "us", &each(&|m| m.cpu_us_per_io))
}

/// Print how the first contestant does against each other one, round by round.
fn compare(pattern: &Pattern, contestants: &[Contestant], results: &[Vec<Numbers>]) {
    let Some((ours, first)) = results.first().zip(contestants.first()) else { return };
    for (theirs, other) in results.iter().zip(contestants).skip(1) {
        let of = |f: &dyn Fn(&Numbers) -> f64| {
            let each = |r: &[Numbers]| r.iter().map(f).collect::<Vec<f64>>();
            Ratio::of(&each(ours), &each(theirs))
        };
        let (speed, metric): (&dyn Fn(&Numbers) -> f64, _) =
            if is_sequential(pattern.name) { (&|n| n.mbps, "mbps") } else { (&|n| n.iops, "iops") };
        let metrics =
            [(metric, of(speed)), ("p50", of(&|n| n.p50_us)), ("cpu_per_io", of(&|n| n.cpu_us_per_io))];
        for (metric, ratio) in metrics {
            if let Some(ratio) = ratio {
                let (fill, pair) = (pattern.fill.name(), format!("{}/{}", first.name(), other.name()));
                println!("{:26} {fill:11} {pair:24} {metric:10} {ratio}", pattern.name);
            }
        }
    }
}
