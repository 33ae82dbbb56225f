//! How long after SIGKILL does a disk answer its first request, with a full log? And is every acknowledged byte
//! there? 64 GiB store, log of the default size and of 8 GiB.

use std::io;
use std::time::{Duration, Instant};

use parallax_benches::disk::{Disk, Queue};
use parallax_benches::load::Random;
use parallax_benches::place::Place;
use parallax_benches::rows::{Sheet, Subject};
use parallax_benches::settings::{number, words};
use parallax_benches::target::parallax::{Options, Parallax};

/// Size of a write where the log is no larger than 4 GiB; beyond, the overlay's bound of a million ranges would
/// empty it before it is full.
const WRITE_BYTES: usize = 4 << 10;
const LARGE_WRITE_BYTES: usize = 16 << 10;
const READ_BYTES: usize = 1 << 20;
const DEPTH: usize = 64;
const MEMORY_BYTES: usize = 8 << 20;

fn main() -> io::Result<()> {
    let place = Place::open("restart")?;
    let sheet = Sheet::open(&place)?;
    for log_size in words("PARALLAX_BENCH_LOGS", "1G 8G") {
        let gib: u64 = log_size.trim_end_matches('G').parse().map_err(io::Error::other)?;
        let log_bytes = gib << 30;
        let (mut first, mut used) = (Vec::new(), Vec::new());
        for round in 0..number("PARALLAX_BENCH_ROUNDS", 3) {
            let outcome = once(&place, &log_size, log_bytes, round + 1)?;
            println!(
                "log {log_size}: {} MiB to replay, first I/O after {} ms",
                outcome.log_mib, outcome.first_ms
            );
            first.push(outcome.first_ms);
            used.push(outcome.log_mib);
        }
        let subject = Subject {
            bench: "restart/kill-9".into(),
            target: "parallax".into(),
            log: log_size.clone(),
            fill: "overwrite".into(),
        };
        sheet.row(&subject, "first_io", "ms", &first)?;
        sheet.row(&subject, "log_used", "MiB", &used)?;
    }
    Ok(())
}

struct Outcome {
    first_ms: f64,
    log_mib: f64,
}

fn once(place: &Place, log_size: &str, log_bytes: u64, seed: u64) -> io::Result<Outcome> {
    let dir = place.dir.join(format!("{log_size}-{seed}"));
    let span_bytes = (log_bytes * 2).min(8 << 30);
    let mut parallax = Parallax::start(Options {
        sparse: true,
        log_size: log_size.into(),
        late_checkpoints: true,
        ..Options::new(&dir, 64 << 30, span_bytes)
    })?;
    let write_bytes = if log_bytes <= 4 << 30 { WRITE_BYTES } else { LARGE_WRITE_BYTES };
    let mut model = Model::new(span_bytes, write_bytes, seed);
    let mut disk = Disk::connect_within(parallax.socket(), 1, MEMORY_BYTES, Duration::from_secs(10))?;
    let log_mib = model.write_until_full(&parallax, &mut disk.queues[0], log_bytes)?;
    parallax.kill();
    drop(disk);
    let start = Instant::now();
    parallax.restart()?;
    let mut disk = Disk::connect_within(parallax.socket(), 1, MEMORY_BYTES, Duration::from_secs(120))?;
    disk.queues[0].read(0, 0, WRITE_BYTES, 0);
    disk.queues[0].wait()?;
    let first_ms = start.elapsed().as_secs_f64() * 1e3;
    model.verify(&mut disk.queues[0])?;
    drop((disk, parallax));
    std::fs::remove_dir_all(&dir)?;
    Ok(Outcome { first_ms, log_mib })
}

/// The version each block must hold, and the one it may hold because its write was not acknowledged.
struct Model {
    write_bytes: usize,
    seed: u64,
    random: Random,
    acknowledged: Vec<u32>,
    pending: Vec<Option<(usize, u32)>>,
}

