//! What a scan makes of damage: a torn tail is quiet, rot in what was durable is reported and passed.

use super::*;
use crate::device::simulated::Survival;
use crate::units::BLOCK_BYTES;

/// A log with one record per segment, all flushed, and where the head areas lie.
fn log_of(segments: u64, seed: u64) -> (World, Vec<u64>) {
    let (mut world, log) = World::with_log(RING_BYTES, seed);
    let offsets = append_each(&world, &log, 1..=segments);
    drop(log);
    world.kill();
    (world, offsets)
}

fn append_each(world: &World, log: &Log, seqs: std::ops::RangeInclusive<u64>) -> Vec<u64> {
    seqs.map(|seq| {
        let appended = world.append(log, &write(seq, 2)).unwrap();
        world.flush(log).unwrap();
        appended.segment.block_offset(0).unwrap() - BLOCK_BYTES
    })
    .collect()
}

#[test]
fn an_invalid_segment_below_durable_through_is_reported_by_its_sequence_and_passed() {
    let (world, offsets) = log_of(8, 1);
    world.rot(offsets[3] + 200);
    let scan = world.scan().unwrap();
    let segment = scan.segments()[0].segment.seq().0 + 3;
    assert_eq!(seqs(&scan), [1, 2, 3, 5, 6, 7, 8]);
    let [finding] = scan.findings() else { panic!("{:?}", scan.findings()) };
    assert_eq!((finding.from.0, finding.to.0, finding.offset_bytes), (segment, segment, offsets[3]));
    assert_eq!(finding.vdis, [VDI]);
    let e = finding.error();
    assert_eq!(e.kind(), ErrorKind::Corrupt);
    assert!(e.message().contains(&format!("segment {segment} ")), "{e}");
}

#[test]
fn damage_stays_reported_through_later_lives_until_it_is_trimmed() {
    let (mut world, offsets) = log_of(6, 2);
    world.rot(offsets[2]);
    world.rot(offsets[3]);
    let mut next = 7;
    let mut all = vec![1, 2, 5, 6];
    let mut missing = None;
    for _ in 0..3 {
        let scan = world.scan().unwrap();
        assert_eq!(seqs(&scan), all);
        assert_eq!(scan.findings().len(), 1);
        let finding = scan.findings()[0].clone();
        assert_eq!(finding.to.0, finding.from.0 + 1);
        assert_eq!(*missing.get_or_insert(finding.clone()), finding);
        let log = world.start_from(scan);
        append_each(&world, &log, next..=next + 1);
        all.extend([next, next + 1]);
        next += 2;
        drop(log);
        world.kill();
    }
    let log = world.start();
    let newest = log.newest();
    world.trim(&log, newest).unwrap();
    drop(log);
    world.kill();
    assert!(world.scan().unwrap().findings().is_empty());
}

#[test]
fn damage_at_the_very_end_stays_reported_too() {
    for kept in [0, 2] {
        let (mut world, log) = World::with_log(RING_BYTES, 16);
        let offsets = append_each(&world, &log, 1..=kept + 1);
        // Only the head knows that the last segment was flushed.
        let generation = VdiGeneration { vdi: VDI, lease_epoch: 1, generation: Generation(1) };
        let log2 = log.clone();
        world.run(Some(&log), async move { log2.trim(SegmentSeq(0), &[generation]).await }).unwrap();
        let lost = log.newest();
        drop(log);
        world.kill();
        world.rot(offsets[kept as usize] + 70);
        let mut all: Vec<u64> = (1..=kept).collect();
        for seq in 101..=103 {
            let scan = world.scan().unwrap();
            assert_eq!(seqs(&scan), all);
            let [finding] = scan.findings() else { panic!("{:?}", scan.findings()) };
            assert_eq!((finding.from, finding.to), (lost, lost));
            assert_eq!(finding.vdis, [VDI]);
            let log = world.start_from(scan);
            append_each(&world, &log, seq..=seq);
            all.push(seq);
            drop(log);
            world.kill();
        }
        let log = world.start();
        world.trim(&log, log.newest()).unwrap();
        drop(log);
        world.kill();
        assert!(world.scan().unwrap().findings().is_empty());
    }
}

