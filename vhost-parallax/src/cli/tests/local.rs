//! Verbs that work on a store directly.

use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::Value;

use super::{Ran, run_at};

fn format(dir: &Path, rest: &str) -> Ran {
    run_at(dir, &format!("parallax format {}/store {rest}", dir.display()), None)
}

fn json(ran: &Ran) -> Value {
    assert_eq!(ran.code, 0, "{}", ran.err);
    serde_json::from_str(&ran.out).unwrap()
}

#[test]
fn format_tells_what_it_made_and_where_the_log_will_be() {
    let dir = tempfile::tempdir().unwrap();
    let made = json(&format(dir.path(), "--size 1G --json"));
    assert_eq!(made["size_bytes"], 1 << 30);
    assert_eq!(made["extents"].as_u64().unwrap() * made["extent_bytes"].as_u64().unwrap(), 1 << 30);
    let uuid = made["uuid"].as_str().unwrap();
    assert_eq!(uuid.len(), 36);
    assert!(made["log_path"].as_str().unwrap().ends_with(&format!("/parallax/{uuid}.log")), "{made}");
    let again = format(dir.path(), "--force --yes --extent-size 4M");
    for line in
        ["store ", "uuid ", "size    1 GiB in 256 extents of 4 MiB", "log ", "next    vhost-parallax --store"]
    {
        assert!(again.out.contains(line), "{}", again.out);
    }
    assert!(!again.out.contains(uuid), "each store has an identity of its own");
}

#[test]
fn format_destroys_a_store_only_by_force_and_with_a_yes() {
    let dir = tempfile::tempdir().unwrap();
    let uuid = json(&format(dir.path(), "--size 64M --json"))["uuid"].clone();
    let unchanged = || json(&format(dir.path(), "--force --dry-run --json"))["empty"] == Value::Bool(false);
    for (rest, says) in [
        ("", uuid.as_str().unwrap()),
        ("--yes", "--force"),
        ("--force", "no terminal"),
        ("--size 64M", "is there already"),
        ("--size 64M --force --yes", "is there already"),
    ] {
        let ran = format(dir.path(), rest);
        assert_eq!(ran.code, 1, "{rest}");
        assert!(ran.err.contains(says), "{rest}: {}", ran.err);
        assert!(ran.err.contains("\nhint: "), "{rest}: {}", ran.err);
        assert!(unchanged(), "{rest}");
    }
    assert_eq!(format(dir.path(), "--force --yes").code, 0);
}

#[test]
fn format_asks_before_it_writes_over_foreign_data() {
    let dir = tempfile::tempdir().unwrap();
    let file = std::fs::File::create(dir.path().join("store")).unwrap();
    file.set_len(64 << 20).unwrap();
    file.write_all_at(b"a file system", 1080).unwrap();
    assert!(format(dir.path(), "").err.contains("holds data of something else"));
    let line = format!("parallax format {}/store", dir.path().display());
    assert_eq!(run_at(dir.path(), &line, Some("no\n")).code, 1);
    assert_eq!(run_at(dir.path(), &line, Some("y\n")).code, 0);
}

#[test]
fn format_refuses_what_cannot_be_a_store_and_leaves_no_file_behind() {
    let dir = tempfile::tempdir().unwrap();
    for (rest, says) in [
        ("", "--size"),
        ("--size 1M", "needs at least"),
        ("--size 64M --extent-size 16G", "choose smaller extents"),
    ] {
        let ran = format(dir.path(), rest);
        assert_eq!(ran.code, 1, "{rest}");
        assert!(ran.err.contains(says), "{rest}: {}", ran.err);
        assert!(!dir.path().join("store").exists(), "{rest}");
    }
    for rest in ["--size 20X", "--extent-size 3M", "--extent-size 1M", "--vdis 0"] {
        assert_eq!(format(dir.path(), rest).code, 2, "{rest}");
    }
    let ran = run_at(dir.path(), &format!("parallax format {}", dir.path().display()), None);
    assert!(ran.code == 1 && ran.err.contains("\nhint: "), "{}", ran.err);
}

#[test]
fn format_refuses_a_store_that_a_daemon_has_open() {
    use vdi_core::device::{OpenOptions, open};
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(format(dir.path(), "--size 64M").code, 0);
    let path = dir.path().join("store");
    let held = OpenOptions { lock: Some(0..4096), ..OpenOptions::default() };
    let _daemon = open(path.to_str().unwrap(), &held).unwrap();
    let ran = format(dir.path(), "--force --yes");
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("is locked by process"), "{}", ran.err);
}
