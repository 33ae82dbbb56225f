//! From a URL to a device.

use std::ops::Range;

use super::Device;
use super::file::OpenFile;
use super::lock::unlock_range;
use super::pread::PreadDevice;
use super::uring::UringDevice;
use crate::error::{Error, ErrorKind, Result};

/// How operations reach the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Method {
    /// io_uring, or plain reads and writes where it is refused; the environment variable `PARALLAX_IO`
    /// (`io_uring` or `pread`) decides for tests.
    #[default]
    Auto,
    /// io_uring or an error.
    Uring,
    /// `preadv` and `pwritev`, one at a time, while the caller waits.
    Pread,
}

/// How to open a device.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// For writing too.
    pub write: bool,
    /// Bytes to lock: exclusively when writing, against writers when only reading.
    pub lock: Option<Range<u64>>,
    /// How long to wait for a lock that no living process is seen to hold (unfinished I/O of a dead one).
    pub lock_wait_ms: u64,
    /// How operations reach the kernel.
    pub method: Method,
    /// Use the page cache even where `O_DIRECT` works.
    pub buffered: bool,
}

impl Default for OpenOptions {
    /// Reading and writing, no lock.
    fn default() -> OpenOptions {
        OpenOptions {
            write: true,
            lock: None,
            lock_wait_ms: 10_000,
            method: Method::default(),
            buffered: false,
        }
    }
}

/// Open the device that `url` names: the path of a regular file or block device.
///
/// Errors: `Unsupported` for another scheme, `Busy` when locked, `Io` with the errno of the path.
pub fn open(url: &str, options: &OpenOptions) -> Result<Box<dyn Device>> {
    Opened::open(url, options)?.device()
}

/// An open file or block device, before it is decided which thread works with it.
pub struct Opened {
    file: OpenFile,
    options: OpenOptions,
}

impl Opened {
    /// As [`open`].
    ///
    /// # Errors
    /// As [`open`].
    pub fn open(url: &str, options: &OpenOptions) -> Result<Opened> {
        if let Some((scheme, _)) = url.split_once("://") {
            return Err(unsupported(scheme, url));
        }
        Ok(Opened { file: OpenFile::open(url, options)?, options: options.clone() })
    }
    /// The same file under a description of its own, with a lock of its own on `lock`: each description is told of
    /// a failed write-back once, so whoever flushes must have one.
    ///
    /// # Errors
    /// `Busy` when locked, `Io`.
    pub fn again(&self, lock: Range<u64>) -> Result<Opened> {
        let options = OpenOptions { lock: Some(lock), ..self.options.clone() };
        Ok(Opened { file: self.file.again(&options)?, options })
    }
    /// Give up the lock on these bytes.
    ///
    /// # Errors
    /// `Io`.
    pub fn unlock(&self, range: &Range<u64>) -> Result<()> {
        unlock_range(&self.file.file, &self.file.info.name, range)
    }
    /// The device, for the thread that calls this.
    ///
    /// # Errors
    /// `Unsupported` where io_uring is asked for and refused.
    pub fn device(self) -> Result<Box<dyn Device>> {
        device_on(self.file, self.options.method)
    }
}

fn device_on(file: OpenFile, method: Method) -> Result<Box<dyn Device>> {
    let url = file.info.name.clone();
    let forced = match (method, std::env::var("PARALLAX_IO").as_deref()) {
        (Method::Auto, Ok("pread")) => Method::Pread,
        (Method::Auto, Ok("io_uring")) => Method::Uring,
        (method, _) => method,
    };
    if forced == Method::Pread {
        return Ok(Box::new(PreadDevice::new(file, "")?));
    }
    match UringDevice::new(file) {
        Ok(device) => Ok(Box::new(device)),
        Err((file, e)) if forced == Method::Auto => {
            Ok(Box::new(PreadDevice::new(file, &format!(" (io_uring refused: {e})"))?))
        }
        Err((_, e)) => Err(Error::new(
            ErrorKind::Unsupported,
            format!("io_uring for {url}: {e}"),
            "allow io_uring (sysctl kernel.io_uring_disabled=0, seccomp), or leave the method to choose itself",
        )),
    }
}

fn unsupported(scheme: &str, url: &str) -> Error {
    let hint = if scheme == "iscsi" {
        "log in with iscsiadm and give the path of the block device; the built-in initiator is not there yet"
    } else {
        "give the path of a regular file or block device"
    };
    Error::new(
        ErrorKind::Unsupported,
        format!("{url}: store URLs of scheme '{scheme}' cannot be opened"),
        hint,
    )
}