impl Model {
    fn new(span_bytes: u64, write_bytes: usize, seed: u64) -> Model {
        let blocks = span_bytes as usize / write_bytes;
        Model {
            write_bytes,
            seed,
            random: Random(seed),
            acknowledged: vec![0; blocks],
            pending: vec![None; DEPTH],
        }
    }

    /// Keep `DEPTH` random writes in flight until nine tenths of the log are in use; they stay in flight at the end.
    /// Returns how much the log then holds, MiB.
    fn write_until_full(
        &mut self,
        parallax: &Parallax,
        queue: &mut Queue,
        log_bytes: u64,
    ) -> io::Result<f64> {
        let mut written = 0u64;
        for slot in 0..DEPTH {
            self.submit(queue, slot);
        }
        loop {
            let next = written + log_bytes / 64;
            while written < next {
                written += self.complete(queue)?;
            }
            let status = parallax.ask("GET", "/status", &serde_json::Value::Null)?;
            let used = status["log"]["used_bytes"].as_u64().unwrap_or(0);
            // Just before the daemon would begin to empty it.
            if used >= log_bytes / 10 * 9 {
                return Ok(used as f64 / f64::from(1 << 20));
            }
        }
    }

    /// Take what has ended, and keep as many in flight; bytes that were acknowledged.
    fn complete(&mut self, queue: &mut Queue) -> io::Result<u64> {
        let done: Vec<_> = queue.wait()?.iter().map(|d| (d.tag, d.result)).collect();
        for (slot, result) in &done {
            if *result != 0 {
                return Err(io::Error::from_raw_os_error(-result));
            }
            let (block, version) = self.pending[*slot].expect("it was in flight");
            self.acknowledged[block] = version;
            self.submit(queue, *slot);
        }
        Ok((done.len() * self.write_bytes) as u64)
    }

    /// One write to a block that no other slot is writing.
    fn submit(&mut self, queue: &mut Queue, slot: usize) {
        self.pending[slot] = None;
        let block = loop {
            let block = (self.random.next() % self.acknowledged.len() as u64) as usize;
            if !self.pending.iter().flatten().any(|(b, _)| *b == block) {
                break block;
            }
        };
        let version = self.acknowledged[block] + 1;
        self.pending[slot] = Some((block, version));
        let bytes = self.write_bytes;
        queue.fill(slot * bytes, &self.content(block, version));
        queue.write((block * bytes) as u64, slot * bytes, bytes, slot);
    }

    /// Read the whole disk and compare every byte.
    fn verify(&self, queue: &mut Queue) -> io::Result<()> {
        let mut bytes = vec![0u8; READ_BYTES];
        for first in (0..self.acknowledged.len()).step_by(READ_BYTES / self.write_bytes) {
            queue.read((first * self.write_bytes) as u64, 0, READ_BYTES, 0);
            if let Some(failed) = queue.wait()?.iter().find(|d| d.result != 0) {
                return Err(io::Error::from_raw_os_error(-failed.result));
            }
            queue.copy_out(0, &mut bytes);
            for (i, found) in bytes.chunks(self.write_bytes).enumerate() {
                let block = first + i;
                let version = self.acknowledged[block];
                let pending = self.pending.iter().flatten().find(|(b, _)| *b == block);
                let pending = pending.is_some_and(|(_, v)| found == self.content(block, *v));
                if !pending && found != self.content(block, version) {
                    return Err(io::Error::other(format!(
                        "block {block} does not hold its acknowledged version {version}: begins {:02x?}",
                        &found[..16]
                    )));
                }
            }
        }
        Ok(())
    }

    /// What version `version` of a block holds; version 0 is zeros.
    fn content(&self, block: usize, version: u32) -> Vec<u8> {
        let mut bytes = vec![0u8; self.write_bytes];
        if version > 0 {
            let mut random = Random(self.seed ^ ((block as u64) << 32) ^ u64::from(version));
            bytes.chunks_mut(8).for_each(|c| c.copy_from_slice(&random.next().to_le_bytes()));
        }
        bytes
    }
}
