//! Memory that devices read and write: aligned blocks of our own, and handles on guest memory.
//!
//! Invariants:
//! - an [`AlignedBuf`] is aligned to 4 KiB (what O_DIRECT needs) and always initialised;
//! - a [`GuestSlice`] keeps its region mapped for as long as it lives, and no Rust reference is
//!   ever made to the memory of a guest behind it, which the guest may change at any time.

#![expect(unsafe_code, reason = "memory the kernel and guests write: raw pointers with a keep-alive")]

mod arena;

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::any::Any;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use smallvec::SmallVec;

use crate::units::BLOCK_SIZE;

pub use arena::{Arena, CHUNK_BYTES, OwnMemory};

/// Memory aligned to 4 KiB, from the heap or an [`Arena`].
pub struct AlignedBuf {
    ptr: NonNull<u8>,
    len: usize,
    /// Where it comes from, if not from the heap.
    arena: Option<Rc<arena::Inner>>,
}

impl AlignedBuf {
    /// `len` zero bytes.
    #[must_use]
    pub fn zeroed(len: usize) -> AlignedBuf {
        if len == 0 {
            return AlignedBuf { ptr: NonNull::dangling(), len, arena: None };
        }
        let layout = Self::layout(len);
        // SAFETY: the layout has a non-zero size.
        let raw = unsafe { alloc_zeroed(layout) };
        match NonNull::new(raw) {
            Some(ptr) => AlignedBuf { ptr, len, arena: None },
            None => handle_alloc_error(layout),
        }
    }
    /// One zeroed block.
    #[must_use]
    pub fn block() -> AlignedBuf {
        AlignedBuf::zeroed(BLOCK_SIZE)
    }
    /// A copy of `bytes`.
    #[must_use]
    pub fn copy_of(bytes: &[u8]) -> AlignedBuf {
        let mut b = AlignedBuf::zeroed(bytes.len());
        b.copy_from_slice(bytes);
        b
    }
    fn layout(len: usize) -> Layout {
        Layout::from_size_align(len, BLOCK_SIZE).expect("buffer length fits an allocation")
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        match &self.arena {
            Some(arena) => arena.give_back(self.ptr, self.len),
            None if self.len == 0 => {}
            // SAFETY: allocated in `zeroed` with this very layout, freed once.
            None => unsafe { dealloc(self.ptr.as_ptr(), Self::layout(self.len)) },
        }
    }
}
impl Deref for AlignedBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: ptr is valid for len initialised bytes (dangling only when len is 0) that only we have.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}
impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in deref, and we are borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}
impl std::fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AlignedBuf({} bytes)", self.len)
    }
}

/// A piece of memory that someone else may read or write at any time (a guest), kept mapped.
#[derive(Clone)]
pub struct GuestSlice {
    ptr: NonNull<u8>,
    len: usize,
    keep: Arc<dyn Any + Send + Sync>,
}

