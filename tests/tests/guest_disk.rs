//! A guest uses its disk as guests do: verified I/O, a file system, trim, reboot, drivers that come and
//! go, disks that are plugged in and grow.

use parallax_tests::guest::{MINUTE, stage};
use qemu_harness::MachineConfig;
use qemu_harness::wait::{Deadline, until};
use serde_json::json;

#[test]
fn fio_verify_and_ext4_are_clean_on_two_queues() {
    let Some(stage) = stage("fio_verify_and_ext4_are_clean_on_two_queues") else { return };
    let disk = stage.daemon.create_and_attach("web", 20 << 30, 2).unwrap();
    let mut machine = stage.boot(MachineConfig::new("disk").cpus(2).disk(disk));
    let queues = machine.run("ls /sys/block/vda/mq | wc -l", MINUTE).unwrap();
    assert_eq!(queues.trim(), "2", "the guest uses both queues");
    // Two processes, each on its own CPU, so on its own queue; 512-byte requests are read-modify-write.
    let raw = "/sbin/fio --name=raw --filename=/dev/vda --size=48m --offset_increment=1g --numjobs=2 \
        --cpus_allowed=0-1 --cpus_allowed_policy=split --rw=randrw --bsrange=512-128k --ioengine=libaio --iodepth=16 \
        --direct=1 --verify=crc32c --verify_fatal=1 --fdatasync=64 2>&1";
    machine.run(raw, 3 * MINUTE).unwrap();
    let file_system = "set -e
        /sbin/mke2fs -q -F -t ext4 /dev/vda
        mount /dev/vda /mnt
        /sbin/fio --name=files --directory=/mnt --nrfiles=16 --size=32m --rw=randwrite --bs=4k --ioengine=libaio \
            --iodepth=8 --verify=crc32c --verify_fatal=1 --fsync_on_close=1 2>&1
        umount /mnt
        /sbin/e2fsck -fn /dev/vda 2>&1";
    machine.run(file_system, 3 * MINUTE).unwrap();
    stage.finish(machine);
}

#[test]
fn space_trimmed_by_the_guest_comes_back_in_status() {
    let Some(stage) = stage("space_trimmed_by_the_guest_comes_back_in_status") else { return };
    let disk = stage.daemon.create_and_attach("web", 20 << 30, 1).unwrap();
    let mut machine = stage.boot(MachineConfig::new("trim").disk(disk));
    machine.run("/sbin/mke2fs -q -t ext4 /dev/vda && mount /dev/vda /mnt && sync", MINUTE).unwrap();
    let empty = stage.daemon.used_bytes().unwrap();
    let fill = "dd if=/dev/urandom of=/tmp/seed bs=1M count=8 2>/dev/null
        for n in $(seq 24); do cat /tmp/seed; done >/mnt/big && sync";
    machine.run(fill, 3 * MINUTE).unwrap();
    let full = stage.daemon.used_bytes().unwrap();
    assert!(full >= empty + (190 << 20), "192 MiB written: {empty} -> {full}");
    let trimmed = machine.run("rm /mnt/big && sync && fstrim -v /mnt && sync", 3 * MINUTE).unwrap();
    println!("{trimmed}");
    // A block that is freed while the guest writes on is free one checkpoint later: the log may still name it.
    let back = format!("trimmed space is free again, {empty} -> {full} -> at most 16 MiB more than at first");
    until(&back, Deadline::seconds(60), || {
        Ok((stage.daemon.used_bytes()? <= empty + (16 << 20)).then_some(()))
    })
    .unwrap();
    machine.run("umount /mnt && /sbin/e2fsck -fn /dev/vda 2>&1", MINUTE).unwrap();
    stage.finish(machine);
}

#[test]
fn data_survives_a_reboot_a_reset_and_a_rebound_driver() {
    let Some(stage) = stage("data_survives_a_reboot_a_reset_and_a_rebound_driver") else { return };
    let disk = stage.daemon.create_and_attach("web", 1 << 30, 2).unwrap();
    let mut machine = stage.boot(MachineConfig::new("reboot").cpus(2).disk(disk));
    let write = "dd if=/dev/urandom of=/tmp/data bs=1M count=16 2>/dev/null; dd if=/tmp/data of=/dev/vda bs=64k 2>/dev/null
        sync; md5sum </tmp/data";
    let sum = "dd if=/dev/vda bs=64k count=256 iflag=direct 2>/dev/null | md5sum";
    let written = machine.run(write, MINUTE).unwrap();
    machine.reboot().unwrap();
    assert_eq!(machine.run(sum, MINUTE).unwrap(), written, "after a reboot");
    let rebind = "device=$(basename $(readlink /sys/block/vda/device)); cd /sys/bus/virtio/drivers/virtio_blk
        for n in 1 2 3; do echo $device >unbind; [ ! -e /dev/vda ] || exit 1; echo $device >bind; done
        until [ -e /dev/vda ]; do sleep 0.1; done";
    machine.run(rebind, MINUTE).unwrap();
    assert_eq!(machine.run(sum, MINUTE).unwrap(), written, "after unbinding and binding the driver");
    let reads = machine
        .start("while :; do dd if=/dev/vda of=/dev/null bs=64k iflag=direct 2>/dev/null; done")
        .unwrap();
    machine.reset().unwrap();
    // Its guest is gone, and it with it.
    drop(reads);
    assert_eq!(machine.run(sum, MINUTE).unwrap(), written, "after a reset in the middle of reads");
    stage.finish(machine);
}

#[test]
fn a_disk_plugged_in_works_and_its_resize_is_seen() {
    let Some(stage) = stage("a_disk_plugged_in_works_and_its_resize_is_seen") else { return };
    let disk = stage.daemon.create_and_attach("web", 1 << 30, 1).unwrap();
    let mut machine = stage.boot(MachineConfig::new("plug").disk(disk));
    let second = stage.daemon.create_and_attach("data", 512 << 20, 1).unwrap();
    let name = machine.plug(&second).unwrap();
    let make = format!(
        "/sbin/mke2fs -q -t ext4 /dev/{name} && mount /dev/{name} /mnt && echo kept >/mnt/file && sync"
    );
    machine.run(&make, MINUTE).unwrap();

    let mut control = stage.daemon.control().unwrap();
    control.request("PATCH", "/vdis/data", &json!({ "size_bytes": 768 << 20 })).unwrap();
    let seen = format!(
        "until [ $(cat /sys/block/{name}/size) = {} ]; do sleep 0.1; done
        dd if=/dev/urandom of=/tmp/end bs=1M count=1 2>/dev/null
        dd if=/tmp/end of=/dev/{name} bs=1M seek=767 oflag=direct 2>/dev/null
        dd if=/dev/{name} bs=1M skip=767 iflag=direct 2>/dev/null | cmp - /tmp/end",
        768 << 11
    );
    machine.run(&seen, MINUTE).unwrap();

    machine.run("umount /mnt", MINUTE).unwrap();
    machine.unplug("data").unwrap();
    let name = machine.plug(&second).unwrap();
    let read =
        machine.run(&format!("mount /dev/{name} /mnt && cat /mnt/file && umount /mnt"), MINUTE).unwrap();
    assert_eq!(read.trim(), "kept", "plugged in again");
    machine.run(&format!("/sbin/e2fsck -fn /dev/{name} 2>&1"), MINUTE).unwrap();
    stage.finish(machine);
}
