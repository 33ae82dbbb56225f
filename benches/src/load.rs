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
    /// Each block once, shuffled; ends early when all are done.
    Once,
    /// Each block once in order, whatever the time.
    Fill,
}

/// What to do to a disk.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Bytes per request.
    pub block_bytes: usize,
    /// Requests in flight per queue.
    pub depth: usize,
    /// Share of reads, percent; the rest are writes.
    pub read_percent: u8,
    /// Order of blocks.
    pub order: Order,
    /// Bytes from the start of the disk that are used.
    pub span_bytes: u64,
    /// A flush after so many requests.
    pub flush_every: Option<u32>,
    /// How long.
    pub duration: Duration,
    /// Same seed, same requests.
    pub seed: u64,
}

impl Load {
    /// Random requests of 4 KiB.
    #[must_use]
    pub fn random(read_percent: u8, depth: usize, span_bytes: u64, duration: Duration) -> Load {
        Load {
            block_bytes: 4096,
            depth,
            read_percent,
            order: Order::Random,
            span_bytes,
            flush_every: None,
            duration,
            seed: 1,
        }
    }

    /// Write the whole span once, in order and in large requests.
    #[must_use]
    pub fn fill(span_bytes: u64) -> Load {
        let random = Load::random(0, 8, span_bytes, Duration::ZERO);
        Load { block_bytes: 1 << 20, order: Order::Fill, ..random }
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
    /// Longest time without any completion.
    pub gap_ns: u64,
    /// Bytes moved.
    pub bytes: u64,
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
        self.elapsed_ns = self.elapsed_ns.max(other.elapsed_ns);
        self.gap_ns = self.gap_ns.max(other.gap_ns);
        self.latency.merge(&other.latency);
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
            let part = Load { span_bytes, seed: load.seed * 1000 + i, ..*load };
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

const FLUSH: usize = usize::MAX;

struct Runner<'a> {
    queue: &'a mut Queue,
    load: Load,
    blocks: u64,
    shuffled: Vec<u32>,
    next: u64,
    stride: u64,
    submitted: u64,
    random: Random,
    started: Vec<Instant>,
    free: Vec<usize>,
    flushes: usize,
}

impl<'a> Runner<'a> {
    fn new(queue: &'a mut Queue, load: Load, (index, of): (u64, u64)) -> Runner<'a> {
        let blocks = load.span_bytes / load.block_bytes as u64;
        assert!(blocks > 0 && load.depth * load.block_bytes <= queue.memory_bytes());
        let mut random = Random(load.seed);
        let mut content = vec![0u8; load.depth * load.block_bytes];
        content.chunks_mut(8).for_each(|c| c.copy_from_slice(&random.next().to_le_bytes()[..c.len()]));
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
            random,
            started,
            free,
            flushes: 0,
        }
    }

    fn run(mut self, stop: &AtomicBool) -> io::Result<Report> {
        let mut report = Report::default();
        let start = Instant::now();
        let mut last = start;
        loop {
            let timed = self.load.order != Order::Fill && start.elapsed() >= self.load.duration;
            if !timed && !stop.load(Ordering::Relaxed) {
                while let Some(slot) = self.free.pop() {
                    if !self.submit(slot) {
                        self.free.push(slot);
                        break;
                    }
                }
            }
            if self.free.len() == self.load.depth && self.flushes == 0 {
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
                if done.tag == FLUSH {
                    self.flushes -= 1;
                    continue;
                }
                report.ios += 1;
                report.latency.record((now - self.started[done.tag]).as_nanos() as u64);
                self.free.push(done.tag);
            }
        }
        report.elapsed_ns = (last - start).as_nanos() as u64;
        report.bytes = report.ios * self.load.block_bytes as u64;
        Ok(report)
    }

    /// Submit one request in `slot`; false when there is nothing left to do.
    fn submit(&mut self, slot: usize) -> bool {
        let Some(block) = self.next_block() else { return false };
        let (len, at) = (self.load.block_bytes, slot * self.load.block_bytes);
        let offset_bytes = block * len as u64;
        self.started[slot] = Instant::now();
        if self.random.next() % 100 < u64::from(self.load.read_percent) {
            self.queue.read(offset_bytes, at, len, slot);
        } else {
            self.queue.write(offset_bytes, at, len, slot);
        }
        self.submitted += 1;
        if self.load.flush_every.is_some_and(|n| self.submitted.is_multiple_of(u64::from(n))) {
            self.queue.flush(FLUSH);
            self.flushes += 1;
        }
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
