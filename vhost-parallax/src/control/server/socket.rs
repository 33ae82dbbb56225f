//! Making the socket file: never wider than its mode says, not even for a moment.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use super::access::Access;
use crate::control::api::error::{Code, ErrorBody, Result};

/// A socket that nobody can find yet. It is made under another name, given its owner and mode, and renamed over
/// what a dead daemon left when it is to be found: a client finds either no socket or a right one.
pub struct Draft {
    listener: UnixListener,
    draft: PathBuf,
    path: PathBuf,
}

impl Draft {
    /// Make the socket that will be at `path`.
    pub fn make(path: &Path, access: &Access) -> Result<Draft> {
        refuse_what_is_no_socket(path)?;
        // Shorter than the real name, so that it fits a socket address whenever that does.
        let draft = path.with_file_name("c.new");
        let _may_not_exist = std::fs::remove_file(&draft);
        let listener = make(&draft, access).map_err(|e| failed(path, &e))?;
        Ok(Draft { listener, draft, path: path.to_owned() })
    }
    /// From now on clients find it.
    pub fn show(self) -> Result<UnixListener> {
        std::fs::rename(&self.draft, &self.path).map_err(|e| failed(&self.path, &e))?;
        Ok(self.listener)
    }
}

fn failed(path: &Path, e: &io::Error) -> ErrorBody {
    let hint = match e.kind() {
        io::ErrorKind::NotFound => "the run directory does not exist; the daemon makes it at its start",
        io::ErrorKind::PermissionDenied => {
            "run the daemon as root, or as a member of the control group, or choose another --run-dir"
        }
        _ => "check the run directory and the file system it is on",
    };
    ErrorBody::new(Code::Io, format!("control socket {}: {e}", path.display()), hint)
}

fn make(draft: &Path, access: &Access) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(draft)?;
    if let Some(gid) = access.gid() {
        std::os::unix::fs::chown(draft, None, Some(gid))?;
    }
    std::fs::set_permissions(draft, std::fs::Permissions::from_mode(access.socket_mode()))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn refuse_what_is_no_socket(path: &Path) -> Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => Err(ErrorBody::new(
            Code::Exists,
            format!("{} exists and is not a socket", path.display()),
            "choose another --run-dir, or remove the file if it is nobody's",
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(path: &Path, access: &Access) -> Result<UnixListener> {
        Draft::make(path, access)?.show()
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_file_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let access = Access::of_process(None);
        drop(listen(&path, &access).unwrap());
        let _listening = listen(&path, &access).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::os::unix::net::UnixStream::connect(&path).unwrap();

        let file = dir.path().join("file");
        std::fs::write(&file, "precious").unwrap();
        assert_eq!(listen(&file, &access).unwrap_err().code, Code::Exists);
        assert_eq!(std::fs::read(&file).unwrap(), b"precious");
        let e = listen(&dir.path().join("no/control.sock"), &access).unwrap_err();
        assert!(e.hint.contains("run directory"), "{}", e.hint);
    }
}
