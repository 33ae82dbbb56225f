//! What does the loop cost alone? Disks that answer and do nothing, behind ours, `qemu-storage-daemon`'s and
//! `vhost-user-backend`'s, the daemon on a core of its own and not.

use std::io;
use std::time::Duration;

use parallax_benches::contest::{Contest, Work};
use parallax_benches::load::Load;
use parallax_benches::place::Place;
use parallax_benches::process::pin_client;
use parallax_benches::rows::Sheet;
use parallax_benches::settings::number;
use parallax_benches::target::null::{Null, Peer};
use parallax_benches::target::parallax::{Options, Parallax};
use parallax_benches::target::{Fill, Target};

const SPAN_BYTES: u64 = 1 << 30;

fn main() -> io::Result<()> {
    let place = Place::open("null-device")?;
    let sheet = Sheet::open(&place)?;
    let time = Duration::from_millis(number("PARALLAX_BENCH_MS", 2000));
    // The client is not pinned before the first pair is done.
    for (pin, pinned) in [(false, "unpinned"), (true, "pinned")] {
        if pin {
            pin_client();
        }
        let options = Options {
            name: "null".into(),
            sparse: true,
            pin,
            null: true,
            ..Options::new(&place.dir, 4 * SPAN_BYTES, SPAN_BYTES)
        };
        let targets: Vec<Box<dyn Target>> = vec![
            Box::new(Parallax::start(options)?),
            Box::new(Null::start(Peer::StorageDaemon, &place.dir, SPAN_BYTES, pin)?),
            Box::new(Null::start(Peer::Stock, &place.dir, SPAN_BYTES, pin)?),
        ];
        let works: Vec<Work> = [(100, 1, "read"), (100, 32, "read"), (0, 32, "write")]
            .into_iter()
            .map(|(read_percent, depth, name)| {
                let load = Load::random(read_percent, depth, SPAN_BYTES, time);
                Work::new(format!("{name}-4k-qd{depth}-{pinned}"), Fill::FirstWrite, load)
            })
            .collect();
        let rounds = number("PARALLAX_BENCH_ROUNDS", 10);
        Contest::new(&place, &sheet, "null-device", rounds, targets)?.hold(&works)?;
        place.empty()?;
    }
    Ok(())
}
