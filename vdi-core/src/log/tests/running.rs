//! A running log: batching, flush, back-pressure, trim, failure.

use super::*;

#[test]
fn a_scan_finds_what_was_appended_with_its_data() {
    let (mut world, log) = World::with_log(RING_BYTES, 1);
    let out = Body::WriteOut {
        at: VirtualBlock(40),
        runs: SmallVec::from_elem((BlockAddr(900), 2), 1),
        crcs: SmallVec::from_slice(&[5, 6]),
    };
    let snapshot = Body::Snapshot { wall_ns: 5, size_bytes: 1 << 30, label: "first".into() };
    let records = vec![write(1, 3), record(2, out), discard(3), write(4, 1), record(5, snapshot)];
    for r in &records {
        world.append(&log, r).unwrap();
    }
    world.flush(&log).unwrap();
    drop(log);
    world.kill();
    let scan = world.scan().unwrap();
    assert_eq!(found(&scan), records);
    assert!(scan.findings().is_empty());
    let places: Vec<_> = scan.records().map(|(s, _, r, first)| (Rc::clone(s), r.clone(), first)).collect();
    let log = world.start_from(scan);
    for (segment, record, first) in places {
        let blocks = record.body.inline_blocks();
        let log2 = log.clone();
        let data = world.run(Some(&log), async move { log2.read_data(&segment, first, blocks).await });
        let wanted = data_of(&record);
        assert_eq!(&data.unwrap()[..], wanted.first().map_or(&[][..], |b| &b[..]));
    }
}

#[test]
fn data_are_readable_while_staged_in_flight_and_on_the_device() {
    let (world, log) = World::with_log(RING_BYTES, 2);
    let first = world.append(&log, &write(1, 2)).unwrap();
    let room = log.reserve(write(2, 3).encoded_bytes(), 3);
    let room = world.executor.clone().tap_run(room);
    let second = log.append(room, &write(2, 3), data_of(&write(2, 3))).unwrap();
    let read = |appended: &Appended, blocks| {
        let (log2, segment, at) = (log.clone(), Rc::clone(&appended.segment), appended.first_block);
        world.run(None, async move { log2.read_data(&segment, at, blocks).await }).unwrap()
    };
    assert!(second.segment.staged(second.first_block).is_some());
    assert_eq!(&read(&second, 3)[..], &data_of(&write(2, 3))[0][..]);
    world.flush(&log).unwrap();
    for (appended, r, blocks) in [(&first, write(1, 2), 2), (&second, write(2, 3), 3)] {
        assert!(appended.segment.block_offset(appended.first_block).is_some());
        assert!(appended.segment.staged(appended.first_block).is_none());
        assert_eq!(&read(appended, blocks)[..], &data_of(&r)[0][..]);
    }
}

trait RunNow {
    fn tap_run<T>(self, future: impl Future<Output = Result<T>>) -> T;
}

impl RunNow for Executor {
    /// Poll once a future that is ready at once.
    fn tap_run<T>(self, future: impl Future<Output = Result<T>>) -> T {
        let mut future = std::pin::pin!(future);
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        match future.as_mut().poll(&mut cx) {
            std::task::Poll::Ready(value) => value.unwrap(),
            std::task::Poll::Pending => panic!("it should be ready"),
        }
    }
}

/// Append and flush until a record of 16 blocks has no room.
fn fill(world: &World, log: &Log, first_seq: u64) {
    let mut seq = first_seq;
    while log.stats().free_bytes >= 68 << 10 {
        world.append(log, &write(seq, 8)).unwrap();
        world.flush(log).unwrap();
        seq += 1;
    }
}

fn append_now(log: &Log, r: &Record) -> Appended {
    let room = log.reserve(r.encoded_bytes(), r.body.inline_blocks());
    let room = Executor::new().tap_run(room);
    log.append(room, r, data_of(r)).unwrap()
}

