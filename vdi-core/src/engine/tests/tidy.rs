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
        let tidied = e.tidy().await.unwrap();
        assert_eq!((tidied.blocks, tidied.complete), (BLOCKS, true));
        assert_is_what_was_written(&vdi).await;
        e.checkpoint().await.unwrap();
        let after = runs(&e, &vdi).await;
        assert!(after <= 10, "{after} runs");
        // What was replaced comes back with the rounds after.
        e.checkpoint().await.unwrap();
        assert_eq!(e.store().space().data_bytes, used);
        assert_eq!(e.tidy().await.unwrap().blocks, 0, "nothing is left to do");
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
        assert_eq!(e.tidy().await.unwrap().blocks, 0, "while it is pending");
        e.checkpoint().await.unwrap();
        assert_eq!(e.tidy().await.unwrap().blocks, 0, "and after");
        // What is written now is the disk's own.
        written(&e, &vdi).await;
        assert_eq!(e.tidy().await.unwrap().blocks, BLOCKS);
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
        assert_eq!(e.tidy().await.unwrap().blocks, BLOCKS);
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
