//! Every committed input of every target, once.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use fuzz_targets::target;

fn corpus(name: &str) -> Vec<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name);
    let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|e| e.expect("a folder can be read").path()).collect();
    files.sort_unstable();
    files
}

fn replay(name: &str) {
    let body = target(name).expect("the target has this name");
    let files = corpus(name);
    assert!(!files.is_empty(), "{name} has no corpus");
    for file in files {
        let bytes = fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        if catch_unwind(AssertUnwindSafe(|| body(&bytes))).is_err() {
            let again = format!("make fuzz FUZZ={name} INPUT={}", file.display());
            panic!("{name} fails on {}; again with: {again}", file.display());
        }
    }
    // What every one of them must take.
    for bytes in [&[][..], &[0], &[0xff; 64]] {
        body(bytes);
    }
}

#[test]
fn damaged_and_resealed_stores_are_refused_or_served_and_never_a_panic() {
    replay("store-image");
}

#[test]
fn forged_logs_are_replayed_or_refused_and_never_a_panic() {
    replay("log-image");
}

#[test]
fn scripted_worlds_keep_every_promise() {
    replay("operations");
}

/// Those that open descriptors run one at a time: one of them counts what there are.
static DESCRIPTORS: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    DESCRIPTORS.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn hostile_inflight_areas_are_refused_or_recovered_whole() {
    let _alone = alone();
    replay("inflight");
}

#[test]
fn hostile_requests_do_what_their_bytes_mean_and_nothing_else() {
    let _alone = alone();
    replay("request-path");
}

#[test]
fn hostile_front_ends_are_heard_out_or_cut_off_and_leave_nothing_behind() {
    let _alone = alone();
    replay("vhost-user-stream");
}

#[test]
fn hostile_clients_get_an_answer_of_the_one_shape_or_are_cut_off() {
    let _alone = alone();
    replay("control-api");
}
