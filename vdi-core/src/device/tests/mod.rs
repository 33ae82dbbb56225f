//! Files and block devices through both back ends.

mod block_device;
mod create;
mod io;
mod lock;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::error::{ErrorKind, Result};
use crate::executor::{Executor, block_on};

const METHODS: [Method; 2] = [Method::Uring, Method::Pread];

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("parallax-device-{}-{number}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        Scratch(dir)
    }
    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
    /// A store file of `len_bytes` of hole, as a URL.
    fn file(&self, name: &str, len_bytes: u64) -> String {
        let path = self.path(name);
        create_sparse(&path, len_bytes).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn with(method: Method) -> OpenOptions {
    OpenOptions { method, ..OpenOptions::default() }
}

fn open_err(url: &str, options: &OpenOptions) -> crate::Error {
    match open(url, options) {
        Ok(_) => panic!("{url} opened"),
        Err(e) => e,
    }
}

/// Run `work` on the device that `url` names, sleeping on its descriptors as a shard does.
fn run<T: 'static, F: Future<Output = T> + 'static>(
    url: &str,
    options: &OpenOptions,
    work: impl FnOnce(DeviceHandle) -> F,
) -> T {
    let device = DeviceHandle::new(open(url, options).unwrap());
    drive(&device.clone(), work(device))
}

fn drive<T: 'static>(device: &DeviceHandle, work: impl Future<Output = T> + 'static) -> T {
    block_on(&Executor::new(), work, || {
        while !device.poll() {
            wait_readable(device);
        }
        true
    })
}

fn wait_readable(device: &DeviceHandle) {
    let mut fds = Vec::new();
    device.fds(&mut fds);
    let fd = duplicate(fds[0]);
    let mut poll = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::IN)];
    let timeout = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
    match rustix::event::poll(&mut poll, Some(&timeout)) {
        Ok(0) => panic!("no completion within 10 s"),
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(e) => panic!("poll: {e}"),
    }
}

/// A second descriptor of what `fd` names: numbers alone cannot be polled safely.
fn duplicate(fd: RawFd) -> std::os::fd::OwnedFd {
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
    let me = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    pidfd_getfd(me, fd, PidfdGetfdFlags::empty()).unwrap()
}
