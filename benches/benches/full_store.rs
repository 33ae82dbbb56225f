//! What does a store that is nearly full of live data, written at random three times over, cost a guest's random writes? Beside a
//! raw file behind `qemu-storage-daemon`, round by round; with the bytes that go to the devices for each byte written.

use std::io;
use std::time::Duration;

use parallax_benches::load::{Load, Order};
use parallax_benches::place::Place;
use parallax_benches::process::pin_client;
use parallax_benches::ratios::Ratio;
use parallax_benches::rows::{Sheet, Subject};
use parallax_benches::settings::{number, words};
use parallax_benches::target::parallax::{Options, Parallax};
use parallax_benches::target::storage_daemon::{Image, StorageDaemon};
use parallax_benches::target::{Fill, Numbers, Target, measure};

/// Written at random before anything is measured, in capacities of the store.
const TIMES_OVER: u64 = 3;
/// Of the store, what data can be at most: the rest is extents of its system and of metadata.
const DATA_PERCENT: u64 = 96;

struct Round {
    numbers: Numbers,
    /// Bytes written to devices for each byte of the guest.
    amplification: f64,
}

fn main() -> io::Result<()> {
    let place = Place::open("full-store")?;
    let sheet = Sheet::open(&place)?;
    let store_bytes = number("PARALLAX_BENCH_MIB", 2048) << 20;
    let rounds = number("PARALLAX_BENCH_ROUNDS", 5);
    let time = Duration::from_millis(number("PARALLAX_BENCH_MS", 4000));
    pin_client();
    for percent in words("PARALLAX_BENCH_PERCENT", "50 80 95") {
        let live: u64 = percent.parse().map_err(|e| io::Error::other(format!("{percent}: {e}")))?;
        let span_bytes = (store_bytes / 100 * DATA_PERCENT / 100 * live) >> 20 << 20;
        let dir = place.dir.join(format!("full-store-{live}"));
        std::fs::create_dir_all(&dir)?;
        let mut parallax = Parallax::start(Options {
            dir: dir.clone(),
            store_bytes,
            log_size: "1G".into(),
            vdi_bytes: span_bytes,
            pin: true,
            late_checkpoints: false,
            null: false,
            bins: None,
        })?;
        let mut raw = StorageDaemon::start(Image::Raw, &dir, span_bytes, true)?;
        println!("{live} % live: ageing");
        parallax.prepare(Fill::Overwrite)?;
        let once = Load::random(0, 32, span_bytes, Duration::from_secs(3600));
        for time in 0..(TIMES_OVER * store_bytes).div_ceil(span_bytes) {
            measure(&parallax, &Load { order: Order::Once, seed: 100 + time, ..once })?;
        }
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            let load = Load { seed: round + 1, ..Load::random(0, 32, span_bytes, time) };
            for (target, results) in
                [(&mut parallax as &mut dyn Target, &mut ours), (&mut raw as &mut dyn Target, &mut theirs)]
            {
                target.prepare(Fill::Overwrite)?;
                let before = target.daemon().written_bytes();
                let measured = measure(target, &load)?;
                let written = target.daemon().written_bytes().saturating_sub(before);
                let amplification = written as f64 / measured.report.bytes.max(1) as f64;
                results.push(Round { numbers: (&measured).into(), amplification });
            }
        }
        for (target, results) in [(&parallax as &dyn Target, &ours), (&raw as &dyn Target, &theirs)] {
            let subject = Subject {
                bench: format!("full-store/randwrite-4k-qd32-{live}"),
                target: target.name().into(),
                log: target.log(),
                fill: "overwrite".into(),
            };
            let each = |f: &dyn Fn(&Round) -> f64| results.iter().map(f).collect::<Vec<f64>>();
            sheet.row(&subject, "iops", "1/s", &each(&|r| r.numbers.iops))?;
            sheet.row(&subject, "p50", "us", &each(&|r| r.numbers.p50_us))?;
            sheet.row(&subject, "p99", "us", &each(&|r| r.numbers.p99_us))?;
            sheet.row(&subject, "cpu_per_io", "us", &each(&|r| r.numbers.cpu_us_per_io))?;
            sheet.row(&subject, "written", "B/B", &each(&|r| r.amplification))?;
        }
        let iops = |r: &[Round]| r.iter().map(|r| r.numbers.iops).collect::<Vec<f64>>();
        if let Some(ratio) = Ratio::of(&iops(&ours), &iops(&theirs)) {
            println!("{live} % live: {ratio} of qsd-raw");
        }
        drop((parallax, raw));
        std::fs::remove_dir_all(&dir)?;
    }
    Ok(())
}