impl GuestSlice {
    /// A handle on `len` bytes at `ptr`.
    ///
    /// # Safety
    /// The bytes must stay mapped readable and writable for as long as `keep` lives, and no Rust
    /// reference to them may exist at any time.
    #[must_use]
    pub unsafe fn new(ptr: NonNull<u8>, len: usize, keep: Arc<dyn Any + Send + Sync>) -> GuestSlice {
        GuestSlice { ptr, len, keep }
    }
    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }
    /// True when there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Address of the first byte, for handing to the kernel.
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }
    /// The bytes `range` of this slice. Panics when out of range.
    #[must_use]
    pub fn sub(&self, range: Range<usize>) -> GuestSlice {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {}", self.len);
        // SAFETY: the offset stays within the slice.
        let ptr = unsafe { self.ptr.add(range.start) };
        GuestSlice { ptr, len: range.end - range.start, keep: Arc::clone(&self.keep) }
    }
    /// Copy the whole slice to `dst` (same length).
    pub fn copy_to(&self, dst: &mut [u8]) {
        assert_eq!(dst.len(), self.len);
        self.copy_out(0, dst);
    }
    /// Copy the bytes from `at` on to `dst`. Panics when out of range.
    pub fn copy_out(&self, at: usize, dst: &mut [u8]) {
        assert!(at <= self.len && dst.len() <= self.len - at, "{} bytes at {at} of {}", dst.len(), self.len);
        // SAFETY: in range, mapped while `keep` lives; dst is ours and disjoint (no reference to guest memory exists).
        unsafe { std::ptr::copy_nonoverlapping(self.ptr.as_ptr().add(at), dst.as_mut_ptr(), dst.len()) }
    }
    /// Overwrite the bytes from `at` on with `src`. Panics when out of range.
    pub fn copy_in(&self, at: usize, src: &[u8]) {
        assert!(at <= self.len && src.len() <= self.len - at, "{} bytes at {at} of {}", src.len(), self.len);
        // SAFETY: as in copy_to, the other way round; in range.
        unsafe { std::ptr::copy_nonoverlapping(src.as_ptr(), self.ptr.as_ptr().add(at), src.len()) }
    }
    /// Overwrite the whole slice from `src` (same length).
    pub fn copy_from(&self, src: &[u8]) {
        assert_eq!(src.len(), self.len);
        // SAFETY: as in copy_to, the other way round.
        unsafe { std::ptr::copy_nonoverlapping(src.as_ptr(), self.ptr.as_ptr(), self.len) }
    }
    /// The aligned word at byte `at`, which others may read or write at any time. Panics when out of range.
    #[must_use]
    pub fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8) && at + 8 <= self.len, "word at {at} of {}", self.len);
        // SAFETY: in range and mapped while `self` lives; checked to be aligned; atomics may be shared with anyone.
        let word = unsafe { self.ptr.add(at).cast::<u64>() };
        assert!(word.as_ptr().is_aligned());
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(word.as_ptr()) }
    }
    /// Overwrite the whole slice with zeros.
    pub fn fill_zero(&self) {
        // SAFETY: mapped writable while `keep` lives.
        unsafe { std::ptr::write_bytes(self.ptr.as_ptr(), 0, self.len) }
    }
}
impl std::fmt::Debug for GuestSlice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GuestSlice({} bytes)", self.len)
    }
}

/// Our own memory behind [`GuestSlice`] handles: bounce buffers, tests, the simulator's guests.
pub struct HostMemory(AlignedBuf);

// SAFETY: the buffer is from the heap, which any thread may free, and nothing of it is handed out but its address.
unsafe impl Send for HostMemory {}
// SAFETY: as above.
unsafe impl Sync for HostMemory {}

impl HostMemory {
    /// `len` zeroed bytes as one slice; they live as long as the slice and its clones.
    #[must_use]
    pub fn slice(len: usize) -> GuestSlice {
        let memory = Arc::new(HostMemory(AlignedBuf::zeroed(len)));
        let ptr = memory.0.ptr;
        // SAFETY: the Arc keeps the allocation; HostMemory never hands out a reference to it.
        unsafe { GuestSlice::new(ptr, len, memory) }
    }
    /// A slice holding a copy of `bytes`.
    #[must_use]
    pub fn copy_of(bytes: &[u8]) -> GuestSlice {
        let s = HostMemory::slice(bytes.len());
        s.copy_from(bytes);
        s
    }
}

/// The data buffers of one guest request, in order.
#[derive(Clone, Debug, Default)]
pub struct GuestBufs {
    slices: SmallVec<[GuestSlice; 4]>,
    len: usize,
}

impl GuestBufs {
    /// No buffers.
    #[must_use]
    pub fn new() -> GuestBufs {
        GuestBufs::default()
    }
    /// Append a slice.
    pub fn push(&mut self, slice: GuestSlice) {
        self.len += slice.len();
        self.slices.push(slice);
    }
    /// Total bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }
    /// True when there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// The slices in order.
    #[must_use]
    pub fn slices(&self) -> &[GuestSlice] {
        &self.slices
    }
    /// The pieces that make up bytes `range`. Panics when out of range.
    #[must_use]
    pub fn range(&self, range: Range<usize>) -> GuestBufs {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {}", self.len);
        let mut out = GuestBufs::new();
        let mut at = 0;
        for s in &self.slices {
            let (from, to) = (range.start.max(at), range.end.min(at + s.len()));
            if from < to {
                out.push(s.sub(from - at..to - at));
            }
            at += s.len();
            if at >= range.end {
                break;
            }
        }
        out
    }
    /// Copy the bytes from `at` on to `dst`. Panics when out of range.
    pub fn copy_out(&self, mut at: usize, mut dst: &mut [u8]) {
        assert!(at <= self.len && dst.len() <= self.len - at, "{} bytes at {at} of {}", dst.len(), self.len);
        for s in &self.slices {
            if at >= s.len() {
                at -= s.len();
                continue;
            }
            let (now, rest) = dst.split_at_mut(dst.len().min(s.len() - at));
            s.copy_out(at, now);
            (at, dst) = (0, rest);
            if dst.is_empty() {
                break;
            }
        }
    }
    /// Copy everything to `dst` (same length).
    pub fn copy_to(&self, dst: &mut [u8]) {
        assert_eq!(dst.len(), self.len);
        let mut at = 0;
        for s in &self.slices {
            s.copy_to(&mut dst[at..at + s.len()]);
            at += s.len();
        }
    }
    /// Overwrite everything from `src` (same length).
    pub fn copy_from(&self, src: &[u8]) {
        assert_eq!(src.len(), self.len);
        let mut at = 0;
        for s in &self.slices {
            s.copy_from(&src[at..at + s.len()]);
            at += s.len();
        }
    }
    /// Overwrite everything with zeros.
    pub fn fill_zero(&self) {
        for s in &self.slices {
            s.fill_zero();
        }
    }
}

