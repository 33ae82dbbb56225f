//! `qemu-storage-daemon` with a raw or qcow2 file: the peer that every Debian has.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Fill, Target, measure_at, run_at, write_own};
use crate::block_device::BlockDevice;
use crate::load::Load;
use crate::numbers::Numbers;
use crate::place::written_file;
use crate::process::{Daemon, run};

/// The image, and what it is measured for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Image {
    /// A plain file, all of it written before, as a partition is.
    Raw,
    /// The same with an I/O thread, which polls.
    RawPolling,
    /// A sparse file.
    RawSparse,
    /// qcow2 with default options.
    Qcow2,
    /// qcow2 with extended L2 entries.
    Qcow2Extended,
    /// qcow2 on a full raw image: a clone.
    Clone,
    /// The same with extended L2 entries, which copy 2 KiB where others copy 64 KiB.
    CloneExtended,
    /// A full qcow2 image with eight internal snapshots, each of some writes.
    Snapshots,
}

/// Internal snapshots of [`Image::Snapshots`].
const SNAPSHOTS: u32 = 8;
/// How long is written between two of them.
const SOME_WRITES: Duration = Duration::from_millis(300);

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
        if image.is_clone() {
            written_file(&new.gold, size_bytes)?;
            new.make_clone()?;
        } else {
            new.empty()?;
        }
        Ok(new)
    }

    fn command(&self) -> Vec<String> {
        let format = if self.image.is_raw() { "raw" } else { "qcow2" };
        let (file, socket) = (self.file.display(), self.socket.display());
        let protocol = "cache.direct=on,aio=io_uring";
        let mut words = vec![
            "qemu-storage-daemon".to_owned(),
            "--blockdev".into(),
            format!("driver=file,node-name=file,filename={file},{protocol},discard=unmap"),
        ];
        let mut backing = "";
        if self.image.is_clone() {
            let gold = self.gold.display();
            words.extend([
                "--blockdev".into(),
                format!("driver=file,node-name=gold-file,filename={gold},{protocol},read-only=on"),
                "--blockdev".into(),
                "driver=raw,node-name=gold,file=gold-file,read-only=on".into(),
            ]);
            backing = ",backing=gold";
        }
        words.extend([
            "--blockdev".into(),
            format!("driver={format},node-name=disk,file=file,cache.direct=on,discard=unmap{backing}"),
        ]);
        let mut thread = "";
        if self.image == Image::RawPolling {
            words.extend(["--object".into(), "iothread,id=thread".into()]);
            thread = ",iothread=thread";
        }
        words.extend([
            "--export".into(),
            format!(
                "type=vhost-user-blk,id=e,node-name=disk,writable=on,addr.type=unix,addr.path={socket},num-queues=1{thread}"
            ),
        ]);
        words
    }

    /// Start the daemon on the image as it is.
    fn serve(&mut self) -> io::Result<()> {
        remove(&self.socket)?;
        let mut daemon = Daemon::start(&self.command(), &self.log, self.pin)?;
        daemon.wait_for(&self.socket, Duration::from_secs(10))?;
        self.daemon = Some(daemon);
        Ok(())
    }

    /// End the daemon, with all it has to write.
    fn end(&mut self) -> io::Result<()> {
        self.daemon.take().map_or(Ok(()), |mut daemon| daemon.end())
    }

    /// `qemu-img create` with these words behind the name.
    fn make(&self, words: &[&str]) -> io::Result<()> {
        remove(&self.file)?;
        let file = utf8(&self.file)?;
        let options: &[&str] = if self.image.is_extended() { &["-o", "extended_l2=on"] } else { &[] };
        let create = ["qemu-img", "create", "-q", "-f", "qcow2"];
        run(&[&create[..], options, &[file], words].concat()).map(drop)
    }

    fn empty(&mut self) -> io::Result<()> {
        self.end()?;
        match self.image {
            Image::Raw | Image::RawPolling => written_file(&self.file, self.size_bytes)?,
            Image::RawSparse => {
                remove(&self.file)?;
                fs::File::create(&self.file)?.set_len(self.size_bytes)?;
            }
            _ => self.make(&[&self.size_bytes.to_string()])?,
        }
        self.full = self.image.is_written();
        self.serve()
    }

    fn make_clone(&mut self) -> io::Result<()> {
        self.end()?;
        let options = format!("backing_file={},backing_fmt=raw", utf8(&self.gold)?);
        self.make(&["-o", &options])?;
        self.serve()
    }

    /// Take as many snapshots as there are to be, each after some writes; at least one, and then the oldest goes.
    fn snapshot(&mut self) -> io::Result<()> {
        for nth in 0..SNAPSHOTS.saturating_sub(self.snapshots).max(1) {
            if nth > 0 {
                let some = Load::random(0, 32, self.size_bytes, SOME_WRITES);
                run_at(&self.socket, &some.of_round(u64::from(nth), 0))?;
            }
            self.end()?;
            let file = utf8(&self.file)?;
            let snapshot = |what, n: u32| run(&["qemu-img", "snapshot", what, &format!("s{n}"), file]);
            snapshot("-c", self.snapshots)?;
            self.snapshots += 1;
            if self.snapshots > SNAPSHOTS {
                snapshot("-d", self.snapshots - SNAPSHOTS - 1)?;
            }
            self.serve()?;
        }
        Ok(())
    }
}