#[test]
fn records_collect_while_a_segment_is_in_flight() {
    let (world, log) = World::with_log(RING_BYTES, 3);
    let alone = append_now(&log, &write(1, 1));
    assert!(log.kick(), "nothing in flight: sent at once");
    world.executor.run_until_stalled();
    let together: Vec<_> = (2..10).map(|seq| append_now(&log, &write(seq, 1))).collect();
    assert!(!log.kick(), "something in flight: collected");
    assert!(together.iter().all(|a| a.segment.seq() == together[0].segment.seq()));
    assert!(alone.segment.seq() < together[0].segment.seq());
    world.settle(&log);
    assert_eq!(log.stats().segments_written, 2);
    assert_eq!(log.stats().flushes, 0);
    let log2 = log.clone();
    let seq = together[0].segment.seq();
    world.run(Some(&log), async move { log2.written(seq).await }).unwrap();
    assert_eq!(log.durable_through().0, alone.segment.seq().0 - 1, "written is not flushed");
}

#[test]
fn written_resolves_in_sequence_whatever_the_device_does_first() {
    for seed in 0..20 {
        let (world, log) = World::with_log(RING_BYTES, seed);
        world.delays(1000);
        let order = Rc::new(RefCell::new(Vec::new()));
        for n in 0..12 {
            // Each fills a segment, so that several are in flight at once.
            let (log2, order) = (log.clone(), Rc::clone(&order));
            world.executor.spawn(async move {
                let r = write(n + 1, 10);
                let room = log2.reserve(r.encoded_bytes(), 10).await.unwrap();
                let appended = log2.append(room, &r, data_of(&r)).unwrap();
                let seq = appended.segment.seq();
                drop(appended);
                log2.written(seq).await.unwrap();
                order.borrow_mut().push(seq);
                // What is acknowledged is there for a successor that reads now, with all before it.
                assert!(log2.0.written.reached() >= seq);
            });
        }
        world.settle(&log);
        let order = order.borrow();
        assert_eq!(order.len(), 12);
        assert!(order.is_sorted(), "{order:?}");
    }
}

#[test]
fn concurrent_flushes_share_one_device_flush() {
    let (world, log) = World::with_log(RING_BYTES, 4);
    world.delays(1000);
    let before = log.stats().flushes;
    let all: Vec<_> = (1..=20)
        .map(|seq| {
            append_now(&log, &write(seq, 1));
            let log2 = log.clone();
            world.spawn(async move { log2.flush().await })
        })
        .collect();
    world.settle(&log);
    assert!(all.iter().all(|r| matches!(*r.borrow(), Some(Ok(())))));
    assert_eq!(log.stats().flushes - before, 1, "one device flush for twenty callers");
    assert_eq!(log.durable_through(), log.newest());
    let flushes = log.stats().flushes;
    world.flush(&log).unwrap();
    assert_eq!(log.stats().flushes, flushes, "nothing new: no device flush");
}

#[test]
fn a_flush_that_comes_during_a_flush_waits_for_the_next() {
    let (world, log) = World::with_log(RING_BYTES, 5);
    world.delays(1_000_000);
    append_now(&log, &write(1, 1));
    let log2 = log.clone();
    let first = world.spawn(async move { log2.flush().await });
    while log.stats().flushes == 0 {
        assert!(world.step(Some(&log)));
    }
    append_now(&log, &write(2, 1));
    let log2 = log.clone();
    let second = world.spawn(async move { log2.flush().await });
    while first.borrow().is_none() {
        assert!(world.step(Some(&log)));
    }
    assert!(second.borrow().is_none(), "the first flush began before the second record was written");
    world.settle(&log);
    assert!(matches!(*second.borrow(), Some(Ok(()))));
    assert_eq!(log.stats().flushes, 2);
}

