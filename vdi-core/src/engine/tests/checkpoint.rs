//! What a checkpoint asks of the devices.

use super::*;
use crate::executor::join_all;

/// Every third block of the disk's first 4,096, in an order that is not the disk's, 64 at a time; what each holds.
async fn scattered(vdi: &Vdi) -> Vec<(u64, u8)> {
    let blocks: Vec<(u64, u8)> = (0..1365).map(|n| (n * 1021 % 1365 * 3, (n % 251) as u8 + 1)).collect();
    for some in blocks.chunks(64) {
        let writes =
            some.iter().map(|(block, tag)| async move { write(vdi, block * 8, &fill(*tag, 4096)).await });
        join_all(writes.map(|w| Box::pin(w) as crate::executor::LocalFuture<'_, ()>).collect()).await;
    }
    blocks
}

#[test]
fn what_left_memory_is_read_back_with_few_requests() {
    let w = World::formatted();
    let options = EngineOptions { staging_bytes: 4096, late_checkpoints: true, ..EngineOptions::default() };
    w.run_with(options, |e| async move {
        e.create("a", DISK).await.unwrap();
        let vdi = e.open_vdi("a").await.unwrap();
        let blocks = scattered(&vdi).await;
        let reads = || e.shared().log.device().counts().reads.get();
        let before = reads();
        e.checkpoint().await.unwrap();
        let asked = reads() - before;
        assert!(asked * 16 < blocks.len() as u64, "{asked} reads for {} blocks", blocks.len());
        for (block, tag) in blocks {
            assert!(read(&vdi, block * 8, 4096).await == bytes_of(&fill(tag, 4096)), "block {block}");
        }
    });
}

#[test]
fn while_most_of_the_store_is_free_data_go_into_whole_regions_and_not_into_holes() {
    let w = World::formatted();
    w.run(|e| async move {
        e.create("a", DISK).await.unwrap();
        let vdi = e.open_vdi("a").await.unwrap();
        let writes = || e.store().device().counts().writes.get();
        scattered(&vdi).await;
        e.checkpoint().await.unwrap();
        // Every second block goes: nothing but holes is left in the extents in use.
        for n in (0..1365).step_by(2) {
            vdi.discard(n * 24, 8, Ack::WriteBack).await.unwrap();
        }
        e.checkpoint().await.unwrap();
        e.checkpoint().await.unwrap();
        let before = writes();
        let again = scattered(&vdi).await;
        e.checkpoint().await.unwrap();
        let asked = writes() - before;
        assert!(asked < 100, "{asked} writes to the store for {} blocks", again.len());
    });
}

/// Where what `media` holds is kept, and what keeps it.
pub(super) fn set_aside(media: &Media) -> (Rc<RefCell<Option<Media>>>, impl Fn() + 'static) {
    let (kept, media) = (Rc::default(), media.clone());
    let slot = Rc::clone(&kept);
    (kept, move || *slot.borrow_mut() = Some(media.fork()))
}

/// Killed with a full log after the records were flushed, and before the trim.
fn a_writer_gets_room_after_such_a_kill() {
    let w = World::formatted();
    let (untrimmed, keep_log) = set_aside(&w.log);
    w.run(|e| async move {
        e.create("a", DISK).await.unwrap();
        let vdi = e.open_vdi("a").await.unwrap();
        // No round begins while somebody has the disk's turn.
        let turn = vdi.lock_turn().await;
        let (writer, written) = (vdi.clone(), Rc::new(Cell::new(0)));
        let count = Rc::clone(&written);
        e.0.env.executor.spawn(async move {
            loop {
                write(&writer, count.get() % 1024 * 64, &fill(1, 32 << 10)).await;
                count.set(count.get() + 1);
            }
        });
        let mut before = u64::MAX;
        while written.get() != before {
            before = written.get();
            e.0.env.executor.sleep(1_000_000).await;
        }
        keep_log();
        let ended = e.shared().pressure.ended.wait();
        drop(turn);
        ended.await;
    });
    let w = World { log: untrimmed.take().unwrap(), ..w };
    w.run(|e| async move {
        let vdi = e.open_vdi("a").await.unwrap();
        assert_eq!(e.status().recovery.records, 0, "everything is in the tree");
        write(&vdi, 0, &fill(2, 32 << 10)).await;
        assert_eq!(read(&vdi, 0, 32 << 10).await, bytes_of(&fill(2, 32 << 10)));
    });
}

#[test]
fn a_full_log_that_a_restart_need_not_replay_is_trimmed_for_the_first_who_waits() {
    a_writer_gets_room_after_such_a_kill();
    assert!(breaks(Bug::FullLogAsksNobody, a_writer_gets_room_after_such_a_kill), "the seeded bug hides");
}

#[test]
fn a_record_that_a_start_finds_newer_than_remembered_is_remembered_by_the_trim() {
    let w = World::formatted();
    let (untrimmed, keep_log) = set_aside(&w.log);
    w.run(|e| async move {
        e.create("a", DISK).await.unwrap();
        let vdi = e.open_vdi("a").await.unwrap();
        write(&vdi, 0, &fill(1, 4096)).await;
        e.checkpoint().await.unwrap();
        write(&vdi, 0, &fill(2, 4096)).await;
        vdi.flush().await.unwrap();
        keep_log();
        e.checkpoint().await.unwrap();
    });
    // Killed between the record and the trim.
    let w = World { log: untrimmed.take().unwrap(), ..w };
    let newest = w.run(|e| async move {
        let vdi = e.open_vdi("a").await.unwrap();
        e.checkpoint().await.unwrap();
        newest_slot(&e, &vdi)
    });
    w.unreadable.set(Some(newest));
    w.run(|e| async move { assert!(e.open_vdi("a").await.is_err(), "the older one does not count") });
    w.unreadable.set(None);
    w.run(|e| async move {
        let vdi = e.open_vdi("a").await.unwrap();
        assert_eq!(read(&vdi, 0, 4096).await, bytes_of(&fill(2, 4096)));
    });
}
