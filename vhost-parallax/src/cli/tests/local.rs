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
    let log = dir.path().join("log");
    let ran = format(dir.path(), &format!("--size 1M --log {}", log.display()));
    assert!(ran.code == 1 && !log.exists(), "{}", ran.err);
    for rest in [
        "--log l --log-size 1M",
        "--log l --log-size 100000001",
        "--log-size 1G",
        "--size 20X",
        "--extent-size 3M",
        "--extent-size 1M",
        "--vdis 0",
    ] {
        assert_eq!(format(dir.path(), rest).code, 2, "{rest}");
    }
    let ran = run_at(dir.path(), &format!("parallax format {}", dir.path().display()), None);
    assert!(ran.code == 1 && ran.err.contains("\nhint: "), "{}", ran.err);
}

#[test]
fn format_makes_the_log_where_it_is_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let ran = format(dir.path(), &format!("--size 64M --log {} --log-size 64M", log.display()));
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(std::fs::metadata(&log).unwrap().len(), 64 << 20);
    let next = format!("--store {}/store --log {}\n", dir.path().display(), log.display());
    assert!(ran.out.ends_with(&next), "{}", ran.out);
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

fn check(dir: &Path, rest: &str) -> Ran {
    run_at(dir, &format!("parallax check {}/store {rest}", dir.display()), None)
}

#[test]
fn check_of_a_new_store_is_clean() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(format(dir.path(), "--size 64M").code, 0);
    let ran = check(dir.path(), "");
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    let store = dir.path().join("store");
    let expected = format!(
        "{} (64 MiB): 0 VDIs, 0 snapshots, 0 nodes, 0 B of data, 0 log segments\nresult: clean\n",
        store.display()
    );
    assert_eq!(ran.out, expected);
    let report = json(&check(dir.path(), "--data --json"));
    assert_eq!((&report["result"], &report["counts"]["vdis"]), (&"clean".into(), &0.into()));
    assert_eq!(check(dir.path(), "-r leaks").code, 0);
    assert_eq!(check(dir.path(), "-r all -n").code, 0);
    assert_eq!(check(dir.path(), "-n").code, 2, "a dry run of nothing is a usage error");
}

#[test]
fn check_that_cannot_be_completed_ends_with_1_and_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    let fails = |what: &str| {
        let ran = check(dir.path(), "");
        assert_eq!(ran.code, 1, "{what}: {}{}", ran.out, ran.err);
        assert!(ran.err.starts_with("error: ") && ran.err.contains("\nhint: "), "{what}: {}", ran.err);
        ran.err
    };
    fails("no file");
    std::fs::write(dir.path().join("store"), "").unwrap();
    fails("an empty file");
    std::fs::write(dir.path().join("store"), vec![0; 1 << 20]).unwrap();
    fails("zeros");
    std::fs::write(dir.path().join("store"), b"a file system".repeat(100_000)).unwrap();
    fails("something else");
    std::fs::remove_file(dir.path().join("store")).unwrap();
    assert_eq!(format(dir.path(), "--size 64M").code, 0);
    let ran = check(dir.path(), "--log /nonexistent.log");
    assert!(ran.code == 1 && ran.err.contains("/nonexistent.log"), "{}", ran.err);
    let file = std::fs::File::options().write(true).open(dir.path().join("store")).unwrap();
    file.set_len(8192).unwrap();
    let ran = check(dir.path(), "");
    assert!(matches!(ran.code, 1 | 2), "truncated: {}{}", ran.out, ran.err);
    assert!((ran.out + &ran.err).contains("hint: "));
}

#[test]
fn check_finds_a_flipped_bit_and_says_corrupt() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(format(dir.path(), "--size 64M").code, 0);
    let file = std::fs::File::options().read(true).write(true).open(dir.path().join("store")).unwrap();
    // Somewhere in the first copy of the superblock.
    let mut byte = [0];
    file.read_exact_at(&mut byte, 100).unwrap();
    file.write_all_at(&[byte[0] ^ 4], 100).unwrap();
    let ran = check(dir.path(), "--json");
    assert_eq!(ran.code, 2, "{}{}", ran.out, ran.err);
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(report["result"], "corrupt");
    assert_eq!(report["findings"][0]["severity"], "corrupt");
    let ran = check(dir.path(), "");
    assert!(ran.out.contains("\ncorrupt: ") && ran.out.ends_with("result: corrupt\n"), "{}", ran.out);
}

#[test]
fn check_repairs_what_has_a_second_copy_after_showing_the_plan_and_asking() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(format(dir.path(), "--size 64M").code, 0);
    let path = dir.path().join("store");
    let whole = std::fs::read(&path).unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(b"rot", 100).unwrap();
    let damaged = std::fs::read(&path).unwrap();
    let unchanged = || std::fs::read(&path).unwrap() == damaged;
    let plan = "write superblock copy 0 anew, from copy 1";
    let ran = check(dir.path(), "-r all -n");
    assert!(ran.code == 2 && ran.out.contains(&format!("would {plan}\n")) && unchanged(), "{}", ran.out);
    assert!(check(dir.path(), "-r leaks").code == 2 && unchanged(), "not asked for");
    let ran = check(dir.path(), "-r all");
    assert!(ran.code == 1 && ran.err.contains("no terminal") && unchanged(), "{}", ran.err);
    let line = format!("parallax check {} -r all", path.display());
    let ran = run_at(dir.path(), &line, Some("n\n"));
    assert!(ran.code == 1 && ran.err.contains(plan) && unchanged(), "{}", ran.err);
    let ran = run_at(dir.path(), &line, Some("y\n"));
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    assert!(
        ran.out.contains(&format!("repaired: {plan}\n")) && ran.out.ends_with("result: clean\n"),
        "{}",
        ran.out
    );
    assert!(std::fs::read(&path).unwrap() == whole);
    file.write_all_at(b"rot", 100).unwrap();
    let report = json(&check(dir.path(), "-r all --yes --json"));
    assert_eq!((&report["result"], &report["repaired"][0]), (&"clean".into(), &plan.into()));
}

#[test]
fn check_refuses_a_store_of_an_unknown_feature() {
    use vdi_core::format::superblock::{COPIES, Superblock};
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(format(dir.path(), "--size 64M").code, 0);
    let file = std::fs::File::options().read(true).write(true).open(dir.path().join("store")).unwrap();
    for (copy, block) in COPIES.into_iter().enumerate() {
        let mut bytes = vec![0; 4096];
        file.read_exact_at(&mut bytes, block * 4096).unwrap();
        let mut sb = Superblock::verify(&bytes, copy).unwrap();
        sb.features.refuse |= 1 << 40;
        file.write_all_at(&sb.encode(copy), block * 4096).unwrap();
    }
    let ran = check(dir.path(), "--json");
    let error: Value = serde_json::from_str(&ran.err).unwrap();
    assert_eq!((ran.code, &error["code"]), (1, &"unsupported".into()), "{}", ran.err);
}
