//! What does a store that is nearly full of live data, written at random three times over, cost a guest's random writes? Beside a
//! raw file behind `qemu-storage-daemon`, round by round; with the bytes that go to the devices for each byte written.

use std::io;
use std::time::Duration;

use parallax_benches::contest::{Contest, Work};
use parallax_benches::load::{Load, Order};
use parallax_benches::place::Place;
use parallax_benches::process::pin_client;
use parallax_benches::rows::Sheet;
use parallax_benches::settings::{number, words};
use parallax_benches::target::parallax::{Options, Parallax};
use parallax_benches::target::storage_daemon::{Image, StorageDaemon};
use parallax_benches::target::{Fill, Target, run_at};

/// Written at random before anything is measured, in capacities of the store.
const TIMES_OVER: u64 = 3;

fn main() -> io::Result<()> {
    let place = Place::open("full-store")?;
    let sheet = Sheet::open(&place)?;
    let store_bytes = number("PARALLAX_BENCH_MIB", 4096) << 20;
    // A log outside is room that the store does not have: it must not make up for what is full.
    let log_bytes = store_bytes / 16;
    let rounds = number("PARALLAX_BENCH_ROUNDS", 10);
    let time = Duration::from_millis(number("PARALLAX_BENCH_MS", 4000));
    pin_client();
    for percent in words("PARALLAX_BENCH_PERCENT", "50 80 95") {
        let live: u64 = percent.parse().map_err(|e| io::Error::other(format!("{percent}: {e}")))?;
        let span_bytes = (store_bytes / 100 * live) >> 20 << 20;
        place.need(store_bytes + log_bytes + span_bytes)?;
        let mut parallax = Parallax::start(Options {
            log_size: format!("{}M", log_bytes >> 20),
            pin: true,
            ..Options::new(&place.dir, store_bytes, span_bytes)
        })?;
        println!("{live} % live: ageing");
        parallax.prepare(Fill::Overwrite)?;
        let once = Load { order: Order::Once, ..Load::random(0, 32, span_bytes, time) };
        for time in 0..(TIMES_OVER * store_bytes).div_ceil(span_bytes) {
            run_at(parallax.socket(), &once.of_round(time, usize::MAX))?;
        }
        let raw = StorageDaemon::start(Image::Raw, &place.dir, span_bytes, true)?;
        let load = Load { bytes_min: 2 * log_bytes, ..Load::random(0, 32, span_bytes, time) };
        let work = Work::new(format!("randwrite-4k-qd32-{live}"), Fill::Overwrite, load);
        let targets: Vec<Box<dyn Target>> = vec![Box::new(parallax), Box::new(raw)];
        Contest::new(&place, &sheet, "full-store", rounds, targets)?.hold(&[work])?;
        place.empty()?;
    }
    Ok(())
}
