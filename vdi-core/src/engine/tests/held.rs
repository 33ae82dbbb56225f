//! A VDI that cannot checkpoint: its neighbours go on, and nothing it acknowledged is lost.

use super::*;
use crate::check::{CheckOptions, Severity, check};
use crate::executor::{LocalFuture, join_all};
use crate::units::BLOCK_SIZE;

pub(super) const LOG: u64 = 8 << 20;

/// A store with the disks 'bad' and 'good', both written and checkpointed; returns where the tree of 'bad' starts.
pub(super) fn two_disks() -> (World, u64) {
    let w = World::with_log(LOG);
    let root = w.run(|e| async move {
        for name in ["bad", "good"] {
            e.create(name, DISK).await.unwrap();
            let v = e.open_vdi(name).await.unwrap();
            write(&v, 0, &fill(1, 1 << 20)).await;
            write(&v, 1 << 14, &fill(2, 64 << 10)).await;
        }
        e.checkpoint().await.unwrap();
        let root = e.open_vdi("bad").await.unwrap().record().root;
        e.store().offset_bytes(root, 1).unwrap()
    });
    (w, root)
}

/// What the block at `offset` held, which is garbage from now on.
pub(super) fn damage(media: &Media, offset: u64) -> Vec<u8> {
    let mut was = vec![0; BLOCK_SIZE];
    media.read(offset, &mut was);
    media.write(offset, &[0x5a; BLOCK_SIZE]);
    was
}

/// Everything a disk can do before it is held; returns what it must hold afterwards.
pub(super) async fn every_kind_of_record(e: &Engine, v: &Vdi) -> Vec<u8> {
    let mut model = vec![0; 4 << 20];
    let mut now = |at: usize, data: &[u8]| model[at..at + data.len()].copy_from_slice(data);
    now(0, &bytes_of(&fill(1, 1 << 20)));
    for i in 0..40u8 {
        write(v, u64::from(i) * 8, &fill(10 + i, 4096)).await;
        now(usize::from(i) * 4096, &bytes_of(&fill(10 + i, 4096)));
    }
    // Overwritten in the same epoch: inline, then out of line, whole and in part.
    for tag in [60, 61] {
        write(v, 16, &fill(tag, 8192)).await;
        write(v, 4096, &fill(tag, 256 << 10)).await;
        now(16 * 512, &bytes_of(&fill(tag, 8192)));
        now(4096 * 512, &bytes_of(&fill(tag, 256 << 10)));
    }
    write(v, 4096 + 64, &fill(62, 4096)).await;
    now((4096 + 64) * 512, &bytes_of(&fill(62, 4096)));
    v.discard(200, 56, Ack::WriteBack).await.unwrap();
    now(200 * 512, &[0; 56 * 512]);
    e.snapshot("bad", Some("before")).await.unwrap();
    write(v, 24, &fill(63, 8192)).await;
    now(24 * 512, &bytes_of(&fill(63, 8192)));
    e.label("bad", Epoch(1), Some("renamed")).await.unwrap();
    v.write_zeroes(400, 16, true, Ack::WriteBack).await.unwrap();
    now(400 * 512, &[0; 16 * 512]);
    v.flush().await.unwrap();
    model
}

/// Write `bytes` to 'good', `round` apart from other rounds.
pub(super) async fn busy(e: &Engine, round: u8, bytes: u64) {
    let good = e.open_vdi("good").await.unwrap();
    for i in 0..bytes / (32 << 10) {
        write(&good, (i % 256) * 64, &fill(round ^ i as u8, 32 << 10)).await;
    }
}

/// What the check says.
pub(super) fn checked(w: &World) -> crate::check::Report {
    let (store, log) = (w.store_device(), w.log_device());
    let devices = [store.clone(), log.clone()];
    drive(&Executor::new(), None, &devices, async move {
        check(&store, &[log], CheckOptions { data: true }).await.unwrap()
    })
}

pub(super) fn clean(w: &World) {
    let report = checked(w);
    let worst = report.findings.iter().map(|f| f.severity).max();
    assert!(worst <= Some(Severity::Leak) && !report.incomplete, "{report:?}");
}

