//! What does the daemon cost alone, without a disk below it? A store that keeps no data, beside one that does, on the same file system.

use std::io;
use std::time::Duration;

use parallax_benches::contest::{Contest, Work};
use parallax_benches::load::{Load, Order};
use parallax_benches::place::Place;
use parallax_benches::process::pin_client;
use parallax_benches::rows::Sheet;
use parallax_benches::settings::number;
use parallax_benches::target::parallax::{Options, Parallax};
use parallax_benches::target::{Fill, Target};

const SPAN_BYTES: u64 = 1 << 30;

fn main() -> io::Result<()> {
    let place = Place::open("null-store")?;
    let sheet = Sheet::open(&place)?;
    let time = Duration::from_millis(number("PARALLAX_BENCH_MS", 2000));
    place.need(5 * SPAN_BYTES)?;
    pin_client();
    let start = |name: &str, null_store: bool| -> io::Result<Box<dyn Target>> {
        let options = Options::new(&place.dir.join(name), 4 * SPAN_BYTES, SPAN_BYTES);
        let options = Options { name: name.into(), sparse: null_store, null_store, pin: true, ..options };
        Ok(Box::new(Parallax::start(options)?))
    };
    let targets = vec![start("parallax-null-store", true)?, start("parallax", false)?];
    // What is read from a store without data is zeros, and so it must be what was written.
    let random =
        |read_percent, depth| Load { zeros: true, ..Load::random(read_percent, depth, SPAN_BYTES, time) };
    let fill = Load { zeros: true, ..Load::fill(SPAN_BYTES) };
    let sequential = Load { order: Order::Sequential, ..random(100, 8) }.of_blocks(128 << 10);
    let works = [
        Work::new("seqwrite-1m-qd8", Fill::FirstWrite, fill),
        Work::new("randread-4k-qd1", Fill::AsIs, random(100, 1)),
        Work::new("randread-4k-qd32", Fill::AsIs, random(100, 32)),
        Work::new("randwrite-4k-qd1", Fill::AsIs, random(0, 1)),
        Work::new("randwrite-4k-qd32", Fill::AsIs, random(0, 32)),
        Work::new("seqread-128k-qd8", Fill::AsIs, sequential),
    ];
    let rounds = number("PARALLAX_BENCH_ROUNDS", 10);
    Contest::new(&place, &sheet, "null-store", rounds, targets)?.hold(&works).map(drop)
}
