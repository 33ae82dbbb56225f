//! Where a bench keeps its files, and what to call the machine.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock, statvfs};

use crate::process::{cores, run};

/// The part of all cores that others may keep busy on a machine that counts as quiet.
const BUSY_MAX: f64 = 0.1;

/// A folder for stores and logs, emptied at the start and removed at the end.
pub struct Place {
    /// The folder.
    pub dir: PathBuf,
    /// For rows: like `2c-24g-ext4`; `-loaded` at the end when others use the machine.
    pub machine: String,
    // Nobody else uses the folder.
    _locked: fs::File,
}

impl Place {
    /// A folder for `bench` under `PARALLAX_BENCH_DIR` (default `target/bench`; a tmpfs such as `/dev/shm` for
    /// differences below 25 %).
    ///
    /// # Errors
    /// When the folder cannot be made, or another run uses it.
    pub fn open(bench: &str) -> io::Result<Place> {
        let base = std::env::var_os("PARALLAX_BENCH_DIR").map(PathBuf::from);
        let dir = base.unwrap_or_else(|| root().join("target/bench")).join(format!("parallax-{bench}"));
        fs::create_dir_all(&dir)?;
        let locked = fs::File::open(&dir)?;
        flock(&locked, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            io::Error::other(format!("{} is used by another run of this bench; wait for it", dir.display()))
        })?;
        let place = Place { machine: machine(&dir)?, dir, _locked: locked };
        place.empty()?;
        Ok(place)
    }

    /// Remove what is in the folder.
    ///
    /// # Errors
    /// When that fails.
    pub fn empty(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
        }
        Ok(())
    }

    /// An error now rather than after half of the rounds.
    ///
    /// # Errors
    /// When there is no room for `bytes` more.
    pub fn need(&self, bytes: u64) -> io::Result<()> {
        let stat = statvfs(&self.dir)?;
        let free = stat.f_bavail * stat.f_frsize;
        if free >= bytes {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "{} has {} MiB free and the bench needs {}; set PARALLAX_BENCH_DIR to a larger place, or PARALLAX_BENCH_MIB to a smaller disk",
            self.dir.display(),
            free >> 20,
            bytes >> 20
        )))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Left-overs are removed at the next start.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// The repository.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the repository").to_path_buf()
}

fn machine(dir: &Path) -> io::Result<String> {
    let memory = fs::read_to_string("/proc/meminfo")?;
    let kib = memory.split_whitespace().nth(1).and_then(|w| w.parse::<u64>().ok()).unwrap_or(0);
    let kind = file_system(dir)?;
    let loaded = if busy()? > BUSY_MAX { "-loaded" } else { "" };
    Ok(format!("{}c-{}g-{kind}{loaded}", cores(), kib.div_ceil(1 << 20)))
}

fn file_system(dir: &Path) -> io::Result<String> {
    let dir = dir.to_str().ok_or_else(|| io::Error::other("the folder's name is not UTF-8"))?;
    let kind = run(&["findmnt", "-no", "FSTYPE", "-T", dir])?;
    // Where mounts lie over each other, the last one counts.
    Ok(kind.lines().last().unwrap_or("unknown").trim().to_string())
}

/// The file at `path`, of `len_bytes`, written as a LUN or a partition is there before it is used.
/// In a sparse file each block's first write makes the file system allocate it; and on a tmpfs a virtual machine that gives free memory back
/// to its host pays for a page at its first use, some 13 us: ten times its copy.
///
/// # Errors
/// When there is not enough room.
pub fn written_file(path: &Path, len_bytes: u64) -> io::Result<()> {
    let (mut file, zeros) = (fs::File::create(path)?, vec![0; 1 << 20]);
    let mut left = len_bytes;
    while left > 0 {
        let n = left.min(zeros.len() as u64);
        file.write_all(&zeros[..n as usize])?;
        left -= n;
    }
    file.sync_all()?;
    // Cached pages of a file make direct writes to it slower, and no device has them.
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).map_err(io::Error::from)
}

/// The part of all cores that others keep busy, over three seconds in which this process sleeps.
fn busy() -> io::Result<f64> {
    let before = ticks()?;
    std::thread::sleep(Duration::from_secs(3));
    let after = ticks()?;
    let (all, idle) = (after.0 - before.0, after.1 - before.1);
    Ok(1.0 - idle as f64 / all.max(1) as f64)
}

/// Clock ticks of all cores since the machine's start, and those of them without work.
fn ticks() -> io::Result<(u64, u64)> {
    let text = fs::read_to_string("/proc/stat")?;
    // user nice system idle iowait irq softirq steal; what follows is part of the first two.
    let fields: Vec<u64> = text
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .take(8)
        .flat_map(str::parse)
        .collect();
    let waiting = fields.iter().skip(3).take(2).sum();
    Ok((fields.iter().sum(), waiting))
}