#[test]
fn a_disk_with_a_bad_block_under_its_tree_stalls_nobody_and_keeps_every_acknowledged_byte() {
    let (w, root) = two_disks();
    let was = damage(&w.store, root);
    let model = w.run(|e| async move {
        let bad = e.open_vdi("bad").await.unwrap();
        let model = every_kind_of_record(&e, &bad).await;
        busy(&e, 1, 3 * LOG).await;
        assert!(bad.is_stuck());
        let refused = bad.write(0, &fill(9, 4096), Ack::WriteBack).await.unwrap_err();
        assert!(refused.message().contains("held"), "{refused:?}");
        let held = e.show("bad").await.unwrap().held.unwrap();
        assert!(held.contains("parallax checkpoint") && !held.contains("all disks wait"), "{held}");
        assert_eq!(e.checkpoint().await.unwrap_err().kind(), ErrorKind::Corrupt);
        // What it wrote since the checkpoint can be read, where the tree is not asked.
        assert_eq!(read(&bad, 0, 64 << 10).await, model[..64 << 10]);
        assert!(e.status().log_stats.used_bytes < LOG / 2);
        model
    });
    // Twice more: copies of copies, held again by a checkpoint after the restart.
    for round in 2..4 {
        w.run(move |e| async move {
            assert_eq!(e.show("bad").await.unwrap().held, None, "a restart tries again");
            busy(&e, round, 2 * LOG).await;
            assert!(e.open_vdi("bad").await.unwrap().is_stuck());
        });
    }
    w.store.write(root, &was);
    clean(&w);
    let expected = model.clone();
    w.run(|e| async move {
        let bad = e.open_vdi("bad").await.unwrap();
        assert!(read(&bad, 0, 4 << 20).await == expected);
        e.checkpoint().await.unwrap();
        assert!(read(&bad, 0, 4 << 20).await == expected);
        write(&bad, 0, &fill(70, 4096)).await;
        let snapshots = e.snapshots("bad").await.unwrap();
        assert_eq!(snapshots.len(), 1);
        assert_eq!(snapshots[0].label.as_deref(), Some("renamed"));
        e.clone_vdi("bad", Some(Epoch(1)), "clone").await.unwrap();
        let clone = e.open_vdi("clone").await.unwrap();
        assert_eq!(read(&clone, 4096, 32 << 10).await, bytes_of(&fill(61, 32 << 10)));
        busy(&e, 9, LOG).await;
        e.collect(false).await.unwrap();
        e.close().await.unwrap();
    });
    clean(&w);
    w.run(|e| async move {
        let bad = e.open_vdi("bad").await.unwrap();
        assert!(read(&bad, 8, (4 << 20) - 4096).await == model[4096..]);
    });
}

#[test]
fn a_disk_that_can_checkpoint_again_is_let_go_without_a_restart() {
    let (w, root) = two_disks();
    let was = damage(&w.store, root);
    let media = w.store.clone();
    w.run(move |e| async move {
        let bad = e.open_vdi("bad").await.unwrap();
        let model = every_kind_of_record(&e, &bad).await;
        busy(&e, 1, 2 * LOG).await;
        assert!(bad.is_stuck());
        media.write(root, &was);
        e.checkpoint().await.unwrap();
        assert!(bad.held().is_none() && bad.overlay_len() == 0);
        assert!(read(&bad, 0, 4 << 20).await == model);
        write(&bad, 0, &fill(9, 4096)).await;
        busy(&e, 2, 2 * LOG).await;
        e.checkpoint().await.unwrap();
        assert!(read(&bad, 8, (4 << 20) - 4096).await == model[4096..]);
    });
    clean(&w);
}

#[test]
fn a_kill_at_any_round_of_moving_records_loses_nothing() {
    let (w, root) = two_disks();
    let was = damage(&w.store, root);
    let model = w.run(|e| async move {
        let bad = e.open_vdi("bad").await.unwrap();
        let model = every_kind_of_record(&e, &bad).await;
        // Not enough for a move yet.
        busy(&e, 1, LOG / 4).await;
        model
    });
    for rounds in (1..1500).step_by(53) {
        let (store, log) = (w.store.fork(), w.log.fork());
        let killed = World { store, log, log_bytes: w.log_bytes, ..World::default() };
        killed.run_for(rounds, |e| async move { busy(&e, 2, 2 * LOG).await });
        killed.run_for(rounds * 3, |e| async move { busy(&e, 3, 2 * LOG).await });
        killed.store.write(root, &was);
        clean(&killed);
        let expected = model.clone();
        killed.run(move |e| async move {
            let bad = e.open_vdi("bad").await.unwrap();
            assert!(read(&bad, 0, 4 << 20).await == expected, "killed after {rounds} rounds");
            e.checkpoint().await.unwrap();
            assert!(read(&bad, 0, 4 << 20).await == expected, "killed after {rounds} rounds");
        });
    }
}

