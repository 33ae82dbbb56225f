//! The daemon dies, or is replaced by another binary, under a guest that runs fio with verify.

#![expect(clippy::unwrap_used, reason = "to panic is to fail")]

use std::thread::sleep;
use std::time::Duration;

use qemu_harness::MachineConfig;
use qemu_harness::tools::built;

use crate::guest::{MINUTE, Stage};

/// From one disturbance to the next.
const PACE: Duration = Duration::from_secs(4);
/// What each of two fio processes writes between two disturbances, MiB.
const WRITTEN_MIB: u64 = 32;

/// What is done to the daemon.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// `kill -9`, and a new start after a moment.
    Kill,
    /// SIGTERM, and another binary on the same run directory.
    Upgrade,
}

/// Disturb the daemon of `stage` so often; panics when the guest sees an error, reads what it did not write, or the
/// store is not clean in the end.
pub fn run(mut stage: Stage, how: How, times: u64) {
    let disk = stage.daemon.create_and_attach("web", 20 << 30, 2).unwrap();
    let mut machine = stage.boot(MachineConfig::new("kills").cpus(2).disk(disk));
    // Each block carries its checksum, offset and generation: an old, lost or misplaced write is found when it is read
    // back. Paced, so that the disturbances come while it writes.
    let fio = machine
        .start(&format!(
            "/sbin/fio --name=kills --filename=/dev/vda --size=64m --io_size={}m --offset_increment=1g --numjobs=2 \
             --cpus_allowed=0-1 --cpus_allowed_policy=split --rw=randwrite --bsrange=4k-64k --ioengine=libaio \
             --iodepth=16 --direct=1 --rate=6m --verify=crc32c --do_verify=1 --verify_fatal=1 --verify_backlog=512 2>&1",
            WRITTEN_MIB * times
        ))
        .unwrap();
    let original = built("vhost-parallax").unwrap();
    let other = stage.scratch.path().join("vhost-parallax-next");
    std::fs::copy(&original, &other).unwrap();
    for time in 0..times {
        sleep(PACE);
        match how {
            How::Kill => {
                stage.daemon.kill();
                sleep(Duration::from_millis(300));
            }
            How::Upgrade => {
                stage.daemon.stop().unwrap();
                stage.daemon.set_program(if time % 2 == 0 { &other } else { &original });
            }
        }
        let took = stage.daemon.start().unwrap();
        println!("daemon back after {} ms", took.as_millis());
    }
    machine.finish(fio, (4 + times as u32) * MINUTE).unwrap();
    stage.finish(machine);
}
