//! `attached.json`: what a restarted daemon serves again. Written under another name, synced, renamed,
//! synced; by a thread of its own, since the data thread never waits for a disk.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use vdi_core::{Error, ErrorKind, Result};

use crate::vhost::Event;

/// Saves waiting at most; attach and detach come one after the other.
const SAVES_WAITING_MAX: usize = 4;

/// One attachment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    /// The VDI.
    pub vdi: String,
    /// Queues offered.
    pub num_queues: u16,
    /// Whether the front end may only read.
    pub read_only: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    /// Attachments vanish with a reboot, as guests do.
    boot_id: String,
    attached: Vec<Attachment>,
}

const VERSION: u32 = 1;

fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

/// What was attached when an earlier daemon of this boot ended.
///
/// # Errors
/// Where the file is there and cannot be read or understood.
pub fn load(path: &Path) -> Result<Vec<Attachment>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => {
            return Err(Error::io(format!("read {}", path.display()), e.raw_os_error().unwrap_or(libc::EIO)));
        }
    };
    let content: Content = serde_json::from_str(&text).map_err(|e| {
        Error::new(
            ErrorKind::Corrupt,
            format!("{} cannot be understood: {e}", path.display()),
            "move the file away and attach the VDIs again with 'parallax attach'",
        )
    })?;
    if content.version != VERSION {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("{} has version {}; this daemon knows {VERSION}", path.display(), content.version),
            "start the newer daemon, or move the file away and attach the VDIs again",
        ));
    }
    Ok(if content.boot_id == boot_id() { content.attached } else { Vec::new() })
}

fn save(path: &Path, attached: Vec<Attachment>) -> std::io::Result<()> {
    let content = Content { version: VERSION, boot_id: boot_id(), attached };
    let text = serde_json::to_string_pretty(&content)?;
    let fresh = path.with_extension("json.new");
    let mut file = File::create(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

struct Save {
    attached: Vec<Attachment>,
    done: oneshot::Sender<std::io::Result<()>>,
}

/// The writing thread. It ends with its handle.
pub(super) struct Keeper {
    saves: SyncSender<Save>,
    path: PathBuf,
}

impl Keeper {
    /// Start the thread; it rings `wake` whenever a save has ended.
    pub(super) fn start(path: PathBuf, wake: Event) -> Result<Keeper> {
        let (saves, waiting) = sync_channel::<Save>(SAVES_WAITING_MAX);
        let target = path.clone();
        std::thread::Builder::new()
            .name("attachments".to_owned())
            .spawn(move || {
                for Save { attached, done } in waiting {
                    let _nobody_waits = done.send(save(&target, attached));
                    wake.ring();
                }
            })
            .map_err(|e| Error::io("start a thread", e.raw_os_error().unwrap_or(libc::EAGAIN)))?;
        Ok(Keeper { saves, path })
    }
    /// Make `attached` the content of the file, durably.
    pub(super) async fn save(&self, attached: Vec<Attachment>) -> Result<()> {
        let failed = |errno: i32| Error::io(format!("write {}", self.path.display()), errno);
        let (done, ended) = oneshot::channel();
        self.saves.try_send(Save { attached, done }).map_err(|_| failed(libc::EAGAIN))?;
        match ended.await {
            Ok(result) => result.map_err(|e| failed(e.raw_os_error().unwrap_or(libc::EIO))),
            Err(_) => Err(failed(libc::EIO)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded_and_a_reboot_forgets_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("attached.json");
        assert_eq!(load(&path).unwrap(), []);
        let web = Attachment { vdi: "web".to_owned(), num_queues: 2, read_only: false };
        save(&path, vec![web.clone()]).unwrap();
        assert_eq!(load(&path).unwrap(), [web]);
        let text = std::fs::read_to_string(&path).unwrap().replace(&boot_id(), "another-boot");
        std::fs::write(&path, text).unwrap();
        assert_eq!(load(&path).unwrap(), []);
    }

    #[test]
    fn a_damaged_file_is_an_error_with_a_hint() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("attached.json");
        for bad in ["", "{", "[]", r#"{"version":1,"boot_id":"x","attached":[],"more":1}"#] {
            std::fs::write(&path, bad).unwrap();
            assert!(load(&path).unwrap_err().hint().contains("attach"), "{bad}");
        }
        std::fs::write(&path, r#"{"version":2,"boot_id":"x","attached":[]}"#).unwrap();
        assert_eq!(load(&path).unwrap_err().kind(), ErrorKind::Unsupported);
    }
}
