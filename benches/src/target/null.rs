//! Disks that answer and do nothing, of peers: what their loops cost alone.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Fill, Target, binary, measure_at};
use crate::block_device::BlockDevice;
use crate::load::Load;
use crate::numbers::Numbers;
use crate::process::Daemon;

/// Whose loop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Peer {
    /// `qemu-storage-daemon` with its driver `null-co`.
    StorageDaemon,
    /// The loop that `vhost-user-backend` brings ([`crate::stock`]).
    Stock,
}

/// A null disk of a peer.
pub struct Null {
    peer: Peer,
    socket: PathBuf,
    daemon: Daemon,
}

impl Null {
    /// Serve `size_bytes` of nothing from `dir`.
    ///
    /// # Errors
    /// When the daemon does not come up.
    pub fn start(peer: Peer, dir: &Path, size_bytes: u64, pin: bool) -> io::Result<Null> {
        let socket = dir.join(match peer {
            Peer::StorageDaemon => "qsd-null.sock",
            Peer::Stock => "stock-null.sock",
        });
        if socket.exists() {
            std::fs::remove_file(&socket)?;
        }
        let at = socket.display();
        let words: Vec<String> = match peer {
            Peer::StorageDaemon => vec![
                "qemu-storage-daemon".into(),
                "--blockdev".into(),
                format!("driver=null-co,node-name=disk,size={size_bytes},read-zeroes=off"),
                "--export".into(),
                format!(
                    "type=vhost-user-blk,id=e,node-name=disk,writable=on,addr.type=unix,addr.path={at},num-queues=1"
                ),
            ],
            Peer::Stock => {
                vec![
                    binary(None, "stock-disk")?.display().to_string(),
                    at.to_string(),
                    size_bytes.to_string(),
                ]
            }
        };
        let mut daemon = Daemon::start(&words, &dir.join("null.log"), pin)?;
        daemon.wait_for(&socket, Duration::from_secs(10))?;
        Ok(Null { peer, socket, daemon })
    }
}

impl Target for Null {
    fn name(&self) -> &str {
        match self.peer {
            Peer::StorageDaemon => "qsd-null",
            Peer::Stock => "stock-null",
        }
    }
    fn daemon(&self) -> Option<&Daemon> {
        Some(&self.daemon)
    }
    fn prepare(&mut self, _: Fill) -> io::Result<bool> {
        Ok(true)
    }
    fn measure(&mut self, load: &Load, device: Option<&BlockDevice>) -> io::Result<Option<Numbers>> {
        measure_at(&self.socket, &self.daemon, load, device, || Ok(())).map(Some)
    }
}
