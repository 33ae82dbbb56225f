//! A guest's view of one disk: the `blkio` front end on a vhost-user socket, and the memory it shares.

#![expect(unsafe_code, reason = "memory shared with the daemon, and completions that blkio fills")]

use std::io;
use std::mem::MaybeUninit;
use std::path::Path;
use std::time::{Duration, Instant};

use blkio::{Blkio, Blkioq, Completion, MemoryRegion, ReqFlags};

/// Longest wait for any completion: `blkio` does not notice a back end that dies.
const WAIT_MAX: Duration = Duration::from_secs(20);
/// Completions taken at once.
const BATCH: usize = 64;

/// A connected disk; its queues may move to threads of their own.
pub struct Disk {
    /// The request queues, each with memory of its own.
    pub queues: Vec<Queue>,
    /// Size, bytes.
    pub capacity_bytes: u64,
    // Holds the connection; after the queues, which use it.
    _blkio: Blkio,
}

/// One request queue and its part of the shared memory.
pub struct Queue {
    queue: Blkioq,
    region: MemoryRegion,
    completions: Vec<MaybeUninit<Completion>>,
    done: Vec<Done>,
}

/// A finished request.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// What the request was submitted with.
    pub tag: usize,
    /// Zero, or a negative errno.
    pub result: i32,
}

impl Disk {
    /// Connect to `socket` with `queues` queues, each with `memory_bytes` of shared memory (multiple of 4 KiB).
    ///
    /// # Errors
    /// Whatever the socket or the back end answers.
    pub fn connect(socket: &Path, queues: usize, memory_bytes: usize) -> io::Result<Disk> {
        let path = socket.to_str().ok_or_else(|| io::Error::other("the socket path is not UTF-8"))?;
        let start = || -> blkio::Result<Disk> {
            let mut blkio = Blkio::new("virtio-blk-vhost-user")?;
            blkio.set_str("path", path)?;
            blkio.connect()?;
            let capacity_bytes = blkio.get_u64("capacity")?;
            blkio.set_i32("num-queues", i32::try_from(queues).expect("a few queues"))?;
            blkio.set_i32("queue-size", 256)?;
            let started = blkio.start()?;
            let mut with_memory = Vec::new();
            for queue in started.queues {
                let region = blkio.alloc_mem_region(memory_bytes)?;
                blkio.map_mem_region(&region)?;
                let completions = (0..BATCH).map(|_| MaybeUninit::uninit()).collect();
                with_memory.push(Queue { queue, region, completions, done: Vec::new() });
            }
            Ok(Disk { queues: with_memory, capacity_bytes, _blkio: blkio })
        };
        start().map_err(|e| io::Error::other(format!("{path}: {e}")))
    }

    /// [`Disk::connect`], tried again until it succeeds or `patience` is over.
    ///
    /// # Errors
    /// The last one.
    pub fn connect_within(
        socket: &Path,
        queues: usize,
        memory_bytes: usize,
        patience: Duration,
    ) -> io::Result<Disk> {
        let start = Instant::now();
        loop {
            match Disk::connect(socket, queues, memory_bytes) {
                Err(_) if start.elapsed() < patience => std::thread::sleep(Duration::from_millis(1)),
                outcome => return outcome,
            }
        }
    }
}

impl Queue {
    /// Bytes of shared memory.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.region.len
    }

    fn at(&self, at: usize, len: usize) -> *mut u8 {
        assert!(at.checked_add(len).is_some_and(|end| end <= self.region.len), "outside the shared memory");
        (self.region.addr + at) as *mut u8
    }

    /// Copy `bytes` into the shared memory at `at`.
    pub fn fill(&mut self, at: usize, bytes: &[u8]) {
        let to = self.at(at, bytes.len());
        // SAFETY: `at` checked that the range lies in the mapping, which lives as long as the queue; `bytes` is
        // ours and so does not overlap it.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) }
    }

    /// Copy out of the shared memory at `at`.
    pub fn copy_out(&self, at: usize, bytes: &mut [u8]) {
        let from = self.at(at, bytes.len());
        // SAFETY: as in `fill`, the other way round.
        unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len()) }
    }

    /// Read `len` bytes at `offset_bytes` of the disk to `at` of the memory.
    pub fn read(&mut self, offset_bytes: u64, at: usize, len: usize, tag: usize) {
        let to = self.at(at, len);
        self.queue.read(offset_bytes, to, len, tag, ReqFlags::empty());
    }

    /// Write `len` bytes from `at` of the memory to `offset_bytes` of the disk.
    pub fn write(&mut self, offset_bytes: u64, at: usize, len: usize, tag: usize) {
        let from = self.at(at, len);
        self.queue.write(offset_bytes, from, len, tag, ReqFlags::empty());
    }

    /// Discard `len` bytes at `offset_bytes` of the disk.
    pub fn discard(&mut self, offset_bytes: u64, len: u64, tag: usize) {
        self.queue.discard(offset_bytes, len, tag, ReqFlags::empty());
    }

    /// Zero `len` bytes at `offset_bytes` of the disk.
    pub fn write_zeroes(&mut self, offset_bytes: u64, len: u64, tag: usize) {
        self.queue.write_zeroes(offset_bytes, len, tag, ReqFlags::empty());
    }

    /// Make completed writes durable.
    pub fn flush(&mut self, tag: usize) {
        self.queue.flush(tag, ReqFlags::empty());
    }

    /// Wait for at least one completion.
    ///
    /// # Errors
    /// `TimedOut` when nothing ends within 20 s.
    pub fn wait(&mut self) -> io::Result<&[Done]> {
        let mut timeout = WAIT_MAX;
        let count = self
            .queue
            .do_io(&mut self.completions, 1, Some(&mut timeout), None)
            .map_err(|e| io::Error::new(io::ErrorKind::TimedOut, e.to_string()))?;
        self.done.clear();
        for completion in &self.completions[..count] {
            // SAFETY: `do_io` has initialised the first `count` completions.
            let completion = unsafe { completion.assume_init_ref() };
            self.done.push(Done { tag: completion.user_data, result: completion.ret });
        }
        Ok(&self.done)
    }
}
