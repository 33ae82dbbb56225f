//! What does a map cost that is larger than its cache? A disk of 1 TiB with one block written in each MiB has a leaf for every two
//! blocks; reads over more and more of it.

use std::io;
use std::time::Duration;

use parallax_benches::load::{Load, Order};
use parallax_benches::place::Place;
use parallax_benches::process::pin_client;
use parallax_benches::rows::{Sheet, Subject};
use parallax_benches::settings::number;
use parallax_benches::target::parallax::{Options, Parallax};
use parallax_benches::target::{Fill, Target, measure_at, run_at};
use serde_json::Value;

const STRIDE_BYTES: u64 = 1 << 20;

fn main() -> io::Result<()> {
    let place = Place::open("sparse-map")?;
    let sheet = Sheet::open(&place)?;
    let span_bytes = number("PARALLAX_BENCH_GIB", 1024) << 30;
    let rounds = number("PARALLAX_BENCH_ROUNDS", 5);
    let time = Duration::from_millis(number("PARALLAX_BENCH_MS", 4000));
    let blocks = span_bytes / STRIDE_BYTES;
    // A block of data each, half a leaf, and what the parents and the way there take.
    place.need(blocks * 4096 * 3 + (2 << 30))?;
    pin_client();
    let options =
        Options { sparse: true, pin: true, ..Options::new(&place.dir, 4 * blocks * 4096, span_bytes) };
    let mut parallax = Parallax::start(options)?;
    let of_blocks = |read_percent, depth, span_bytes| Load {
        stride_bytes: STRIDE_BYTES,
        ..Load::random(read_percent, depth, span_bytes, time)
    };
    println!("writing {blocks} blocks");
    run_at(parallax.socket(), &Load { order: Order::Once, ..of_blocks(0, 32, span_bytes) })?;
    parallax.settle()?;
    for depth in [1, 32] {
        for part in [1024, 64, 8, 1] {
            let load = of_blocks(100, depth, (span_bytes / part).max(STRIDE_BYTES));
            let (mut iops, mut p50, mut p99, mut resident, mut hits) =
                <(Vec<f64>, Vec<f64>, Vec<f64>, Vec<f64>, Vec<f64>)>::default();
            for round in 0..rounds {
                let before = cache(&parallax)?;
                let load = load.of_round(round, part as usize + depth);
                let numbers = measure_at(parallax.socket(), parallax.process(), &load, None, || Ok(()))?;
                let after = cache(&parallax)?;
                iops.push(numbers.iops);
                p50.push(numbers.p50_us);
                p99.push(numbers.p99_us);
                resident.push(parallax.process().resident_bytes()? as f64 / f64::from(1 << 20));
                let (hit, missed) = (after.0 - before.0, after.1 - before.1);
                hits.push(hit * 100.0 / (hit + missed).max(1.0));
            }
            let subject = Subject {
                bench: format!("sparse-map/randread-4k-qd{depth}-{}g", load.span_bytes >> 30),
                target: "parallax".into(),
                log: parallax.log(),
                fill: Fill::Overwrite.name().into(),
            };
            sheet.row(&subject, "iops", "1/s", &iops)?;
            sheet.row(&subject, "p50", "us", &p50)?;
            sheet.row(&subject, "p99", "us", &p99)?;
            sheet.row(&subject, "cache_hits", "%", &hits)?;
            sheet.row(&subject, "resident", "MiB", &resident)?;
        }
    }
    Ok(())
}

/// Lookups of nodes that the cache had, and that it had not.
fn cache(parallax: &Parallax) -> io::Result<(f64, f64)> {
    let status = parallax.ask("GET", "/status", &Value::Null)?;
    let number = |name: &str| {
        let number = status["cache"][name].as_f64();
        number.ok_or_else(|| io::Error::other(format!("status has no cache.{name}: {status}")))
    };
    Ok((number("hits")?, number("misses")?))
}
