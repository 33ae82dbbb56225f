//! How does a disk compare with peers on the same machine, in the same minutes: raw and qcow2 files behind
//! `qemu-storage-daemon`, clones and internal snapshots of qcow2, and a plain file without a daemon?

use std::io;
use std::time::Duration;

use parallax_benches::chart::Work as Charted;
use parallax_benches::contest::{Contest, Work};
use parallax_benches::direct::Direct;
use parallax_benches::load::{Load, Order};
use parallax_benches::place::Place;
use parallax_benches::process::pin_client;
use parallax_benches::rows::Sheet;
use parallax_benches::settings::{number, words};
use parallax_benches::target::parallax::{Options, Parallax};
use parallax_benches::target::storage_daemon::{Image, StorageDaemon};
use parallax_benches::target::{Fill, Target};

/// Half of what a random write must write to be called sustained.
const LOG_BYTES: u64 = 512 << 20;
/// Who takes turns with a disk of ours; there is room for one group at a time.
const GROUPS: [&[Peer]; 4] = [
    &[Peer::Daemon(Image::Raw), Peer::Daemon(Image::RawPolling), Peer::Direct],
    &[Peer::Daemon(Image::RawSparse), Peer::Daemon(Image::Qcow2), Peer::Daemon(Image::Qcow2Extended)],
    &[Peer::Daemon(Image::Clone), Peer::Daemon(Image::CloneExtended)],
    &[Peer::Daemon(Image::Snapshots)],
];

#[derive(Clone, Copy)]
enum Peer {
    Daemon(Image),
    /// `fio` on a file.
    Direct,
}

impl Peer {
    fn name(self) -> &'static str {
        match self {
            Peer::Daemon(image) => image.name(),
            Peer::Direct => Direct::NAME,
        }
    }
    fn has(self, fill: Fill) -> bool {
        match self {
            Peer::Daemon(image) => image.has(fill),
            Peer::Direct => Direct::has(fill),
        }
    }
    fn start(self, place: &Place, span_bytes: u64) -> io::Result<Option<Box<dyn Target>>> {
        match self {
            Peer::Daemon(image) => {
                Ok(Some(Box::new(StorageDaemon::start(image, &place.dir, span_bytes, true)?)))
            }
            Peer::Direct => Ok(match Direct::start(&place.dir, span_bytes)? {
                Some(direct) => Some(Box::new(direct)),
                None => None,
            }),
        }
    }
}

