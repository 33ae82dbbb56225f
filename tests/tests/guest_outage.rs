//! The daemon dies under a guest at work: a pause, no error, no lost or doubled write.

use std::thread::sleep;
use std::time::Duration;

use parallax_tests::guest::{MINUTE, stage, stage_with};
use parallax_tests::guest_kills::{How, run};
use qemu_harness::MachineConfig;

#[test]
fn fio_verify_survives_three_kills_of_the_daemon() {
    let Some(stage) = stage("fio_verify_survives_three_kills_of_the_daemon") else { return };
    run(stage, How::Kill, 3);
}

#[test]
fn fio_verify_survives_upgrades_of_a_daemon_with_two_shards() {
    let test = "fio_verify_survives_upgrades_of_a_daemon_with_two_shards";
    let Some(stage) = stage_with(test, &["--shards", "2"]) else { return };
    run(stage, How::Upgrade, 2);
}

#[test]
fn an_outage_of_eight_seconds_is_a_pause_and_nothing_else() {
    let Some(mut stage) = stage("an_outage_of_eight_seconds_is_a_pause_and_nothing_else") else { return };
    let disk = stage.daemon.create_and_attach("web", 20 << 30, 1).unwrap();
    let mut machine = stage.boot(MachineConfig::new("outage").disk(disk));
    machine.run("/sbin/mke2fs -q -t ext4 /dev/vda && mount /dev/vda /mnt", MINUTE).unwrap();
    // Small files, each flushed, its name noted once it is: what is noted must be there afterwards.
    let work = "end=$(($(cut -d. -f1 /proc/uptime) + 14)); n=0; cd /mnt
        while [ $(cut -d. -f1 /proc/uptime) -lt $end ]; do
            n=$((n + 1)); echo $n-$n-$n >f$n && sync f$n || exit 1; echo $n >>/tmp/noted
        done
        cat /tmp/noted | wc -l";
    let job = machine.start(work).unwrap();
    sleep(Duration::from_secs(3));
    stage.daemon.kill();
    sleep(Duration::from_secs(8));
    stage.daemon.start().unwrap();
    let noted = machine.finish(job, 2 * MINUTE).unwrap();
    println!("{} files flushed around the outage", noted.trim());
    let verify = "cd / && umount /mnt && mount /dev/vda /mnt && cd /mnt || exit 1
        while read n; do [ \"$(cat f$n)\" = $n-$n-$n ] || { echo f$n is wrong; exit 1; }; done </tmp/noted
        cd / && umount /mnt && /sbin/e2fsck -fn /dev/vda 2>&1";
    machine.run(verify, 2 * MINUTE).unwrap();
    stage.finish(machine);
}

#[test]
fn a_killed_front_end_leaves_every_flushed_file_to_the_next_guest() {
    let Some(stage) = stage("a_killed_front_end_leaves_every_flushed_file_to_the_next_guest") else { return };
    let disk = stage.daemon.create_and_attach("web", 20 << 30, 1).unwrap();
    let mut machine = stage.boot(MachineConfig::new("killed").disk(disk.clone()));
    machine.run("/sbin/mke2fs -q -t ext4 /dev/vda && mount /dev/vda /mnt", MINUTE).unwrap();
    // Each file is flushed before the next is begun: where one is, all before it are whole.
    let endless = "cd /mnt; n=0; while :; do n=$((n + 1)); echo $n-$n-$n >f$n && sync f$n || exit 1; done";
    let job = machine.start(endless).unwrap();
    sleep(Duration::from_secs(4));
    machine.kill();
    drop(job);
    let mut machine = stage.boot(MachineConfig::new("next").disk(disk));
    let verify = "set -e
        mount /dev/vda /mnt
        last=$(ls /mnt | grep ^f | cut -c2- | sort -n | tail -1)
        for n in $(seq $((last - 1))); do [ \"$(cat /mnt/f$n)\" = $n-$n-$n ] || { echo f$n of $last is wrong; exit 1; }; done
        umount /mnt
        /sbin/e2fsck -fn /dev/vda >&2
        echo $last";
    let last = machine.run(verify, 2 * MINUTE).unwrap();
    let last = last.lines().last().unwrap_or_default();
    println!("{last} files flushed before the kill");
    assert!(last.parse::<u32>().unwrap() > 3, "the guest was at work when it was killed");
    stage.finish(machine);
}
