//! The guest image made by `images/setup.sh`, and the variant that runs one job without an agent.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::tools::{Missing, repository};

/// Kernel command line of every guest. What it leaves out would only cost boot time under emulation.
pub const COMMAND_LINE: &str =
    "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on tsc=reliable no_timer_check";

/// Kernel and initramfs of a guest.
#[derive(Clone, Debug)]
pub struct GuestImage {
    /// Where all of it lies.
    pub dir: PathBuf,
    /// Uncompressed ELF with a PVH entry.
    pub kernel: PathBuf,
    /// Uncompressed cpio archive.
    pub initramfs: PathBuf,
}

impl GuestImage {
    /// The image in `$PARALLAX_GUEST_DIR`, or in `target/tools/guest`.
    ///
    /// # Errors
    /// What is missing.
    pub fn find() -> std::result::Result<GuestImage, Missing> {
        let dir = std::env::var_os("PARALLAX_GUEST_DIR")
            .map_or_else(|| repository().join("target/tools/guest"), PathBuf::from);
        let image = GuestImage {
            kernel: dir.join("vmlinux"),
            initramfs: dir.join("initramfs.cpio"),
            dir: dir.clone(),
        };
        for part in ["kernel", "fio", "initramfs"] {
            if !dir.join(format!("{part}.stamp")).is_file() {
                return Err(Missing(format!(
                    "no guest image ({part}) in {}: run 'make setup'",
                    dir.display()
                )));
            }
        }
        Ok(image)
    }

    /// Write to `out` an initramfs whose guest runs `script` with its output on the serial port, prints
    /// `GUEST-JOB-END status` and powers off. The kernel unpacks concatenated archives one after the other.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn write_batch_initramfs(&self, script: &str, out: &Path) -> Result<()> {
        let io = |e: std::io::Error| Error::io(out.display(), &e);
        let mut from = File::open(&self.initramfs).map_err(|e| Error::io(self.initramfs.display(), &e))?;
        let mut to = File::create(out).map_err(io)?;
        std::io::copy(&mut from, &mut to).map_err(io)?;
        to.write_all(&newc("job", script.as_bytes())).map_err(io)
    }
}

/// A cpio archive ("newc": cpio(5)) of one regular file.
fn newc(name: &str, content: &[u8]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, content, mode) in [(name, content, 0o100_644), ("TRAILER!!!", &[][..], 0)] {
        // Magic; then inode, mode, uid, gid, links, mtime, size, four device numbers, name size, checksum.
        archive.extend(b"070701");
        for field in [1, mode, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, name.len() + 1, 0] {
            archive.extend(format!("{field:08X}").bytes());
        }
        archive.extend(name.bytes().chain([0]));
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend(content);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
    archive
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_archive_of_one_file_is_what_cpio_writes() {
        let archive = super::newc("job", b"true\n");
        assert!(archive.starts_with(b"070701"));
        assert_eq!(archive.len() % 4, 0);
        // 110 bytes of header and the name with its zero end on a multiple of four.
        assert_eq!(&archive[110..122], b"job\0\0\0true\n\0\0\0"[..12].as_ref());
        assert!(archive.ends_with(b"TRAILER!!!\0\0\0\0"));
    }
}
