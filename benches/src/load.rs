//! The load generator: keeps a number of requests in flight on each queue and records how they fare.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::disk::{Disk, Queue};
use crate::histogram::Histogram;

/// Which blocks, in which order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// Uniformly at random, until the time is over.
    Random,
    /// One after the other, wrapping around, until the time is over.
    Sequential,
    /// Each block once, shuffled; whatever the time.
    Once,
    /// Each block once in order, whatever the time.
    Fill,
}

/// What to do to a disk.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Bytes per request.
    pub block_bytes: usize,
    /// Queues, each with a thread of its own.
    pub queues: usize,
    /// Requests in flight per queue.
    pub depth: usize,
    /// Share of reads, percent; the rest are writes.
    pub read_percent: u8,
    /// Order of blocks.
    pub order: Order,
    /// Bytes from the start of the disk that are used.
    pub span_bytes: u64,
    /// From the start of a block to that of the next one, bytes; what lies between is left alone.
    pub stride_bytes: u64,
    /// A flush after so many requests; it takes the place of one.
    pub flush_every: Option<u32>,
    /// How long, for random and sequential requests.
    pub duration: Duration,
    /// And then until so many bytes were moved.
    pub bytes_min: u64,
    /// Write zeros; else what cannot be compressed.
    pub zeros: bool,
    /// Same seed, same requests.
    pub seed: u64,
}

impl Load {
    /// Random requests of 4 KiB.
    #[must_use]
    pub fn random(read_percent: u8, depth: usize, span_bytes: u64, duration: Duration) -> Load {
        Load {
            block_bytes: 4096,
            queues: 1,
            depth,
            read_percent,
            order: Order::Random,
            span_bytes,
            stride_bytes: 4096,
            flush_every: None,
            duration,
            bytes_min: 0,
            zeros: false,
            seed: 1,
        }
    }

    /// Write the whole span once, in order and in large requests.
    #[must_use]
    pub fn fill(span_bytes: u64) -> Load {
        Load { order: Order::Fill, ..Load::random(0, 8, span_bytes, Duration::ZERO) }.of_blocks(1 << 20)
    }

    /// The same with requests of `block_bytes`, one next to the other.
    #[must_use]
    pub fn of_blocks(self, block_bytes: usize) -> Load {
        Load { block_bytes, stride_bytes: block_bytes as u64, ..self }
    }

    /// The same with dice of its own for each `round` and each `work`: two works of a round must not ask for the same blocks
    /// in the same order.
    #[must_use]
    pub fn of_round(self, round: u64, work: usize) -> Load {
        let mut random = Random(round << 32 | work as u64);
        Load { seed: random.next(), ..self }
    }

    /// It only writes, or writes at all.
    #[must_use]
    pub fn writes(&self) -> bool {
        self.read_percent < 100
    }
}

/// What happened.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Reads and writes that ended.
    pub ios: u64,
    /// From the first submission to the last completion.
    pub elapsed_ns: u64,
    /// Latencies of reads and writes.
    pub latency: Histogram,
    /// Latencies of flushes.
    pub flushes: Histogram,
    /// Longest time without any completion.
    pub gap_ns: u64,
    /// Bytes moved.
    pub bytes: u64,
    /// Of these bytes written.
    pub bytes_written: u64,
}

impl Report {
    /// Reads and writes per second.
    #[must_use]
    pub fn iops(&self) -> f64 {
        self.ios as f64 * 1e9 / self.elapsed_ns as f64
    }

    /// Megabytes (10^6) per second.
    #[must_use]
    pub fn mbps(&self) -> f64 {
        self.bytes as f64 * 1e3 / self.elapsed_ns as f64
    }

    fn merge(&mut self, other: &Report) {
        self.ios += other.ios;
        self.bytes += other.bytes;
        self.bytes_written += other.bytes_written;
        self.elapsed_ns = self.elapsed_ns.max(other.elapsed_ns);
        self.gap_ns = self.gap_ns.max(other.gap_ns);
        self.latency.merge(&other.latency);
        self.flushes.merge(&other.flushes);
    }
}

/// Run `load` on every queue of `disk` at once, until it ends or `stop` is set.
///
/// # Errors
/// The first request that failed, or a back end that fell silent.
pub fn run(disk: &mut Disk, load: &Load, stop: &AtomicBool) -> io::Result<Report> {
    let queues = disk.queues.len() as u64;
    let span_bytes = load.span_bytes.min(disk.capacity_bytes);
    let outcomes: Vec<io::Result<Report>> = std::thread::scope(|scope| {
        let threads = disk.queues.iter_mut().zip(0u64..).map(|(queue, i)| {
            let part = Load { span_bytes, seed: load.seed.wrapping_add(i), ..*load };
            scope.spawn(move || Runner::new(queue, part, (i, queues)).run(stop))
        });
        let threads: Vec<_> = threads.collect();
        threads.into_iter().map(|t| t.join().expect("a load thread does not panic")).collect()
    });
    let mut total = Report::default();
    for outcome in outcomes {
        total.merge(&outcome?);
    }
    Ok(total)
}

