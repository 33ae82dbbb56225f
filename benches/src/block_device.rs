//! The block device below a folder, and how many requests it has had: from everybody, so on a quiet machine only.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A whole disk.
pub struct BlockDevice {
    name: String,
}

/// Requests that a device has ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Requests {
    /// Reads and writes, after merging.
    pub transfers: u64,
    /// Flushes of its cache.
    pub flushes: u64,
}

impl BlockDevice {
    /// That of the file system of `dir`; None where there is none, as below a tmpfs.
    #[must_use]
    pub fn below(dir: &Path) -> Option<BlockDevice> {
        let device = rustix::fs::stat(dir).ok()?.st_dev;
        let node = format!("/sys/dev/block/{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
        let mut node: PathBuf = fs::canonicalize(node).ok()?;
        if node.join("partition").exists() {
            // Flushes are counted for the whole disk only.
            node.pop();
        }
        Some(BlockDevice { name: node.file_name()?.to_str()?.to_owned() })
    }

    /// What it has done so far (Documentation/admin-guide/iostats.rst of Linux).
    ///
    /// # Errors
    /// When the system does not say.
    pub fn requests(&self) -> io::Result<Requests> {
        let text = fs::read_to_string("/proc/diskstats")?;
        let mut lines = text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>());
        let fields = lines.find(|f| f.get(2) == Some(&self.name.as_str()));
        let fields = fields.ok_or_else(|| io::Error::other(format!("no {} in diskstats", self.name)))?;
        let field = |i: usize| fields.get(i).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
        Ok(Requests { transfers: field(3) + field(7), flushes: field(18) })
    }
}
