//! The staging memory of a shard: a file of the run directory, where that lies in memory (`tmpfs`), and mapped. It outlives the
//! daemon and ends with the host's boot. In another run directory there is none: writes are acknowledged when they are on
//! the log's device.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Error as IoError, Read};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::fs::FallocateFlags;
use vdi_core::buffer::{GuestSlice, OwnMemory};
use vdi_core::log::StagingMemory;
use vdi_core::units::BLOCK_SIZE;
use vdi_core::{Error, Result};
use vm_memory::{FileOffset, MmapRegion};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const RANDOM: &str = "/dev/urandom";

/// Of the file system, what staging leaves free: one part in this many.
const LEFT_FREE: u64 = 8;

/// The staging memory in the file at `path`, for a log on a device of `log_bytes` of whose data `staging_bytes` are to stay in
/// memory.
///
/// # Errors
/// `BadRequest` when the device is too short for a log; where the kernel has no memory at all. That there is none that outlives the daemon is no error: who needs what is in it hears why.
pub fn open(path: &Path, log_bytes: u64, staging_bytes: usize) -> Result<StagingMemory> {
    let bytes = StagingMemory::bytes_for(log_bytes, staging_bytes)?;
    let at_once = StagingMemory::bytes_at_once(log_bytes)?;
    let shown = path.display();
    let (memory, outlives) = match map(path, at_once, bytes) {
        Ok(memory) => {
            tracing::debug!("writes are acknowledged when they are staged in {shown}");
            (memory, Ok(()))
        }
        Err(e) => {
            tracing::info!("writes are acknowledged when they are on the log's device: {shown}: {e}");
            let own =
                MmapRegion::<()>::new(bytes).map_err(IoError::other).and_then(|map| mapped(map, |_| true));
            (own.map_err(|e| unreadable("memory for staging", &e))?, Err(format!("{shown}: {e}")))
        }
    };
    Ok(StagingMemory { memory, outlives, boot: boot(), life: random()? })
}

fn map(path: &Path, at_once: usize, bytes: usize) -> std::io::Result<OwnMemory> {
    if let Some(dir) = path.parent() {
        DirBuilder::new().mode(0o700).recursive(true).create(dir)?;
    }
    let file =
        open_own(OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600), path)?;
    let found = file.metadata()?;
    // What an older release left may be larger.
    let bytes = bytes.max(usize::try_from(found.len()).map_err(IoError::other)?);
    rustix::fs::ftruncate(&file, bytes as u64)?;
    fill(&file, 0..at_once)?;
    let map = MmapRegion::from_file(FileOffset::new(file.try_clone()?, 0), bytes).map_err(IoError::other)?;
    mapped(map, move |range| fill(&file, range).is_ok())
}

/// A page that is missing when it is written would end the daemon.
fn fill(file: &File, range: Range<usize>) -> std::io::Result<()> {
    let (start, len) = (range.start as u64, range.len() as u64);
    // It is filled from its start on, and what a killed daemon took is there.
    let missing = (start + len).saturating_sub(file.metadata()?.blocks() * 512).min(len);
    let room = rustix::fs::fstatfs(file)?;
    let block = u64::try_from(room.f_bsize).unwrap_or(1);
    if !is_room(missing / block, room.f_blocks, room.f_bavail) {
        return Err(IoError::other("the file system would have too little room left"));
    }
    Ok(rustix::fs::fallocate(file, FallocateFlags::empty(), start, len)?)
}

/// Whether a file system of `all` blocks can give `wanted` of the `free` ones. One without a limit says that it has none at all.
fn is_room(wanted: u64, all: u64, free: u64) -> bool {
    wanted == 0 || all == 0 || free.saturating_sub(all / LEFT_FREE) >= wanted
}

#[expect(unsafe_code, reason = "memory that is mapped for as long as its handle lives")]
fn mapped(
    map: MmapRegion,
    back: impl Fn(Range<usize>) -> bool + Send + Sync + 'static,
) -> std::io::Result<OwnMemory> {
    let (ptr, bytes) = (NonNull::new(map.as_ptr()), map.size());
    let ptr = ptr.ok_or(std::io::ErrorKind::AddrNotAvailable)?;
    // SAFETY: the mapping is as long and lives as long as its keep-alive, and nobody has a reference into it.
    let slice = unsafe { GuestSlice::new(ptr, bytes, Arc::new(map)) };
    // SAFETY: of the users of this host only this one can open the file, and the store's lock keeps its other daemons away.
    Ok(unsafe { OwnMemory::new(slice, back) })
}

