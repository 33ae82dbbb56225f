//! Idle work: what lies scattered comes to lie in order, and is what it was.

use super::*;
use crate::tree::lookup;
use crate::units::VirtualBlock;

const BLOCKS: u64 = 512;

/// The first 512 blocks, written in an order that is not the disk's, with a checkpoint now and then.
async fn written(e: &Engine, vdi: &Vdi) {
    for n in 0..BLOCKS {
        let block = n * 181 % BLOCKS;
        write(vdi, block * 8, &fill(tag(block), 4096)).await;
        if n % 32 == 31 {
            e.checkpoint().await.unwrap();
        }
    }
    e.checkpoint().await.unwrap();
}

fn tag(block: u64) -> u8 {
    (block % 251) as u8 + 1
}

async fn runs(e: &Engine, vdi: &Vdi) -> usize {
    lookup(&e.shared().cache, &vdi.root(), VirtualBlock(0), BLOCKS as u32).await.unwrap().len()
}

async fn assert_is_what_was_written(vdi: &Vdi) {
    for block in 0..BLOCKS {
        assert!(read(vdi, block * 8, 4096).await == bytes_of(&fill(tag(block), 4096)), "block {block}");
    }
}

#[test]
fn what_lies_scattered_comes_to_lie_in_order() {
    let w = World::formatted();
    w.run(|e| async move {
        e.create("a", DISK).await.unwrap();
        let vdi = e.open_vdi("a").await.unwrap();
        written(&e, &vdi).await;
        let before = runs(&e, &vdi).await;
        assert!(before > 200, "{before} runs");
        let used = e.store().space().data_bytes;
        let tidied = e.tidy().await;
        assert_eq!((tidied.blocks, tidied.complete), (BLOCKS, true));
        assert_is_what_was_written(&vdi).await;
        e.checkpoint().await.unwrap();
        let after = runs(&e, &vdi).await;
        assert!(after <= 10, "{after} runs");
        // What was replaced comes back with the rounds after.
        e.checkpoint().await.unwrap();
        assert_eq!(e.store().space().data_bytes, used);
        assert_eq!(e.tidy().await.blocks, 0, "nothing is left to do");
    });
    w.run(|e| async move { assert_is_what_was_written(&e.open_vdi("a").await.unwrap()).await });
}

#[test]
fn what_a_snapshot_shares_stays_where_it_is() {
    let w = World::formatted();
    w.run(|e| async move {
        e.create("a", DISK).await.unwrap();
        let vdi = e.open_vdi("a").await.unwrap();
        written(&e, &vdi).await;
        vdi.snapshot(None).await.unwrap();
        assert_eq!(e.tidy().await.blocks, 0, "while it is pending");
        e.checkpoint().await.unwrap();
        assert_eq!(e.tidy().await.blocks, 0, "and after");
        // What is written now is the disk's own.
        written(&e, &vdi).await;
        assert_eq!(e.tidy().await.blocks, BLOCKS);
        assert_is_what_was_written(&vdi).await;
    });
}

#[test]
fn what_is_put_in_order_survives_a_kill_before_its_checkpoint() {
    let w = World::formatted();
    w.run(|e| async move {
        e.create("a", DISK).await.unwrap();
        let vdi = e.open_vdi("a").await.unwrap();
        written(&e, &vdi).await;
        assert_eq!(e.tidy().await.blocks, BLOCKS);
        vdi.flush().await.unwrap();
    });
    w.run(|e| async move {
        let vdi = e.open_vdi("a").await.unwrap();
        assert_is_what_was_written(&vdi).await;
        e.checkpoint().await.unwrap();
        assert!(runs(&e, &vdi).await <= 10);
    });
}

#[test]
fn idle_work_begins_when_guests_are_idle_and_ends_when_they_are_not() {
    let w = World::formatted();
    w.run(|e| async move {
        e.create("a", DISK).await.unwrap();
        let vdi = e.open_vdi("a").await.unwrap();
        written(&e, &vdi).await;
        let executor = e.shared().executor.clone();
        for _ in 0..30 {
            executor.sleep(100_000_000).await;
            read(&vdi, 0, 4096).await;
        }
        e.checkpoint().await.unwrap();
        assert!(runs(&e, &vdi).await > 200, "a guest asks ten times a second");
        executor.sleep(3_000_000_000).await;
        e.checkpoint().await.unwrap();
        assert!(runs(&e, &vdi).await <= 10);
        assert_is_what_was_written(&vdi).await;
    });
}

#[test]
fn what_is_checkpointed_after_the_guest_went_idle_comes_to_lie_in_order_too() {
    let w = World::formatted();
    w.run(|e| async move {
        e.create("a", DISK).await.unwrap();
        let vdi = e.open_vdi("a").await.unwrap();
        written(&e, &vdi).await;
        // These are not in the tree when the guest has been idle for long enough.
        for n in 0..BLOCKS / 2 {
            write(&vdi, n * 16, &fill(tag(n * 2), 4096)).await;
        }
        let executor = e.shared().executor.clone();
        executor.sleep(60_000_000_000).await;
        assert_is_what_was_written(&vdi).await;
        e.checkpoint().await.unwrap();
        let after = runs(&e, &vdi).await;
        assert!(after <= 10, "{after} runs");
    });
}

