//! Do 1,000 snapshots in one chain slow a disk? Two disks with the same writes, one of them snapshotted after each
//! batch, take turns.

use std::io;
use std::time::Duration;

use parallax_benches::contest::{Contest, Work};
use parallax_benches::disk::Disk;
use parallax_benches::load::{Load, Order, Random};
use parallax_benches::place::Place;
use parallax_benches::process::pin_client;
use parallax_benches::rows::Sheet;
use parallax_benches::settings::number;
use parallax_benches::snapshots::take;
use parallax_benches::target::parallax::{Options, Parallax, VDI};
use parallax_benches::target::{Fill, Target};

const SPAN_BYTES: u64 = 1 << 30;
const SNAPSHOTS: u64 = 1000;
const WRITES: u64 = 64;

fn main() -> io::Result<()> {
    let place = Place::open("snapshot-chain")?;
    let sheet = Sheet::open(&place)?;
    pin_client();
    let start = |name: &str, with_snapshots: bool| -> io::Result<Box<dyn Target>> {
        let options = Options::new(&place.dir.join(name), 16 << 30, SPAN_BYTES);
        let mut parallax =
            Parallax::start(Options { name: name.into(), sparse: true, pin: true, ..options })?;
        parallax.prepare(Fill::Overwrite)?;
        age(&parallax, with_snapshots)?;
        Ok(Box::new(parallax))
    };
    let targets = vec![start("parallax-snapshots-1000", true)?, start("parallax-snapshots-0", false)?];
    let time = Duration::from_millis(number("PARALLAX_BENCH_MS", 2000));
    let random = |read_percent, depth| Load::random(read_percent, depth, SPAN_BYTES, time);
    let sequential = Load { order: Order::Sequential, ..random(100, 8) }.of_blocks(128 << 10);
    let works = [
        Work::new("randread-4k-qd1", Fill::Overwrite, random(100, 1)),
        Work::new("randread-4k-qd32", Fill::Overwrite, random(100, 32)),
        Work::new("seqread-128k-qd8", Fill::Overwrite, sequential),
        Work::new("randwrite-4k-qd8", Fill::Overwrite, random(0, 8)),
    ];
    let rounds = number("PARALLAX_BENCH_ROUNDS", 10);
    Contest::new(&place, &sheet, "snapshot-chain", rounds, targets)?.hold(&works).map(drop)
}

/// 1,000 batches of scattered writes, each followed by a snapshot if there are to be some.
fn age(parallax: &Parallax, with_snapshots: bool) -> io::Result<()> {
    let mut disk = Disk::connect_within(parallax.socket(), 1, 8 << 20, Duration::from_secs(10))?;
    let mut control = parallax.control()?;
    let mut random = Random(7);
    let queue = &mut disk.queues[0];
    for _ in 0..SNAPSHOTS {
        for slot in 0..WRITES as usize {
            let block = random.next() % (SPAN_BYTES / 4096);
            queue.write(block * 4096, slot * 4096, 4096, slot);
        }
        let mut ended = 0;
        while ended < WRITES as usize {
            ended += queue.wait()?.len();
        }
        if with_snapshots {
            take(&mut control, VDI)?;
        }
    }
    parallax.used_bytes().map(drop)
}
