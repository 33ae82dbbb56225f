//! New files for stores and logs: whole and durable, or not there. Nothing existing is ever touched.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::buffer::AlignedBuf;
use crate::error::{Error, ErrorKind, Result};

const CHUNK_BYTES: usize = 1 << 20;
/// Dirty bytes before a sync while prewriting, so that the page cache does not fill up.
const SYNC_EVERY_BYTES: u64 = 64 << 20;

/// Create `path` with `len_bytes` of written zeros: later writes change no metadata, so that a data sync costs
/// one device flush and space is certain. `progress` hears of (bytes done, bytes in all).
///
/// Errors: `Exists`, `NoSpace`, `Io`.
pub fn create_prewritten(path: &Path, len_bytes: u64, mut progress: impl FnMut(u64, u64)) -> Result<()> {
    create(path, |file| {
        let zeros = AlignedBuf::zeroed(CHUNK_BYTES);
        let mut done = 0;
        progress(0, len_bytes);
        while done < len_bytes {
            let n = (len_bytes - done).min(CHUNK_BYTES as u64);
            file.write_all(&zeros[..n as usize])?;
            done += n;
            if done.is_multiple_of(SYNC_EVERY_BYTES) {
                file.sync_data()?;
            }
            progress(done, len_bytes);
        }
        Ok(())
    })
}

/// Create `path` with `len_bytes` of hole: it takes space only as it is written.
///
/// Errors: `Exists`, `NoSpace`, `Io`.
pub fn create_sparse(path: &Path, len_bytes: u64) -> Result<()> {
    create(path, |file| file.set_len(len_bytes))
}

/// Fill a file under another name, sync it, and give it its name only then: a crash leaves no half file.
fn create(path: &Path, fill: impl FnOnce(&mut File) -> std::io::Result<()>) -> Result<()> {
    if path.symlink_metadata().is_ok() {
        return Err(exists(path));
    }
    let unfinished = unfinished_name(path)?;
    let outcome = write_and_rename(path, &unfinished, fill);
    if outcome.is_err() {
        // Best effort: the error that counts is the one we return.
        let _ = std::fs::remove_file(&unfinished);
    }
    outcome.map_err(|e| match e.raw_os_error() {
        Some(libc::EEXIST) => exists(path),
        Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => Error::new(
            ErrorKind::NoSpace,
            format!("create {}: {e}", path.display()),
            "free space on the file system, or ask for a smaller file",
        ),
        errno => Error::io(format!("create {}", path.display()), errno.unwrap_or(libc::EIO)),
    })
}

fn write_and_rename(
    path: &Path,
    unfinished: &Path,
    fill: impl FnOnce(&mut File) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(unfinished)?;
    fill(&mut file)?;
    file.sync_all()?;
    // A hard link fails when the name is taken, on every file system that has them; a plain rename would replace.
    match std::fs::hard_link(unfinished, path) {
        Ok(()) => std::fs::remove_file(unfinished)?,
        Err(e) if e.raw_os_error() == Some(libc::EEXIST) => return Err(e),
        Err(_) => rename_without_replacing(unfinished, path)?,
    }
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

fn rename_without_replacing(from: &Path, to: &Path) -> std::io::Result<()> {
    let flags = rustix::fs::RenameFlags::NOREPLACE;
    Ok(rustix::fs::renameat_with(rustix::fs::CWD, from, rustix::fs::CWD, to, flags)?)
}

fn unfinished_name(path: &Path) -> Result<PathBuf> {
    let Some(name) = path.file_name() else {
        return Err(Error::new(
            ErrorKind::BadRequest,
            format!("{} names no file", path.display()),
            "give the path of a file to create",
        ));
    };
    let mut unfinished = std::ffi::OsString::from(".");
    unfinished.push(name);
    unfinished.push(format!(".{}.unfinished", std::process::id()));
    Ok(path.with_file_name(unfinished))
}

fn exists(path: &Path) -> Error {
    Error::new(
        ErrorKind::Exists,
        format!("{} is there already", path.display()),
        "choose another path, or remove the file if nothing needs it",
    )
}