/// Which boot of the host this is; None where the kernel does not say.
pub fn boot() -> Option<u64> {
    let text = std::fs::read_to_string(BOOT_ID).ok()?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let id = u128::from_str_radix(&digits, 16).ok()?;
    Some((id as u64 ^ (id >> 64) as u64).max(1))
}

/// The start of the file at `path`, and its length in bytes, if it is one that staging memory can be.
pub fn header(path: &Path) -> Option<(Vec<u8>, usize)> {
    let file = open_own(OpenOptions::new().read(true), path).ok()?;
    let len = usize::try_from(file.metadata().ok()?.len()).ok()?;
    let mut header = Vec::new();
    file.take(BLOCK_SIZE as u64).read_to_end(&mut header).ok()?;
    Some((header, len))
}

/// A file of this user alone, in memory.
fn open_own(options: &mut OpenOptions, path: &Path) -> std::io::Result<File> {
    let file = options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    let found = file.metadata()?;
    if !found.is_file() || found.uid() != rustix::process::geteuid().as_raw() || found.nlink() != 1 {
        return Err(IoError::other("it is not a file of this user alone"));
    }
    if rustix::fs::fstatfs(&file)?.f_type != libc::TMPFS_MAGIC {
        return Err(IoError::other("the run directory is not in memory (tmpfs)"));
    }
    Ok(file)
}

fn random() -> Result<u64> {
    let mut bytes = [0; 8];
    let read = File::open(RANDOM).and_then(|mut f| f.read_exact(&mut bytes));
    read.map_err(|e| unreadable(RANDOM, &e))?;
    Ok(u64::from_le_bytes(bytes).max(1))
}

fn unreadable(path: &str, e: &IoError) -> Error {
    Error::io(path, e.raw_os_error().unwrap_or(libc::EIO))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG_BYTES: u64 = 32 << 20;

    #[test]
    fn what_is_staged_is_there_when_it_is_mapped_again() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let open = |name: &str, staging| {
            let found = open(&dir.path().join("staging").join(name), LOG_BYTES, staging).unwrap();
            assert_eq!(found.outlives, Ok(()));
            found
        };
        let first = open("0", 0);
        first.memory.store(4096, 7);
        let again = open("0", 64 << 20);
        assert_eq!(again.boot, first.boot);
        assert_ne!(again.life, first.life);
        let len = again.memory.len();
        assert_eq!(again.memory.load(4096), 7);
        assert_eq!(open("0", 0).memory.len(), len);
        assert_eq!(open("1", 0).memory.load(4096), 0);
    }

    #[test]
    fn others_find_room_and_a_killed_daemons_memory_needs_none() {
        assert!(is_room(10, 800, 110) && !is_room(11, 800, 110));
        assert!(is_room(11, 0, 0), "no limit");
        assert!(is_room(0, 800, 0), "it is there already");
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let file = File::create_new(dir.path().join("0")).unwrap();
        fill(&file, 0..1 << 20).unwrap();
        assert_eq!(file.metadata().unwrap().blocks() * 512, 1 << 20);
        fill(&file, 0..1 << 20).unwrap();
        assert_eq!(file.metadata().unwrap().blocks() * 512, 1 << 20);
    }

    #[test]
    fn memory_is_taken_as_it_is_needed() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = dir.path().join("0");
        let staging = open(&path, LOG_BYTES, 256 << 20).unwrap();
        let at_once = StagingMemory::bytes_at_once(LOG_BYTES).unwrap();
        let taken = || path.metadata().unwrap().blocks() * 512;
        assert_eq!(taken(), at_once as u64);
        let arena = staging.memory.arena(at_once).unwrap();
        let mut held = Vec::new();
        while taken() == at_once as u64 {
            let mut buf = arena.take(4096).unwrap();
            buf.fill(1);
            held.push(buf);
        }
        assert_eq!(held.len(), 1);
        assert!(taken() < staging.memory.len() as u64 / 4);
    }

    #[test]
    fn there_is_none_where_files_are_on_a_disk_or_somebody_elses() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let staging = open(&dir.path().join("0"), LOG_BYTES, 0).unwrap();
        let on_disk = rustix::fs::statfs(dir.path()).unwrap().f_type != libc::TMPFS_MAGIC;
        assert_eq!(staging.outlives.is_err(), on_disk);
        assert!(!staging.memory.is_empty());
        assert!(staging.boot.is_some());
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        std::fs::write(dir.path().join("1"), b"").unwrap();
        std::fs::hard_link(dir.path().join("1"), dir.path().join("2")).unwrap();
        std::os::unix::fs::symlink("1", dir.path().join("3")).unwrap();
        for name in ["1", "2", "3"] {
            assert!(open(&dir.path().join(name), LOG_BYTES, 0).unwrap().outlives.is_err());
        }
    }
}
