//! `qemu-storage-daemon` with a raw or qcow2 file: the peer that every Debian has.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Target;
use crate::process::{Daemon, run};

/// The image format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Image {
    /// A plain file.
    Raw,
    /// qcow2 with default options.
    Qcow2,
}

/// A storage daemon that serves one image.
pub struct StorageDaemon {
    image: Image,
    file: PathBuf,
    socket: PathBuf,
    log: PathBuf,
    size_bytes: u64,
    pin: bool,
    // None only while the image is replaced.
    daemon: Option<Daemon>,
}

impl StorageDaemon {
    /// Make an image of `size_bytes` in `dir` and serve it.
    ///
    /// # Errors
    /// When the image cannot be made or the daemon does not come up.
    pub fn start(image: Image, dir: &Path, size_bytes: u64, pin: bool) -> io::Result<StorageDaemon> {
        let name = match image {
            Image::Raw => "raw",
            Image::Qcow2 => "qcow2",
        };
        let mut new = StorageDaemon {
            image,
            file: dir.join(format!("disk.{name}")),
            socket: dir.join(format!("{name}.sock")),
            log: dir.join(format!("qsd-{name}.log")),
            size_bytes,
            pin,
            daemon: None,
        };
        new.empty()?;
        Ok(new)
    }

    fn command(&self) -> Vec<String> {
        let file = self.file.display();
        let format = if self.image == Image::Raw { "raw" } else { "qcow2" };
        let socket = self.socket.display();
        let words = [
            "qemu-storage-daemon".to_string(),
            "--blockdev".into(),
            format!("driver=file,node-name=file,filename={file},cache.direct=on,aio=io_uring,discard=unmap"),
            "--blockdev".into(),
            format!("driver={format},node-name=disk,file=file,cache.direct=on,discard=unmap"),
            "--export".into(),
            format!(
                "type=vhost-user-blk,id=e,node-name=disk,writable=on,addr.type=unix,addr.path={socket},num-queues=1"
            ),
        ];
        words.to_vec()
    }
}

impl Target for StorageDaemon {
    fn name(&self) -> &str {
        if self.image == Image::Raw { "qsd-raw" } else { "qsd-qcow2" }
    }

    fn socket(&self) -> &Path {
        &self.socket
    }

    fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("it runs except within `empty`")
    }

    fn empty(&mut self) -> io::Result<()> {
        self.daemon = None;
        for old in [&self.file, &self.socket] {
            match fs::remove_file(old) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        let file = self.file.to_str().ok_or_else(|| io::Error::other("the path is not UTF-8"))?;
        match self.image {
            Image::Raw => fs::File::create(&self.file)?.set_len(self.size_bytes)?,
            Image::Qcow2 => {
                run(&["qemu-img", "create", "-q", "-f", "qcow2", file, &self.size_bytes.to_string()])?;
            }
        }
        let mut daemon = Daemon::start(&self.command(), &self.log, self.pin)?;
        let up = daemon.wait_for(&self.socket, Duration::from_secs(10));
        up.map_err(|e| {
            io::Error::other(format!("{e}\n{}", fs::read_to_string(&self.log).unwrap_or_default()))
        })?;
        self.daemon = Some(daemon);
        Ok(())
    }
}
