//! What is damaged leaves open which state is the newest, or who owns a block: nothing is shown or freed on a guess.

use super::held::{LOG, busy, clean, damage, two_disks};
use super::*;
use crate::executor::{LocalFuture, join_all};
use crate::units::{BLOCK_BYTES, BLOCK_SIZE, ExtentNumber, SegmentSeq};

#[test]
fn a_disk_whose_newest_record_cannot_be_read_now_is_not_taken_for_what_it_was() {
    let (w, _) = two_disks();
    let newest = w.run(|e| async move {
        let bad = e.open_vdi("bad").await.unwrap();
        write(&bad, 0, &fill(7, 4096)).await;
        e.checkpoint().await.unwrap();
        newest_slot(&e, &bad)
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
pub(super) fn a_disk_that_may_be_older_than_it_was_shows_its_guest_nothing_but_can_be_looked_at() {
    let (w, _) = two_disks();
    let newest = w.run(|e| async move {
        let bad = e.open_vdi("bad").await.unwrap();
        write(&bad, 0, &fill(9, 4096)).await;
        e.checkpoint().await.unwrap();
        newest_slot(&e, &bad)
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

#[test]
fn what_is_asked_of_the_list_of_a_held_disk_says_that_it_is_held() {
    let (w, _) = two_disks();
    let newest = w.run(|e| async move {
        let bad = e.open_vdi("bad").await.unwrap();
        e.snapshot("bad", Some("first")).await.unwrap();
        e.checkpoint().await.unwrap();
        newest_slot(&e, &bad)
    });
    damage(&w.store, newest);
    w.run(|e| async move {
        let removed = e.remove_snapshot("bad", Epoch(1)).await;
        let labelled = e.label("bad", Epoch(1), Some("second")).await;
        for refused in [removed.err(), labelled.err(), e.snapshot("bad", None).await.err()] {
            assert_eq!(refused.unwrap().kind(), ErrorKind::Corrupt);
        }
    });
}

pub(super) fn what_a_newer_record_may_name_is_not_collected() {
    let (w, _) = two_disks();
    let newest = w.run(|e| async move {
        let bad = e.open_vdi("bad").await.unwrap();
        write(&bad, 0, &fill(9, 1 << 20)).await;
        e.checkpoint().await.unwrap();
        newest_slot(&e, &bad)
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

/// Of three writes that were flushed the first, the second or the last is damaged in the log.
pub(super) fn a_disk_that_lost_flushed_writes_with_the_log_stays_held_over_restarts() {
    let (whole, _) = two_disks();
    let heads: Vec<u64> = whole.run(|e| async move {
        let bad = e.open_vdi("bad").await.unwrap();
        let mut heads = Vec::new();
        for i in 0..3 {
            write(&bad, i * 8, &fill(5, 4096)).await;
            bad.flush().await.unwrap();
            let log = &e.shared().log;
            heads.extend(log.segments_from(log.newest()).0[0].block_offset(0).map(|data| data - 4096));
        }
        heads
    });
    // A later segment shows that the last was durable.
    whole.run(|e| async move {
        let good = e.open_vdi("good").await.unwrap();
        write(&good, 0, &fill(6, 4096)).await;
        good.flush().await.unwrap();
    });
    assert_eq!(heads.len(), 3);
    for head in heads {
        let w = whole.fork();
        damage(&w.log, head);
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
        accept_the_loss(&w.fork());
        w.run(|e| async move {
            e.delete("bad", true).await.unwrap();
            e.create("bad", DISK).await.unwrap();
            write(&e.open_vdi("bad").await.unwrap(), 0, &fill(5, 4096)).await;
        });
        let discard = EngineOptions { discard_log: true, ..EngineOptions::default() };
        // The loss is over: a sound log is used as ever.
        w.run_with(discard, |e| async move {
            assert_eq!(e.show("bad").await.unwrap().held, None);
            let good = e.open_vdi("good").await.unwrap();
            write(&good, 0, &fill(8, 4096)).await;
            good.flush().await.unwrap();
        });
        w.run_with(discard, |e| async move {
            assert_eq!(read(&e.open_vdi("good").await.unwrap(), 0, 4096).await, bytes_of(&fill(8, 4096)));
        });
    }
}

/// After a stop in good order only the disk that lost something goes back.
fn accept_the_loss(w: &World) {
    let discard = EngineOptions { discard_log: true, ..EngineOptions::default() };
    for options in [discard, EngineOptions::default()] {
        w.run_with(options, |e| async move {
            assert_eq!(e.show("bad").await.unwrap().held, None);
            let (bad, good) = (e.open_vdi("bad").await.unwrap(), e.open_vdi("good").await.unwrap());
            assert_eq!(read(&good, 0, 4096).await, bytes_of(&fill(7, 4096)));
            assert_eq!(
                read(&bad, 0, 24 << 9).await,
                bytes_of(&fill(1, 24 << 9)),
                "as at its last checkpoint"
            );
        });
    }
}

#[test]
fn a_disk_that_lost_flushed_writes_with_the_log_is_held_until_it_is_deleted() {
    a_disk_that_lost_flushed_writes_with_the_log_stays_held_over_restarts();
}

/// Its blocks and what the log holds of it wait until the entry is mended.
pub(super) fn nothing_of_a_disk_that_the_registry_has_lost_is_given_up() {
    let (w, _) = two_disks();
    let entry = w.run(|e| async move {
        let bad = e.open_vdi("bad").await.unwrap();
        write(&bad, 1 << 14, &fill(9, 64 << 10)).await;
        write(&bad, 1 << 13, &fill(9, 1 << 20)).await;
        let start = u64::from(e.store().superblock().registry_start) * crate::units::BLOCK_BYTES;
        let entries = u64::from(e.store().superblock().registry_entries);
        let registry = e.store().device().read(start, entries as usize * 512).await.unwrap();
        let mut sectors = registry.chunks_exact(512);
        let index = sectors.position(|s| s.windows(3).any(|w| w == b"bad")).unwrap();
        start + index as u64 * 512
    });
    let mut was = [0; 512];
    w.store.read(entry, &mut was);
    w.store.write(entry, &[0x5a; 512]);
    for round in 0..2 {
        w.run(move |e| async move {
            assert_eq!(e.open_vdi("bad").await.err().unwrap().kind(), ErrorKind::NotFound);
            assert_eq!(e.collect(false).await.unwrap_err().kind(), ErrorKind::Corrupt);
            busy(&e, round, 3 * LOG).await;
            e.checkpoint().await.unwrap();
        });
    }
    w.store.write(entry, &was);
    clean(&w);
    w.run(|e| async move {
        let bad = e.open_vdi("bad").await.unwrap();
        assert_eq!(read(&bad, 0, 1 << 20).await, bytes_of(&fill(1, 1 << 20)));
        assert_eq!(read(&bad, 1 << 14, 64 << 10).await, bytes_of(&fill(9, 64 << 10)));
        assert_eq!(read(&bad, 1 << 13, 1 << 20).await, bytes_of(&fill(9, 1 << 20)));
        e.collect(false).await.unwrap();
    });
}

#[test]
fn a_damaged_entry_of_the_registry_costs_its_disk_nothing() {
    nothing_of_a_disk_that_the_registry_has_lost_is_given_up();
}

#[test]
fn a_disk_whose_snapshot_list_is_damaged_goes_on_without_it() {
    let (w, _) = two_disks();
    let list = w.run(|e| async move {
        e.snapshot("bad", Some("first")).await.unwrap();
        e.checkpoint().await.unwrap();
        let bad = e.open_vdi("bad").await.unwrap();
        e.store().offset_bytes(bad.record().snapshots.addr, 1).unwrap()
    });
    let was = damage(&w.store, list);
    w.run(|e| async move {
        let bad = e.open_vdi("bad").await.unwrap();
        write(&bad, 0, &fill(9, 1 << 20)).await;
        let refused = [
            e.snapshots("bad").await.err(),
            e.snapshot("bad", None).await.err(),
            e.label("bad", Epoch(1), Some("other")).await.err(),
            e.remove_snapshot("bad", Epoch(1)).await.err(),
            e.rollback("bad", Epoch(1)).await.err(),
            e.clone_vdi("bad", Some(Epoch(1)), "clone").await.err(),
            e.collect(false).await.err(),
        ];
        assert!(refused.into_iter().all(|e| e.unwrap().kind() == ErrorKind::Corrupt));
        assert_eq!(e.delete("bad", false).await.unwrap_err().kind(), ErrorKind::Busy);
        busy(&e, 1, 2 * LOG).await;
        e.checkpoint().await.unwrap();
        assert_eq!(read(&bad, 0, 1 << 20).await, bytes_of(&fill(9, 1 << 20)));
        assert!(bad.held().is_none());
    });
    w.store.write(list, &was);
    clean(&w);
    w.run(|e| async move {
        e.rollback("bad", Epoch(1)).await.unwrap();
        let bad = e.open_vdi("bad").await.unwrap();
        assert_eq!(read(&bad, 0, 1 << 20).await, bytes_of(&fill(1, 1 << 20)));
    });
}

#[test]
fn a_disk_whose_tree_has_all_that_a_damaged_part_of_the_log_held_is_not_held_for_it() {
    let (w, root) = two_disks();
    let was = damage(&w.store, root);
    let lost = w.run(|e| async move {
        let (bad, good) = (e.open_vdi("bad").await.unwrap(), e.open_vdi("good").await.unwrap());
        let log = &e.shared().log;
        write(&bad, 0, &fill(5, 4096)).await;
        bad.flush().await.unwrap();
        write(&good, 0, &fill(6, 4096)).await;
        good.flush().await.unwrap();
        let lost = log.segments_from(log.newest()).0[0].block_offset(0).unwrap() - 4096;
        // 'bad' holds the tail.
        e.checkpoint().await.unwrap_err();
        // A later segment shows that it was durable.
        e.create("other", DISK).await.unwrap();
        let other = e.open_vdi("other").await.unwrap();
        write(&other, 8, &fill(5, 4096)).await;
        other.flush().await.unwrap();
        lost
    });
    w.store.write(root, &was);
    damage(&w.log, lost);
    w.run(|e| async move {
        assert_eq!(e.status().recovery.findings, 1);
        assert_eq!(e.show("good").await.unwrap().held, None);
        let good = e.open_vdi("good").await.unwrap();
        assert_eq!(read(&good, 0, 4096).await, bytes_of(&fill(6, 4096)));
    });
}

#[test]
fn a_disk_is_held_when_records_after_its_checkpoint_are_lost_with_their_segment() {
    let (w, root) = two_disks();
    let was = damage(&w.store, root);
    let lost = w.run(|e| async move {
        let (bad, good) = (e.open_vdi("bad").await.unwrap(), e.open_vdi("good").await.unwrap());
        let log = &e.shared().log;
        write(&bad, 0, &fill(5, 4096)).await;
        bad.flush().await.unwrap();
        let shared = log.newest().0 + 1;
        let checkpoint = async {
            // 'bad' holds the tail.
            e.checkpoint().await.unwrap_err();
        };
        let data = [fill(6, 4096), fill(7, 4096)];
        let all: [LocalFuture<'_, ()>; 3] =
            [Box::pin(write(&good, 0, &data[0])), Box::pin(checkpoint), Box::pin(write(&good, 8, &data[1]))];
        join_all(all.into()).await;
        let segments = log.segments_from(SegmentSeq(shared)).0;
        let lost = segments[0].block_offset(0).unwrap() - 4096;
        assert_eq!(good.oldest_segment(), Some(SegmentSeq(shared)), "both writes share a segment");
        good.flush().await.unwrap();
        // A later segment shows that it was durable.
        e.create("other", DISK).await.unwrap();
        let other = e.open_vdi("other").await.unwrap();
        write(&other, 8, &fill(5, 4096)).await;
        other.flush().await.unwrap();
        lost
    });
    w.store.write(root, &was);
    damage(&w.log, lost);
    w.run(|e| async move {
        assert_eq!(e.status().recovery.findings, 1);
        assert!(e.show("good").await.unwrap().held.is_some());
    });
}

/// What became of a copy of the host record.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Copy {
    Damaged,
    Zeros,
    /// Its last write is lost: it holds what it held before.
    Older,
}

/// Whether each copy of the host record, lost as `what` says, lets the next start give back what was claimed. Whatever
/// it does, nothing that a disk has is given away.
fn given_back(what: Copy) -> [bool; 2] {
    let (w, _) = two_disks();
    let before = w.store.fork();
    let (copies, free) = w.run(|e| async move {
        let start = u64::from(e.store().superblock().hosts_start);
        let good = e.open_vdi("good").await.unwrap();
        for round in 0..3 {
            write(&good, 0, &fill(5 + round, 8192)).await;
            e.checkpoint().await.unwrap();
        }
        ([start, start + 1].map(|block| block * crate::units::BLOCK_BYTES), e.status().space.free_bytes)
    });
    copies.map(|copy| {
        let lost = w.fork();
        match what {
            Copy::Damaged => drop(damage(&lost.store, copy)),
            Copy::Zeros => lost.store.write(copy, &[0; BLOCK_SIZE]),
            Copy::Older => {
                let mut was = [0; BLOCK_SIZE];
                before.read(copy, &mut was);
                lost.store.write(copy, &was);
            }
        }
        clean(&lost);
        let given_back = lost.run(move |e| async move {
            let given_back = e.status().space.free_bytes == free;
            assert!(!e.status().warnings.is_empty() || given_back && what == Copy::Older);
            let good = e.open_vdi("good").await.unwrap();
            assert_eq!(read(&good, 0, 8192).await, bytes_of(&fill(7, 8192)));
            busy(&e, 3, LOG).await;
            e.checkpoint().await.unwrap();
            given_back
        });
        clean(&lost);
        // It happens once: the next record is newer than any that was lost.
        lost.run(|e| async move { assert_eq!(e.status().warnings, Vec::<String>::new()) });
        given_back
    })
}

#[test]
fn a_lost_copy_of_the_host_record_leaks_nothing_unless_a_disk_relies_on_it() {
    for what in [Copy::Damaged, Copy::Zeros, Copy::Older] {
        let mut outcomes = given_back(what);
        // One copy is the record that the disk's own relies on, the other an older one that nobody needs.
        outcomes.sort_unstable();
        assert_eq!(outcomes, [false, true]);
    }
}

#[test]
fn whichever_copy_of_the_host_record_is_lost_the_log_is_known() {
    let w = World::with_log(LOG);
    let copies = w.run(|e| async move {
        let start = u64::from(e.store().superblock().hosts_start);
        [start, start + 1].map(|block| block * crate::units::BLOCK_BYTES)
    });
    let log = w.run(|e| async move { e.store().log().unwrap().uuid });
    for copy in copies {
        for zeros in [true, false] {
            let lost = w.fork();
            match zeros {
                true => lost.store.write(copy, &[0; BLOCK_SIZE]),
                false => drop(damage(&lost.store, copy)),
            }
            lost.run(move |e| async move { assert_eq!(e.store().log().unwrap().uuid, log) });
        }
    }
}

/// Where the bitmaps of `w` are: offset and bytes, by extent.
pub(super) fn bitmaps(w: &World) -> Vec<(u64, usize)> {
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
            for round in 0..8 {
                // Large ones look for free regions, small ones take what there is.
                for disk in if round % 2 == 0 { [&other, &good] } else { [&good, &other] } {
                    let _ = disk.write(0, &fill(round, 1 << 20), Ack::WriteBack).await;
                    for at in 0..64 {
                        let _ = disk.write(at * 32, &fill(round, 4096), Ack::WriteBack).await;
                    }
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
fn a_disk_that_the_registry_has_twice_makes_nobody_wait() {
    let (w, _) = two_disks();
    let registry = w.run(|e| async move { u64::from(e.store().superblock().registry_start) * BLOCK_BYTES });
    let mut sector = vec![0; SECTOR_BYTES as usize];
    w.store.read(registry, &mut sector);
    // As the third entry, sealed.
    sector[16..24].copy_from_slice(&2u64.to_le_bytes());
    crate::format::forge::reseal(&mut sector).unwrap();
    w.store.write(registry + 2 * SECTOR_BYTES, &sector);
    w.run(|e| async move {
        assert_eq!(e.collect(false).await.unwrap_err().kind(), ErrorKind::Corrupt);
        write(&e.open_vdi("bad").await.unwrap(), 0, &fill(9, 4096)).await;
        e.checkpoint().await.unwrap();
    });
}

#[test]
fn what_is_beyond_a_held_disk_hears_that_it_is_held() {
    let (w, _) = two_disks();
    let newest = w.run(|e| async move {
        e.resize("bad", 2 * DISK, false).await.unwrap();
        let bad = e.open_vdi("bad").await.unwrap();
        newest_slot(&e, &bad)
    });
    damage(&w.store, newest);
    w.run(|e| async move {
        let bad = e.open_vdi("bad").await.unwrap();
        let refused = bad.write(DISK / SECTOR_BYTES, &fill(1, 4096), Ack::WriteBack).await.unwrap_err();
        assert!(refused.kind() == ErrorKind::Corrupt && refused.message().contains("held"), "{refused:?}");
    });
}
