//! What do a hundred disks cost while their guests do nothing? Each is attached, connected and was written to.

use std::io;
use std::time::Duration;

use parallax_benches::disk::Disk;
use parallax_benches::load::{Load, run};
use parallax_benches::place::Place;
use parallax_benches::rows::{Sheet, Subject};
use parallax_benches::settings::number;
use parallax_benches::target::Target;
use parallax_benches::target::parallax::{Options, Parallax};

const DISKS: usize = 100;
const SPAN_BYTES: u64 = 64 << 20;

fn main() -> io::Result<()> {
    let place = Place::open("idle-disks")?;
    let sheet = Sheet::open(&place)?;
    let time = Duration::from_millis(number("PARALLAX_BENCH_MS", 10_000));
    place.need(10 << 30)?;
    let parallax =
        Parallax::start(Options { sparse: true, ..Options::new(&place.dir, 16 << 30, SPAN_BYTES) })?;
    let mut disks = Vec::new();
    for nth in 0..DISKS {
        let socket = parallax.create(&format!("idle-{nth}"))?;
        let mut disk = Disk::connect_within(&socket, 1, 8 << 20, Duration::from_secs(10))?;
        run(&mut disk, &Load::fill(SPAN_BYTES), &std::sync::atomic::AtomicBool::new(false))?;
        disks.push(disk);
    }
    parallax.used_bytes()?;
    parallax.process().wait_idle(Duration::from_secs(120))?;
    let mut shares = Vec::new();
    for _ in 0..number("PARALLAX_BENCH_ROUNDS", 5) {
        let before = parallax.process().usage()?.cpu_ns;
        std::thread::sleep(time);
        let used_ns = parallax.process().usage()?.cpu_ns - before;
        shares.push(used_ns as f64 * 100.0 / time.as_nanos() as f64);
    }
    let subject = Subject {
        bench: format!("idle-disks/{DISKS}"),
        target: "parallax".into(),
        log: parallax.log(),
        fill: "overwrite".into(),
    };
    sheet.row(&subject, "cpu", "%", &shares)
}