#[test]
fn every_durable_segment_that_rots_is_reported_wherever_it_lies() {
    for victim in 0..9 {
        let (mut world, mut offsets) = log_of(3, 3);
        for life in 1..3 {
            let log = world.start();
            offsets.extend(append_each(&world, &log, life * 3 + 1..=life * 3 + 3));
            drop(log);
            world.kill();
        }
        // Only a successor knows for certain that the last segment was flushed.
        drop(world.start());
        world.kill();
        world.rot(offsets[victim] + 70);
        let scan = world.scan().unwrap();
        let left: Vec<u64> = (1..=9).filter(|seq| *seq != victim as u64 + 1).collect();
        assert_eq!(seqs(&scan), left, "victim {victim}");
        assert_eq!(scan.findings().len(), 1, "victim {victim}");
        // The next life goes on, and still knows.
        let log = world.start_from(scan);
        append_each(&world, &log, 10..=11);
        drop(log);
        world.kill();
        let scan = world.scan().unwrap();
        assert_eq!(scan.findings().len(), 1, "victim {victim}");
        assert_eq!(seqs(&scan).len(), 10);
    }
}

#[test]
fn a_torn_tail_above_durable_through_is_quiet() {
    let (mut world, log) = World::with_log(RING_BYTES, 4);
    append_each(&world, &log, 1..=3);
    let mut tail = Vec::new();
    for seq in 4..=6 {
        tail.push(world.append(&log, &write(seq, 2)).unwrap());
        world.settle(&log);
    }
    let offset = tail[1].segment.block_offset(0).unwrap();
    drop((log, tail));
    world.kill();
    for (what, at) in [("head area", offset - BLOCK_BYTES), ("data", offset + 5000)] {
        world.rot(at);
        let scan = world.scan().unwrap();
        assert_eq!(seqs(&scan), [1, 2, 3, 4], "{what}");
        assert!(scan.findings().is_empty(), "{what}");
        world.rot(at);
    }
    assert_eq!(seqs(&world.scan().unwrap()), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn a_discarded_tail_never_comes_back() {
    let (mut world, log) = World::with_log(RING_BYTES, 5);
    append_each(&world, &log, 1..=2);
    let mut tail = Vec::new();
    for seq in 3..=6 {
        tail.push(world.append(&log, &write(seq, 2)).unwrap());
        world.settle(&log);
    }
    let offset = tail[1].segment.block_offset(0).unwrap() - BLOCK_BYTES;
    drop((log, tail));
    world.kill();
    // Segment 4 is torn, 5 and 6 are whole: they were never acknowledged as part of a prefix.
    world.rot(offset);
    let scan = world.scan().unwrap();
    assert_eq!(seqs(&scan), [1, 2, 3]);
    let log = world.start_from(scan);
    drop(log);
    world.kill();
    // Even when the torn one heals (a read error that went away), a successor has decided.
    world.rot(offset);
    let scan = world.scan().unwrap();
    assert_eq!(seqs(&scan), [1, 2, 3]);
    let log = world.start_from(scan);
    // New segments end exactly where old valid ones start.
    append_each(&world, &log, 104..=104);
    drop(log);
    world.kill();
    let scan = world.scan().unwrap();
    assert_eq!(seqs(&scan), [1, 2, 3, 104]);
    assert!(scan.findings().is_empty());
    drop(world.start_from(scan));
    world.kill();
    // Not even when the segment that replaced it rots: what follows the gap is another life's leftover.
    world.rot(offset);
    let scan = world.scan().unwrap();
    assert_eq!(seqs(&scan), [1, 2, 3]);
    assert_eq!(scan.findings().len(), 1);
}

#[test]
fn a_cut_is_remembered_by_every_later_life() {
    let (mut world, log) = World::with_log(RING_BYTES, 6);
    append_each(&world, &log, 1..=2);
    world.append(&log, &discard(3)).unwrap();
    world.run(None, crate::executor::yield_now());
    let together: Vec<_> = (4..=8).map(|seq| world.append(&log, &discard(seq)).unwrap()).collect();
    world.settle(&log);
    let torn = &together[4];
    let (seq, record) = (torn.segment.seq(), torn.record);
    drop((log, together));
    world.kill();
    let mut scan = world.scan().unwrap();
    assert_eq!(seqs(&scan), [1, 2, 3, 4, 5, 6, 7, 8]);
    assert!(seq > scan.durable_through());
    scan.cut(seq, record);
    assert_eq!(seqs(&scan), [1, 2, 3, 4, 5, 6, 7]);
    drop(world.start_from(scan));
    world.kill();
    assert_eq!(seqs(&world.scan().unwrap()), [1, 2, 3, 4, 5, 6, 7]);
    let log = world.start();
    append_each(&world, &log, 108..=109);
    drop(log);
    world.kill();
    drop(world.start());
    world.kill();
    assert_eq!(seqs(&world.scan().unwrap()), [1, 2, 3, 4, 5, 6, 7, 108, 109]);
}

#[test]
#[should_panic(expected = "never flushed")]
fn what_was_flushed_cannot_be_cut() {
    let (world, _) = log_of(3, 7);
    let mut scan = world.scan().unwrap();
    let first = scan.segments()[0].segment.seq();
    scan.cut(first, 0);
}

#[test]
fn either_slot_of_the_head_may_rot() {
    for slot in 0..2 {
        let (mut world, log) = World::with_log(RING_BYTES, 8);
        append_each(&world, &log, 1..=4);
        world.trim(&log, SegmentSeq(log.tail().0 + 2)).unwrap();
        drop(log);
        world.kill();
        let at = crate::format::log_head::slot_offset_bytes(slot) + 90;
        world.rot(at);
        let scan = world.scan().unwrap();
        assert_eq!(seqs(&scan), [3, 4]);
        assert!(scan.findings().is_empty());
        // The next head goes over the bad slot first.
        drop(world.start_from(scan));
        world.kill();
        assert_eq!(seqs(&world.scan().unwrap()), [3, 4]);
        world.rot(crate::format::log_head::slot_offset_bytes(1 - slot) + 90);
        assert_eq!(seqs(&world.scan().unwrap()), [3, 4]);
        world.rot(crate::format::log_head::slot_offset_bytes(slot) + 90);
        assert_eq!(world.scan().map(drop).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}

#[test]
fn a_head_older_than_the_log_is_corruption_not_an_empty_log() {
    let (mut world, log) = World::with_log(RING_BYTES, 9);
    let mut old = vec![0; RING_OFFSET_BYTES as usize];
    world.disk.media().read(0, &mut old);
    append_each(&world, &log, 1..=4);
    let log = {
        drop(log);
        world.kill();
        world.start()
    };
    append_each(&world, &log, 5..=6);
    drop(log);
    world.kill();
    world.disk.media().write(0, &old);
    let e = world.scan().map(drop).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Corrupt);
    assert!(e.message().contains("head"), "{e}");
}

#[test]
fn another_log_another_store_and_no_log_are_told_apart() {
    let (world, _) = log_of(1, 10);
    let scan = |log, store| {
        let device = world.device.clone();
        world.run(None, async move { Log::scan(&device, log, store).await.map(drop) }).unwrap_err()
    };
    let e = scan(Uuid(1), STORE);
    assert_eq!(e.kind(), ErrorKind::LogMissing);
    assert!(e.message().contains(&LOG.to_string()), "{e}");
    assert_eq!(scan(LOG, Uuid(1)).kind(), ErrorKind::WrongStore);
    let zeros = vec![0; RING_OFFSET_BYTES as usize];
    world.disk.media().write(0, &zeros);
    assert_eq!(scan(LOG, STORE).kind(), ErrorKind::LogMissing);
    world.disk.media().write(0, &vec![0xaa; RING_OFFSET_BYTES as usize]);
    assert_eq!(scan(LOG, STORE).kind(), ErrorKind::Corrupt);
}

#[test]
fn a_truncated_log_is_refused() {
    let (world, _) = log_of(2, 11);
    let short =
        crate::device::MemoryDevice::new("short", RING_OFFSET_BYTES + (512 << 10), world.disk.media());
    for (device, kind) in [
        (DeviceHandle::new(Box::new(short)), ErrorKind::Corrupt),
        (
            DeviceHandle::new(Box::new(crate::device::MemoryDevice::new("tiny", 4096, world.disk.media()))),
            ErrorKind::LogMissing,
        ),
    ] {
        let executor = Executor::new();
        let d2 = device.clone();
        let e = crate::executor::block_on(
            &executor,
            async move { Log::scan(&d2, LOG, STORE).await.map(drop) },
            || device.poll(),
        );
        assert_eq!(e.unwrap_err().kind(), kind);
    }
}

#[test]
fn create_prewrites_the_ring_and_destroys_what_was_there() {
    let (mut world, _) = log_of(3, 12);
    world.kill();
    let device = world.device.clone();
    world.run(None, async move { Log::create(&device, LOG, STORE).await }).unwrap();
    assert!(world.device.counts().write_bytes.get() >= RING_OFFSET_BYTES + RING_BYTES);
    world.disk.power_loss(Survival::Nothing);
    world.reopen();
    let scan = world.scan().unwrap();
    assert!(scan.segments().is_empty() && scan.findings().is_empty());
}

#[test]
fn scanning_reads_headers_not_data() {
    let (mut world, log) = World::with_log(32 << 20, 13);
    for seq in 1..=8 {
        world.append(&log, &write(seq, 500)).unwrap();
        world.flush(&log).unwrap();
    }
    drop(log);
    world.kill();
    drop(world.start());
    world.kill();
    let scan = world.scan().unwrap();
    assert_eq!(seqs(&scan).len(), 8);
    let read = world.device.counts().read_bytes.get();
    let data = 8 * 500 * BLOCK_BYTES;
    // Heads, the look ahead behind the end, nothing of the rest.
    assert!(read < RING_OFFSET_BYTES + 9 * (1 << 20) + scan.ring.probe_bytes(), "{read} of {data}");
}

#[test]
fn a_stale_segment_with_a_valid_checksum_never_follows() {
    use crate::format::segment::{SegmentHeader, encode};
    let (mut world, log) = World::with_log(RING_BYTES, 14);
    drop(log);
    world.kill();
    let log = world.start();
    append_each(&world, &log, 1..=3);
    let (at, previous_crc) = {
        let s = log.0.state.borrow();
        (s.next, s.last_crc)
    };
    let offset_bytes = log.0.ring.device_offset(at);
    let head = log.0.head.borrow().clone();
    let mut records = Vec::new();
    discard(4).encode_into(0, &mut records);
    let next = SegmentHeader {
        log: LOG,
        offset_bytes,
        seq: SegmentSeq(log.newest().0 + 1),
        incarnation: head.incarnation,
        durable_through: log.durable_through(),
        previous_crc,
        records: 1,
        data_blocks: 0,
        recovered_through: head.recovered_through,
        recovered_incarnation: head.recovered_incarnation,
        recovered_records: head.recovered_records,
    };
    drop(log);
    world.kill();
    let before = SegmentSeq(next.seq.0 - 1);
    let stale = [
        (
            "earlier life",
            SegmentHeader { incarnation: Incarnation(1), recovered_incarnation: Incarnation(0), ..next },
            false,
        ),
        ("earlier lap", SegmentHeader { seq: before, durable_through: SegmentSeq(0), ..next }, false),
        ("later sequence", SegmentHeader { seq: SegmentSeq(next.seq.0 + 1), ..next }, false),
        ("other chain", SegmentHeader { previous_crc: previous_crc ^ 1, ..next }, false),
        ("other log", SegmentHeader { log: Uuid(1), ..next }, false),
        ("other place", SegmentHeader { offset_bytes: offset_bytes + 4096, ..next }, false),
        ("the next one", next, true),
    ];
    for (what, header, follows) in stale {
        let (area, _) = encode(&header, &records);
        world.disk.media().write(offset_bytes, &area);
        let scan = world.scan().unwrap();
        assert_eq!(seqs(&scan), if follows { vec![1, 2, 3, 4] } else { vec![1, 2, 3] }, "{what}");
        assert!(scan.findings().is_empty(), "{what}");
    }
    let later = SegmentHeader { incarnation: Incarnation(head.incarnation.0 + 1), ..next };
    world.disk.media().write(offset_bytes, &encode(&later, &records).0);
    let e = world.scan().map(drop).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Corrupt, "a life the head does not know: the newest head was lost");
}

#[test]
fn any_bytes_in_the_log_give_an_error_or_a_scan() {
    let (mut world, log) = World::with_log(RING_BYTES, 15);
    let offsets = append_each(&world, &log, 1..=4);
    drop(log);
    world.kill();
    let mut random = Random::new(15);
    let media = world.disk.media();
    for _ in 0..300 {
        let at = match random.below(3) {
            0 => random.below(8192),
            1 => random.pick(&offsets) + random.below(8192),
            _ => RING_OFFSET_BYTES + random.below(RING_BYTES - 8),
        };
        let mut before = [0; 8];
        media.read(at, &mut before);
        media.write(at, &random.bits().to_le_bytes());
        // Flushed records are there or their loss is reported, or the log as a whole is refused.
        if let Ok(scan) = world.scan() {
            assert!(seqs(&scan) == [1, 2, 3, 4] || !scan.findings().is_empty() || at > offsets[3]);
        }
        media.write(at, &before);
    }
    assert_eq!(seqs(&world.scan().unwrap()), [1, 2, 3, 4]);
}
