//! A front end's memory, mapped, and the guard against memory that goes away under us.
//!
//! Invariants:
//! - a region is mapped only when its file is as long as it claims (touching the rest is SIGBUS);
//! - a [`GuestSlice`] keeps its region mapped, whatever happens to the memory table meanwhile;
//! - a file that is not sealed can still be shrunk later: the first touch beyond its end then puts
//!   anonymous memory in place of the whole region and marks it hurt, instead of ending the process.

#![expect(unsafe_code, reason = "pointers into memory a front end shares")]

use std::fs::File;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use vdi_core::buffer::{GuestBufs, GuestSlice};
use vdi_core::{Error, ErrorKind, Result};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap, MmapRegion};

use super::features::{MAPPED_BYTES_MAX, MEMORY_BYTES_MAX, MEMORY_REGIONS_MAX};

const HINT: &str = "give the guest shared memory of a memfd, tmpfs or hugetlbfs, with a file at least as long as the \
                    region (QEMU: memory-backend-memfd,share=on; cloud-hypervisor: --memory shared=on)";

fn refused(message: String) -> Error {
    Error::new(ErrorKind::BadRequest, message, HINT)
}

/// Where a region lies, as the front end says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RegionPlace {
    /// First byte, guest physical.
    pub guest_addr: u64,
    /// Length in bytes.
    pub len_bytes: u64,
    /// First byte in the front end's own address space (rings are named by these).
    pub user_addr: u64,
    /// First byte in the file.
    pub file_offset: u64,
}

/// One mapped region.
pub struct Region {
    place: RegionPlace,
    // Before the mapping, so that the guard ends first.
    guard: Guard,
    mapping: Arc<GuestRegionMmap<()>>,
    _room: Room,
}

/// A share of the address space that guests' memory may take.
struct Room {
    mapped: &'static AtomicU64,
    bytes: u64,
}

static MAPPED_BYTES: AtomicU64 = AtomicU64::new(0);

