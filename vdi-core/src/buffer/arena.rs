//! Memory for the data of writes: blocks handed out one after the other from chunks, each chunk used again when all of
//! it has come back. What is staged together is freed together, so little is lost to chunks that are held by few.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{AlignedBuf, GuestSlice, HostMemory};
use crate::units::BLOCK_SIZE;

/// Bytes that are used again together. Larger buffers come from the heap.
pub const CHUNK_BYTES: usize = 64 * BLOCK_SIZE;
/// Larger buffers up to this size are kept for the next who asks: zeros that nobody needs cost as much as the copy.
const LARGE_BYTES: usize = 256 * BLOCK_SIZE;
/// So many of them at most.
const LARGE_MAX: usize = 16;
/// Bytes that are backed at once.
const STEP_BYTES: usize = 16 * CHUNK_BYTES;

/// Memory that nobody else uses: words, bytes, and one [`Arena`] at a time in its last part.
#[derive(Clone)]
pub struct OwnMemory {
    slice: GuestSlice,
    /// Where the part of the arena starts.
    lent: Arc<AtomicUsize>,
    back: Back,
    #[cfg(any(test, feature = "sim"))]
    touched: Arc<Touched>,
}

/// How far the part before an arena's, and an arena's, were ever used.
#[cfg(any(test, feature = "sim"))]
#[derive(Default)]
struct Touched {
    before: AtomicUsize,
    arena_start: AtomicUsize,
    arena_end: AtomicUsize,
}

/// Sees to it that a range of bytes can be written; false when it cannot.
type Back = Arc<dyn Fn(Range<usize>) -> bool + Send + Sync>;

impl OwnMemory {
    /// `slice`, of which `back` is asked before a part that an arena needs is written for the first time. The rest of it must
    /// be there already.
    ///
    /// # Safety
    /// While this and its clones live nobody else may access the bytes, in this process or another. A range that
    /// `back` has agreed to must stay writable.
    #[must_use]
    pub unsafe fn new(
        slice: GuestSlice,
        back: impl Fn(Range<usize>) -> bool + Send + Sync + 'static,
    ) -> OwnMemory {
        OwnMemory {
            slice,
            lent: Arc::new(AtomicUsize::new(usize::MAX)),
            back: Arc::new(back),
            #[cfg(any(test, feature = "sim"))]
            touched: Arc::default(),
        }
    }
    /// `len` zero bytes that end with the process.
    #[must_use]
    pub fn zeroed(len: usize) -> OwnMemory {
        // SAFETY: nobody else has this slice, and all of it is there.
        unsafe { OwnMemory::new(HostMemory::slice(len), |_| true) }
    }
    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slice.len()
    }
    /// True when there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slice.is_empty()
    }
    /// The aligned word at byte `at`. Panics when it is out of range or an arena's.
    #[must_use]
    pub fn load(&self, at: usize) -> u64 {
        self.check(at..at + 8);
        self.slice.word(at).load(Ordering::Acquire)
    }
    /// Set the aligned word at byte `at`, after everything that was stored before. Panics when it is out of range or an
    /// arena's.
    pub fn store(&self, at: usize, value: u64) {
        self.check(at..at + 8);
        self.note(at + 8);
        self.slice.word(at).store(value, Ordering::Release);
    }
    /// Overwrite the bytes from `at` on. Panics when they are out of range or an arena's.
    pub fn copy_in(&self, at: usize, src: &[u8]) {
        self.check(at..at + src.len());
        self.note(at + src.len());
        self.slice.copy_in(at, src);
    }
    /// Copy the bytes from `at` on to `dst`. Panics when they are out of range or an arena's.
    pub fn copy_out(&self, at: usize, dst: &mut [u8]) {
        self.check(at..at + dst.len());
        self.slice.copy_out(at, dst);
    }
    /// The pages that are not zero, an arena's too, with where they start: what a kill leaves.
    #[cfg(any(test, feature = "sim"))]
    #[must_use]
    pub fn pages(&self) -> Vec<(usize, Box<[u8]>)> {
        let mut page = vec![0; BLOCK_SIZE];
        let mut pages = Vec::new();
        let t = &self.touched;
        let [before, start, end] =
            [&t.before, &t.arena_start, &t.arena_end].map(|at| at.load(Ordering::Relaxed));
        let all = (0..before).step_by(BLOCK_SIZE).chain((start..end).step_by(BLOCK_SIZE));
        for at in all {
            let page = &mut page[..BLOCK_SIZE.min(self.len() - at)];
            self.slice.copy_out(at, page);
            if page.iter().any(|b| *b != 0) {
                pages.push((at, page.to_vec().into_boxed_slice()));
            }
        }
        pages
    }
    #[cfg(any(test, feature = "sim"))]
    fn note(&self, end: usize) {
        self.touched.before.fetch_max(end, Ordering::Relaxed);
    }
    #[cfg(not(any(test, feature = "sim")))]
    fn note(&self, _: usize) {}
    fn check(&self, range: Range<usize>) {
        assert!(range.end <= self.lent.load(Ordering::Relaxed), "{range:?} is the arena's");
    }
    /// An arena from `start` on, which is aligned to 4 KiB; None while there is one already.
    #[must_use]
    pub fn arena(&self, start: usize) -> Option<Arena> {
        assert!(start <= self.len() && start.is_multiple_of(BLOCK_SIZE));
        let (free, relaxed) = (usize::MAX, Ordering::Relaxed);
        self.lent.compare_exchange(free, start, Ordering::Acquire, relaxed).ok()?;
        let chunks = (self.len() - start) / CHUNK_BYTES;
        Some(Arena(Rc::new(Inner {
            memory: self.clone(),
            start,
            live: (0..chunks).map(|_| Cell::new(0)).collect(),
            backed: Cell::new(0),
            refused: Cell::new(false),
            fresh: Cell::new(0),
            free: RefCell::default(),
            current: Cell::new(None),
            large: RefCell::default(),
        })))
    }
}
impl std::fmt::Debug for OwnMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OwnMemory({} bytes)", self.len())
    }
}

