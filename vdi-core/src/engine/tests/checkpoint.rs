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
