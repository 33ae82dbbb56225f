//! What is staged survives the process, and only the process.

use super::*;
use crate::buffer::OwnMemory;
use crate::device::simulated::Survival;
use crate::error::ErrorKind;
use crate::format::staging::{HEAD, LIFE, RING, TAIL};

fn memory(boot: u64) -> StagingMemory {
    let bytes = StagingMemory::bytes_for(RING_OFFSET_BYTES + RING_BYTES, 1 << 20).unwrap();
    StagingMemory { memory: OwnMemory::zeroed(bytes), outlives: Ok(()), boot: Some(boot), life: 1 }
}

impl World {
    fn adopt(&self, staging: &StagingMemory, give_up: bool) -> Result<Scan> {
        let (device, staging) = (self.device.clone(), staging.clone());
        self.run(None, async move {
            Log::scan_staged(&device, LOG, STORE, &staging).await?.adopt(&staging, give_up).await
        })
    }
    /// The next life.
    fn start_staged(&self, staging: &mut StagingMemory) -> Log {
        let (scan, executor) = (self.adopt(staging, false).unwrap(), self.executor.clone());
        staging.life += 1;
        let staging = staging.clone();
        let started = async move {
            let log = scan.start(&executor, &staging).await?;
            log.begin_staging().await?;
            Result::Ok(log)
        };
        self.run(None, started).unwrap()
    }
    /// Append `count` records from `first` on, as far as the world lives; returns those that are acknowledged.
    fn append_until_it_dies(&self, log: &Log, first: u64, count: u64) -> Vec<u64> {
        let acknowledged: Rc<RefCell<Vec<u64>>> = Rc::default();
        let (log2, told) = (log.clone(), Rc::clone(&acknowledged));
        self.executor.spawn(async move {
            for seq in first..first + count {
                let record = if seq % 5 == 0 { discard(seq) } else { write(seq, 1 + seq % 3) };
                let room = log2.reserve(record.encoded_bytes(), record.body.inline_blocks()).await.unwrap();
                let mut data = data_of(&record);
                if seq % 2 == 0 {
                    data.iter_mut().for_each(|d| *d = in_place(&log2, d));
                }
                let appended = log2.append(room, &record, data).unwrap();
                log2.acknowledged(appended.segment.seq()).await.unwrap();
                told.borrow_mut().push(seq);
                if seq % 7 == 0 {
                    log2.flush().await.unwrap();
                }
            }
        });
        while self.step(Some(log)) {}
        acknowledged.take()
    }
}

/// As a write has it: copied to where it is staged.
fn in_place(log: &Log, data: &[u8]) -> Rc<AlignedBuf> {
    let mut buf = log.buffer(data.len());
    buf.copy_from_slice(data);
    Rc::new(buf)
}

fn dies_and_comes_back(seed: u64, events: u64) {
    let mut staging = memory(1);
    let mut world = World::new(RING_BYTES, seed);
    world.delays(20_000);
    let mut expected = Vec::new();
    for life in 0..3 {
        let log = world.start_staged(&mut staging);
        world.crash.arm(events);
        expected.extend(world.append_until_it_dies(&log, 1 + life * 1000, 60));
        drop(log);
        world.kill();
        let scan = world.adopt(&staging, false).unwrap();
        assert_eq!(seqs(&scan), expected, "seed {seed}, {events} events");
    }
}

#[test]
fn whatever_was_acknowledged_is_there_after_a_kill_at_any_event() {
    for seed in 0..4 {
        for events in 1..40 {
            dies_and_comes_back(seed, events);
        }
    }
}

#[test]
fn a_kill_while_records_are_adopted_changes_nothing() {
    for events in 1..20 {
        let mut staging = memory(1);
        let mut world = World::new(RING_BYTES, 5);
        let log = world.start_staged(&mut staging);
        world.crash.arm(4);
        let expected = world.append_until_it_dies(&log, 1, 60);
        assert!(expected.len() >= 7, "only a flush waits for the device");
        drop(log);
        world.kill();
        for _ in 0..3 {
            world.crash.arm(events);
            let (device, mut memory, executor) =
                (world.device.clone(), staging.clone(), world.executor.clone());
            staging.life += 1;
            let started = world.spawn(async move {
                let scan =
                    Log::scan_staged(&device, LOG, STORE, &memory).await?.adopt(&memory, false).await?;
                memory.life += 1;
                scan.start(&executor, &memory).await.map(drop)
            });
            while started.borrow().is_none() && world.step(None) {}
            world.kill();
        }
        assert_eq!(seqs(&world.adopt(&staging, false).unwrap()), expected, "{events} events");
    }
}

#[test]
fn a_loss_of_power_leaves_nothing_to_adopt_but_what_was_flushed() {
    let mut staging = memory(1);
    let mut world = World::new(RING_BYTES, 6);
    let log = world.start_staged(&mut staging);
    let first = write(1, 2);
    world.append(&log, &first).unwrap();
    world.flush(&log).unwrap();
    world.crash.arm(1);
    let more = world.append_until_it_dies(&log, 2, 5);
    assert_eq!(more.len(), 5);
    drop(log);
    world.disk.power_loss(Survival::Nothing);
    world.reopen();
    staging = StagingMemory { life: staging.life, ..memory(2) };
    assert_eq!(seqs(&world.adopt(&staging, false).unwrap()), [1]);
}

