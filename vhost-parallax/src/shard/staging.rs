//! The staging memory of a shard: a file of the run directory, where that lies in memory (`tmpfs`), and mapped. It outlives the
//! daemon and ends with the host's boot. In another run directory there is none: writes are acknowledged when they are on
//! the log's device.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::fs::FallocateFlags;
use vdi_core::buffer::GuestSlice;
use vdi_core::log::StagingMemory;
use vdi_core::units::Uuid;
use vdi_core::{Error, Result};
use vm_memory::{FileOffset, MmapRegion};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The staging memory of `shard`, a file in `dir`, for a log on a device of `log_bytes`.
///
/// # Errors
/// `BadRequest` when that is too short for a log; where the kernel does not say which boot this is. That there is no room
/// in memory is no error.
pub fn open(dir: &Path, shard: u16, log_bytes: u64) -> Result<StagingMemory> {
    let bytes = StagingMemory::bytes_for(log_bytes)?;
    let memory = match map(dir, shard, bytes) {
        Ok(memory) => memory,
        Err(e) => {
            tracing::warn!("no staging memory in {}: {e}; writes wait for the log's device", dir.display());
            None
        }
    };
    Ok(StagingMemory { boot: boot()?, memory })
}

fn map(dir: &Path, shard: u16, bytes: usize) -> std::io::Result<Option<GuestSlice>> {
    DirBuilder::new().mode(0o700).recursive(true).create(dir)?;
    if rustix::fs::statfs(dir)?.f_type != libc::TMPFS_MAGIC {
        return Ok(None);
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let file = options.open(dir.join(shard.to_string()))?;
    // A page that is missing when it is written would end the daemon.
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes as u64)?;
    mapped(file, bytes).map(Some)
}

#[expect(unsafe_code, reason = "memory that outlives the process, kept mapped by its handle")]
fn mapped(file: File, bytes: usize) -> std::io::Result<GuestSlice> {
    let map = MmapRegion::<()>::from_file(FileOffset::new(file, 0), bytes).map_err(std::io::Error::other)?;
    let ptr = NonNull::new(map.as_ptr()).ok_or(std::io::ErrorKind::AddrNotAvailable)?;
    // SAFETY: the mapping is as long and lives as long as its keep-alive, and nobody has a reference into it.
    Ok(unsafe { GuestSlice::new(ptr, bytes, Arc::new(map)) })
}

fn boot() -> Result<Uuid> {
    let io = |e: std::io::Error| Error::io(BOOT_ID, e.raw_os_error().unwrap_or(libc::EIO));
    let text = std::fs::read_to_string(BOOT_ID).map_err(io)?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16).map(Uuid).map_err(|_| Error::io(BOOT_ID, libc::EINVAL))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG_BYTES: u64 = 32 << 20;

    #[test]
    fn what_is_staged_is_there_when_it_is_mapped_again() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let first = open(dir.path(), 0, LOG_BYTES).unwrap();
        first.memory.unwrap().word(4096).store(7, std::sync::atomic::Ordering::Relaxed);
        let again = open(dir.path(), 0, LOG_BYTES).unwrap();
        assert_eq!(again.boot, first.boot);
        assert_eq!(again.memory.unwrap().word(4096).load(std::sync::atomic::Ordering::Relaxed), 7);
        let other = open(dir.path(), 1, LOG_BYTES).unwrap();
        assert_eq!(other.memory.unwrap().word(4096).load(std::sync::atomic::Ordering::Relaxed), 0);
    }

    #[test]
    fn there_is_none_where_files_are_on_a_disk() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let staging = open(dir.path(), 0, LOG_BYTES).unwrap();
        let on_disk = rustix::fs::statfs(dir.path()).unwrap().f_type != libc::TMPFS_MAGIC;
        assert_eq!(staging.memory.is_none(), on_disk);
        assert_ne!(staging.boot, Uuid(0));
    }
}