impl From<GuestSlice> for GuestBufs {
    fn from(slice: GuestSlice) -> GuestBufs {
        let mut b = GuestBufs::new();
        b.push(slice);
        b
    }
}

/// Memory of one device operation; the operation owns it until it completes.
#[derive(Debug)]
pub enum IoBuf {
    /// Ours alone: reads and writes.
    Owned(AlignedBuf),
    /// Bytes of a buffer that others may read meanwhile: writes only.
    Shared(Rc<AlignedBuf>, Range<usize>),
    /// Guest memory: reads (checksummed after) and writes.
    Guest(GuestSlice),
}

impl IoBuf {
    /// Address of the first byte.
    #[must_use]
    pub fn as_ptr(&self) -> *const u8 {
        match self {
            IoBuf::Owned(b) => b.ptr.as_ptr(),
            IoBuf::Shared(b, r) => b[r.clone()].as_ptr(),
            IoBuf::Guest(g) => g.as_ptr(),
        }
    }
    /// Address of the first byte, for a device that writes into it. Panics for shared memory.
    #[must_use]
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        match self {
            IoBuf::Owned(b) => b.ptr.as_ptr(),
            IoBuf::Shared(..) => panic!("a device read into shared memory"),
            IoBuf::Guest(g) => g.as_ptr(),
        }
    }
    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            IoBuf::Owned(b) => b.len(),
            IoBuf::Shared(_, r) => r.len(),
            IoBuf::Guest(g) => g.len(),
        }
    }
    /// True when there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Copy everything to `dst` (same length).
    pub fn copy_to(&self, dst: &mut [u8]) {
        match self {
            IoBuf::Owned(b) => dst.copy_from_slice(b),
            IoBuf::Shared(b, r) => dst.copy_from_slice(&b[r.clone()]),
            IoBuf::Guest(g) => g.copy_to(dst),
        }
    }
    /// Overwrite everything from `src` (same length). Panics for shared memory.
    pub fn copy_from(&mut self, src: &[u8]) {
        match self {
            IoBuf::Owned(b) => b.copy_from_slice(src),
            IoBuf::Shared(..) => panic!("a device read into shared memory"),
            IoBuf::Guest(g) => g.copy_from(src),
        }
    }
}

/// The buffers of one device operation, in order.
pub type IoBufs = SmallVec<[IoBuf; 2]>;

/// Whether `bytes` are only zeros: each equals the one before it. Opening a store looks at many empty slots.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    bytes.first().is_none_or(|first| *first == 0 && bytes[1..] == bytes[..bytes.len() - 1])
}

/// CRC-32C (Castagnoli) of `bytes`, the checksum of every structure and block (RFC 3720, appendix B.4).
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_matches_the_published_check_value() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn a_range_of_guest_buffers_crosses_slice_boundaries() {
        let mut b = GuestBufs::new();
        b.push(HostMemory::copy_of(&[1, 2, 3]));
        b.push(HostMemory::copy_of(&[4, 5]));
        b.push(HostMemory::copy_of(&[6, 7, 8, 9]));
        let mut out = [0; 4];
        b.range(2..6).copy_to(&mut out);
        assert_eq!(out, [3, 4, 5, 6]);
        let mut part = [0; 6];
        b.copy_out(1, &mut part);
        assert_eq!(part, [2, 3, 4, 5, 6, 7]);
        b.range(2..6).copy_from(&[30, 40, 50, 60]);
        let mut all = [0; 9];
        b.copy_to(&mut all);
        assert_eq!(all, [1, 2, 30, 40, 50, 60, 7, 8, 9]);
        assert_eq!(b.range(4..4).len(), 0);
    }
}
