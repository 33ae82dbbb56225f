//! Which of the two slots of a VDI record is its present state, when one of them cannot be read for a while.

use super::checkpoint::set_aside;
use super::held::{LOG, busy, clean, damage, two_disks};
use super::*;

/// Two disks, of which 'bad' was made larger; killed before the log's head knew. Returns where the record is that says so.
fn resized_and_killed() -> (World, u64) {
    let (w, _) = two_disks();
    let (before, keep_log) = set_aside(&w.log);
    let newest = w.run(move |e| async move {
        let bad = e.open_vdi("bad").await.unwrap();
        write(&bad, 0, &fill(7, 4096)).await;
        e.checkpoint().await.unwrap();
        keep_log();
        e.resize("bad", 2 * DISK, false).await.unwrap();
        newest_slot(&e, &bad)
    });
    (World { log: before.take().unwrap(), ..w }, newest)
}

#[test]
fn a_record_that_was_shown_is_not_passed_over_for_the_one_before() {
    let (w, newest) = resized_and_killed();
    w.run(|e| async move { assert_eq!(e.open_vdi("bad").await.unwrap().size_bytes(), 2 * DISK) });
    w.unreadable.set(Some(newest));
    w.run(|e| async move {
        assert_eq!(e.open_vdi("bad").await.err().unwrap().kind(), ErrorKind::Io(libc::EIO));
    });
    w.unreadable.set(None);
    w.run(|e| async move { assert_eq!(e.open_vdi("bad").await.unwrap().size_bytes(), 2 * DISK) });
    clean(&w);
}

#[test]
fn a_record_that_cannot_be_read_and_that_nothing_relies_on_is_over_once_the_one_before_was_shown() {
    let (w, newest) = resized_and_killed();
    w.unreadable.set(Some(newest));
    w.run(|e| async move {
        let bad = e.open_vdi("bad").await.unwrap();
        assert_eq!((bad.size_bytes(), bad.held().is_some()), (DISK, false));
        write(&bad, 0, &fill(8, 4096)).await;
        bad.flush().await.unwrap();
    });
    w.unreadable.set(None);
    for _ in 0..2 {
        w.run(|e| async move {
            let bad = e.open_vdi("bad").await.unwrap();
            assert_eq!((bad.size_bytes(), bad.held().is_some()), (DISK, false));
            assert_eq!(read(&bad, 0, 4096).await, bytes_of(&fill(8, 4096)));
            e.checkpoint().await.unwrap();
        });
    }
    clean(&w);
}

#[test]
fn a_slot_that_holds_no_record_is_written_anew_before_anybody_is_shown_the_other() {
    let (w, newest) = resized_and_killed();
    damage(&w.store, newest);
    let of_the_start = w.run(move |e| async move {
        let bad = e.open_vdi("bad").await.unwrap();
        assert_eq!((bad.size_bytes(), bad.held().is_some()), (DISK, false));
        newest_slot(&e, &bad)
    });
    assert_eq!(of_the_start, newest);
    w.run(|e| async move { assert_eq!(e.open_vdi("bad").await.unwrap().size_bytes(), DISK) });
    clean(&w);
}

#[test]
fn a_disk_of_which_one_slot_can_neither_be_read_nor_written_can_be_read() {
    let (w, newest) = resized_and_killed();
    w.unreadable.set(Some(newest));
    w.unwritable.set(Some(newest));
    w.run(|e| async move {
        let bad = e.open_vdi("bad").await.unwrap();
        assert_eq!(read(&bad, 0, 4096).await, bytes_of(&fill(7, 4096)));
        bad.write(0, &fill(8, 4096), Ack::WriteBack).await.unwrap_err();
        assert!(bad.held().unwrap().message().contains("the record of VDI 'bad'"), "{:?}", bad.held());
        write(&e.open_vdi("good").await.unwrap(), 0, &fill(8, 4096)).await;
    });
}

#[test]
fn what_follows_a_record_that_was_misread_waits_in_the_log_for_a_start_that_reads_it() {
    let (w, _) = two_disks();
    let newest = w.run(|e| async move {
        let bad = e.open_vdi("bad").await.unwrap();
        write(&bad, 0, &fill(7, 4096)).await;
        e.checkpoint().await.unwrap();
        for at in 0..64 {
            write(&bad, at * 8, &fill(at as u8, 4096)).await;
        }
        write(&bad, 4096, &fill(9, 1 << 20)).await;
        bad.flush().await.unwrap();
        newest_slot(&e, &bad)
    });
    let was = damage(&w.store, newest);
    for round in 0..2 {
        w.run(move |e| async move {
            let bad = e.open_vdi("bad").await.unwrap();
            assert!(bad.held().is_some());
            busy(&e, round, 3 * LOG).await;
            e.checkpoint().await.unwrap();
        });
    }
    w.store.write(newest, &was);
    w.run(|e| async move {
        let bad = e.open_vdi("bad").await.unwrap();
        assert!(bad.held().is_none(), "{:?}", bad.held());
        for at in 0..64 {
            assert_eq!(read(&bad, at * 8, 4096).await, bytes_of(&fill(at as u8, 4096)));
        }
        assert_eq!(read(&bad, 4096, 1 << 20).await, bytes_of(&fill(9, 1 << 20)));
        e.checkpoint().await.unwrap();
    });
    clean(&w);
}

#[test]
fn a_record_that_was_taken_back_is_not_the_present_state_when_the_one_over_it_cannot_be_read() {
    let (w, _) = two_disks();
    let unwritable = Rc::clone(&w.unwritable);
    let over_it = w.run(move |e| async move {
        let bad = e.open_vdi("bad").await.unwrap();
        write(&bad, 0, &fill(8, 1 << 20)).await;
        let generation = bad.record().generation.0;
        unwritable.set(Some(slot_of(&e, &bad, generation + 1)));
        e.checkpoint().await.unwrap_err();
        assert_eq!(bad.record().generation.0, generation + 2);
        slot_of(&e, &bad, generation + 2)
    });
    w.unwritable.set(None);
    w.unreadable.set(Some(over_it));
    w.run(|e| async move {
        assert_eq!(e.open_vdi("bad").await.err().unwrap().kind(), ErrorKind::Io(libc::EIO));
    });
    w.unreadable.set(None);
    w.run(|e| async move {
        assert_eq!(read(&e.open_vdi("bad").await.unwrap(), 0, 1 << 20).await, bytes_of(&fill(8, 1 << 20)));
    });
    clean(&w);
}