#[test]
fn a_damaged_disk_does_not_keep_its_neighbours_from_being_put_in_order() {
    let w = World::formatted();
    let unreadable = Rc::clone(&w.unreadable);
    w.run(|e| async move {
        let mut vdis = Vec::new();
        for name in ["a", "b", "c"] {
            e.create(name, DISK).await.unwrap();
            let vdi = e.open_vdi(name).await.unwrap();
            written(&e, &vdi).await;
            vdis.push(vdi);
        }
        let bad = &vdis[1];
        let mappings = lookup(&e.shared().cache, &bad.root(), VirtualBlock(100), 1).await.unwrap();
        let (addr, _) = mappings[0].target.clone().unwrap();
        unreadable.set(Some(e.store().offset_bytes(addr, 1).unwrap()));
        let tidied = e.tidy().await;
        assert!(tidied.complete && tidied.blocks >= 2 * BLOCKS, "{tidied:?}");
        unreadable.set(None);
        for vdi in &vdis {
            assert_is_what_was_written(vdi).await;
        }
    });
}

#[test]
fn a_roll_back_waits_for_idle_work_and_keeps_it_out() {
    let w = World::formatted();
    w.run(|e| async move {
        e.create("a", DISK).await.unwrap();
        let vdi = e.open_vdi("a").await.unwrap();
        let snapshot = vdi.snapshot(None).await.unwrap();
        written(&e, &vdi).await;
        let done = Rc::new(Cell::new(false));
        let (engine, set) = (e.clone(), Rc::clone(&done));
        e.shared().executor.spawn(async move {
            engine.tidy().await;
            set.set(true);
        });
        crate::executor::yield_now().await;
        e.rollback("a", snapshot.epoch).await.unwrap();
        let executor = e.shared().executor.clone();
        while !done.get() {
            executor.sleep(1_000_000).await;
        }
        assert!(read(&vdi, 0, 4096).await == [0; 4096], "it was empty then");
    });
}

#[test]
fn regions_with_little_in_them_are_emptied_when_free_space_is_in_pieces() {
    // Extents of eight regions.
    let w = World::made(LOG_BYTES, FormatOptions { extent_bits: Some(12), ..FormatOptions::default() });
    w.run(|e| async move {
        e.create("a", DISK).await.unwrap();
        let vdi = e.open_vdi("a").await.unwrap();
        // As much as makes every extent somebody's, and then only every sixteenth block stays.
        let mut mib = 0;
        while e.status().space.free_extents > 0 {
            vdi.write(mib * 2048, &fill(mib as u8 + 1, 1 << 20), Ack::WriteBack).await.unwrap();
            mib += 1;
            e.checkpoint().await.unwrap();
        }
        for n in 0..mib * 16 {
            vdi.discard((n * 16 + 1) * 8, 15 * 8, Ack::WriteBack).await.unwrap();
        }
        for _ in 0..2 {
            e.checkpoint().await.unwrap();
        }
        assert!(e.store().lacks_empty_regions(), "{mib} MiB");
        let mut moved = 0;
        for _ in 0..8 {
            moved += e.tidy().await.blocks;
            vdi.touch_all();
            for _ in 0..2 {
                e.checkpoint().await.unwrap();
            }
        }
        assert!(moved > 0);
        assert!(!e.store().lacks_empty_regions(), "{moved} blocks of {} moved", mib * 16);
        for n in 0..mib * 16 {
            let all = bytes_of(&fill((n / 16) as u8 + 1, 1 << 20));
            assert!(read(&vdi, n * 128, 4096).await == all[(n as usize % 16) << 16..][..4096], "{n}");
        }
    });
}

#[test]
fn a_disk_that_lies_in_order_is_not_looked_at_again_for_a_write() {
    let w = World::formatted();
    w.run(|e| async move {
        e.create("a", DISK).await.unwrap();
        let vdi = e.open_vdi("a").await.unwrap();
        for mib in 0..32 {
            write(&vdi, mib * 2048, &fill(1, 1 << 20)).await;
        }
        e.checkpoint().await.unwrap();
        assert!(e.tidy().await.complete);
        let lookups = |e: &Engine| e.status().cache_hits + e.status().cache_misses;
        write(&vdi, 0, &fill(2, 4096)).await;
        e.checkpoint().await.unwrap();
        let before = lookups(&e);
        assert!(e.tidy().await.complete);
        let looked = lookups(&e) - before;
        assert!(looked <= u64::from(vdi.root().depth), "{looked} nodes");
    });
}

#[test]
fn idle_work_does_not_begin_while_a_guest_waits_for_an_answer() {
    let w = World::formatted();
    w.run(|e| async move {
        e.create("a", DISK).await.unwrap();
        let vdi = e.open_vdi("a").await.unwrap();
        written(&e, &vdi).await;
        e.shared().under_way.set(1);
        let executor = e.shared().executor.clone();
        executor.sleep(30_000_000_000).await;
        assert_eq!(e.tidied_blocks(), 0);
        e.shared().under_way.set(0);
        executor.sleep(30_000_000_000).await;
        assert_eq!(e.tidied_blocks(), BLOCKS);
    });
}