impl Room {
    fn take(mapped: &'static AtomicU64, bytes: u64) -> Option<Room> {
        let more = |now: u64| now.checked_add(bytes).filter(|sum| *sum <= MAPPED_BYTES_MAX);
        mapped.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok().map(|_| Room { mapped, bytes })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.mapped.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Check how much memory a front end has, before any of it is mapped. Fails with `BadRequest`.
pub fn check_size(regions: impl Iterator<Item = RegionPlace>) -> Result<()> {
    let bytes = regions.fold(0u64, |sum, region| sum.saturating_add(region.len_bytes));
    if bytes > MEMORY_BYTES_MAX {
        return Err(refused(format!(
            "{bytes} bytes of guest memory; at most {MEMORY_BYTES_MAX} are mapped for one disk"
        )));
    }
    Ok(())
}

impl Region {
    /// Map `place` of `file`. Fails with `BadRequest` when the file is shorter than the region, is
    /// not a file that can be mapped, or the guard's table is full.
    pub fn map(place: RegionPlace, file: File) -> Result<Arc<Region>> {
        let end = place.file_offset.checked_add(place.len_bytes);
        let what = format!("memory region of {} bytes at {:#x}", place.len_bytes, place.guest_addr);
        let len = usize::try_from(place.len_bytes).map_err(|_| refused(format!("{what} is too large")))?;
        check_file(&file, end, &what)?;
        let room = Room::take(&MAPPED_BYTES, place.len_bytes).ok_or_else(|| {
            refused(format!("{what}: this daemon has too much guest memory mapped already"))
        })?;
        let raw = MmapRegion::from_file(FileOffset::new(file, place.file_offset), len)
            .map_err(|e| refused(format!("{what} cannot be mapped: {e}")))?;
        let guard = Guard::over(raw.as_ptr() as usize, len)
            .ok_or_else(|| refused(format!("{what}: too many regions are mapped in this daemon")))?;
        let mapping = GuestRegionMmap::new(raw, GuestAddress(place.guest_addr))
            .ok_or_else(|| refused(format!("{what} overflows the address space")))?;
        Ok(Arc::new(Region { place, guard, mapping: Arc::new(mapping), _room: room }))
    }
    /// Where it lies.
    #[must_use]
    pub fn place(&self) -> RegionPlace {
        self.place
    }
}

/// Check that `file` reaches to `end` and is a file of memory (memfd, tmpfs, hugetlbfs): a page of any other may have to
/// come from a file system of the front end's own, and whoever touches it waits.
pub(super) fn check_file(file: &File, end: Option<u64>, what: &str) -> Result<()> {
    // Only files of memory have seals, and no file system is asked for them: a look at another may wait too.
    if rustix::fs::fcntl_get_seals(file).is_err() {
        return Err(refused(format!("{what} is not backed by a file of memory")));
    }
    let stat = rustix::fs::fstat(file.as_fd())
        .map_err(|e| refused(format!("{what}: the file cannot be examined: {e}")))?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile {
        return Err(refused(format!("{what} is not backed by a file")));
    }
    if end.is_none_or(|end| end > stat.st_size as u64) {
        return Err(refused(format!("{what} is longer than its file of {} bytes", stat.st_size)));
    }
    Ok(())
}

/// A front end's memory table at one moment; a change makes a new one that shares the regions.
#[derive(Default)]
pub struct GuestMemory {
    map: GuestMemoryMmap<()>,
    /// By guest address, as in `map`.
    regions: Vec<Arc<Region>>,
}

impl GuestMemory {
    /// A table of `regions`. Fails when there are too many or they overlap.
    pub fn new(mut regions: Vec<Arc<Region>>) -> Result<Arc<GuestMemory>> {
        if regions.len() > MEMORY_REGIONS_MAX {
            let n = regions.len();
            return Err(refused(format!("{n} memory regions; at most {MEMORY_REGIONS_MAX} are served")));
        }
        regions.sort_by_key(|r| r.place.guest_addr);
        if regions.is_empty() {
            return Ok(Arc::default());
        }
        let map = GuestMemoryMmap::from_arc_regions(regions.iter().map(|r| Arc::clone(&r.mapping)).collect())
            .map_err(|e| refused(format!("the memory table is not usable: {e}")))?;
        Ok(Arc::new(GuestMemory { map, regions }))
    }
    /// The regions, by guest address.
    #[must_use]
    pub fn regions(&self) -> &[Arc<Region>] {
        &self.regions
    }
    /// For the rings.
    #[must_use]
    pub fn map(&self) -> &GuestMemoryMmap<()> {
        &self.map
    }
    /// Guest address of an address in the front end's address space.
    pub fn guest_addr(&self, user_addr: u64) -> Result<u64> {
        self.regions
            .iter()
            .find_map(|r| {
                let offset = user_addr.checked_sub(r.place.user_addr)?;
                (offset < r.place.len_bytes).then(|| r.place.guest_addr + offset)
            })
            .ok_or_else(|| refused(format!("front-end address {user_addr:#x} is in no memory region")))
    }
    /// Append handles on `len` bytes at `guest_addr`; false when any of them is not mapped.
    #[must_use]
    pub fn push_slices(&self, guest_addr: u64, len: usize, out: &mut GuestBufs) -> bool {
        let (mut at, mut left) = (guest_addr, len);
        while left > 0 {
            let Some(region) = self.find(at) else { return false };
            let offset = (at - region.place.guest_addr) as usize;
            let n = left.min(region.place.len_bytes as usize - offset);
            out.push(region.slice(offset, n));
            left -= n;
            match at.checked_add(n as u64) {
                Some(next) => at = next,
                None => return left == 0,
            }
        }
        true
    }
    fn find(&self, guest_addr: u64) -> Option<&Arc<Region>> {
        let after = self.regions.partition_point(|r| r.place.guest_addr <= guest_addr);
        let region = self.regions.get(after.checked_sub(1)?)?;
        (guest_addr - region.place.guest_addr < region.place.len_bytes).then_some(region)
    }
    /// True once any region turned out shorter than it was.
    #[must_use]
    pub fn is_hurt(&self) -> bool {
        self.regions.iter().any(|r| r.guard.is_hurt())
    }
}

impl Region {
    /// Bytes `offset..offset + len`, which the caller has checked to be inside.
    fn slice(self: &Arc<Region>, offset: usize, len: usize) -> GuestSlice {
        assert!(offset.checked_add(len).is_some_and(|end| end <= self.mapping.len() as usize));
        let base = NonNull::new(self.mapping.as_ptr()).expect("a mapping is never at address zero");
        // SAFETY: the offset is inside the mapping (asserted), the Arc keeps it mapped readable and
        // writable, and guest memory is only touched through raw copies and vm-memory's volatile ones.
        unsafe {
            let keep: Arc<Region> = Arc::clone(self);
            GuestSlice::new(base.add(offset), len, keep)
        }
    }
}

/// Guarded mappings at once: 32 regions and one in-flight area for a hundred disks and more.
const GUARDS_MAX: usize = 4096;

struct GuardSlot {
    taken: AtomicBool,
    start: AtomicUsize,
    /// Zero when the slot guards nothing.
    len: AtomicUsize,
    hurt: AtomicBool,
}

static GUARDS: [GuardSlot; GUARDS_MAX] = [const {
    GuardSlot {
        taken: AtomicBool::new(false),
        start: AtomicUsize::new(0),
        len: AtomicUsize::new(0),
        hurt: AtomicBool::new(false),
    }
}; GUARDS_MAX];

/// While it lives, a fault in its range does not end the process.
pub(super) struct Guard(usize);

impl Guard {
    /// Guard `len` bytes at `start`, a mapping of ours; none when the table is full.
    pub(super) fn over(start: usize, len: usize) -> Option<Guard> {
        install_handler();
        let free = |s: &GuardSlot| {
            s.taken.compare_exchange(false, true, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        let index = GUARDS.iter().position(free)?;
        let slot = &GUARDS[index];
        slot.hurt.store(false, Ordering::Relaxed);
        slot.start.store(start, Ordering::Relaxed);
        slot.len.store(len, Ordering::Release);
        Some(Guard(index))
    }
    /// True once the range was touched beyond the end of its file.
    pub(super) fn is_hurt(&self) -> bool {
        GUARDS[self.0].hurt.load(Ordering::Relaxed)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let slot = &GUARDS[self.0];
        slot.len.store(0, Ordering::Release);
        slot.taken.store(false, Ordering::Release);
    }
}

fn install_handler() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: a zeroed sigaction is a valid one; the handler only reads atomics and calls mmap and
        // sigaction, both async-signal-safe on Linux.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_bus_error as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut());
        }
    });
}

