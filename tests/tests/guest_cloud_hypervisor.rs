//! The other front end: a guest under cloud-hypervisor, where it is installed and KVM works.

use parallax_tests::guest::{MINUTE, stage};
use parallax_tests::skipped;
use qemu_harness::cloud_hypervisor::CloudHypervisor;

#[test]
fn a_guest_under_cloud_hypervisor_writes_and_reads_back() {
    let name = "a_guest_under_cloud_hypervisor_writes_and_reads_back";
    let Some(mut stage) = stage(name) else { return };
    let runner = match CloudHypervisor::find(&stage.leave.tools) {
        Ok(runner) => runner,
        Err(missing) => return skipped(name, &missing.0),
    };
    let disk = stage.daemon.create_and_attach("web", 1 << 30, 2).unwrap();
    let script = "set -e
        [ $(ls /sys/block/vda/mq | wc -l) = 2 ]
        /sbin/fio --name=ch --filename=/dev/vda --size=64m --rw=randwrite --bs=4k --ioengine=libaio --iodepth=16 \
            --direct=1 --verify=crc32c --verify_fatal=1
        /sbin/mke2fs -q -F -t ext4 /dev/vda
        /sbin/e2fsck -fn /dev/vda";
    let serial = runner.run(&stage.leave.tools, &disk, script, stage.scratch.path(), 2 * MINUTE).unwrap();
    assert!(!serial.contains("I/O error"), "{serial}");
    stage.daemon.stop_and_check().unwrap();
}
