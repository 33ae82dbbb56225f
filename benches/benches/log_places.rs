//! What does a log in the store's own extents cost, against one in a file beside it?

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
    let place = Place::open("log-places")?;
    let sheet = Sheet::open(&place)?;
    let time = Duration::from_millis(number("PARALLAX_BENCH_MS", 3000));
    place.need(9 * SPAN_BYTES)?;
    pin_client();
    let start = |name: &str, log_inside: bool| -> io::Result<Box<dyn Target>> {
        let options = Options::new(&place.dir.join(name), 4 * SPAN_BYTES, SPAN_BYTES);
        let options =
            Options { name: name.into(), log_inside, log_size: "512M".into(), pin: true, ..options };
        Ok(Box::new(Parallax::start(options)?))
    };
    let targets = vec![start("parallax-log-store", true)?, start("parallax", false)?];
    let random = |depth| Load::random(0, depth, SPAN_BYTES, time);
    let sequential = Load { order: Order::Sequential, ..random(8) }.of_blocks(128 << 10);
    let works = [
        Work::new("randwrite-4k-qd1", Fill::Overwrite, random(1)),
        Work::new("randwrite-4k-qd32", Fill::Overwrite, Load { bytes_min: SPAN_BYTES, ..random(32) }),
        Work::new("randwrite-4k-qd32-flush1", Fill::Overwrite, Load { flush_every: Some(1), ..random(32) }),
        Work::new("randwrite-4k-qd32-flush16", Fill::Overwrite, Load { flush_every: Some(16), ..random(32) }),
        Work::new("seqwrite-128k-qd8", Fill::Overwrite, sequential),
    ];
    let rounds = number("PARALLAX_BENCH_ROUNDS", 10);
    Contest::new(&place, &sheet, "log-places", rounds, targets)?.hold(&works).map(drop)
}
