//! Devices that fail, for a while or for good: whose trouble it is, and that nothing is left behind.

use super::held::{LOG, busy, clean, damage, every_kind_of_record, two_disks};
use super::*;
use crate::executor::{LocalFuture, join_all};
use crate::store::ExtentKind;
use crate::units::BLOCK_BYTES;

#[test]
fn a_disk_on_a_device_that_cannot_read_its_tree_is_held_alone() {
    let (w, root) = two_disks();
    w.unreadable.set(Some(root));
    let unreadable = Rc::clone(&w.unreadable);
    let model = w.run(move |e| async move {
        let bad = e.open_vdi("bad").await.unwrap();
        let good = e.open_vdi("good").await.unwrap();
        let model = every_kind_of_record(&e, &bad).await;
        // Through more rounds than a disk may fail, with something new of the neighbour in each.
        for round in 0..8 {
            busy(&e, round, LOG / 4).await;
            e.shared().executor.sleep(700_000_000).await;
        }
        assert!(bad.is_stuck() && good.held().is_none());
        unreadable.set(None);
        // On its own, after a while.
        e.shared().executor.sleep(200_000_000_000).await;
        assert!(bad.held().is_none());
        assert!(read(&bad, 0, 4 << 20).await == model);
        model
    });
    clean(&w);
    w.run(|e| async move {
        assert!(read(&e.open_vdi("bad").await.unwrap(), 0, 4 << 20).await == model);
    });
}

#[test]
fn a_disk_can_be_cloned_and_rolled_back_while_the_checkpoint_of_its_neighbour_fails() {
    let (w, root) = two_disks();
    w.unreadable.set(Some(root));
    w.run(|e| async move {
        let (bad, good) = (e.open_vdi("bad").await.unwrap(), e.open_vdi("good").await.unwrap());
        write(&bad, 0, &fill(7, 4096)).await;
        write(&good, 0, &fill(8, 4096)).await;
        e.clone_vdi("good", None, "copy").await.unwrap();
        assert!(bad.is_failing() && !bad.is_stuck(), "this round was its first");
        write(&good, 0, &fill(9, 4096)).await;
        e.rollback("good", Epoch(1)).await.unwrap();
        assert_eq!(read(&good, 0, 4096).await, bytes_of(&fill(8, 4096)));
        assert_eq!(e.checkpoint().await.unwrap_err().kind(), ErrorKind::Io(libc::EIO));
    });
}

#[test]
fn a_checkpoint_asked_for_while_another_fails_tries_the_held_disk_again() {
    let (w, root) = two_disks();
    w.unreadable.set(Some(root));
    let unreadable = Rc::clone(&w.unreadable);
    w.run(move |e| async move {
        let bad = e.open_vdi("bad").await.unwrap();
        write(&bad, 0, &fill(7, 4096)).await;
        while !bad.is_stuck() {
            e.checkpoint().await.unwrap_err();
        }
        let mended = async {
            e.shared().pressure.ended.wait().await;
            unreadable.set(None);
            Ok(())
        };
        let both: Vec<LocalFuture<'_, Result<()>>> =
            vec![Box::pin(e.checkpoint()), Box::pin(e.checkpoint()), Box::pin(mended)];
        let results: Vec<bool> = join_all(both).await.iter().map(Result::is_ok).collect();
        assert_eq!(results, [false, true, true]);
        assert!(bad.held().is_none());
    });
}

#[test]
fn a_checkpoint_that_fails_again_and_again_does_not_fill_the_store() {
    let (w, root) = two_disks();
    damage(&w.store, root);
    w.run(move |e| async move {
        let bad = e.open_vdi("bad").await.unwrap();
        every_kind_of_record(&e, &bad).await;
        for i in 0..64 {
            write(&bad, (1 << 13) | (i * 8), &fill(i as u8, 4096)).await;
        }
        let mut data_bytes = 0;
        for round in 0..40 {
            e.checkpoint().await.unwrap_err();
            // Others let the log go on.
            busy(&e, 0, 64 << 10).await;
            let now = e.status().space.data_bytes - e.status().space.quarantined_bytes;
            if round == 5 {
                data_bytes = now;
            }
        }
        let now = e.status().space.data_bytes - e.status().space.quarantined_bytes;
        assert!(now <= data_bytes + (256 << 10), "{data_bytes} bytes, then {now}");
    });
}