#[test]
fn a_full_ring_makes_reservations_wait_in_order_until_a_trim() {
    let (world, log) = World::with_log(RING_BYTES, 6);
    fill(&world, &log, 1);
    let order = Rc::new(RefCell::new(Vec::new()));
    for (who, blocks) in [(0, 16), (1, 1), (2, 1)] {
        let (log2, order) = (log.clone(), Rc::clone(&order));
        world.executor.spawn(async move {
            let room = log2.reserve(write(1, blocks).encoded_bytes(), blocks as u32).await.unwrap();
            order.borrow_mut().push(who);
            drop(room);
        });
    }
    world.settle(&log);
    assert_eq!(*order.borrow(), [0u32; 0], "the small ones wait behind the large one");
    assert_eq!(log.stats().waiting, 3);
    let half = SegmentSeq(log.tail().0.midpoint(log.newest().0));
    world.trim(&log, half).unwrap();
    world.settle(&log);
    assert_eq!(*order.borrow(), [0, 1, 2]);
    assert_eq!(log.tail(), half);
    let stats = log.stats();
    assert_eq!((stats.waiting, stats.waits, stats.staged_bytes), (0, 3, 0));
}

#[test]
fn a_reservation_given_up_while_waiting_or_granted_leaks_nothing() {
    let (world, log) = World::with_log(RING_BYTES, 7);
    let record_bytes = write(1, 1).encoded_bytes();
    let mut rooms = Vec::new();
    // Memory for staging is bounded too: eight segments' worth.
    loop {
        let log2 = log.clone();
        match world.try_run(Some(&log), async move { log2.reserve(record_bytes, 15).await }) {
            Some(room) => rooms.push(room.unwrap()),
            None => break,
        }
    }
    assert_eq!(log.stats().waiting, 1);
    let log2 = log.clone();
    let _second = world.spawn(async move { log2.reserve(record_bytes, 1).await });
    world.settle(&log);
    assert_eq!(log.stats().waiting, 2);
    world.executor.abandon_all();
    assert_eq!(log.stats().waiting, 0, "abandoned waiters leave the line");
    drop(rooms);
    assert_eq!(log.stats().staged_bytes, 0);
    assert_eq!(log.stats().used_bytes, 0);
}

#[test]
fn what_no_segment_can_hold_is_refused() {
    let (world, log) = World::with_log(RING_BYTES, 8);
    let (bytes_max, blocks_max) = log.reservation_max();
    for (bytes, blocks) in [(bytes_max + 1, 0), (80, blocks_max + 1)] {
        let log2 = log.clone();
        let refused = world.run(Some(&log), async move { log2.reserve(bytes, blocks).await.map(drop) });
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::TooLarge);
    }
    let log2 = log.clone();
    world.run(Some(&log), async move { log2.reserve(bytes_max, blocks_max).await.map(drop) }).unwrap();
}

#[test]
fn a_pinned_segment_holds_the_tail() {
    let (world, log) = World::with_log(RING_BYTES, 9);
    let mut appended = Vec::new();
    for seq in 1..=6 {
        appended.push(world.append(&log, &write(seq, 2)).unwrap());
        world.flush(&log).unwrap();
    }
    let third = Rc::clone(&appended[2].segment);
    appended.clear();
    world.trim(&log, SegmentSeq(log.newest().0 + 1)).unwrap();
    assert_eq!(log.tail(), third.seq());
    let data = {
        let (log2, segment) = (log.clone(), Rc::clone(&third));
        world.run(Some(&log), async move { log2.read_data(&segment, 0, 2).await }).unwrap()
    };
    assert_eq!(&data[..], &data_of(&write(3, 2))[0][..]);
    drop(third);
    world.trim(&log, SegmentSeq(0)).unwrap();
    assert_eq!(log.tail().0, log.newest().0 + 1);
    assert_eq!(log.stats().used_bytes, 0);
}

#[test]
fn a_pin_that_goes_lets_waiting_reservations_in_without_a_trim() {
    let (world, log) = World::with_log(RING_BYTES, 10);
    let pin = world.append(&log, &write(1, 1)).unwrap();
    fill(&world, &log, 2);
    world.trim(&log, log.newest()).unwrap();
    assert_eq!(log.tail(), pin.segment.seq());
    let log2 = log.clone();
    let room = world.spawn(async move { log2.reserve(80, 16).await.map(drop) });
    world.settle(&log);
    assert!(room.borrow().is_none());
    drop(pin);
    world.settle(&log);
    assert!(matches!(*room.borrow(), Some(Ok(()))));
}