/// Handle on an arena; clones share it, and so do the buffers that come from it.
#[derive(Clone)]
pub struct Arena(Rc<Inner>);

pub(super) struct Inner {
    memory: OwnMemory,
    start: usize,
    /// Buffers in each chunk.
    live: Vec<Cell<u32>>,
    /// Chunks that can be written.
    backed: Cell<usize>,
    /// More was refused since a chunk was last given back.
    refused: Cell<bool>,
    /// Chunks from here on were never used.
    fresh: Cell<usize>,
    /// Used before, and empty.
    free: RefCell<Vec<usize>>,
    /// The chunk that buffers come from, and how much of it is taken.
    current: Cell<Option<(usize, usize)>>,
    /// From the heap, [`LARGE_BYTES`] each.
    large: RefCell<Vec<AlignedBuf>>,
}

impl Arena {
    /// A buffer of `len` bytes, holding whatever was there; None when it is longer than 1 MiB or there is no room.
    #[must_use]
    pub fn take(&self, len: usize) -> Option<AlignedBuf> {
        let inner = &self.0;
        let bytes = len.next_multiple_of(BLOCK_SIZE);
        if len == 0 || bytes > LARGE_BYTES {
            return None;
        }
        if bytes > CHUNK_BYTES {
            let kept = inner.large.borrow_mut().pop();
            let whole = std::mem::ManuallyDrop::new(kept.unwrap_or_else(|| AlignedBuf::zeroed(LARGE_BYTES)));
            return Some(AlignedBuf { ptr: whole.ptr, len, arena: Some(Rc::clone(inner)) });
        }
        let (chunk, taken) = match inner.current.get() {
            Some((chunk, taken)) if taken + bytes <= CHUNK_BYTES => (chunk, taken),
            _ => (inner.next_chunk()?, 0),
        };
        inner.current.set(Some((chunk, taken + bytes)));
        inner.live[chunk].set(inner.live[chunk].get() + 1);
        let at = inner.start + chunk * CHUNK_BYTES + taken;
        #[cfg(any(test, feature = "sim"))]
        {
            let touched = &inner.memory.touched;
            touched.arena_start.store(inner.start, Ordering::Relaxed);
            touched.arena_end.fetch_max(at + bytes, Ordering::Relaxed);
        }
        let ptr = inner.memory.slice.as_ptr().wrapping_add(at);
        let ptr = NonNull::new(ptr).expect("within the memory");
        Some(AlignedBuf { ptr, len, arena: Some(Rc::clone(inner)) })
    }
    /// Where in the memory `buf` starts, if it comes from there.
    #[must_use]
    pub fn offset_of(&self, buf: &AlignedBuf) -> Option<usize> {
        let here = buf.arena.as_ref().is_some_and(|a| Rc::ptr_eq(a, &self.0)) && buf.len <= CHUNK_BYTES;
        here.then(|| self.0.start + self.0.offset(buf.ptr))
    }
}

