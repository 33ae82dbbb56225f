//! The staging memory of a shard: a file of the run directory, where that lies in memory (`tmpfs`), and mapped. It outlives the
//! daemon and ends with the host's boot. In another run directory there is none: writes are acknowledged when they are on
//! the log's device.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Error as IoError, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::fs::FallocateFlags;
use vdi_core::buffer::GuestSlice;
use vdi_core::log::StagingMemory;
use vdi_core::{Error, Result};
use vm_memory::{FileOffset, MmapRegion};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const RANDOM: &str = "/dev/urandom";

/// The staging memory in the file at `path`, for a log on a device of `log_bytes`.
///
/// # Errors
/// `BadRequest` when that is too short for a log; where the kernel does not say which boot this is. That there is no memory
/// is no error: who needs what is in it hears why.
pub fn open(path: &Path, log_bytes: u64) -> Result<StagingMemory> {
    let bytes = StagingMemory::bytes_for(log_bytes)?;
    let shown = path.display();
    let memory = map(path, bytes).map_err(|e| format!("{shown}: {e}"));
    match &memory {
        Ok(_) => tracing::debug!("writes are acknowledged when they are staged in {shown}"),
        Err(why) => tracing::info!("writes are acknowledged when they are on the log's device: {why}"),
    }
    Ok(StagingMemory { boot: boot()?, life: random()?, memory })
}

fn map(path: &Path, bytes: usize) -> std::io::Result<GuestSlice> {
    if let Some(dir) = path.parent() {
        DirBuilder::new().mode(0o700).recursive(true).create(dir)?;
        if rustix::fs::statfs(dir)?.f_type != libc::TMPFS_MAGIC {
            return Err(IoError::other("the run directory is not in memory (tmpfs)"));
        }
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let file = options.open(path)?;
    let found = file.metadata()?;
    if !found.is_file() || found.uid() != rustix::process::geteuid().as_raw() || found.nlink() != 1 {
        return Err(IoError::other("it is not a file of this user alone"));
    }
    // What an older release left may be larger.
    let bytes = bytes.max(usize::try_from(found.len()).map_err(IoError::other)?);
    // A page that is missing when it is written would end the daemon.
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes as u64)?;
    mapped(file, bytes)
}

#[expect(unsafe_code, reason = "memory that outlives the process, kept mapped by its handle")]
fn mapped(file: File, bytes: usize) -> std::io::Result<GuestSlice> {
    let map = MmapRegion::<()>::from_file(FileOffset::new(file, 0), bytes).map_err(IoError::other)?;
    let ptr = NonNull::new(map.as_ptr()).ok_or(std::io::ErrorKind::AddrNotAvailable)?;
    // SAFETY: the mapping is as long and lives as long as its keep-alive, and nobody has a reference into it.
    Ok(unsafe { GuestSlice::new(ptr, bytes, Arc::new(map)) })
}

fn boot() -> Result<u64> {
    let text = std::fs::read_to_string(BOOT_ID).map_err(|e| unreadable(BOOT_ID, &e))?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let id = u128::from_str_radix(&digits, 16).map_err(|_| Error::io(BOOT_ID, libc::EINVAL))?;
    Ok((id as u64 ^ (id >> 64) as u64).max(1))
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
    use std::sync::atomic::Ordering;

    use super::*;

    const LOG_BYTES: u64 = 32 << 20;

    #[test]
    fn what_is_staged_is_there_when_it_is_mapped_again() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let open = |name: &str, bytes| open(&dir.path().join("staging").join(name), bytes).unwrap();
        let first = open("0", LOG_BYTES);
        first.memory.unwrap().word(4096).store(7, Ordering::Relaxed);
        let again = open("0", 2 * LOG_BYTES);
        assert_eq!(again.boot, first.boot);
        assert_ne!(again.life, first.life);
        let len = again.memory.as_ref().unwrap().len();
        assert_eq!(again.memory.unwrap().word(4096).load(Ordering::Relaxed), 7);
        assert_eq!(open("0", LOG_BYTES).memory.unwrap().len(), len);
        assert_eq!(open("1", LOG_BYTES).memory.unwrap().word(4096).load(Ordering::Relaxed), 0);
    }

    #[test]
    fn there_is_none_where_files_are_on_a_disk_or_somebody_elses() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let staging = open(&dir.path().join("0"), LOG_BYTES).unwrap();
        let on_disk = rustix::fs::statfs(dir.path()).unwrap().f_type != libc::TMPFS_MAGIC;
        assert_eq!(staging.memory.is_err(), on_disk);
        assert_ne!(staging.boot, 0);
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        std::fs::write(dir.path().join("1"), b"").unwrap();
        std::fs::hard_link(dir.path().join("1"), dir.path().join("2")).unwrap();
        std::os::unix::fs::symlink("1", dir.path().join("3")).unwrap();
        for name in ["1", "2", "3"] {
            assert!(open(&dir.path().join(name), LOG_BYTES).unwrap().memory.is_err());
        }
    }
}
