//! The harness itself, proved on the reference peer (QEMU's own storage daemon): when a guest scenario
//! fails on our daemon and this one passes, the fault is ours.

use std::time::Duration;

use parallax_tests::guest;
use qemu_harness::storage_daemon::StorageDaemon;
use qemu_harness::{Disk, Machine, MachineConfig, Scratch};

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn harness_drives_a_guest_through_hotplug_reset_and_the_death_of_its_daemon() {
    let Some(leave) =
        guest::leave("harness_drives_a_guest_through_hotplug_reset_and_the_death_of_its_daemon")
    else {
        return;
    };
    let scratch = Scratch::new("reference").unwrap();
    let mut daemon = StorageDaemon::start(scratch.path(), 256 << 20, 2).unwrap();
    let second_scratch = Scratch::new("reference").unwrap();
    let second = StorageDaemon::start(second_scratch.path(), 64 << 20, 1).unwrap();
    let config = MachineConfig::new("reference").cpus(2).disk(Disk::new("first", daemon.socket()).queues(2));
    let mut machine = Machine::boot(&leave.tools, config, scratch.path()).unwrap();
    println!("booted in {:.1} s", machine.boot_time().as_secs_f64());

    let queues = machine.run("ls /sys/block/vda/mq | wc -l", MINUTE).unwrap();
    assert_eq!(queues.trim(), "2", "a guest with two CPUs uses both queues");
    let failed = machine.run("echo to be seen; false", MINUTE).unwrap_err();
    assert!(failed.to_string().contains("to be seen"), "a failing job shows its output: {failed}");

    let name = machine.plug(&Disk::new("second", second.socket())).unwrap();
    let size = machine.run(&format!("cat /sys/block/{name}/size"), MINUTE).unwrap();
    assert_eq!(size.trim(), (64 << 11).to_string());
    machine.unplug("second").unwrap();
    assert_eq!(machine.disk_names().unwrap(), ["vda"]);

    let write = "dd if=/dev/urandom of=/tmp/data bs=1M count=8 2>/dev/null; dd if=/tmp/data of=/dev/vda bs=1M oflag=direct
        sync; md5sum </tmp/data";
    let written = machine.run(write, MINUTE).unwrap();
    let written = written.lines().last().unwrap().to_string();
    daemon.kill();
    let read = machine.start("dd if=/dev/vda bs=1M count=8 iflag=direct 2>/dev/null | md5sum").unwrap();
    std::thread::sleep(Duration::from_secs(2));
    daemon.restart().unwrap();
    assert_eq!(machine.finish(read, MINUTE).unwrap().trim(), written, "a read across the outage");
    assert_eq!(machine.io_complaints().unwrap(), "");

    let boot_id = "cat /proc/sys/kernel/random/boot_id";
    let first = machine.run(boot_id, MINUTE).unwrap();
    machine.reset().unwrap();
    let second = machine.run(boot_id, MINUTE).unwrap();
    machine.reboot().unwrap();
    let third = machine.run(boot_id, MINUTE).unwrap();
    assert!(first != second && second != third && first != third, "each boot is a new one");
    machine.power_off().unwrap();
}