/// A host within a host has boots of its own, and memory that it shares.
#[test]
fn what_was_staged_is_there_whatever_boot_it_is_said_to_be() {
    for boot in [Some(2), None] {
        let mut staging = memory(1);
        let mut world = World::new(RING_BYTES, 6);
        let log = world.start_staged(&mut staging);
        world.crash.arm(1);
        let all = world.append_until_it_dies(&log, 1, 5);
        drop(log);
        world.kill();
        staging.boot = boot;
        assert_eq!(seqs(&world.adopt(&staging, false).unwrap()), all);
    }
    let nowhere = StagingMemory { boot: None, ..StagingMemory::default() };
    let mut staging = memory(1);
    let mut world = World::new(RING_BYTES, 6);
    drop(world.start_staged(&mut staging));
    world.kill();
    let refused = world.adopt(&nowhere, false).err().map(|e| e.kind());
    assert_eq!(refused, Some(ErrorKind::StagingMissing), "it may be the same boot");
}

#[test]
fn what_was_flushed_last_is_missed_when_it_rots() {
    let mut staging = memory(1);
    let mut world = World::new(RING_BYTES, 12);
    let log = world.start_staged(&mut staging);
    world.append(&log, &write(1, 2)).unwrap();
    world.flush(&log).unwrap();
    let last = world.append(&log, &write(2, 2)).unwrap();
    world.flush(&log).unwrap();
    let data = last.segment.block_offset(0).unwrap();
    drop((log, last));
    world.kill();
    world.rot(data - crate::units::BLOCK_BYTES + 200);
    let scan = world.adopt(&staging, false).unwrap();
    assert_eq!((seqs(&scan), scan.findings().len()), (vec![1], 1));
    // Of one whose memory is gone nobody knows.
    assert_eq!(world.scan().unwrap().findings().len(), 0);
}

#[test]
fn a_killed_log_does_not_start_without_its_staging_memory_but_one_that_was_left_does() {
    let mut staging = memory(1);
    let mut world = World::new(RING_BYTES, 7);
    let log = world.start_staged(&mut staging);
    world.append(&log, &write(1, 2)).unwrap();
    world.flush(&log).unwrap();
    drop(log);
    world.kill();
    let without = StagingMemory { boot: Some(1), ..StagingMemory::default() };
    let other_life = StagingMemory { memory: memory(1).memory, ..staging.clone() };
    for lost in [without.clone(), memory(1), other_life] {
        assert_eq!(world.adopt(&lost, false).err().unwrap().kind(), ErrorKind::StagingMissing);
        assert_eq!(seqs(&world.adopt(&lost, true).unwrap()), [1], "that had reached the device");
    }
    let (scan, executor) = (world.adopt(&staging, false).unwrap(), world.executor.clone());
    staging.life += 1;
    let begun = staging.clone();
    drop(world.run(None, async move { scan.start(&executor, &begun).await }).unwrap());
    world.kill();
    assert_eq!(
        seqs(&world.adopt(&without, false).unwrap()),
        [1],
        "nothing was acknowledged by a start that went no further"
    );
    let log = world.start_staged(&mut staging);
    let leaving = log.clone();
    world.run(Some(&log), async move { leaving.leave_staging().await }).unwrap();
    drop(log);
    world.kill();
    assert_eq!(seqs(&world.adopt(&without, false).unwrap()), [1]);
}

#[test]
fn bytes_in_the_staging_memory_that_make_no_sense_are_refused() {
    let mut random = Random::new(8);
    let mut refused = 0;
    for _ in 0..400 {
        let mut staging = memory(1);
        let mut world = World::new(RING_BYTES, 9);
        let log = world.start_staged(&mut staging);
        world.crash.arm(1);
        let all = world.append_until_it_dies(&log, 1, 6);
        drop(log);
        world.kill();
        let memory = staging.memory.clone();
        let head = memory.load(HEAD);
        let within = [TAIL, HEAD, LIFE, RING + random.below(head) as usize / 8 * 8];
        let at = *random.pick(&within);
        let was = memory.load(at);
        let wrong = [random.bits(), random.below(1 << 20), 0, u64::MAX, was ^ 1];
        memory.store(at, *random.pick(&wrong));
        match world.adopt(&staging, false) {
            // Padding, or what a scan finds on the device as well; a cut at the last entry's end is no contradiction.
            Ok(scan) => assert!(all.starts_with(&seqs(&scan))),
            Err(e) => {
                assert!(matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::StagingMissing), "{e:?}");
                refused += 1;
            }
        }
    }
    assert!(refused > 100, "{refused}");
}

#[test]
fn a_life_begins_nothing_in_memory_that_an_earlier_one_still_uses() {
    let mut staging = memory(1);
    let world = World::new(RING_BYTES, 10);
    let log = world.start_staged(&mut staging);
    let word = |at| staging.memory.load(at);
    let before = [LIFE, TAIL, HEAD].map(word);
    let (scan, executor) = (world.scan().unwrap(), world.executor.clone());
    let again = StagingMemory { life: 99, ..staging.clone() };
    let refused = world.run(None, async move { scan.start(&executor, &again).await });
    assert_eq!(refused.err().unwrap().kind(), ErrorKind::Busy);
    assert_eq!([LIFE, TAIL, HEAD].map(word), before);
    drop(log);
}

#[test]
fn what_is_adopted_is_there_or_the_log_does_not_start() {
    let mut staging = memory(1);
    let mut world = World::new(RING_BYTES, 11);
    let log = world.start_staged(&mut staging);
    world.crash.arm(1);
    let all = world.append_until_it_dies(&log, 1, 5);
    drop(log);
    world.kill();
    world.disk.set_faults(Faults { lost_write: 1_000_000, ..Faults::default() });
    assert_eq!(world.adopt(&staging, false).err().unwrap().kind(), ErrorKind::Corrupt);
    world.disk.set_faults(Faults::default());
    assert_eq!(seqs(&world.adopt(&staging, false).unwrap()), all);
}
