//! `qemu-storage-daemon` with a raw or qcow2 file: the peer that every Debian has.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Fill, Target, write_own};
use crate::process::{Daemon, run};

/// The image, and what it is measured for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Image {
    /// A plain file.
    Raw,
    /// qcow2 with default options.
    Qcow2,
    /// qcow2 on a full qcow2 image: a clone.
    Clone,
    /// The same with extended L2 entries, which copy 2 KiB where others copy 64 KiB.
    CloneExtended,
    /// A full qcow2 image with eight internal snapshots.
    Snapshots,
}

/// Internal snapshots of [`Image::Snapshots`].
const SNAPSHOTS: u32 = 8;

/// A storage daemon that serves one image.
pub struct StorageDaemon {
    image: Image,
    file: PathBuf,
    gold: PathBuf,
    socket: PathBuf,
    log: PathBuf,
    size_bytes: u64,
    pin: bool,
    full: bool,
    snapshots: u32,
    // None only while the image is replaced.
    daemon: Option<Daemon>,
}

impl StorageDaemon {
    /// Make an image of `size_bytes` in `dir` and serve it.
    ///
    /// # Errors
    /// When the image cannot be made or the daemon does not come up.
    pub fn start(image: Image, dir: &Path, size_bytes: u64, pin: bool) -> io::Result<StorageDaemon> {
        let name = image.name();
        let mut new = StorageDaemon {
            image,
            file: dir.join(format!("{name}.disk")),
            gold: dir.join(format!("{name}.gold")),
            socket: dir.join(format!("{name}.sock")),
            log: dir.join(format!("{name}.log")),
            size_bytes,
            pin,
            full: false,
            snapshots: 0,
            daemon: None,
        };
        match image {
            Image::Clone | Image::CloneExtended => {
                let disk = std::mem::replace(&mut new.file, new.gold.clone());
                new.make(&[&new.size_bytes.to_string()])?;
                new.serve()?;
                write_own(&new, size_bytes, Fill::InOrder, false)?;
                new.daemon = None;
                new.file = disk;
                new.make_clone()?;
            }
            Image::Raw | Image::Qcow2 | Image::Snapshots => new.empty()?,
        }
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

    /// Start the daemon on the image as it is.
    fn serve(&mut self) -> io::Result<()> {
        remove(&self.socket)?;
        let mut daemon = Daemon::start(&self.command(), &self.log, self.pin)?;
        let up = daemon.wait_for(&self.socket, Duration::from_secs(10));
        up.map_err(|e| {
            io::Error::other(format!("{e}\n{}", fs::read_to_string(&self.log).unwrap_or_default()))
        })?;
        self.daemon = Some(daemon);
        Ok(())
    }

    /// `qemu-img create` with these words behind the name.
    fn make(&self, words: &[&str]) -> io::Result<()> {
        remove(&self.file)?;
        let file = utf8(&self.file)?;
        let options: &[&str] =
            if self.image == Image::CloneExtended { &["-o", "extended_l2=on"] } else { &[] };
        let create = ["qemu-img", "create", "-q", "-f", "qcow2"];
        run(&[&create[..], options, &[file], words].concat()).map(drop)
    }

    fn empty(&mut self) -> io::Result<()> {
        self.daemon = None;
        if self.image == Image::Raw {
            remove(&self.file)?;
            fs::File::create(&self.file)?.set_len(self.size_bytes)?;
        } else {
            self.make(&[&self.size_bytes.to_string()])?;
        }
        self.full = false;
        self.serve()
    }

    fn make_clone(&mut self) -> io::Result<()> {
        self.daemon = None;
        let options = format!("backing_file={},backing_fmt=qcow2", utf8(&self.gold)?);
        self.make(&["-o", &options])?;
        self.serve()
    }

    /// Take as many snapshots as there are to be; at least one, and then the oldest goes.
    fn snapshot(&mut self) -> io::Result<()> {
        self.daemon = None;
        let file = utf8(&self.file)?;
        let snapshot = |what, n: u32| run(&["qemu-img", "snapshot", what, &format!("s{n}"), file]);
        for _ in 0..SNAPSHOTS.saturating_sub(self.snapshots).max(1) {
            snapshot("-c", self.snapshots)?;
            self.snapshots += 1;
        }
        if self.snapshots > SNAPSHOTS {
            snapshot("-d", self.snapshots - SNAPSHOTS - 1)?;
        }
        self.serve()
    }
}

impl Image {
    fn name(self) -> &'static str {
        match self {
            Image::Raw => "qsd-raw",
            Image::Qcow2 => "qsd-qcow2",
            Image::Clone => "qsd-clone",
            Image::CloneExtended => "qsd-clone-el2",
            Image::Snapshots => "qsd-isnap8",
        }
    }
}

impl Target for StorageDaemon {
    fn name(&self) -> &str {
        self.image.name()
    }

    fn socket(&self) -> &Path {
        &self.socket
    }

    fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("it runs except while the image is replaced")
    }

    fn prepare(&mut self, fill: Fill) -> io::Result<bool> {
        match (self.image, fill) {
            (Image::Raw | Image::Qcow2, Fill::FirstWrite) => self.empty()?,
            (Image::Clone | Image::CloneExtended, Fill::Clone) => self.make_clone()?,
            // A plain file has neither snapshots nor clones: it is what they are compared with.
            (Image::Raw, own)
            | (Image::Qcow2, own @ (Fill::Overwrite | Fill::InOrder | Fill::Scattered))
            | (Image::Snapshots, own @ Fill::Snapshot) => {
                write_own(self, self.size_bytes, own, self.full)?;
                self.full = true;
                if self.image == Image::Snapshots {
                    self.snapshot()?;
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn utf8(path: &Path) -> io::Result<&str> {
    path.to_str().ok_or_else(|| io::Error::other("the path is not UTF-8"))
}
