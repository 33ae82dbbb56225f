//! What this machine offers for guest tests: QEMU, the guest image, the project's binaries.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result};
use crate::image::GuestImage;

/// Why guests cannot run here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Missing(pub String);

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// All that a guest needs.
#[derive(Clone, Debug)]
pub struct Tools {
    /// The emulator.
    pub qemu: PathBuf,
    /// Its version, major and minor.
    pub qemu_version: (u32, u32),
    /// Kernel and initramfs.
    pub image: GuestImage,
}

impl Tools {
    /// Look for them.
    ///
    /// # Errors
    /// The reason why guests cannot run here, and what would change that.
    pub fn find() -> std::result::Result<Tools, Missing> {
        let qemu = in_path("qemu-system-x86_64")
            .ok_or_else(|| Missing("no qemu-system-x86_64: run 'make setup'".into()))?;
        let text = Command::new(&qemu)
            .arg("--version")
            .output()
            .map_err(|e| Missing(format!("{} does not run: {e}", qemu.display())))?;
        let text = String::from_utf8_lossy(&text.stdout);
        let qemu_version = parse_version(&text)
            .ok_or_else(|| Missing(format!("{}: unknown version {text:?}", qemu.display())))?;
        Ok(Tools { qemu, qemu_version, image: GuestImage::find()? })
    }
    /// QEMU's option for reconnecting to a daemon that went away, once a second.
    #[must_use]
    pub fn reconnect(&self) -> (&'static str, u32) {
        if self.qemu_version >= (9, 2) { ("reconnect-ms", 1000) } else { ("reconnect", 1) }
    }
}

/// `QEMU emulator version 7.2.22 (...)` -> (7, 2).
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split("version ").nth(1)?.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// A program in `$PATH`, or in the places a plain user's `$PATH` lacks.
#[must_use]
pub fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let extra = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(extra).map(|dir| dir.join(program)).find(|p| p.is_file())
}

/// The repository this was built from.
#[must_use]
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the repository")
}

/// A binary of this project, from the build that this program belongs to (`target/debug`,
/// `target/release`), or the one `$PARALLAX_BIN_DIR` holds.
///
/// # Errors
/// When it is not built.
pub fn built(program: &str) -> Result<PathBuf> {
    let mut places: Vec<PathBuf> =
        std::env::var_os("PARALLAX_BIN_DIR").map(PathBuf::from).into_iter().collect();
    let me = std::env::current_exe().map_err(|e| Error::io("this program's path", &e))?;
    places.extend(me.ancestors().skip(1).take(2).map(Path::to_path_buf));
    places.iter().map(|dir| dir.join(program)).find(|p| p.is_file()).ok_or_else(|| {
        Error::new(
            format!("{program} is not built (looked in {places:?})"),
            "run 'cargo build --workspace --bins' first, or 'make test'",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::parse_version;

    #[test]
    fn versions_of_distributions_and_release_candidates_are_read() {
        assert_eq!(parse_version("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)"), Some((7, 2)));
        assert_eq!(parse_version("QEMU emulator version 10.0.0-rc1"), Some((10, 0)));
        assert_eq!(parse_version("something else"), None);
    }
}
