//! A ring that is full: writers wait for a trim, and what they write then takes the place of what was trimmed.

use super::*;
use crate::device::simulated::Survival;
use crate::log::reserve::charge_bytes;
use crate::sabotage::Bug;
use crate::sabotage::property::breaks;

/// Blocks of each record.
const BLOCKS: u64 = 16;

fn spawn_append(world: &World, log: &Log, seq: u64) {
    let (log, record) = (log.clone(), write(seq, BLOCKS));
    let _ = world.spawn(async move {
        let room = log.reserve(record.encoded_bytes(), record.body.inline_blocks()).await?;
        log.append(room, &record, data_of(&record))
    });
}

/// Fill the ring, let writers wait for more than lies free between head and tail, trim everything, and lose power after
/// `events` events of the device. What is found then must be sound.
fn power_is_lost_while_writers_wait_for_a_trim(seed: u64, events: u64) {
    let (mut world, log) = World::with_log(RING_BYTES, seed);
    world.delays(1000);
    let charge_bytes = charge_bytes(write(1, BLOCKS).encoded_bytes(), BLOCKS as u32);
    let mut seq = 1;
    while log.stats().free_bytes >= charge_bytes {
        world.append(&log, &write(seq, BLOCKS)).unwrap();
        seq += 1;
    }
    world.flush(&log).unwrap();
    (seq..seq + 12).for_each(|seq| spawn_append(&world, &log, seq));
    world.executor.run_until_stalled();
    assert!(log.stats().waiting > 0, "{:?}", log.stats());
    world.crash.arm(events);
    let (trimmed, before) = (log.clone(), SegmentSeq(log.newest().0 + 1));
    let _ = world.spawn(async move { trimmed.trim(before, &[]).await });
    world.settle(&log);
    drop(log);
    world.disk.power_loss(Survival::Writes(500_000));
    world.reopen();
    let scan = world.scan().unwrap();
    assert!(scan.findings().is_empty(), "{:?}", scan.findings());
}

fn at_any_event() {
    for seed in 0..6 {
        for events in 1..24 {
            power_is_lost_while_writers_wait_for_a_trim(seed, events);
        }
    }
}

#[test]
fn space_is_not_written_again_before_a_durable_head_calls_it_free() {
    at_any_event();
    assert!(breaks(Bug::SpaceBeforeHead, at_any_event), "the seeded bug hides");
}
