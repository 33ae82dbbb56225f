//! Do 1,000 snapshots in one chain slow a read? Two disks with the same writes, one of them snapshotted after each
//! batch, are read in turn.

use std::io;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use parallax_benches::disk::Disk;
use parallax_benches::load::{Load, Order, Random, run};
use parallax_benches::place::Place;
use parallax_benches::process::pin_client;
use parallax_benches::rows::{Sheet, Subject};
use parallax_benches::settings::number;
use parallax_benches::snapshots::take;
use parallax_benches::target::parallax::{Options, Parallax, VDI};
use parallax_benches::target::{Measured, Target, measure_at};

const SPAN_BYTES: u64 = 1 << 30;
const SNAPSHOTS: u64 = 1000;
const WRITES: u64 = 64;

fn main() -> io::Result<()> {
    let place = Place::open("snapshot-chain")?;
    let sheet = Sheet::open(&place)?;
    pin_client();
    let parallax = Parallax::start(Options {
        dir: place.dir.clone(),
        store_bytes: 16 << 30,
        log_size: "1G".into(),
        vdi_bytes: SPAN_BYTES,
        pin: true,
        late_checkpoints: false,
        null: false,
        bins: None,
    })?;
    let plain = parallax.create("plain")?;
    let disks = [("none", plain.as_path(), None), ("1000", parallax.socket(), Some(VDI))];
    for (_, socket, vdi) in disks {
        age(&parallax, socket, vdi)?;
    }
    let time = Duration::from_millis(number("PARALLAX_BENCH_MS", 2000));
    let random = |depth| Load::random(100, depth, SPAN_BYTES, time);
    let sequential = Load { block_bytes: 128 << 10, order: Order::Sequential, ..random(8) };
    let patterns =
        [("randread-4k-qd1", random(1)), ("randread-4k-qd32", random(32)), ("seqread-128k-qd8", sequential)];
    for (pattern, load) in patterns {
        let mut results: [Vec<Measured>; 2] = [Vec::new(), Vec::new()];
        for round in 0..number("PARALLAX_BENCH_ROUNDS", 10) {
            for ((_, socket, _), results) in disks.iter().zip(&mut results) {
                let load = Load { seed: round + 1, ..load };
                results.push(measure_at(socket, parallax.daemon(), &load)?);
            }
        }
        for ((snapshots, _, _), results) in disks.iter().zip(&results) {
            let subject = Subject {
                bench: format!("snapshot-chain/{pattern}-snapshots-{snapshots}"),
                target: "parallax".into(),
                log: "1G".into(),
                fill: "overwrite".into(),
            };
            let each = |f: &dyn Fn(&Measured) -> f64| results.iter().map(f).collect::<Vec<f64>>();
            sheet.row(&subject, "iops", "1/s", &each(&|m| m.report.iops()))?;
            sheet.row(&subject, "p50", "us", &each(&|m| m.report.latency.quantile_ns(0.5) as f64 / 1e3))?;
            sheet.row(&subject, "p99", "us", &each(&|m| m.report.latency.quantile_ns(0.99) as f64 / 1e3))?;
        }
    }
    Ok(())
}

/// Fill the disk, then 1,000 batches of scattered writes, each followed by a snapshot if `vdi` is given.
fn age(parallax: &Parallax, socket: &Path, vdi: Option<&str>) -> io::Result<()> {
    let mut disk = Disk::connect_within(socket, 1, 8 << 20, Duration::from_secs(10))?;
    run(&mut disk, &Load::fill(SPAN_BYTES), &AtomicBool::new(false))?;
    let mut control = parallax.control()?;
    let mut random = Random(7);
    let queue = &mut disk.queues[0];
    for _ in 0..SNAPSHOTS {
        for slot in 0..WRITES as usize {
            let block = random.next() % (SPAN_BYTES / 4096);
            queue.write(block * 4096, slot * 4096, 4096, slot);
        }
        let mut ended = 0;
        while ended < WRITES as usize {
            ended += queue.wait()?.len();
        }
        if let Some(vdi) = vdi {
            take(&mut control, vdi)?;
        }
    }
    parallax.used_bytes()?;
    Ok(())
}