extern "C" fn on_bus_error(_signal: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo; si_addr is set for SIGBUS.
    let at = unsafe { (*info).si_addr() } as usize;
    for slot in &GUARDS {
        let len = slot.len.load(Ordering::Acquire);
        let start = slot.start.load(Ordering::Relaxed);
        if len == 0 || at < start || at - start >= len {
            continue;
        }
        slot.hurt.store(true, Ordering::Relaxed);
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
        // SAFETY: the range is a mapping of ours for as long as the slot's length is not zero, and
        // holds nothing but guest memory; whoever faulted goes on with zeros.
        let new = unsafe { libc::mmap(start as *mut libc::c_void, len, prot, flags, -1, 0) };
        if new != libc::MAP_FAILED {
            return;
        }
    }
    // Not guest memory: fault again, this time for good.
    // SAFETY: restoring the default action is async-signal-safe.
    unsafe {
        libc::signal(libc::SIGBUS, libc::SIG_DFL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memfd(len: u64) -> File {
        let fd = rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let file = File::from(fd);
        file.set_len(len).unwrap();
        file
    }
    fn place(guest_addr: u64, len_bytes: u64) -> RegionPlace {
        RegionPlace { guest_addr, len_bytes, user_addr: 0x7000_0000 + guest_addr, file_offset: 0 }
    }

    #[test]
    fn a_region_longer_than_its_file_is_refused_before_it_is_mapped() {
        let e = Region::map(place(0, 8192), memfd(4096)).err().unwrap();
        assert!(e.message().contains("longer than its file of 4096 bytes"), "{e:?}");
        let mut far = place(0, 4096);
        far.file_offset = u64::MAX - 100;
        assert!(Region::map(far, memfd(4096)).is_err());
    }

    #[test]
    fn only_files_of_memory_are_mapped() {
        use super::super::inflight::InflightArea;
        // Next to this very program: on a disk, unless somebody builds in memory.
        let program = std::env::current_exe().unwrap();
        let on_disk = tempfile::tempfile_in(program.parent().unwrap()).unwrap();
        on_disk.set_len(1 << 20).unwrap();
        let in_proc = File::open("/proc/self/status").unwrap();
        assert!(check_file(&in_proc, Some(0), "it").is_err());
        check_file(&memfd(4096), Some(4096), "it").unwrap();
        let (area, file) = InflightArea::create(1, 8).unwrap().describe().unwrap();
        InflightArea::open(file, area.mmap_size, 0, 1, 8).unwrap();
        if rustix::fs::fstatfs(&on_disk).unwrap().f_type == libc::TMPFS_MAGIC {
            return;
        }
        let e = InflightArea::open(on_disk.try_clone().unwrap(), area.mmap_size, 0, 1, 8).err().unwrap();
        assert!(e.message().contains("not backed by a file of memory"), "{e:?}");
        let e = Region::map(place(0, 4096), on_disk).err().unwrap();
        assert!(e.message().contains("not backed by a file of memory"), "{e:?}");
        assert!(e.hint().contains("memory-backend-memfd,share=on"), "{e:?}");
    }

    #[test]
    fn memory_beyond_any_guest_is_refused_before_it_fills_the_address_space() {
        check_size([place(0, MEMORY_BYTES_MAX)].into_iter()).unwrap();
        for len in [MEMORY_BYTES_MAX / 2 + 1, u64::MAX] {
            assert!(check_size([place(0, len), place(0, len)].into_iter()).is_err(), "{len:#x}");
        }
        // Of many front ends together: no more than half of what there is, and all of it comes back.
        static MAPPED: AtomicU64 = AtomicU64::new(0);
        for _ in 0..2 {
            let taken: Vec<_> = (0..100).map_while(|_| Room::take(&MAPPED, MEMORY_BYTES_MAX)).collect();
            assert_eq!(taken.len() as u64, MAPPED_BYTES_MAX / MEMORY_BYTES_MAX);
            assert!(Room::take(&MAPPED, 1).is_none());
            assert!(Room::take(&MAPPED, u64::MAX).is_none());
        }
    }

    #[test]
    fn overlapping_and_too_many_regions_are_refused() {
        let a = Region::map(place(0, 8192), memfd(8192)).unwrap();
        let b = Region::map(place(4096, 8192), memfd(8192)).unwrap();
        assert!(GuestMemory::new(vec![a, b]).is_err());
        let many = (0..33).map(|i| Region::map(place(i * 4096, 4096), memfd(4096)).unwrap()).collect();
        assert!(GuestMemory::new(many).is_err());
    }

    #[test]
    fn a_buffer_may_cross_adjacent_regions_but_no_hole() {
        let a = Region::map(place(0, 4096), memfd(4096)).unwrap();
        let b = Region::map(place(4096, 4096), memfd(4096)).unwrap();
        let memory = GuestMemory::new(vec![b, a]).unwrap();
        let mut bufs = GuestBufs::new();
        assert!(memory.push_slices(4000, 200, &mut bufs));
        assert_eq!((bufs.slices().len(), bufs.len()), (2, 200));
        for (addr, len) in [(8000, 200), (9000, 1), (u64::MAX, 4), (4000, usize::MAX)] {
            assert!(!memory.push_slices(addr, len, &mut GuestBufs::new()), "{addr:#x}+{len}");
        }
        assert_eq!(memory.guest_addr(0x7000_0000 + 5000).unwrap(), 5000);
        assert!(memory.guest_addr(0x7000_0000 + 8192).is_err());
    }

    #[test]
    fn memory_that_shrinks_under_us_hurts_its_region_and_nothing_else() {
        let file = memfd(8192);
        let other = file.try_clone().unwrap();
        let hurt = GuestMemory::new(vec![Region::map(place(0, 8192), file).unwrap()]).unwrap();
        let fine = GuestMemory::new(vec![Region::map(place(0, 4096), memfd(4096)).unwrap()]).unwrap();
        let mut bufs = GuestBufs::new();
        assert!(hurt.push_slices(0, 8192, &mut bufs));
        other.set_len(0).unwrap();
        let mut bytes = [1; 8192];
        bufs.copy_to(&mut bytes);
        assert_eq!(bytes, [0; 8192]);
        assert!(hurt.is_hurt());
        assert!(!fine.is_hurt());
    }

    #[test]
    fn a_slice_outlives_the_memory_table() {
        let memory = GuestMemory::new(vec![Region::map(place(0, 4096), memfd(4096)).unwrap()]).unwrap();
        let mut bufs = GuestBufs::new();
        assert!(memory.push_slices(0, 4096, &mut bufs));
        drop(memory);
        bufs.copy_from(&[7; 4096]);
        let mut back = [0; 4096];
        bufs.copy_to(&mut back);
        assert_eq!(back, [7; 4096]);
    }
}
