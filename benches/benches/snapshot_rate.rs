//! What do 100 snapshots a second cost a disk that is written to without a pause: at random all over, at random within
//! 32 MiB, in order? Pairs of runs, with and without, in turn.

use std::io;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use parallax_benches::disk::Disk;
use parallax_benches::load::{Load, Order, Report, run};
use parallax_benches::place::Place;
use parallax_benches::process::pin_client;
use parallax_benches::rows::{Sheet, Subject};
use parallax_benches::settings::number;
use parallax_benches::snapshots::take_at_rate;
use parallax_benches::target::parallax::{Options, Parallax, VDI};

const SPAN_BYTES: u64 = 1 << 30;
const EVERY: Duration = Duration::from_millis(10);

fn main() -> io::Result<()> {
    let place = Place::open("snapshot-rate")?;
    let sheet = Sheet::open(&place)?;
    let duration = Duration::from_millis(number("PARALLAX_BENCH_MS", 5000));
    pin_client();
    let options = Options { sparse: true, pin: true, ..Options::new(&place.dir, 48 << 30, SPAN_BYTES) };
    let mut parallax = Parallax::start(options)?;
    let random = |span_bytes| Load::random(0, 32, span_bytes, duration);
    let in_order = Load { block_bytes: 128 << 10, depth: 8, order: Order::Sequential, ..random(SPAN_BYTES) };
    for (name, load) in [
        ("randwrite-qd32", random(SPAN_BYTES)),
        ("randwrite-32m-qd32", random(32 << 20)),
        ("seqwrite-128k-qd8", in_order),
    ] {
        ask(&mut parallax, &sheet, name, load)?;
    }
    Ok(())
}

fn ask(parallax: &mut Parallax, sheet: &Sheet, name: &str, load: Load) -> io::Result<()> {
    let (mut with, mut without, mut cost, mut taken) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..number("PARALLAX_BENCH_ROUNDS", 10) {
        println!("{name}, pair {}", round + 1);
        let load = Load { seed: round + 1, ..load };
        // Which comes first alternates, so that neither always meets the fuller log.
        let mut pair = [0.0; 2];
        for snapshots in [round % 2 == 0, round % 2 == 1] {
            parallax.empty()?;
            let (report, count) = once(parallax, &load, snapshots)?;
            pair[usize::from(snapshots)] = report.iops();
            if snapshots {
                taken.push(count as f64 / load.duration.as_secs_f64());
            }
        }
        without.push(pair[0]);
        with.push(pair[1]);
        cost.push((1.0 - pair[1] / pair[0]) * 100.0);
    }
    let subject = |rate: &str| Subject {
        bench: format!("snapshot-rate/{name}-{rate}"),
        target: "parallax".into(),
        log: "1G".into(),
        fill: "overwrite".into(),
    };
    sheet.row(&subject("none"), "iops", "1/s", &without)?;
    sheet.row(&subject("100-per-s"), "iops", "1/s", &with)?;
    sheet.row(&subject("100-per-s"), "snapshots", "1/s", &taken)?;
    sheet.row(&subject("100-per-s"), "cost", "%", &cost)
}

fn once(parallax: &Parallax, load: &Load, snapshots: bool) -> io::Result<(Report, u64)> {
    let mut disk = Disk::connect_within(parallax.socket(), 1, 8 << 20, Duration::from_secs(10))?;
    run(&mut disk, &Load::fill(SPAN_BYTES), &AtomicBool::new(false))?;
    parallax.used_bytes()?;
    let mut control = parallax.control()?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let guest = scope.spawn(|| run(&mut disk, load, &stop));
        let taken =
            if snapshots { take_at_rate(&mut control, VDI, EVERY, load.duration)?.total() } else { 0 };
        Ok((guest.join().expect("the load does not panic")?, taken))
    })
}
