//! QEMU's storage daemon with a raw file: the reference peer, to tell a fault of ours from one of the
//! harness, the guest or QEMU.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result};
use crate::process::Process;
use crate::tools::in_path;
use crate::wait::{Deadline, until};

/// A raw file served as one vhost-user-blk disk.
#[derive(Debug)]
pub struct StorageDaemon {
    process: Process,
    program: PathBuf,
    file: PathBuf,
    socket: PathBuf,
    queues: u16,
    log: PathBuf,
}

impl StorageDaemon {
    /// Serve a new sparse file of `size_bytes` with `queues` queues, all in `dir`.
    ///
    /// # Errors
    /// When the daemon is not installed or does not come up.
    pub fn start(dir: &Path, size_bytes: u64, queues: u16) -> Result<StorageDaemon> {
        let program = in_path("qemu-storage-daemon")
            .ok_or_else(|| Error::new("no qemu-storage-daemon", "it comes with QEMU: run 'make setup'"))?;
        let file = dir.join("reference.raw");
        let created = std::fs::File::create(&file).and_then(|f| f.set_len(size_bytes));
        created.map_err(|e| Error::io(file.display(), &e))?;
        let (socket, log) = (dir.join("reference.sock"), dir.join("reference.log"));
        let process = spawn(&program, &file, &socket, queues, &log)?;
        Ok(StorageDaemon { process, program, file, socket, queues, log })
    }
    /// The socket front ends connect to.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }
    /// The file behind the disk.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }
    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill();
    }
    /// Serve the same file on the same socket again.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn restart(&mut self) -> Result<()> {
        self.kill();
        self.process = spawn(&self.program, &self.file, &self.socket, self.queues, &self.log)?;
        Ok(())
    }
}

fn spawn(program: &Path, file: &Path, socket: &Path, queues: u16, log: &Path) -> Result<Process> {
    // Left by a killed one; a missing file is what is wanted.
    let _absent = std::fs::remove_file(socket);
    let mut command = Command::new(program);
    command
        .arg("--blockdev")
        .arg(format!("driver=file,node-name=file,discard=unmap,filename={}", file.display()));
    command.args(["--blockdev", "driver=raw,node-name=disk,file=file,discard=unmap"]);
    command.arg("--export").arg(format!(
        "type=vhost-user-blk,id=export,node-name=disk,writable=on,num-queues={queues},addr.type=unix,addr.path={}",
        socket.display()
    ));
    let mut process = Process::spawn("qemu-storage-daemon", command, log)?;
    until("qemu-storage-daemon to listen", Deadline::seconds(20), || {
        process.check_alive()?;
        Ok(socket.exists().then_some(()))
    })?;
    Ok(process)
}
