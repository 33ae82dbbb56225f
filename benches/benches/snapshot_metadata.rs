//! How much metadata does a snapshot cost, with 0, 1, 16 and 256 scattered writes of 4 KiB between snapshots?

use std::io;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use parallax_benches::disk::Disk;
use parallax_benches::load::{Load, Random, run};
use parallax_benches::place::Place;
use parallax_benches::rows::{Sheet, Subject};
use parallax_benches::settings::number;
use parallax_benches::snapshots::take;
use parallax_benches::target::parallax::{Options, Parallax, VDI};

const SPAN_BYTES: u64 = 4 << 30;
const FILLED_BYTES: u64 = 1 << 30;

fn main() -> io::Result<()> {
    let place = Place::open("snapshot-metadata")?;
    let sheet = Sheet::open(&place)?;
    let snapshots = number("PARALLAX_BENCH_SNAPSHOTS", 400);
    let mut parallax =
        Parallax::start(Options { sparse: true, ..Options::new(&place.dir, 16 << 30, SPAN_BYTES) })?;
    for writes in [0, 1, 16, 256] {
        let mut each = Vec::new();
        for round in 0..number("PARALLAX_BENCH_ROUNDS", 3) {
            parallax.empty()?;
            each.push(per_snapshot(&parallax, writes, snapshots, round + 1)?);
        }
        let subject = Subject {
            bench: format!("snapshot-metadata/writes-{writes}"),
            target: "parallax".into(),
            log: "1G".into(),
            fill: "overwrite".into(),
        };
        sheet.row(&subject, "metadata", "KiB", &each)?;
    }
    Ok(())
}

/// KiB of the store in use for each snapshot, its data blocks not counted.
fn per_snapshot(parallax: &Parallax, writes: u64, snapshots: u64, seed: u64) -> io::Result<f64> {
    let mut disk = Disk::connect_within(parallax.socket(), 1, 8 << 20, Duration::from_secs(10))?;
    run(&mut disk, &Load::fill(FILLED_BYTES), &AtomicBool::new(false))?;
    let mut control = parallax.control()?;
    let mut random = Random(seed);
    // The first snapshot separates what was filled; then every replaced block stays in use.
    take(&mut control, VDI)?;
    let before = parallax.used_bytes()?;
    let mut data_blocks = 0;
    for _ in 0..snapshots {
        let mut blocks: Vec<u64> = (0..writes).map(|_| random.next() % (FILLED_BYTES / 4096)).collect();
        blocks.sort_unstable();
        blocks.dedup();
        for (slot, block) in blocks.iter().enumerate() {
            disk.queues[0].write(block * 4096, slot * 4096, 4096, slot);
        }
        let mut ended = 0;
        while ended < blocks.len() {
            ended += disk.queues[0].wait()?.len();
        }
        data_blocks += blocks.len() as u64;
        take(&mut control, VDI)?;
    }
    let used = parallax.used_bytes()? - before;
    Ok((used as f64 - (data_blocks * 4096) as f64) / snapshots as f64 / 1024.0)
}
