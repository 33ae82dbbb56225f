//! New files are whole or not there.

use std::os::unix::fs::MetadataExt;

use super::*;

#[test]
fn a_prewritten_file_has_all_its_space_and_reports_progress() {
    let scratch = Scratch::new();
    let path = scratch.path("log");
    let mut calls = Vec::new();
    create_prewritten(&path, (5 << 20) + 4096, |done, all| calls.push((done, all))).unwrap();
    let meta = std::fs::metadata(&path).unwrap();
    assert_eq!(meta.len(), (5 << 20) + 4096);
    assert!(meta.blocks() * 512 >= meta.len(), "no holes");
    assert_eq!(calls.first(), Some(&(0, meta.len())));
    assert_eq!(calls.last(), Some(&(meta.len(), meta.len())));
    assert_eq!(std::fs::read_dir(&scratch.0).unwrap().count(), 1, "nothing unfinished stays behind");
}

#[test]
fn a_sparse_file_takes_no_space() {
    let scratch = Scratch::new();
    let path = scratch.path("store");
    create_sparse(&path, 1 << 40).unwrap();
    let meta = std::fs::metadata(&path).unwrap();
    assert_eq!((meta.len(), meta.blocks()), (1 << 40, 0));
}

#[test]
fn an_existing_file_is_never_touched() {
    let scratch = Scratch::new();
    let path = scratch.path("store");
    std::fs::write(&path, b"precious").unwrap();
    assert_eq!(create_sparse(&path, 1 << 20).unwrap_err().kind(), ErrorKind::Exists);
    assert_eq!(create_prewritten(&path, 1 << 20, |_, _| {}).unwrap_err().kind(), ErrorKind::Exists);
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}

#[test]
fn a_creation_that_fails_leaves_nothing_behind() {
    let scratch = Scratch::new();
    let e = create_sparse(&scratch.path("store"), u64::MAX / 2).unwrap_err();
    assert!(!e.hint().is_empty());
    assert_eq!(std::fs::read_dir(&scratch.0).unwrap().count(), 0);
    let e = create_sparse(&scratch.path("no/such/dir/store"), 1).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Io(libc::ENOENT));
    assert_eq!(create_sparse(std::path::Path::new("/"), 1).unwrap_err().kind(), ErrorKind::Exists);
}
