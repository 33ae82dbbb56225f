//! How long does a snapshot take through the control socket, on an idle disk and under random writes at queue
//! depth 32, and what is the longest gap the guest sees meanwhile?

use std::io;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use parallax_benches::disk::Disk;
use parallax_benches::histogram::Histogram;
use parallax_benches::load::{Load, Report, run};
use parallax_benches::place::Place;
use parallax_benches::rows::{Sheet, Subject};
use parallax_benches::settings::number;
use parallax_benches::snapshots::{take, take_at_rate};
use parallax_benches::target::Target;
use parallax_benches::target::parallax::{Options, Parallax, VDI};

const SPAN_BYTES: u64 = 2 << 30;
const MEMORY_BYTES: usize = 8 << 20;
/// Idle snapshots in a round.
const IDLE: usize = 200;
/// Time between snapshots under load.
const EVERY: Duration = Duration::from_millis(50);

#[derive(Default)]
struct Rounds {
    idle: Vec<Histogram>,
    loaded: Vec<Histogram>,
    with: Vec<Report>,
    without: Vec<Report>,
}

fn main() -> io::Result<()> {
    let place = Place::open("snapshot-latency")?;
    let sheet = Sheet::open(&place)?;
    let duration = Duration::from_millis(number("PARALLAX_BENCH_MS", 8000));
    let mut parallax = Parallax::start(Options {
        dir: place.dir.clone(),
        store_bytes: 32 << 30,
        log_size: "1G".into(),
        vdi_bytes: SPAN_BYTES,
        pin: false,
        late_checkpoints: false,
        null: false,
        bins: None,
    })?;
    let mut rounds = Rounds::default();
    for round in 0..number("PARALLAX_BENCH_ROUNDS", 5) {
        println!("round {}", round + 1);
        parallax.empty()?;
        let mut disk = Disk::connect_within(parallax.socket(), 1, MEMORY_BYTES, Duration::from_secs(10))?;
        run(&mut disk, &Load::fill(SPAN_BYTES), &AtomicBool::new(false))?;
        parallax.used_bytes()?;
        rounds.idle.push(idle(&parallax, &mut disk)?);
        let load = Load { seed: round + 1, ..Load::random(0, 32, SPAN_BYTES, duration) };
        rounds.without.push(run(&mut disk, &load, &AtomicBool::new(false))?);
        let (report, latency) = loaded(&parallax, &mut disk, &load)?;
        rounds.with.push(report);
        rounds.loaded.push(latency);
    }
    write_rows(&sheet, &rounds)
}

/// One small write before each snapshot, so that each ends an epoch.
fn idle(parallax: &Parallax, disk: &mut Disk) -> io::Result<Histogram> {
    let mut control = parallax.control()?;
    let mut latency = Histogram::default();
    for i in 0..IDLE {
        disk.queues[0].write((i as u64) << 20, 0, 4096, 0);
        disk.queues[0].wait()?;
        std::thread::sleep(Duration::from_millis(2));
        latency.record(take(&mut control, VDI)?);
    }
    Ok(latency)
}

fn loaded(parallax: &Parallax, disk: &mut Disk, load: &Load) -> io::Result<(Report, Histogram)> {
    let mut control = parallax.control()?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let guest = scope.spawn(|| run(disk, load, &stop));
        std::thread::sleep(load.duration / 10);
        let latency = take_at_rate(&mut control, VDI, EVERY, load.duration * 8 / 10)?;
        Ok((guest.join().expect("the load does not panic")?, latency))
    })
}

fn write_rows(sheet: &Sheet, rounds: &Rounds) -> io::Result<()> {
    let subject = |bench: &str| Subject {
        bench: format!("snapshot-latency/{bench}"),
        target: "parallax".into(),
        log: "1G".into(),
        fill: "overwrite".into(),
    };
    for (bench, latencies) in [("idle", &rounds.idle), ("randwrite-qd32", &rounds.loaded)] {
        let us = |q: f64| latencies.iter().map(|h| h.quantile_ns(q) as f64 / 1e3).collect::<Vec<f64>>();
        sheet.row(&subject(bench), "p50", "us", &us(0.5))?;
        sheet.row(&subject(bench), "p99", "us", &us(0.99))?;
        sheet.row(&subject(bench), "max", "us", &us(1.0))?;
    }
    for (bench, reports) in [("randwrite-qd32", &rounds.with), ("randwrite-qd32-without", &rounds.without)] {
        let each = |f: &dyn Fn(&Report) -> f64| reports.iter().map(f).collect::<Vec<f64>>();
        sheet.row(&subject(bench), "gap", "us", &each(&|r| r.gap_ns as f64 / 1e3))?;
        sheet.row(&subject(bench), "iops", "1/s", &each(&Report::iops))?;
    }
    Ok(())
}