impl Inner {
    fn next_chunk(&self) -> Option<usize> {
        if let Some(chunk) = self.free.borrow_mut().pop() {
            return Some(chunk);
        }
        let chunk = self.fresh.get();
        if chunk == self.live.len() {
            return None;
        }
        if chunk == self.backed.get() {
            if self.refused.get() {
                return None;
            }
            let end = self.live.len().min(chunk + STEP_BYTES / CHUNK_BYTES);
            let at = |chunk| self.start + chunk * CHUNK_BYTES;
            if !(self.memory.back)(at(chunk)..at(end)) {
                self.refused.set(true);
                return None;
            }
            self.backed.set(end);
        }
        self.fresh.set(chunk + 1);
        Some(chunk)
    }
    /// From the arena's start.
    fn offset(&self, ptr: NonNull<u8>) -> usize {
        ptr.as_ptr() as usize - self.memory.slice.as_ptr() as usize - self.start
    }
    /// The buffer of `len` bytes at `ptr` is gone.
    pub fn give_back(&self, ptr: NonNull<u8>, len: usize) {
        if len > CHUNK_BYTES {
            let whole = AlignedBuf { ptr, len: LARGE_BYTES, arena: None };
            let mut large = self.large.borrow_mut();
            if large.len() < LARGE_MAX {
                large.push(whole);
            }
            return;
        }
        let chunk = self.offset(ptr) / CHUNK_BYTES;
        let left = self.live[chunk].get() - 1;
        self.live[chunk].set(left);
        if left > 0 {
            return;
        }
        self.refused.set(false);
        match self.current.get() {
            Some((current, _)) if current == chunk => self.current.set(Some((chunk, 0))),
            _ => self.free.borrow_mut().push(chunk),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.memory.lent.store(usize::MAX, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::device::simulated::Random;

    #[test]
    fn buffers_are_apart_and_keep_their_bytes_whatever_comes_and_goes() {
        let memory = OwnMemory::zeroed(BLOCK_SIZE + 24 * CHUNK_BYTES);
        let arena = memory.arena(BLOCK_SIZE).unwrap();
        let mut random = Random::new(1);
        let mut held: VecDeque<(u8, AlignedBuf)> = VecDeque::new();
        let (mut refused, mut largest) = (0, 0);
        for n in 0..20_000u32 {
            let blocks = if random.coin() { 1 } else { random.within(1..17) };
            match arena.take(blocks as usize * BLOCK_SIZE) {
                Some(mut buf) => {
                    buf.fill(n as u8);
                    assert!(arena.offset_of(&buf).unwrap().is_multiple_of(BLOCK_SIZE));
                    held.push_back((n as u8, buf));
                }
                None => refused += 1,
            }
            let bytes: usize = held.iter().map(|(_, b)| b.len()).sum();
            largest = largest.max(bytes);
            while held.len() as u64 > random.below(600) {
                // Most go in order.
                let at = if random.below(8) == 0 { random.below(held.len() as u64) as usize } else { 0 };
                let (n, buf) = held.remove(at).unwrap();
                assert!(buf.iter().all(|b| *b == n));
            }
        }
        assert!(refused > 0 && largest > 16 * CHUNK_BYTES, "{refused} refused, {largest} bytes at most");
        held.clear();
        let all: Vec<_> = (0..24).map(|_| arena.take(CHUNK_BYTES).expect("all came back")).collect();
        assert!(arena.take(1).is_none());
        drop(all);
    }

    #[test]
    fn the_memory_of_an_arena_is_nobody_elses_until_its_last_buffer_is_gone() {
        let memory = OwnMemory::zeroed(2 * CHUNK_BYTES);
        let arena = memory.arena(CHUNK_BYTES).unwrap();
        assert!(arena.take(LARGE_BYTES + 1).is_none());
        let buf = arena.take(1).unwrap();
        assert_eq!(arena.offset_of(&buf), Some(CHUNK_BYTES));
        assert_eq!(arena.offset_of(&AlignedBuf::block()), None);
        memory.store(CHUNK_BYTES - 8, 1);
        drop(arena);
        assert!(memory.arena(CHUNK_BYTES).is_none());
        drop(buf);
        memory.copy_in(CHUNK_BYTES, &[1]);
        assert!(memory.arena(0).is_some());
    }

    #[test]
    fn large_buffers_are_used_again_and_not_too_many_kept() {
        let memory = OwnMemory::zeroed(0);
        let arena = memory.arena(0).unwrap();
        let mut one = arena.take(CHUNK_BYTES + 1).unwrap();
        one.fill(1);
        assert_eq!((one.len(), arena.offset_of(&one)), (CHUNK_BYTES + 1, None));
        drop(one);
        let all: Vec<_> = (0..2 * LARGE_MAX).map(|_| arena.take(LARGE_BYTES).unwrap()).collect();
        assert_eq!(all.iter().filter(|b| b[0] == 1).count(), 1);
        drop(all);
        assert_eq!(arena.0.large.borrow().len(), LARGE_MAX);
    }

    #[test]
    fn what_cannot_be_backed_is_not_handed_out() {
        let full = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&full);
        let len = 2 * STEP_BYTES;
        // SAFETY: nobody else has this slice.
        let memory =
            unsafe { OwnMemory::new(HostMemory::slice(len), move |_| !asked.load(Ordering::Relaxed)) };
        let arena = memory.arena(0).unwrap();
        let first = arena.take(1);
        full.store(true, Ordering::Relaxed);
        let more: Vec<_> = (0..).map_while(|_| arena.take(CHUNK_BYTES)).collect();
        assert_eq!(more.len(), STEP_BYTES / CHUNK_BYTES - 1);
        drop((first, more));
        full.store(false, Ordering::Relaxed);
        let all: Vec<_> = (0..).map_while(|_| arena.take(CHUNK_BYTES)).collect();
        assert_eq!(all.len(), 2 * STEP_BYTES / CHUNK_BYTES);
    }
}