fn works(span_bytes: u64, time: Duration) -> Vec<Work> {
    let random = |read_percent, depth| Load::random(read_percent, depth, span_bytes, time);
    let sequential = |read_percent, block_kib: usize, depth| {
        Load { order: Order::Sequential, ..random(read_percent, depth) }.of_blocks(block_kib << 10)
    };
    // The same blocks for everybody, each once: a peer that copies more at first would else be measured on its worst part only.
    let once = |depth, part| Load { order: Order::Once, span_bytes: span_bytes / part, ..random(0, depth) };
    let fill = |block_kib: usize| Load::fill(span_bytes).of_blocks(block_kib << 10);
    let flushed = |every| Load { flush_every: Some(every), ..random(0, 32) };
    let sustained = Load { bytes_min: 2 * LOG_BYTES, ..random(0, 32) };
    // Two of three blocks of 112 KiB, the size of paper 002's interleaved writers.
    let interleaved = Load { stride_bytes: 128 << 10, ..sequential(0, 112, 8) };
    use Fill::{Clone, FirstWrite, InOrder, Overwrite, Scattered, Snapshot, Tidied};
    vec![
        Work::new("randwrite-4k-qd1", FirstWrite, once(1, 16)),
        Work::new("randwrite-4k-qd32", FirstWrite, once(32, 4)),
        Work::new("seqwrite-128k-qd8", FirstWrite, fill(128)),
        Work::new("seqwrite-1m-qd8", FirstWrite, fill(1024)),
        Work::new("seqread-128k-qd8", InOrder, sequential(100, 128, 8)),
        Work::new("seqread-128k-qd8", Scattered, sequential(100, 128, 8)),
        Work::new("seqread-128k-qd8", Tidied, sequential(100, 128, 8)),
        Work::new("randread-4k-qd1", Overwrite, random(100, 1)),
        Work::new("randread-4k-qd32", Overwrite, random(100, 32)),
        Work::new("randwrite-4k-qd1", Overwrite, random(0, 1)),
        Work::new("randwrite-4k-qd32", Overwrite, sustained),
        Work::new("randwrite-4k-qd32-flush1", Overwrite, flushed(1)),
        Work::new("randwrite-4k-qd32-flush16", Overwrite, flushed(16)),
        Work::new("randwrite-4k-qd32-flush64", Overwrite, flushed(64)),
        Work::new("mix7030-4k-qd32", Overwrite, random(70, 32)),
        Work::new("randwrite-4k-qd32", Snapshot, once(32, 4)),
        Work::new("randwrite-4k-qd32", Clone, once(32, 4)),
        Work::new("seqwrite-128k-qd8", Overwrite, sequential(0, 128, 8)),
        Work::new("seqwrite-1m-qd8", Overwrite, sequential(0, 1024, 8)),
        Work::new("randwrite-64k-qd8", Overwrite, random(0, 8).of_blocks(64 << 10)),
        Work::new("randwrite-256k-qd8", Overwrite, random(0, 8).of_blocks(256 << 10)),
        Work::new("stepwrite-112k-qd8", Overwrite, interleaved),
    ]
}

fn main() -> io::Result<()> {
    let place = Place::open("side-by-side")?;
    let sheet = Sheet::open(&place)?;
    let span_bytes = number("PARALLAX_BENCH_MIB", 2048) << 20;
    let rounds = number("PARALLAX_BENCH_ROUNDS", 10);
    let wanted = |name: &str, variable: &str| {
        let only = words(variable, "");
        only.is_empty() || only.iter().any(|o| o == name)
    };
    let mut works = works(span_bytes, Duration::from_millis(number("PARALLAX_BENCH_MS", 3000)));
    works.retain(|w| {
        wanted(&w.name, "PARALLAX_BENCH_PATTERNS") && wanted(w.fill.name(), "PARALLAX_BENCH_FILLS")
    });
    pin_client();
    let mut charted: Vec<Charted> = Vec::new();
    for group in GROUPS {
        let is_wanted = |p: &Peer| wanted(p.name(), "PARALLAX_BENCH_TARGETS");
        let peers: Vec<Peer> = group.iter().copied().filter(is_wanted).collect();
        let works: Vec<Work> =
            works.iter().filter(|w| peers.iter().any(|p| p.has(w.fill))).cloned().collect();
        if works.is_empty() {
            continue;
        }
        // The disk, what it is cloned from and a clone; and half as much again for what is not yet free.
        let store_bytes = 9 * span_bytes / 2;
        place.need(store_bytes + LOG_BYTES + 2 * span_bytes * peers.len() as u64)?;
        let options = Options {
            log_size: format!("{}M", LOG_BYTES >> 20),
            pin: true,
            ..Options::new(&place.dir, store_bytes, span_bytes)
        };
        let mut targets: Vec<Box<dyn Target>> = vec![Box::new(Parallax::start(options)?)];
        for peer in peers {
            targets.extend(peer.start(&place, span_bytes)?);
        }
        for new in Contest::new(&place, &sheet, "side-by-side", rounds, targets)?.hold(&works)? {
            match charted.iter_mut().find(|c| c.name == new.name) {
                Some(old) => old.speeds.extend(new.speeds),
                None => charted.push(new),
            }
        }
        place.empty()?;
    }
    sheet.chart("side-by-side", &charted)
}
