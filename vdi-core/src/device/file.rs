//! An open regular file or block device: size, alignment, direct or buffered, locked. How operations get
//! into the kernel is the business of `uring` and `pread`.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::lock::lock_range;
use super::{DeviceInfo, Op, OpKind, OpenOptions};
use crate::buffer::AlignedBuf;
use crate::error::{Error, ErrorKind, Result};
use crate::units::{BLOCK_BYTES, SECTOR_BYTES};

/// `TMPFS_MAGIC` of `linux/magic.h`.
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// An open file with what the back ends need to know of it.
pub struct OpenFile {
    pub(super) file: File,
    pub(super) info: DeviceInfo,
    direct: bool,
    write: bool,
    /// Transfers are copies by whoever submits them: there is no device to wait for.
    pub(super) copies: bool,
}

impl OpenFile {
    /// Open the regular file or block device at `path`; nothing is created or truncated.
    ///
    /// Errors: `Io` (no such file, permissions), `BadRequest` (neither file nor block device), `Busy`.
    pub fn open(path: &str, options: &OpenOptions) -> Result<OpenFile> {
        let failed =
            |e: std::io::Error| Error::io(format!("open {path}"), e.raw_os_error().unwrap_or(libc::EIO));
        let (mut file, align) = open_direct_or_buffered(path, options).map_err(failed)?;
        let meta = file.metadata().map_err(failed)?;
        let block_device = meta.file_type().is_block_device();
        if !block_device && !meta.is_file() {
            return Err(Error::new(
                ErrorKind::BadRequest,
                format!("{path} is neither a regular file nor a block device"),
                "give the path of a regular file or block device",
            ));
        }
        // The end of a block device is its size (BLKGETSIZE64); its metadata says zero.
        let end = if block_device { file.seek(SeekFrom::End(0)).map_err(failed)? } else { meta.len() };
        if let Some(range) = &options.lock {
            lock_range(&file, path, range, options.write, options.lock_wait_ms)?;
        }
        let align_bytes = align.unwrap_or(SECTOR_BYTES);
        // A tmpfs takes O_DIRECT and ignores it.
        let tmpfs = rustix::fs::fstatfs(&file).is_ok_and(|fs| fs.f_type as u64 == TMPFS_MAGIC);
        let info = DeviceInfo {
            name: path.to_owned(),
            len_bytes: end - end % align_bytes,
            align_bytes: align_bytes as u32,
            discard: options.write && (!block_device || block_device_discards(meta.rdev())),
            mode: if align.is_some() { "O_DIRECT" } else { "buffered" }.to_owned(),
        };
        let copies = tmpfs || align.is_none();
        Ok(OpenFile { file, info, direct: align.is_some(), write: options.write, copies })
    }
    /// The same file, whatever its path names by now, under a description of its own.
    pub(super) fn again(&self, options: &OpenOptions) -> Result<OpenFile> {
        let through = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let opened = OpenFile::open(&through, options)?;
        Ok(OpenFile { info: DeviceInfo { name: self.info.name.clone(), ..opened.info }, ..opened })
    }
    /// Any open file as a device of `len_bytes`, for what `open` would refuse.
    #[cfg(test)]
    pub(super) fn for_test(file: File, len_bytes: u64) -> OpenFile {
        let (name, mode) = ("test".to_owned(), "test".to_owned());
        let info = DeviceInfo { name, len_bytes, align_bytes: 512, discard: false, mode };
        OpenFile { file, info, direct: false, write: true, copies: false }
    }
    /// Refuse what the device cannot do, before the kernel sees it.
    pub(super) fn check(&self, op: &Op) -> std::result::Result<(), i32> {
        if !self.write && op.kind != OpKind::Read {
            return Err(libc::EROFS);
        }
        self.info.check(op, self.direct)
    }
}

/// The file, and the alignment that direct I/O asks for (None: buffered).
fn open_direct_or_buffered(path: &str, options: &OpenOptions) -> std::io::Result<(File, Option<u64>)> {
    let mut open = std::fs::OpenOptions::new();
    open.read(true).write(options.write);
    // O_NONBLOCK: a FIFO given by mistake must not hang the daemon. It changes nothing for files and disks.
    if !options.buffered {
        match open.custom_flags(libc::O_DIRECT | libc::O_NONBLOCK).open(path) {
            Ok(file) => {
                if let Some(align) = direct_alignment(&file) {
                    return Ok((file, Some(align)));
                }
            }
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {}
            Err(e) => return Err(e),
        }
    }
    Ok((open.custom_flags(libc::O_NONBLOCK).open(path)?, None))
}

/// The smallest alignment with which a direct read works: asked by trying, as no call tells on every kernel.
fn direct_alignment(file: &File) -> Option<u64> {
    if let Ok(sector) = rustix::fs::ioctl_blksszget(file) {
        return Some(u64::from(sector).max(SECTOR_BYTES)).filter(|s| *s <= BLOCK_BYTES);
    }
    let mut buf = AlignedBuf::block();
    [SECTOR_BYTES, BLOCK_BYTES].into_iter().find(|align| {
        let len = *align as usize;
        let slice = std::io::IoSliceMut::new(&mut buf[..len]);
        rustix::io::preadv(file, &mut [slice], 0).is_ok()
    })
}

/// Whether the block device numbered `rdev` (or the disk of this partition) takes discards.
fn block_device_discards(rdev: u64) -> bool {
    let dir = format!("/sys/dev/block/{}:{}", rustix::fs::major(rdev), rustix::fs::minor(rdev));
    ["queue", "../queue"].iter().any(|queue| {
        std::fs::read_to_string(Path::new(&dir).join(queue).join("discard_max_bytes"))
            .is_ok_and(|max| max.trim() != "0")
    })
}