#[test]
fn the_space_of_a_segment_is_reused_only_after_the_head_is_durable() {
    let (mut world, log) = World::with_log(RING_BYTES, 11);
    fill(&world, &log, 1);
    world.delays(1_000_000);
    let free = log.stats().free_bytes;
    let log2 = log.clone();
    let newest = log.newest();
    let trim = world.spawn(async move { log2.trim(newest, &[]).await });
    let mut head_flushes = world.device.counts().flushes.get();
    while trim.borrow().is_none() {
        if log.stats().free_bytes > free {
            head_flushes = world.device.counts().flushes.get() - head_flushes;
            assert!(head_flushes >= 1, "space came back before the head was flushed");
            break;
        }
        assert!(world.step(Some(&log)));
    }
    // The moment it comes back, a power cut must find the new tail.
    let tail = log.tail();
    drop(log);
    world.disk.power_loss(crate::device::simulated::Survival::Nothing);
    world.reopen();
    let scan = world.scan().unwrap();
    assert!(scan.findings().is_empty());
    assert_eq!(scan.segments()[0].segment.seq(), tail);
}

#[test]
fn the_head_remembers_the_highest_record_of_each_vdi() {
    let (mut world, log) = World::with_log(RING_BYTES, 12);
    let of = |vdi, lease_epoch, generation| VdiGeneration {
        vdi: VdiId(vdi),
        lease_epoch,
        generation: Generation(generation),
    };
    let trim = |log: &Log, generations: Vec<VdiGeneration>| {
        let log2 = log.clone();
        world.run(Some(log), async move { log2.trim(SegmentSeq(0), &generations).await })
    };
    trim(&log, vec![of(5, 1, 10), of(2, 1, 3)]).unwrap();
    trim(&log, vec![of(5, 1, 9), of(2, 2, 1), of(9, 1, 1)]).unwrap();
    let writes = log.stats().head_writes;
    trim(&log, vec![of(5, 1, 9)]).unwrap();
    assert_eq!(log.stats().head_writes, writes, "no news: no write");
    log.forget(VdiId(9));
    trim(&log, vec![of(5, 1, 11)]).unwrap();
    let wanted = vec![of(2, 2, 1), of(5, 1, 11)];
    assert_eq!(log.generations(), wanted);
    let many = (0..=crate::limits::LOG_VDIS_MAX as u128).map(|n| of(n + 100, 1, 1)).collect();
    assert_eq!(trim(&log, many).unwrap_err().kind(), ErrorKind::TooLarge);
    drop(log);
    world.kill();
    assert_eq!(world.scan().unwrap().generations(), wanted);
    let log = world.start();
    assert_eq!(log.generations(), wanted);
}

#[test]
fn a_failed_write_poisons_the_log() {
    let (world, log) = World::with_log(RING_BYTES, 13);
    let good = world.append(&log, &write(1, 1)).unwrap();
    world.flush(&log).unwrap();
    let used = Executor::new().tap_run(log.reserve(80, 0));
    // One waits in line for space, to learn of the failure too.
    let mut rooms = Vec::new();
    let waiting = loop {
        let log2 = log.clone();
        let room = world.spawn(async move { log2.reserve(80, 15).await });
        world.settle(&log);
        let Some(granted) = room.take() else { break room };
        rooms.push(granted);
    };
    world.disk.set_faults(Faults { write_error: 1_000_000, ..Faults::default() });
    let bad = log.append(used, &discard(2), SmallVec::new()).unwrap();
    let (log2, log3) = (log.clone(), log.clone());
    let seq = bad.segment.seq();
    let written = world.spawn(async move { log2.written(seq).await });
    let flushed = world.spawn(async move { log3.flush().await });
    world.settle(&log);
    let waiting = waiting.take().map(|r| r.map(drop));
    for outcome in [written.take(), flushed.take(), waiting] {
        let outcome = outcome.expect("nobody is left waiting");
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Poisoned);
    }
    assert_all_fail(&world, &log, good.segment.seq());
}

