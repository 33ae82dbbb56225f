//! `make guest-kills`, `make upgrades`: the daemon disturbed under guests that run fio with verify.

use std::time::Instant;

use parallax_benches::settings::number;
use parallax_tests::guest::stage_with;
use parallax_tests::guest_kills::{How, run};
use parallax_tests::ledger::note;

/// Disturbances of one guest.
const EACH: u64 = 10;

fn main() {
    let (how, family) = match std::env::args().nth(1).as_deref() {
        Some("kill") => (How::Kill, "kill-guest"),
        Some("upgrade") => (How::Upgrade, "upgrade"),
        _ => panic!("kill or upgrade?"),
    };
    let times = number("TIMES", 100);
    let started = Instant::now();
    let (mut done, mut failures) = (0, 0);
    while done < times {
        let shards = (1 + done / EACH % 2).to_string();
        let stage = stage_with(family, &["--shards", &shards]).expect("guests can run here");
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(stage, how, EACH))).is_err() {
            failures += 1;
        }
        done += EACH;
        println!("{done} of {times}, {failures} failures");
    }
    note(family, "256M", done, done, started, failures);
}