struct Runner<'a> {
    queue: &'a mut Queue,
    load: Load,
    blocks: u64,
    shuffled: Vec<u32>,
    next: u64,
    stride: u64,
    submitted: u64,
    writes: u64,
    random: Random,
    started: Vec<Instant>,
    free: Vec<usize>,
    is_flush: Vec<bool>,
    flush_due: bool,
}

impl<'a> Runner<'a> {
    fn new(queue: &'a mut Queue, load: Load, (index, of): (u64, u64)) -> Runner<'a> {
        let blocks = load.span_bytes / load.stride_bytes;
        assert!(blocks > 0 && load.depth * load.block_bytes <= queue.memory_bytes());
        let mut random = Random(load.seed);
        let mut content = vec![0u8; load.depth * load.block_bytes];
        if !load.zeros {
            content.chunks_mut(8).for_each(|c| c.copy_from_slice(&random.next().to_le_bytes()[..c.len()]));
        }
        queue.fill(0, &content);
        let mut shuffled = Vec::new();
        if load.order == Order::Once {
            let mine = (0..blocks).filter(|b| b % of == index);
            shuffled = mine.map(|b| u32::try_from(b).expect("a span of 2^32 blocks at most")).collect();
            (1..shuffled.len())
                .rev()
                .for_each(|i| shuffled.swap(i, (random.next() % (i as u64 + 1)) as usize));
        }
        let started = vec![Instant::now(); load.depth];
        let free = (0..load.depth).collect();
        Runner {
            queue,
            load,
            blocks,
            shuffled,
            next: index,
            stride: of,
            submitted: 0,
            writes: 0,
            random,
            started,
            free,
            is_flush: vec![false; load.depth],
            flush_due: false,
        }
    }

    fn run(mut self, stop: &AtomicBool) -> io::Result<Report> {
        let mut report = Report::default();
        let start = Instant::now();
        let mut last = start;
        loop {
            let ends = matches!(self.load.order, Order::Random | Order::Sequential)
                && start.elapsed() >= self.load.duration
                && self.submitted * self.load.block_bytes as u64 * self.stride >= self.load.bytes_min;
            if !ends && !stop.load(Ordering::Relaxed) {
                while let Some(slot) = self.free.pop() {
                    if !self.submit(slot) {
                        self.free.push(slot);
                        break;
                    }
                }
            }
            if self.free.len() == self.load.depth {
                break;
            }
            let done = self.queue.wait()?;
            let now = Instant::now();
            report.gap_ns = report.gap_ns.max((now - last).as_nanos() as u64);
            last = now;
            for done in done {
                if done.result != 0 {
                    return Err(io::Error::from_raw_os_error(-done.result));
                }
                let took_ns = (now - self.started[done.tag]).as_nanos() as u64;
                if std::mem::take(&mut self.is_flush[done.tag]) {
                    report.flushes.record(took_ns);
                } else {
                    report.ios += 1;
                    report.latency.record(took_ns);
                }
                self.free.push(done.tag);
            }
        }
        report.elapsed_ns = (last - start).as_nanos() as u64;
        report.bytes = report.ios * self.load.block_bytes as u64;
        report.bytes_written = self.writes * self.load.block_bytes as u64;
        Ok(report)
    }

    /// Submit one request in `slot`; false when there is nothing left to do.
    fn submit(&mut self, slot: usize) -> bool {
        if self.flush_due {
            self.flush_due = false;
            self.is_flush[slot] = true;
            self.started[slot] = Instant::now();
            self.queue.flush(slot);
            return true;
        }
        let Some(block) = self.next_block() else { return false };
        let (len, at) = (self.load.block_bytes, slot * self.load.block_bytes);
        let offset_bytes = block * self.load.stride_bytes;
        self.started[slot] = Instant::now();
        if self.random.next() % 100 < u64::from(self.load.read_percent) {
            self.queue.read(offset_bytes, at, len, slot);
        } else {
            self.queue.write(offset_bytes, at, len, slot);
            self.writes += 1;
        }
        self.submitted += 1;
        self.flush_due = self.load.flush_every.is_some_and(|n| self.submitted.is_multiple_of(u64::from(n)));
        true
    }

    fn next_block(&mut self) -> Option<u64> {
        match self.load.order {
            Order::Random => Some(self.random.next() % self.blocks),
            Order::Once => self.shuffled.pop().map(u64::from),
            Order::Sequential | Order::Fill => {
                let block = self.next;
                self.next += self.stride;
                let wraps = self.load.order == Order::Sequential;
                (wraps || block < self.blocks).then_some(block % self.blocks)
            }
        }
    }
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    #[expect(clippy::should_implement_trait, reason = "it never ends, so it is no iterator")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
