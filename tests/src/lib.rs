//! What the whole project's tests share: how a test that cannot run says so, and the rules that
//! `tests/tidy.rs` holds the tree to. One file per law under `tests/tests/`.

pub mod daemon;
pub mod front_end;
pub mod guest;
pub mod guest_kills;
pub mod kills;
pub mod ledger;
pub mod load;
pub mod ram_disk;
pub mod storm;
pub mod tidy;

use std::io::Write;

/// Record that the running test cannot run here and why; `make test` counts and lists these, and CI
/// fails on one that `tests/expected-skips.txt` does not name.
pub fn skipped(test: &str, reason: &str) {
    eprintln!("SKIPPED {test}: {reason}");
    let Ok(path) = std::env::var("PARALLAX_SKIPPED") else { return };
    let line = format!("{test}\t{}\n", reason.replace(['\n', '\t'], " "));
    let file = std::fs::OpenOptions::new().append(true).create(true).open(&path);
    let written = file.and_then(|mut f| f.write_all(line.as_bytes()));
    assert!(written.is_ok(), "cannot record the skip in {path}: {written:?}");
}