#[test]
fn a_failed_flush_poisons_the_log() {
    let (world, log) = World::with_log(RING_BYTES, 14);
    let good = world.append(&log, &write(1, 1)).unwrap();
    world.disk.set_faults(Faults { flush_error: 1_000_000, ..Faults::default() });
    let e = world.flush(&log).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Poisoned);
    assert!(e.message().contains("flush") && !e.hint().is_empty(), "{e:?}");
    world.disk.set_faults(Faults::default());
    assert_all_fail(&world, &log, good.segment.seq());
}

#[test]
fn a_failed_head_write_poisons_the_log() {
    let (world, log) = World::with_log(RING_BYTES, 15);
    let seq = world.append(&log, &write(1, 1)).unwrap().segment.seq();
    world.flush(&log).unwrap();
    let used = log.stats().used_bytes;
    world.disk.set_faults(Faults { write_error: 1_000_000, ..Faults::default() });
    assert_eq!(world.trim(&log, SegmentSeq(u64::MAX)).unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(log.stats().used_bytes, used, "no space came back");
    world.disk.set_faults(Faults::default());
    assert_all_fail(&world, &log, seq);
}

fn assert_all_fail(world: &World, log: &Log, seq: SegmentSeq) {
    let kind = |r: Result<()>| r.map_err(|e| e.kind());
    let poisoned = Err(ErrorKind::Poisoned);
    assert_eq!(kind(world.append(log, &discard(9)).map(drop)), poisoned);
    assert_eq!(kind(world.flush(log)), poisoned);
    assert_eq!(kind(world.trim(log, seq)), poisoned);
    let log2 = log.clone();
    assert_eq!(kind(world.run(Some(log), async move { log2.written(seq).await })), poisoned);
}

#[test]
fn an_append_on_a_poisoned_log_fails_and_gives_its_room_back() {
    let (world, log) = World::with_log(RING_BYTES, 16);
    let room = Executor::new().tap_run(log.reserve(80, 0));
    append_now(&log, &discard(1));
    world.disk.set_faults(Faults { write_error: 1_000_000, ..Faults::default() });
    world.settle(&log);
    assert_eq!(log.append(room, &discard(2), SmallVec::new()).unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(log.0.state.borrow().reserved_bytes, 0);
}

#[test]
fn many_laps_go_round_with_little_and_with_much_in_flight() {
    for seed in 0..4 {
        let (mut world, mut log) = World::with_log(RING_BYTES, 100 + seed);
        world.delays(500);
        let mut random = Random::new(seed);
        let mut bytes = 0;
        let mut seq = 0;
        while bytes < 8 * RING_BYTES {
            let blocks = random.below(17);
            seq += 1;
            let r = if blocks == 0 { discard(seq) } else { write(seq, blocks) };
            world.append(&log, &r).unwrap();
            bytes += (blocks + 1) * 4096;
            if random.chance(100_000) {
                world.flush(&log).unwrap();
            }
            if log.stats().free_bytes < RING_BYTES / 4 {
                world.flush(&log).unwrap();
                world.trim(&log, SegmentSeq(log.newest().0 - 2)).unwrap();
            }
            if random.chance(10_000) {
                world.flush(&log).unwrap();
                drop(log);
                world.kill();
                let scan = world.scan().unwrap();
                assert_eq!(found(&scan).last().map(|r| r.seq.0), Some(seq));
                log = world.start_from(scan);
            }
        }
    }
}

#[test]
fn unflushed_bytes_stay_within_the_window_without_anyone_asking() {
    let (world, log) = World::with_log(RING_BYTES, 17);
    world.delays(1000);
    for seq in 1..=60 {
        append_now(&log, &write(seq, 2));
        world.settle(&log);
        let s = log.0.state.borrow();
        let window = s.ring.unflushed_bytes_max + s.ring.segment_bytes_max();
        assert!(s.next.since(s.durable_end) <= window);
    }
    assert!(log.stats().flushes >= 2, "flushed in the background");
}
