//! The run directory: where the daemon's sockets are, for the daemon and its clients alike.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::error::{Code, ErrorBody, Result};
use super::limits::SOCKET_PATH_BYTES_MAX;
use super::name::VdiName;

/// Environment variable that names the run directory.
pub const RUN_DIR_ENV: &str = "PARALLAX_RUN_DIR";

/// Paths below the run directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RunDir(PathBuf);

impl RunDir {
    /// The directory `given` on the command line, else by `env` (`PARALLAX_RUN_DIR`), else
    /// `/run/parallax` for root and `$XDG_RUNTIME_DIR/parallax` for others.
    ///
    /// A relative path becomes absolute.
    ///
    /// # Errors
    /// `bad_request` where none of these names one, `io` where there is no current directory.
    pub fn choose(
        given: Option<PathBuf>,
        env: impl Fn(&str) -> Option<OsString>,
        is_root: bool,
    ) -> Result<RunDir> {
        let named = |key: &str| env(key).filter(|v| !v.is_empty()).map(PathBuf::from);
        if let Some(path) = given.or_else(|| named(RUN_DIR_ENV)) {
            // Whoever is told of a socket in it, QEMU say, may run elsewhere.
            let absolute = std::path::absolute(&path).map_err(|e| {
                let message = format!("{}: {e}", path.display());
                ErrorBody::new(Code::Io, message, "give the run directory as an absolute path")
            })?;
            return Ok(RunDir(absolute));
        }
        if is_root {
            return Ok(RunDir(PathBuf::from("/run/parallax")));
        }
        match named("XDG_RUNTIME_DIR") {
            Some(base) => Ok(RunDir(base.join("parallax"))),
            None => Err(ErrorBody::bad_request(
                "no run directory: XDG_RUNTIME_DIR is not set and this is not root",
                format!("give --run-dir DIR or set {RUN_DIR_ENV}"),
            )),
        }
    }
    /// [`RunDir::choose`] for this process.
    ///
    /// # Errors
    /// As [`RunDir::choose`].
    pub fn of_process(given: Option<PathBuf>) -> Result<RunDir> {
        RunDir::choose(given, |key| std::env::var_os(key), rustix::process::geteuid().is_root())
    }
    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
    /// The control socket.
    ///
    /// # Errors
    /// `too_large` where the path is longer than a socket's may be.
    pub fn control_socket(&self) -> Result<PathBuf> {
        checked(self.0.join("control.sock"))
    }
    /// The staging memory of the shards, a file each.
    #[must_use]
    pub fn staging_dir(&self) -> PathBuf {
        self.0.join("staging")
    }
    /// The directory of the VDI sockets.
    #[must_use]
    pub fn vdi_dir(&self) -> PathBuf {
        self.0.join("vdi")
    }
    /// The vhost-user socket of a VDI.
    ///
    /// # Errors
    /// `too_large` where the path is longer than a socket's may be.
    pub fn vdi_socket(&self, vdi: &VdiName) -> Result<PathBuf> {
        checked(self.vdi_dir().join(format!("{vdi}.sock")))
    }
    /// What is attached.
    #[must_use]
    pub fn attached_json(&self) -> PathBuf {
        self.0.join("attached.json")
    }
    /// The lock that one daemon holds.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }
}

fn checked(path: PathBuf) -> Result<PathBuf> {
    let bytes = path.as_os_str().as_bytes().len();
    if bytes <= SOCKET_PATH_BYTES_MAX {
        return Ok(path);
    }
    Err(ErrorBody::new(
        Code::TooLarge,
        format!(
            "the socket path {} is {bytes} bytes long; the system allows {SOCKET_PATH_BYTES_MAX}",
            path.display()
        ),
        format!("use a shorter run directory (--run-dir or {RUN_DIR_ENV}) or a shorter VDI name"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(given: Option<&str>, env: &[(&str, &str)], is_root: bool) -> Result<RunDir> {
        let get = |key: &str| env.iter().find(|(k, _)| *k == key).map(|(_, v)| OsString::from(v));
        RunDir::choose(given.map(PathBuf::from), get, is_root)
    }

    #[test]
    fn the_option_beats_the_environment_beats_the_default() {
        let env = [(RUN_DIR_ENV, "/e"), ("XDG_RUNTIME_DIR", "/run/user/7")];
        let path = |r: Result<RunDir>| r.unwrap().path().to_owned();
        assert_eq!(path(choose(Some("/o"), &env, true)), Path::new("/o"));
        assert_eq!(path(choose(None, &env, true)), Path::new("/e"));
        assert_eq!(path(choose(None, &env[1..], true)), Path::new("/run/parallax"));
        assert_eq!(path(choose(None, &env[1..], false)), Path::new("/run/user/7/parallax"));
        assert!(choose(None, &[], false).unwrap_err().hint.contains("--run-dir"));
    }

    #[test]
    fn a_socket_path_that_the_system_cannot_hold_is_a_clear_error() {
        let dir = choose(Some(&format!("/{}", "d".repeat(90))), &[], true).unwrap();
        assert_eq!(dir.control_socket().unwrap().as_os_str().len(), 104);
        let name = VdiName::parse(&"v".repeat(20)).unwrap();
        let e = dir.vdi_socket(&name).unwrap_err();
        assert!(e.message.contains("is 121 bytes long"), "{}", e.message);
    }
}
