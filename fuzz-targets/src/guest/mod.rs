//! A guest's memory: a file the device maps, and copies of it to compare. Three regions, two of them side by side, the
//! third behind a hole.

mod offer;

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs::MemfdFlags;
use vhost_parallax::vhost::guest_memory::{GuestMemory, Region, RegionPlace};

pub use offer::write_request;

/// Where the memory begins in the front end's (pretended) address space.
pub const USER_BASE: u64 = 0x7f00_0000_0000;
/// Bytes of the file; a copy of it stays below what the sanitizer's allocator maps anew each time.
pub const FILE_BYTES: usize = 0x1_c000;
/// Guest address and offset in the file of each region, with its length.
pub const REGIONS: [(u64, u64, u64); 3] =
    [(0, 0, 0x1_0000), (0x1_0000, 0x1_0000, 0x8000), (0x10_0000, 0x1_8000, 0x4000)];

/// Guest addresses of descriptor table, available ring and used ring, where nobody says otherwise.
pub const RING: [u64; 3] = [0x1000, 0x2000, 0x3000];

/// The memory.
pub struct Guest {
    file: File,
}

impl Default for Guest {
    fn default() -> Guest {
        Guest::new()
    }
}

impl Guest {
    /// Zeroed memory.
    ///
    /// # Panics
    /// Where the process has no descriptors left.
    #[must_use]
    pub fn new() -> Guest {
        let fd = rustix::fs::memfd_create("fuzz-guest", MemfdFlags::CLOEXEC).expect("a memory file");
        let file = File::from(fd);
        file.set_len(FILE_BYTES as u64).expect("a memory file takes a few kilobytes");
        Guest { file }
    }
    /// The file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }
    /// The memory as the device has it: mapped anew.
    ///
    /// # Panics
    /// Where it cannot be mapped.
    #[must_use]
    pub fn table(&self) -> Option<Arc<GuestMemory>> {
        let regions = REGIONS.iter().map(|(guest_addr, file_offset, len_bytes)| {
            let place = RegionPlace {
                guest_addr: *guest_addr,
                len_bytes: *len_bytes,
                user_addr: USER_BASE + file_offset,
                file_offset: *file_offset,
            };
            Region::map(place, self.file.try_clone().expect("a descriptor is to be had")).ok()
        });
        GuestMemory::new(regions.collect::<Option<_>>()?).ok()
    }
    /// Put `bytes` at guest address `at`; what has no place there is left out.
    ///
    /// # Panics
    /// When the memory file cannot be written.
    pub fn put(&self, at: u64, bytes: &[u8]) {
        let mut done = 0;
        for range in pieces(at, bytes.len()).into_iter().flatten() {
            let piece = &bytes[done..done + range.len()];
            self.file.write_all_at(piece, range.start as u64).expect("a memory file can be written");
            done += range.len();
        }
    }
    /// Cut the file short under the device.
    ///
    /// # Panics
    /// When the memory file cannot be cut.
    pub fn cut(&self, len: u64) {
        self.file.set_len(len).expect("a memory file can be cut");
    }
    /// Everything, now.
    ///
    /// # Panics
    /// When the memory file cannot be read.
    #[must_use]
    pub fn copy(&self) -> Copied {
        let mut bytes = vec![0; FILE_BYTES];
        let mut at = 0;
        // A file that was cut short is zeros from there on.
        while at < FILE_BYTES {
            match self.file.read_at(&mut bytes[at..], at as u64).expect("a memory file can be read") {
                0 => break,
                n => at += n,
            }
        }
        Copied(bytes)
    }
}

/// Where the `len` bytes at guest address `at` are in the file; none when any of them is not mapped.
#[must_use]
pub fn pieces(at: u64, len: usize) -> Option<Vec<Range<usize>>> {
    let (mut at, mut left, mut out) = (at, len as u64, Vec::new());
    while left > 0 {
        let (start, offset, size) = REGIONS.iter().find(|(s, _, size)| (*s..s + size).contains(&at))?;
        let n = left.min(start + size - at);
        let first = (offset + at - start) as usize;
        out.push(first..first + n as usize);
        (at, left) = (at + n, left - n);
    }
    Some(out)
}

/// A copy of a guest's memory.
pub struct Copied(Vec<u8>);

impl Copied {
    /// The bytes of these pieces of the file.
    #[must_use]
    pub fn gather(&self, pieces: &[Range<usize>]) -> Vec<u8> {
        pieces.iter().flat_map(|p| &self.0[p.clone()]).copied().collect()
    }
    /// The `len` bytes at guest address `at`, where they are mapped.
    #[must_use]
    pub fn at(&self, at: u64, len: usize) -> Option<Vec<u8>> {
        pieces(at, len).map(|p| self.gather(&p))
    }
    /// Two bytes, little-endian.
    #[must_use]
    pub fn u16_at(&self, at: u64) -> Option<u16> {
        Some(u16::from_le_bytes(self.at(at, 2)?.try_into().ok()?))
    }
    /// The first byte that differs from `before` and lies in none of `allowed`.
    #[must_use]
    pub fn stray_change(&self, before: &Copied, allowed: &[Range<usize>]) -> Option<usize> {
        const STEP: usize = 4096;
        (0..FILE_BYTES).step_by(STEP).find_map(|step| {
            let page = step..step + STEP;
            if self.0[page.clone()] == before.0[page.clone()] {
                return None;
            }
            page.into_iter().find(|i| self.0[*i] != before.0[*i] && !allowed.iter().any(|a| a.contains(i)))
        })
    }
}