/// On a quiet host: nothing moves its records, and it is tried every minute.
pub(super) fn attempts_that_fail_leave_nothing_behind() {
    let (w, root) = two_disks();
    let unreadable = Rc::clone(&w.unreadable);
    w.run(move |e| async move {
        let bad = e.open_vdi("bad").await.unwrap();
        unreadable.set(Some(root));
        for leaf in 0..200 {
            write(&bad, leaf * 256 * 8, &fill(3, 8192)).await;
        }
        let used = |e: &Engine| {
            let space = e.status().space;
            space.data_bytes + space.metadata_bytes
        };
        let before = used(&e);
        for _ in 0..40 {
            e.checkpoint().await.unwrap_err();
        }
        assert!(used(&e) <= before + (64 << 10), "{} more bytes", used(&e) - before);
        unreadable.set(None);
        e.checkpoint().await.unwrap();
        assert_eq!(read(&bad, 199 * 256 * 8, 8192).await, bytes_of(&fill(3, 8192)));
    });
    clean(&w);
}

#[test]
fn a_checkpoint_that_fails_every_minute_leaves_nothing_behind() {
    attempts_that_fail_leave_nothing_behind();
}

#[test]
fn a_snapshot_list_that_no_record_comes_to_name_is_given_back() {
    let (w, _) = two_disks();
    let unwritable = Rc::clone(&w.unwritable);
    w.run(|e| async move {
        let bad = e.open_vdi("bad").await.unwrap();
        e.snapshot("bad", Some("first")).await.unwrap();
        unwritable.set(Some(slot_of(&e, &bad, bad.record().generation.0 + 1)));
        let used = |e: &Engine| e.status().space.metadata_bytes;
        let _ = e.checkpoint().await;
        let before = used(&e);
        for _ in 0..20 {
            bad.retry_soon();
            let _ = e.checkpoint().await;
        }
        assert!(used(&e) <= before, "{} more bytes", used(&e) - before);
    });
    clean(&w);
}

#[test]
fn a_failed_flush_of_the_store_leaves_everything_readable() {
    let (w, _) = two_disks();
    w.run(move |e| async move {
        let good = e.open_vdi("good").await.unwrap();
        write(&good, 0, &fill(9, 4096)).await;
        // As a round does whose flush of the records fails.
        e.poison(&crate::error::Error::io("flush", libc::EIO));
        assert!(good.held().is_some() && !good.is_stuck());
        good.write(0, &fill(7, 4096), Ack::WriteBack).await.unwrap_err();
        assert_eq!(read(&good, 0, 4096).await, bytes_of(&fill(9, 4096)));
        // One that was not open, too.
        let bad = e.open_vdi("bad").await.unwrap();
        assert_eq!(read(&bad, 0, 1 << 20).await, bytes_of(&fill(1, 1 << 20)));
    });
    clean(&w);
}

#[test]
fn a_block_that_cannot_be_read_at_start_is_the_trouble_of_its_reader() {
    let (w, _) = two_disks();
    let placed = w.run(|e| async move {
        let bad = e.open_vdi("bad").await.unwrap();
        write(&bad, 0, &fill(9, 1 << 20)).await;
        let run = *bad.blocks_without_root().last().unwrap();
        e.store().offset_bytes(run.start, run.blocks).unwrap()
    });
    w.unreadable.set(Some(placed));
    let unreadable = Rc::clone(&w.unreadable);
    w.run(|e| async move {
        let (bad, good) = (e.open_vdi("bad").await.unwrap(), e.open_vdi("good").await.unwrap());
        assert_eq!(read(&good, 0, 1 << 20).await, bytes_of(&fill(1, 1 << 20)));
        let bufs: GuestBufs = HostMemory::slice(1 << 20).into();
        assert_eq!(bad.read(0, &bufs).await.unwrap_err().kind(), ErrorKind::Io(libc::EIO));
        unreadable.set(None);
        assert_eq!(read(&bad, 0, 1 << 20).await, bytes_of(&fill(9, 1 << 20)));
    });
}

#[test]
fn a_record_that_cannot_be_written_is_the_trouble_of_its_disk_alone() {
    let (w, _) = two_disks();
    let unwritable = Rc::clone(&w.unwritable);
    w.run(|e| async move {
        let (bad, good) = (e.open_vdi("bad").await.unwrap(), e.open_vdi("good").await.unwrap());
        unwritable.set(Some(slot_of(&e, &bad, bad.record().generation.0 + 1)));
        // What 'good' overwrites waits for the log, which waits for 'bad'.
        let used = |e: &Engine| {
            let space = e.status().space;
            space.data_bytes + space.metadata_bytes - space.quarantined_bytes
        };
        let before = used(&e);
        for round in 0..20 {
            if bad.held().is_none() {
                let _ = bad.write(0, &fill(round, 1 << 20), Ack::WriteBack).await;
            }
            write(&good, 0, &fill(round, 1 << 20)).await;
            let _ = e.checkpoint().await;
            assert!(good.held().is_none() && good.oldest_segment().is_none());
        }
        assert!(used(&e) < before + (4 << 20), "{} more bytes", used(&e) - before);
    });
    clean(&w);
}

