//! How does a Parallax disk compare with raw and qcow2 files behind `qemu-storage-daemon`, same client, same
//! minute, client and daemon on a core each?

use std::io;
use std::time::Duration;

use parallax_benches::load::{Load, Order};
use parallax_benches::place::Place;
use parallax_benches::process::pin_client;
use parallax_benches::rows::{Sheet, Subject};
use parallax_benches::settings::{number, words};
use parallax_benches::target::parallax::{Options, Parallax};
use parallax_benches::target::storage_daemon::{Image, StorageDaemon};
use parallax_benches::target::{Measured, Target, measure};

struct Pattern {
    name: &'static str,
    fill: &'static str,
    load: Load,
}

fn patterns(span_bytes: u64, seconds: f64) -> Vec<Pattern> {
    let time = Duration::from_secs_f64(seconds);
    let random = |read_percent, depth| Load::random(read_percent, depth, span_bytes, time);
    let sequential = |read_percent, depth| Load {
        block_bytes: 128 << 10,
        order: Order::Sequential,
        ..random(read_percent, depth)
    };
    let once = |depth| Load { order: Order::Once, ..random(0, depth) };
    let pattern = |name, fill, load| Pattern { name, fill, load };
    vec![
        // The disk is empty before these two.
        pattern("randwrite-4k-qd1", "first-write", once(1)),
        pattern("randwrite-4k-qd32", "first-write", once(32)),
        // And full before these.
        pattern("randread-4k-qd1", "overwrite", random(100, 1)),
        pattern("randread-4k-qd32", "overwrite", random(100, 32)),
        pattern("randwrite-4k-qd1", "overwrite", random(0, 1)),
        pattern("randwrite-4k-qd32", "overwrite", random(0, 32)),
        pattern("randwrite-4k-qd32-flush16", "overwrite", Load { flush_every: Some(16), ..random(0, 32) }),
        pattern("mix7030-4k-qd32", "overwrite", random(70, 32)),
        pattern("seqread-128k-qd1", "overwrite", sequential(100, 1)),
        pattern("seqread-128k-qd32", "overwrite", sequential(100, 32)),
        pattern("seqwrite-128k-qd1", "overwrite", sequential(0, 1)),
        pattern("seqwrite-128k-qd32", "overwrite", sequential(0, 32)),
    ]
}

fn main() -> io::Result<()> {
    let place = Place::open("side-by-side")?;
    let sheet = Sheet::open(&place)?;
    let span_bytes = number("PARALLAX_BENCH_MIB", 2048) << 20;
    let rounds = number("PARALLAX_BENCH_ROUNDS", 5);
    let only_patterns = words("PARALLAX_BENCH_PATTERNS", "");
    let mut patterns = patterns(span_bytes, number("PARALLAX_BENCH_MS", 3000) as f64 / 1e3);
    patterns.retain(|p| only_patterns.is_empty() || only_patterns.iter().any(|o| o == p.name));
    let only = words("PARALLAX_BENCH_TARGETS", "parallax qsd-raw qsd-qcow2");
    pin_client();
    let mut targets: Vec<Box<dyn Target>> = Vec::new();
    for name in &only {
        targets.push(match name.as_str() {
            "qsd-raw" => Box::new(StorageDaemon::start(Image::Raw, &place.dir, span_bytes, true)?),
            "qsd-qcow2" => Box::new(StorageDaemon::start(Image::Qcow2, &place.dir, span_bytes, true)?),
            _ => Box::new(Parallax::start(Options {
                dir: place.dir.clone(),
                store_bytes: 4 * span_bytes,
                log_size: "1G".into(),
                vdi_bytes: span_bytes,
                pin: true,
                late_checkpoints: false,
                null: false,
            })?),
        });
    }
    let mut all: Vec<Vec<Vec<Measured>>> = vec![vec![Vec::new(); targets.len()]; patterns.len()];
    for round in 0..rounds {
        println!("round {} of {rounds}", round + 1);
        let mut full = false;
        for (pattern, results) in patterns.iter().zip(&mut all) {
            for (target, results) in targets.iter_mut().zip(results) {
                match pattern.fill {
                    "first-write" => target.empty()?,
                    _ if !full => drop(measure(target.as_ref(), &Load::fill(span_bytes))?),
                    _ => {}
                }
                let load = Load { seed: round + 1, ..pattern.load };
                results.push(measure(target.as_ref(), &load)?);
            }
            full = pattern.fill != "first-write";
        }
    }
    for (pattern, results) in patterns.iter().zip(&all) {
        for (target, results) in targets.iter().zip(results) {
            let subject = Subject {
                bench: format!("side-by-side/{}", pattern.name),
                target: target.name().into(),
                log: target.log(),
                fill: pattern.fill.into(),
            };
            write_rows(&sheet, &subject, results)?;
        }
    }
    Ok(())
}

fn write_rows(sheet: &Sheet, subject: &Subject, results: &[Measured]) -> io::Result<()> {
    let each = |f: &dyn Fn(&Measured) -> f64| results.iter().map(f).collect::<Vec<f64>>();
    let quantile_us = |q: f64| each(&|m: &Measured| m.report.latency.quantile_ns(q) as f64 / 1e3);
    if subject.bench.contains("/seq") {
        sheet.row(subject, "mbps", "MB/s", &each(&|m| m.report.mbps()))?;
    } else {
        sheet.row(subject, "iops", "1/s", &each(&|m| m.report.iops()))?;
    }
    sheet.row(subject, "p50", "us", &quantile_us(0.5))?;
    sheet.row(subject, "p99", "us", &quantile_us(0.99))?;
    sheet.row(subject, "p999", "us", &quantile_us(0.999))?;
    sheet.row(subject, "cpu_per_io", "us", &each(&|m| m.cpu_us_per_io))
}