impl Image {
    /// For rows.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Image::Raw => "qsd-raw",
            Image::RawPolling => "qsd-raw-poll",
            Image::RawSparse => "qsd-raw-sparse",
            Image::Qcow2 => "qsd-qcow2",
            Image::Qcow2Extended => "qsd-qcow2-el2",
            Image::Clone => "qsd-clone",
            Image::CloneExtended => "qsd-clone-el2",
            Image::Snapshots => "qsd-isnap8",
        }
    }
    fn is_raw(self) -> bool {
        matches!(self, Image::Raw | Image::RawPolling | Image::RawSparse)
    }
    fn is_written(self) -> bool {
        matches!(self, Image::Raw | Image::RawPolling)
    }
    fn is_clone(self) -> bool {
        matches!(self, Image::Clone | Image::CloneExtended)
    }
    fn is_extended(self) -> bool {
        matches!(self, Image::Qcow2Extended | Image::CloneExtended)
    }
    /// Whether it has disks that are filled so. A plain file has neither snapshots nor clones: it is what they are compared with.
    #[must_use]
    pub fn has(self, fill: Fill) -> bool {
        match self {
            Image::Raw | Image::RawPolling => true,
            Image::RawSparse => fill == Fill::FirstWrite,
            Image::Qcow2 | Image::Qcow2Extended => {
                matches!(fill, Fill::FirstWrite | Fill::Overwrite | Fill::InOrder | Fill::Scattered)
            }
            Image::Clone | Image::CloneExtended => fill == Fill::Clone,
            Image::Snapshots => fill == Fill::Snapshot,
        }
    }
}

impl Target for StorageDaemon {
    fn name(&self) -> &str {
        self.image.name()
    }

    fn daemon(&self) -> Option<&Daemon> {
        self.daemon.as_ref()
    }

    fn prepare(&mut self, fill: Fill) -> io::Result<bool> {
        match fill {
            _ if !self.image.has(fill) => return Ok(false),
            Fill::FirstWrite if self.image.is_written() => {}
            Fill::FirstWrite => self.empty()?,
            Fill::Clone if self.image.is_clone() => self.make_clone()?,
            own => {
                write_own(&self.socket, self.size_bytes, own, self.full)?;
                self.full = true;
                if self.image == Image::Snapshots {
                    self.snapshot()?;
                }
            }
        }
        Ok(true)
    }

    fn measure(&mut self, load: &Load, device: Option<&BlockDevice>) -> io::Result<Option<Numbers>> {
        let daemon = self.daemon.as_ref().ok_or_else(|| io::Error::other("it does not run"))?;
        measure_at(&self.socket, daemon, load, device, || Ok(())).map(Some)
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