#[test]
fn a_failed_flush_of_the_store_stops_every_disk_wherever_it_failed() {
    let (w, _) = two_disks();
    let flush_fails = Rc::clone(&w.flush_fails);
    w.run(move |e| async move {
        let (bad, good) = (e.open_vdi("bad").await.unwrap(), e.open_vdi("good").await.unwrap());
        e.checkpoint().await.unwrap();
        // More than was claimed: the flush that fails is that of a claim, and the host record stays unflushed.
        write(&bad, 0, &fill(5, 24 << 20)).await;
        flush_fails.set(true);
        assert!(e.checkpoint().await.is_err());
        assert!(bad.held().is_some());
        assert_eq!(
            good.held().map(|e| e.kind()),
            Some(ErrorKind::Poisoned),
            "it could wait for the log for ever"
        );
    });
}

#[test]
fn after_a_failed_flush_of_the_store_no_record_is_written_and_nothing_trimmed() {
    let (w, _) = two_disks();
    let flush_fails = Rc::clone(&w.flush_fails);
    w.run(move |e| async move {
        let bad = e.open_vdi("bad").await.unwrap();
        write(&bad, 0, &fill(5, 4096)).await;
        flush_fails.set(true);
        assert!(e.checkpoint().await.is_err());
        let generation = bad.record().generation;
        for _ in 0..3 {
            assert_eq!(e.checkpoint().await.unwrap_err().kind(), ErrorKind::Poisoned);
        }
        assert_eq!(bad.record().generation, generation);
        assert!(bad.oldest_segment().is_some());
        assert_eq!(e.create("more", DISK).await.unwrap_err().kind(), ErrorKind::Poisoned);
    });
    w.run(|e| async move {
        let bad = e.open_vdi("bad").await.unwrap();
        assert_eq!(read(&bad, 0, 4096).await, bytes_of(&fill(5, 4096)));
        e.checkpoint().await.unwrap();
    });
}

#[test]
fn while_a_device_keeps_records_from_being_moved_who_waits_for_the_log_is_not_left_waiting_once_it_works() {
    let (w, root) = two_disks();
    damage(&w.store, root);
    let unreadable = Rc::clone(&w.log_unreadable);
    w.run(|e| async move {
        let bad = e.open_vdi("bad").await.unwrap();
        write(&bad, 0, &fill(5, 4096)).await;
        let log = &e.shared().log;
        unreadable.set({
            let (segments, _) = log.segments_from(bad.oldest_segment().unwrap());
            segments[0].block_offset(0).map(|data| data - 4096)
        });
        let (writer, done) = (e.clone(), Rc::new(Cell::new(false)));
        let ended = Rc::clone(&done);
        e.0.env.executor.spawn(async move {
            busy(&writer, 1, 3 * LOG).await;
            ended.set(true);
        });
        let executor = &e.0.env.executor;
        while log.stats().waiting == 0 || e.show("bad").await.unwrap().held.is_none() {
            executor.sleep(1_000_000).await;
        }
        executor.sleep(10_000_000_000).await;
        assert!(log.stats().waiting > 0 && e.status().held[0].1.contains("all disks wait"));
        unreadable.set(None);
        executor.sleep(2_000_000_000).await;
        assert!(done.get(), "{:?}", e.status().held);
    });
}

