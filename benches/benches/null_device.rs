//! What does the loop cost alone? Disks that answer and do nothing, behind ours, `qemu-storage-daemon`'s and
//! `vhost-user-backend`'s, the daemon on a core of its own and not.

use std::io;
use std::time::Duration;

use parallax_benches::load::Load;
use parallax_benches::place::Place;
use parallax_benches::process::pin_client;
use parallax_benches::rows::{Sheet, Subject};
use parallax_benches::settings::number;
use parallax_benches::target::null::{Null, Peer};
use parallax_benches::target::parallax::{Options, Parallax};
use parallax_benches::target::{Measured, Target, measure};

const SPAN_BYTES: u64 = 1 << 30;

fn main() -> io::Result<()> {
    let place = Place::open("null-device")?;
    let sheet = Sheet::open(&place)?;
    let time = Duration::from_millis(number("PARALLAX_BENCH_MS", 2000));
    // The client is not pinned before the first pair is done.
    for pin in [false, true] {
        if pin {
            pin_client();
        }
        let mut targets: Vec<Box<dyn Target>> = vec![
            Box::new(Parallax::start(Options {
                dir: place.dir.clone(),
                store_bytes: 4 * SPAN_BYTES,
                log_size: "1G".into(),
                vdi_bytes: SPAN_BYTES,
                pin,
                late_checkpoints: false,
                null: true,
                bins: None,
            })?),
            Box::new(Null::start(Peer::StorageDaemon, &place.dir, SPAN_BYTES, pin)?),
            Box::new(Null::start(Peer::Stock, &place.dir, SPAN_BYTES, pin)?),
        ];
        for depth in [1, 32] {
            let mut all: Vec<Vec<Measured>> = vec![Vec::new(); targets.len()];
            for round in 0..number("PARALLAX_BENCH_ROUNDS", 10) {
                for (target, results) in targets.iter_mut().zip(&mut all) {
                    let load = Load { seed: round + 1, ..Load::random(100, depth, SPAN_BYTES, time) };
                    results.push(measure(target.as_ref(), &load)?);
                }
            }
            for (target, results) in targets.iter().zip(&all) {
                let pinned = if pin { "pinned" } else { "unpinned" };
                let subject = Subject {
                    bench: format!("null-device/read-4k-qd{depth}-{pinned}"),
                    target: target.name().into(),
                    log: "-".into(),
                    fill: "none".into(),
                };
                let each = |f: &dyn Fn(&Measured) -> f64| results.iter().map(f).collect::<Vec<f64>>();
                sheet.row(&subject, "iops", "1/s", &each(&|m| m.report.iops()))?;
                let p50 = each(&|m| m.report.latency.quantile_ns(0.5) as f64 / 1e3);
                sheet.row(&subject, "p50", "us", &p50)?;
                sheet.row(&subject, "cpu_per_io", "us", &each(&|m| m.cpu_us_per_io))?;
            }
        }
    }
    Ok(())
}
