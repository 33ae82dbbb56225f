//! A short-lived directory for sockets and logs of one guest.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::{Error, Result};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A directory with a short path (socket paths are limited to 107 bytes), removed when dropped. Kept, and
/// its path printed, when its owner panics or `PARALLAX_KEEP` is set.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

/// A directory in memory, where there is one, as the run directory of a daemon is on a host; else the system's temporary
/// directory.
#[must_use]
pub fn memory_dir() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() { memory } else { std::env::temp_dir() }
}

impl Scratch {
    /// A new empty directory under the system's temporary directory.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(name: &str) -> Result<Scratch> {
        Scratch::below(&std::env::temp_dir(), name)
    }
    /// A new empty directory for small files whose contents outlive processes, but need no disk: see [`memory_dir`].
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn in_memory(name: &str) -> Result<Scratch> {
        Scratch::below(&memory_dir(), name)
    }
    fn below(dir: &Path, name: &str) -> Result<Scratch> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!("plx-{name}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(|e| Error::io(path.display(), &e))?;
        Ok(Scratch { path })
    }
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// The path of `name` in it.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() || std::env::var_os("PARALLAX_KEEP").is_some() {
            eprintln!("logs kept in {}", self.path.display());
        } else if let Err(e) = std::fs::remove_dir_all(&self.path) {
            eprintln!("cannot remove {}: {e}", self.path.display());
        }
    }
}