#[test]
fn a_bad_sector_of_the_log_keeps_the_engine_from_starting_only_where_something_may_be() {
    let (w, _) = two_disks();
    let (inside, behind) = w.run(|e| async move {
        let good = e.open_vdi("good").await.unwrap();
        write(&good, 0, &fill(4, 4096)).await;
        write(&good, 8, &fill(5, 4096)).await;
        good.flush().await.unwrap();
        write(&good, 16, &fill(6, 4096)).await;
        good.flush().await.unwrap();
        let log = &e.shared().log;
        let (segments, _) = log.segments_from(good.oldest_segment().unwrap());
        let data = |nth: usize| segments[nth].block_offset(0).unwrap();
        (data(0) - 4096, data(segments.len() - 1) + 8192)
    });
    for far in [0, 64 << 10, 512 << 10] {
        w.log_unreadable.set(Some(behind + far));
        w.run(|e| async move {
            let good = e.open_vdi("good").await.unwrap();
            assert_eq!(read(&good, 16, 4096).await, bytes_of(&fill(6, 4096)));
        });
    }
    w.log_unreadable.set(Some(inside));
    let open = |discard_log| {
        let executor = Executor::new();
        let (store, log, env) = (w.store_device(), w.log_device(), env(&executor));
        let devices = [store.clone(), log.clone()];
        let options = EngineOptions { discard_log, ..EngineOptions::default() };
        let opened = drive(&executor, None, &devices, async move {
            Engine::open(env, store, log, options).await.map(drop)
        });
        executor.abandon_all();
        opened
    };
    let refused = open(false).unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::Io(_)), "{refused:?}");
    w.log_unreadable.set(None);
    w.run(|e| async move {
        let good = e.open_vdi("good").await.unwrap();
        assert_eq!(read(&good, 8, 4096).await, bytes_of(&fill(5, 4096)));
    });
    w.log_unreadable.set(Some(inside));
    open(true).unwrap();
}

#[test]
fn a_new_disk_that_the_registry_perhaps_names_keeps_its_name_and_its_blocks_until_a_restart() {
    let (w, _) = two_disks();
    let unwritable = Rc::clone(&w.unwritable);
    w.run(|e| async move {
        let sb = *e.store().superblock();
        unwritable.set(Some(u64::from(sb.registry_start) * BLOCK_BYTES + 2 * SECTOR_BYTES));
        e.create("new", DISK).await.unwrap_err();
        unwritable.set(None);
        assert!(e.show("new").await.unwrap().held.unwrap().contains("registry"));
        assert_eq!(e.create("new", DISK).await.unwrap_err().kind(), ErrorKind::Exists);
        e.collect(false).await.unwrap();
        busy(&e, 1, 2 * LOG).await;
        e.checkpoint().await.unwrap();
    });
    clean(&w);
    w.run(|e| async move {
        write(&e.open_vdi("new").await.unwrap(), 0, &fill(9, 1 << 20)).await;
        e.checkpoint().await.unwrap();
        e.delete("new", false).await.unwrap();
        e.create("new", DISK).await.unwrap();
    });
    clean(&w);
}

#[test]
fn an_extent_whose_lease_failed_is_leased_to_another_purpose_whenever_a_kill_comes() {
    let (w, _) = two_disks();
    for rounds in 1..60 {
        let killed = w.fork();
        let unwritable = Rc::clone(&killed.unwritable);
        killed.run_for(rounds, move |e| async move {
            let sb = *e.store().superblock();
            unwritable.set(Some(u64::from(sb.catalogue_start) * BLOCK_BYTES));
            e.store().lease_extent(ExtentKind::Data, 0).await.unwrap_err();
            unwritable.set(None);
            e.store().lease_extent(ExtentKind::Metadata, 0).await.unwrap();
        });
        clean(&killed);
    }
}

#[test]
fn a_move_of_records_that_fails_leaves_no_blocks_behind() {
    let (w, root) = two_disks();
    damage(&w.store, root);
    let unwritable = Rc::clone(&w.unwritable);
    w.run(|e| async move {
        let bad = e.open_vdi("bad").await.unwrap();
        let unused = |e: &Engine| e.status().space.quarantined_bytes;
        busy(&e, 1, LOG / 8).await;
        e.checkpoint().await.unwrap();
        let before = unused(&e);
        for at in 0..256 {
            write(&bad, at * 8, &fill(5, 4096)).await;
        }
        e.checkpoint().await.unwrap_err();
        let executor = &e.0.env.executor;
        // Whatever the next data block of the store is, it cannot be written for now.
        let next = e.store().allocate(ExtentKind::Data, 1).await.unwrap().start.plus(8);
        unwritable.set(Some(e.store().offset_bytes(next, 1).unwrap()));
        let writer = e.clone();
        executor.spawn(async move { busy(&writer, 2, LOG).await });
        while bad.held_reason().is_none_or(|why| !why.contains("keep the log")) {
            executor.sleep(1_000_000).await;
        }
        assert!(unused(&e) <= before + (64 << 10), "{} bytes more wait", unused(&e) - before);
        unwritable.set(None);
    });
}