#[test]
fn records_that_do_not_fit_the_share_hold_the_log_and_say_so() {
    let (w, root) = two_disks();
    let was = damage(&w.store, root);
    let media = w.store.clone();
    w.run(move |e| async move {
        let bad = e.open_vdi("bad").await.unwrap();
        // Many at once, so that each segment is full of records; their share is half a megabyte.
        let mut last = 0;
        for i in 0..60 {
            let at = |n: u64| (i * 500 + n) * 97 % 8000 * 8;
            let all = (0..500).map(|n| Box::pin(bad.discard(at(n), 8, Ack::WriteBack)) as LocalFuture<'_, _>);
            if join_all(all.collect()).await.iter().any(Result::is_err) {
                break;
            }
            last = i;
        }
        assert!(last > 12, "{last}");
        // The neighbour waits rather than that anything acknowledged is lost; another task still runs.
        let vdi = e.open_vdi("good").await.unwrap();
        let (executor, done) = (e.shared().executor.clone(), Rc::new(Cell::new(0u64)));
        let count = Rc::clone(&done);
        executor.spawn(async move {
            for i in 0..2 * LOG / (32 << 10) {
                write(&vdi, (i % 256) * 64, &fill(i as u8, 32 << 10)).await;
                count.set(i);
            }
        });
        executor.sleep(20_000_000_000).await;
        let stopped_at = done.get();
        let held = e.show("bad").await.unwrap().held.unwrap();
        assert!(held.contains("all disks wait") && held.contains("share"), "{held}");
        assert!(stopped_at < LOG / (32 << 10), "{stopped_at}");
        media.write(root, &was);
        e.checkpoint().await.unwrap();
        executor.sleep(20_000_000_000).await;
        assert!(done.get() > stopped_at && bad.held().is_none());
    });
}

#[test]
fn deleting_a_held_disk_lets_those_who_wait_for_it_go_on() {
    let (w, root) = two_disks();
    damage(&w.store, root);
    w.run(move |e| async move {
        let bad = e.open_vdi("bad").await.unwrap();
        for i in 0..60 {
            let at = |n: u64| (i * 500 + n) * 97 % 8000 * 8;
            let all = (0..500).map(|n| Box::pin(bad.discard(at(n), 8, Ack::WriteBack)) as LocalFuture<'_, _>);
            if join_all(all.collect()).await.iter().any(Result::is_err) {
                break;
            }
        }
        let done = Rc::new(Cell::new(false));
        let (engine, ended) = (e.clone(), Rc::clone(&done));
        e.shared().executor.spawn(async move {
            busy(&engine, 1, 2 * LOG).await;
            ended.set(true);
        });
        e.shared().executor.sleep(20_000_000_000).await;
        assert!(!done.get());
        drop(bad);
        e.delete("bad", true).await.unwrap();
        e.shared().executor.sleep(1_000_000_000).await;
        assert!(done.get());
    });
}

#[test]
fn a_disk_whose_record_cannot_be_read_at_start_keeps_its_log_records_for_a_later_one() {
    let (w, _) = two_disks();
    let (model, slots) = w.run(|e| async move {
        let bad = e.open_vdi("bad").await.unwrap();
        let model = every_kind_of_record(&e, &bad).await;
        (model, bad.slots().map(|s| e.store().offset_bytes(s, 1).unwrap()))
    });
    let was = slots.map(|s| damage(&w.store, s));
    for round in 1..3 {
        w.run(move |e| async move {
            let error = e.open_vdi("bad").await.err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert_eq!(e.status().held.len(), 1);
            busy(&e, round, 3 * LOG).await;
        });
    }
    let media = w.store.clone();
    let bytes = was.clone();
    w.run(move |e| async move {
        for (slot, bytes) in slots.iter().zip(&bytes) {
            media.write(*slot, bytes);
        }
        // Its records were not replayed: served now it would have lost them.
        assert!(e.open_vdi("bad").await.is_err());
        busy(&e, 3, LOG).await;
    });
    w.run(|e| async move {
        let bad = e.open_vdi("bad").await.unwrap();
        assert!(read(&bad, 0, 4 << 20).await == model);
        e.checkpoint().await.unwrap();
        assert!(read(&bad, 0, 4 << 20).await == model);
    });
    clean(&w);
}

/// What a disk that cannot checkpoint overwrote is named by copies that lie behind the record which replaced it.
pub(super) fn what_copies_name_is_not_handed_out() {
    what_copies_name_stays_taken(false);
}

/// With `interrupted` the device fails once, when a part of the copies is written.
fn what_copies_name_stays_taken(interrupted: bool) {
    let (w, root) = two_disks();
    // Little is left, so that what is given back is soon taken.
    w.run(|e| async move {
        busy(&e, 0, LOG).await;
        e.create("full", 1 << 30).await.unwrap();
        let full = e.open_vdi("full").await.unwrap();
        let left = e.status().space.free_bytes / (1 << 20) - 24;
        for n in 0..left {
            write(&full, n << 11, &fill(3, 1 << 20)).await;
        }
        e.checkpoint().await.unwrap();
    });
    let was = damage(&w.store, root);
    let late =
        EngineOptions { late_checkpoints: true, checkpoint_age_ns: u64::MAX / 2, ..EngineOptions::default() };
    let unreadable = Rc::clone(&w.log_unreadable);
    w.run_with(late, move |e| async move {
        let bad = e.open_vdi("bad").await.unwrap();
        write(&bad, 0, &fill(21, 256 << 10)).await;
        if interrupted {
            // What replaces it is copied in one batch with it; the last one has data.
            write(&bad, 0, &fill(22, 256 << 10)).await;
            let discards = (0..2000).map(|n| -> LocalFuture<'_, _> {
                Box::pin(bad.discard((1 << 18) + n * 8, 8, Ack::WriteBack))
            });
            join_all(discards.collect()).await.into_iter().collect::<Result<Vec<_>>>().unwrap();
            write(&bad, 1 << 17, &fill(23, 4096)).await;
            bad.flush().await.unwrap();
            let (segments, _) = e.shared().log.segments_from(bad.oldest_segment().unwrap());
            let data = segments.iter().rev().find_map(|s| s.block_offset(0));
            unreadable.set(data);
        }
        busy(&e, 1, LOG * 27 / 64).await;
        write(&bad, 0, &fill(22, 256 << 10)).await;
        let second = bad.oldest_segment();
        while unreadable.get().is_some() {
            let (writer, ended) = (e.clone(), Rc::new(Cell::new(false)));
            let over = Rc::clone(&ended);
            e.0.env.executor.spawn(async move {
                busy(&writer, 1, 32 << 10).await;
                over.set(true);
            });
            while !ended.get() {
                e.0.env.executor.sleep(1_000_000).await;
                if bad.held_reason().is_some_and(|why| why.contains("keep the log")) {
                    unreadable.set(None);
                }
            }
        }
        // Until the first write is copied to the head, behind the second, which stays where it is.
        while bad.oldest_segment() == second {
            busy(&e, 1, 32 << 10).await;
        }
        if interrupted {
            busy(&e, 2, 3 * LOG).await;
        }
    });
    for then in 1..16 {
        let killed = w.fork();
        for round in 3..7 {
            // The second goes behind the first, which stays.
            killed.run(move |e| async move { busy(&e, round, then * LOG / 16).await });
        }
        killed.store.write(root, &was);
        clean(&killed);
        killed.run(|e| async move {
            let bad = e.open_vdi("bad").await.unwrap();
            assert!(read(&bad, 0, 256 << 10).await == bytes_of(&fill(22, 256 << 10)));
            e.checkpoint().await.unwrap();
            e.collect(false).await.unwrap();
        });
        clean(&killed);
    }
}

#[test]
fn a_block_that_a_copy_names_is_not_handed_out_whatever_replaced_it() {
    what_copies_name_is_not_handed_out();
}

#[test]
fn nor_when_the_device_failed_while_copies_were_written() {
    what_copies_name_stays_taken(true);
}

/// Of two disks that take turns in being held each has the whole share of the log for its records.
#[test]
fn the_copies_of_a_disk_that_is_let_go_leave_the_share_to_others() {
    let (w, root) = two_disks();
    let was = damage(&w.store, root);
    let media = w.store.clone();
    w.run(move |e| async move {
        let bad = e.open_vdi("bad").await.unwrap();
        for n in 0..400 {
            bad.discard((1 << 18) + n * 8, 8, Ack::WriteBack).await.unwrap();
        }
        busy(&e, 1, LOG).await;
        assert!(bad.is_stuck() && e.0.copies.borrow()[&bad.id()] > 0);
        media.write(root, &was);
        bad.retry_soon();
        e.checkpoint().await.unwrap();
        assert!(bad.held().is_none() && e.0.copies.borrow().is_empty());
    });
    clean(&w);
}
