//! Rules a compiler does not know: who may import whom (the tables of `ARCHITECTURE.md`), where
//! `unsafe` may stand, which file names say nothing, and that documents name only what exists.
//!
//! Every rule returns findings, one line each, "file:line: what is wrong"; an empty list is a pass.
//! The rules read source text through [`lexer`], so that comments and strings never count.

pub mod documents;
pub mod imports;
pub mod lexer;
pub mod sizes;
pub mod sources;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::{Path, PathBuf};

/// A source file: its path from the root of the repository, and its text.
#[derive(Clone, Debug)]
pub struct File {
    /// With `/` separators, relative to the root.
    pub path: String,
    /// Whole text.
    pub text: String,
}

impl File {
    /// A file from memory, for tests of the rules.
    #[must_use]
    pub fn new(path: &str, text: &str) -> File {
        File { path: path.into(), text: text.into() }
    }
}

/// The root of the repository this package lies in.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the repository").to_path_buf()
}

/// All files under `root` with one of `extensions`, build products and hidden folders left out.
#[must_use]
pub fn files(root: &Path, extensions: &[&str]) -> Vec<File> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        for entry in entries {
            let path = entry.expect("a folder entry is readable").path();
            let name = path.file_name().expect("it has a name").to_string_lossy().into_owned();
            if name.starts_with('.') || name.starts_with("target") {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if extensions.contains(&path.extension().unwrap_or_default().to_string_lossy().as_ref()) {
                let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                let relative = path.strip_prefix(root).expect("it lies below the root");
                found.push(File { path: relative.to_string_lossy().into_owned(), text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}
