//! A VDI that cannot checkpoint: its neighbours go on, and nothing it acknowledged is lost.

use super::*;
use crate::check::{CheckOptions, Severity, check};
use crate::executor::{LocalFuture, join_all};
use crate::units::{BLOCK_SIZE, ExtentNumber};

const LOG: u64 = 8 << 20;

/// A store with the disks 'bad' and 'good', both written and checkpointed; returns where the tree of 'bad' starts.
fn two_disks() -> (World, u64) {
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
fn damage(media: &Media, offset: u64) -> Vec<u8> {
    let mut was = vec![0; BLOCK_SIZE];
    media.read(offset, &mut was);
    media.write(offset, &[0x5a; BLOCK_SIZE]);
    was
}

/// Everything a disk can do before it is held; returns what it must hold afterwards.
async fn every_kind_of_record(e: &Engine, v: &Vdi) -> Vec<u8> {
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
async fn busy(e: &Engine, round: u8, bytes: u64) {
    let good = e.open_vdi("good").await.unwrap();
    for i in 0..bytes / (32 << 10) {
        write(&good, (i % 256) * 64, &fill(round ^ i as u8, 32 << 10)).await;
    }
}

fn clean(w: &World) {
    let executor = Executor::new();
    let (store, log) = (w.store_device(), w.log_device());
    let devices = [store.clone(), log.clone()];
    let report = drive(&executor, None, &devices, async move {
        check(&store, &[log], CheckOptions { data: true }).await.unwrap()
    });
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

#[test]
fn a_disk_whose_newest_record_cannot_be_read_now_is_not_taken_for_what_it_was() {
    let (w, _) = two_disks();
    let newest = w.run(|e| async move {
        let bad = e.open_vdi("bad").await.unwrap();
        write(&bad, 0, &fill(7, 4096)).await;
        e.checkpoint().await.unwrap();
        let newest = (bad.record().generation.0 % 2) as usize;
        e.store().offset_bytes(bad.slots()[newest], 1).unwrap()
    });
    w.unreadable.set(Some(newest));
    let unreadable = Rc::clone(&w.unreadable);
    w.run(move |e| async move {
        assert_eq!(e.open_vdi("bad").await.err().unwrap().kind(), ErrorKind::Io(libc::EIO));
        unreadable.set(None);
        let bad = e.open_vdi("bad").await.unwrap();
        assert_eq!(read(&bad, 0, 4096).await, bytes_of(&fill(7, 4096)));
        write(&bad, 0, &fill(8, 4096)).await;
        // The older one is no loss.
        unreadable.set(Some(newest));
        e.checkpoint().await.unwrap();
    });
    w.run(|e| async move {
        assert_eq!(read(&e.open_vdi("bad").await.unwrap(), 0, 4096).await, bytes_of(&fill(8, 4096)));
    });
}

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
fn a_damaged_copy_of_the_host_record_leaks_nothing_unless_a_disk_relies_on_it() {
    let (w, _) = two_disks();
    let (copies, free) = w.run(|e| async move {
        let start = u64::from(e.store().superblock().hosts_start);
        let good = e.open_vdi("good").await.unwrap();
        write(&good, 0, &fill(5, 8192)).await;
        e.checkpoint().await.unwrap();
        ([start, start + 1].map(|block| block * crate::units::BLOCK_BYTES), e.status().space.free_bytes)
    });
    let mut outcomes = Vec::new();
    for copy in copies {
        let damaged =
            World { store: w.store.fork(), log: w.log.fork(), log_bytes: w.log_bytes, ..World::default() };
        damage(&damaged.store, copy);
        let freed = damaged.run(move |e| async move {
            assert_eq!(e.status().warnings.len(), 1);
            let good = e.open_vdi("good").await.unwrap();
            assert_eq!(read(&good, 0, 8192).await, bytes_of(&fill(5, 8192)));
            let freed = e.status().space.free_bytes == free;
            busy(&e, 3, LOG).await;
            e.checkpoint().await.unwrap();
            freed
        });
        clean(&damaged);
        outcomes.push(freed);
    }
    // One copy is the record that the disk's own relies on, the other an older one that nobody needs.
    outcomes.sort_unstable();
    assert_eq!(outcomes, [false, true]);
}

#[test]
pub(super) fn a_disk_that_may_be_older_than_it_was_shows_its_guest_nothing_but_can_be_looked_at() {
    let (w, _) = two_disks();
    let newest = w.run(|e| async move {
        let bad = e.open_vdi("bad").await.unwrap();
        write(&bad, 0, &fill(9, 4096)).await;
        e.checkpoint().await.unwrap();
        let slot = bad.slots()[(bad.record().generation.0 % 2) as usize];
        e.store().offset_bytes(slot, 1).unwrap()
    });
    damage(&w.store, newest);
    w.run(|e| async move {
        let bad = e.open_vdi("bad").await.unwrap();
        assert!(bad.held().is_some() && !bad.is_stuck());
        let bufs: GuestBufs = HostMemory::slice(4096).into();
        let refused = bad.read(0, &bufs).await.unwrap_err();
        assert!(refused.message().contains("older") && refused.hint().contains("--read-only"), "{refused:?}");
        bad.salvage(0, &bufs).await.unwrap();
        let good = e.open_vdi("good").await.unwrap();
        good.read(0, &bufs).await.unwrap();
    });
}

/// Where the bitmaps of `w` are: offset and bytes, by extent.
fn bitmaps(w: &World) -> Vec<(u64, usize)> {
    w.run(|e| async move {
        let g = e.store().geometry();
        let blocks = crate::format::extent::overhead_blocks(g) as usize - 1;
        let start = |n| e.store().offset_bytes(g.addr(ExtentNumber(n), 1), 1).ok();
        let extents = 0..e.store().superblock().extents;
        extents.filter_map(start).map(|offset| (offset, blocks * BLOCK_SIZE)).collect()
    })
}

#[test]
fn where_a_bitmap_was_lost_and_two_disks_have_a_block_the_one_that_frees_it_last_is_held() {
    let (w, _) = two_disks();
    // A start gives back what was claimed and not used.
    w.run(|_| async {});
    let before = w.store.fork();
    w.run(|e| async move {
        e.create("other", DISK).await.unwrap();
        busy(&e, 1, 1 << 20).await;
        e.checkpoint().await.unwrap();
    });
    let mut freed_twice = 0;
    for (offset, bytes) in bitmaps(&w) {
        let w =
            World { store: w.store.fork(), log: w.log.fork(), log_bytes: w.log_bytes, ..World::default() };
        let mut was = vec![0; bytes];
        before.read(offset, &mut was);
        w.store.write(offset, &was);
        freed_twice += w.run(|e| async move {
            // It gets what 'good' has, and either may end in an error.
            let (other, good) = (e.open_vdi("other").await.unwrap(), e.open_vdi("good").await.unwrap());
            for round in 0..4 {
                for disk in [&other, &good] {
                    let _ = disk.write(0, &fill(round, 1 << 20), Ack::WriteBack).await;
                }
                let _ = e.checkpoint().await;
            }
            let held = e.status().held;
            let bad = e.open_vdi("bad").await.unwrap();
            write(&bad, 0, &fill(3, 64 << 10)).await;
            let _ = e.checkpoint().await;
            assert!(bad.oldest_segment().is_none(), "its checkpoint succeeds");
            assert_eq!(read(&bad, 0, 64 << 10).await, bytes_of(&fill(3, 64 << 10)));
            held.iter().filter(|(_, why)| why.contains(crate::store::FREED_TWICE)).count()
        });
    }
    assert!(freed_twice > 0, "the data extent's bitmap");
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

/// Writes that were flushed are damaged in the log, and nothing after them proves that they were not the disk's.
pub(super) fn a_disk_that_lost_flushed_writes_with_the_log_stays_held_over_restarts() {
    let (w, _) = two_disks();
    let lost = w.run(|e| async move {
        let bad = e.open_vdi("bad").await.unwrap();
        let mut data = None;
        for i in 0..3 {
            write(&bad, i * 8, &fill(5, 4096)).await;
            bad.flush().await.unwrap();
            let log = &e.shared().log;
            data = log.segments_from(log.newest()).0[0].block_offset(0);
        }
        data.unwrap() - 4096
    });
    // A later segment shows that it was durable.
    w.run(|e| async move {
        let good = e.open_vdi("good").await.unwrap();
        write(&good, 0, &fill(6, 4096)).await;
        good.flush().await.unwrap();
    });
    damage(&w.log, lost);
    for _ in 0..3 {
        w.run(|e| async move {
            assert!(e.show("bad").await.unwrap().held.is_some());
            let bad = e.open_vdi("bad").await.unwrap();
            let bufs: GuestBufs = HostMemory::slice(4096).into();
            bad.read(16, &bufs).await.unwrap_err();
            // Its neighbours go on, and the log is trimmed.
            busy(&e, 7, 3 * LOG).await;
            e.close().await.unwrap();
        });
    }
    w.run(|e| async move {
        e.delete("bad", true).await.unwrap();
        e.create("bad", DISK).await.unwrap();
        write(&e.open_vdi("bad").await.unwrap(), 0, &fill(5, 4096)).await;
        e.close().await.unwrap();
    });
    w.run(|e| async move { assert_eq!(e.show("bad").await.unwrap().held, None) });
}

#[test]
fn a_disk_that_lost_flushed_writes_with_the_log_is_held_until_it_is_deleted() {
    a_disk_that_lost_flushed_writes_with_the_log_stays_held_over_restarts();
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
fn a_record_that_cannot_be_written_is_the_trouble_of_its_disk_alone() {
    let (w, _) = two_disks();
    let unwritable = Rc::clone(&w.unwritable);
    w.run(|e| async move {
        let (bad, good) = (e.open_vdi("bad").await.unwrap(), e.open_vdi("good").await.unwrap());
        let slot = bad.slots()[((bad.record().generation.0 + 1) % 2) as usize];
        unwritable.set(Some(e.store().offset_bytes(slot, 1).unwrap()));
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

pub(super) fn what_a_newer_record_may_name_is_not_collected() {
    let (w, _) = two_disks();
    let newest = w.run(|e| async move {
        let bad = e.open_vdi("bad").await.unwrap();
        write(&bad, 0, &fill(9, 1 << 20)).await;
        e.checkpoint().await.unwrap();
        let slot = bad.slots()[(bad.record().generation.0 % 2) as usize];
        e.store().offset_bytes(slot, 1).unwrap()
    });
    let was = damage(&w.store, newest);
    w.run(|e| async move {
        assert!(e.show("bad").await.unwrap().held.is_some());
        let _ = e.collect(false).await;
        busy(&e, 1, 3 * LOG).await;
        e.checkpoint().await.unwrap();
    });
    // It was misread.
    w.store.write(newest, &was);
    clean(&w);
    w.run(|e| async move {
        let bad = e.open_vdi("bad").await.unwrap();
        assert_eq!(read(&bad, 0, 1 << 20).await, bytes_of(&fill(9, 1 << 20)));
        e.collect(false).await.unwrap();
    });
}

#[test]
fn nothing_is_collected_while_a_disk_may_have_a_newer_record() {
    what_a_newer_record_may_name_is_not_collected();
}
