//! How long does a snapshot take through the control socket, on an idle disk and under random writes; what is the longest gap the
//! guest sees meanwhile; and is it as fast afterwards as before? On disks of several sizes, written in full.

use std::io;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use parallax_benches::disk::Disk;
use parallax_benches::histogram::Histogram;
use parallax_benches::load::{Load, Report, run};
use parallax_benches::place::Place;
use parallax_benches::ratios::Ratio;
use parallax_benches::rows::{Sheet, Subject};
use parallax_benches::settings::{number, words};
use parallax_benches::snapshots::{take, take_at_rate};
use parallax_benches::target::parallax::{Options, Parallax, VDI};
use parallax_benches::target::run_at;

const MEMORY_BYTES: usize = 8 << 20;
/// Idle snapshots in a round.
const IDLE: usize = 100;
/// Time between snapshots under load.
const EVERY: Duration = Duration::from_millis(250);
/// Disks larger than that are mapped in full, but their data are nowhere: all zeros, in a store without data.
const REAL_GIB_MAX: u64 = 4;

#[derive(Default)]
struct Rounds {
    idle: Vec<Histogram>,
    loaded: Vec<Histogram>,
    /// One after the other: without snapshots, with, and without again.
    before: Vec<Report>,
    with: Vec<Report>,
    after: Vec<Report>,
}

fn main() -> io::Result<()> {
    let place = Place::open("snapshot-latency")?;
    let sheet = Sheet::open(&place)?;
    let duration = Duration::from_millis(number("PARALLAX_BENCH_MS", 4000));
    for gib in words("PARALLAX_BENCH_GIB", "4 256") {
        let gib: u64 = gib.parse().map_err(|e| io::Error::other(format!("{gib}: {e}")))?;
        let (span_bytes, null_store) = (gib << 30, gib > REAL_GIB_MAX);
        let parallax = Parallax::start(Options {
            sparse: true,
            null_store,
            ..Options::new(&place.dir, 3 * span_bytes, span_bytes)
        })?;
        println!("{gib} GiB: writing it");
        run_at(parallax.socket(), &Load { zeros: null_store, ..Load::fill(span_bytes) })?;
        parallax.used_bytes()?;
        for depth in [8, 32] {
            let mut rounds = Rounds::default();
            for round in 0..number("PARALLAX_BENCH_ROUNDS", 5) {
                println!("{gib} GiB, depth {depth}, round {}", round + 1);
                let load = Load { zeros: null_store, ..Load::random(0, depth, span_bytes, duration) };
                rounds.take(&parallax, &load.of_round(round, depth))?;
            }
            rounds.write_rows(&sheet, &format!("{gib}g-qd{depth}"))?;
        }
        drop(parallax);
        place.empty()?;
    }
    Ok(())
}

impl Rounds {
    fn take(&mut self, parallax: &Parallax, load: &Load) -> io::Result<()> {
        let mut disk = Disk::connect_within(parallax.socket(), 1, MEMORY_BYTES, Duration::from_secs(10))?;
        self.idle.push(idle(parallax, &mut disk)?);
        let never = AtomicBool::new(false);
        self.before.push(run(&mut disk, load, &never)?);
        let mut control = parallax.control()?;
        let (with, latency) = std::thread::scope(|scope| {
            let guest = scope.spawn(|| run(&mut disk, load, &never));
            std::thread::sleep(load.duration / 10);
            let latency = take_at_rate(&mut control, VDI, EVERY, load.duration * 8 / 10)?;
            io::Result::Ok((guest.join().expect("the load does not panic")?, latency))
        })?;
        self.with.push(with);
        self.loaded.push(latency);
        self.after.push(run(&mut disk, load, &never)?);
        drop(disk);
        remove_snapshots(parallax)
    }

    fn write_rows(&self, sheet: &Sheet, size: &str) -> io::Result<()> {
        let subject = |bench: &str| Subject {
            bench: format!("snapshot-latency/{bench}-{size}"),
            target: "parallax".into(),
            log: "1G".into(),
            fill: "overwrite".into(),
        };
        for (bench, latencies) in [("idle", &self.idle), ("randwrite", &self.loaded)] {
            let us = |q: f64| latencies.iter().map(|h| h.quantile_ns(q) as f64 / 1e3).collect::<Vec<f64>>();
            sheet.row(&subject(bench), "p50", "us", &us(0.5))?;
            sheet.row(&subject(bench), "p99", "us", &us(0.99))?;
            sheet.row(&subject(bench), "max", "us", &us(1.0))?;
        }
        for (bench, reports) in
            [("randwrite-before", &self.before), ("randwrite", &self.with), ("randwrite-after", &self.after)]
        {
            let each = |f: &dyn Fn(&Report) -> f64| reports.iter().map(f).collect::<Vec<f64>>();
            sheet.row(&subject(bench), "gap", "us", &each(&|r| r.gap_ns as f64 / 1e3))?;
            sheet.row(&subject(bench), "iops", "1/s", &each(&Report::iops))?;
        }
        for (bench, reports) in [("randwrite", &self.with), ("randwrite-after", &self.after)] {
            let pairs: Vec<_> = reports.iter().zip(&self.before).map(|(r, b)| (r.iops(), b.iops())).collect();
            if let Some(ratio) = Ratio::of(&pairs) {
                sheet.ratio(&subject(bench), "iops/before", &ratio)?;
            }
        }
        Ok(())
    }
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

fn remove_snapshots(parallax: &Parallax) -> io::Result<()> {
    let nothing = &serde_json::Value::Null;
    let list = parallax.ask("GET", &format!("/vdis/{VDI}/snapshots"), nothing)?;
    for snapshot in list["snapshots"].as_array().into_iter().flatten() {
        parallax.ask("DELETE", &format!("/vdis/{VDI}/snapshots/{}", snapshot["epoch"]), nothing)?;
    }
    parallax.ask("POST", "/collect", &serde_json::json!({})).map(drop)
}
