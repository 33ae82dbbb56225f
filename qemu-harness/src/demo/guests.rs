//! What the demo's guests do.

use std::time::Duration;

use super::Demo;
use crate::error::Result;
use crate::machine::{Machine, MachineConfig};

/// Any one step of a guest but fio takes at most this.
pub(super) const LIMIT: Duration = Duration::from_secs(90);

/// Files whose checksums are kept beside them, safely on the disk before the snapshot "golden".
const MAKE_GOLDEN: &str = "set -e
/sbin/mke2fs -q -t ext4 -E lazy_itable_init=0,lazy_journal_init=0 /dev/vda
mount /dev/vda /mnt
mkdir /mnt/golden
for n in 1 2 3 4 5 6 7 8; do dd if=/dev/urandom of=/mnt/golden/$n bs=1M count=4 2>/dev/null; done
(cd /mnt/golden && md5sum * >../golden.md5)
sync
df -h /mnt | tail -1";

/// About 50 seconds of random writes of 4 to 64 KiB, then every block read back
/// and compared with the checksum written in it; paced, so that it runs while the snapshots are taken.
pub(super) const FIO: &str = "cd /mnt && /sbin/fio --name=demo --filename=fio.data --filesize=192m \
--rw=randwrite --bsrange=4k-64k --ioengine=libaio --iodepth=16 --direct=1 --io_size=192m --rate=4m \
--verify=crc32c --do_verify=1 --verify_fatal=1 --group_reporting >/tmp/fio.txt 2>&1
status=$?; grep -E 'read:|write:|err=|verify' /tmp/fio.txt; sync; exit $status";

/// A file system in use is snapshotted with its journal: replay it by mounting, then check.
pub(super) const RECOVER_AND_CHECK: &str = "set -e
mount /dev/vda /mnt && umount /mnt
/sbin/e2fsck -fn /dev/vda 2>&1
mount /dev/vda /mnt";

/// The same without replaying, and what is in it.
pub(super) const CHECK_AND_LIST: &str = "set -e
mount /dev/vda /mnt && umount /mnt
/sbin/e2fsck -fn /dev/vda 2>&1 | tail -1
mount /dev/vda /mnt
ls /mnt";

/// Overwrite what the original still needs.
pub(super) const SPOIL: &str =
    "dd if=/dev/zero of=/mnt/golden/1 bs=1M count=4 2>/dev/null && rm /mnt/golden/2 && sync";

impl Demo {
    /// Boot a guest on `vdi`; as many CPUs as queues.
    pub(super) fn boot(&mut self, vdi: &str, queues: u16) -> Result<Machine> {
        let disk = self.daemon.attach(vdi, queues)?;
        let config = MachineConfig::new(vdi).cpus(queues).accel(self.accel).disk(disk);
        let machine = Machine::boot(&self.tools, config, self.scratch.path())?;
        let seconds = machine.boot_time().as_secs_f64();
        self.narrator.say(&format!("Guest {vdi} is up after {seconds:.1} s, its disk is /dev/vda."));
        Ok(machine)
    }

    /// Make the file system and the files that are verified from now on.
    pub(super) fn make_golden(&mut self, machine: &mut Machine) -> Result<()> {
        let df = machine.run(MAKE_GOLDEN, LIMIT)?;
        self.narrator.output(&df);
        Ok(())
    }

    /// Compare the files with their checksums, read from the disk and not from the guest's memory.
    pub(super) fn verify_golden(&mut self, machine: &mut Machine) -> Result<()> {
        let script = "echo 3 >/proc/sys/vm/drop_caches; cd /mnt/golden && md5sum -c ../golden.md5 2>&1";
        let files = machine.run(script, LIMIT)?.lines().filter(|line| line.ends_with(": OK")).count();
        self.narrator.say(&format!("All {files} files read back from the disk have their checksums."));
        Ok(())
    }
}
