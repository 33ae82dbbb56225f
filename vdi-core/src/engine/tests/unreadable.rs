//! A sector that the device cannot read costs no more than one with wrong bytes, and is never taken for an empty one.

use super::doubt::bitmaps;
use super::held::{checked, clean, two_disks};
use super::*;
use crate::check::write_mends;
use crate::format::log_head::{SLOT_BYTES, slot_offset_bytes};
use crate::format::superblock::COPIES;
use crate::units::{BLOCK_BYTES, BLOCK_SIZE};

/// Open the engine, and close nothing.
fn open(w: &World) -> Result<()> {
    let executor = Executor::new();
    let (store, log, env) = (w.store_device(), w.log_device(), env(&executor));
    let devices = [store.clone(), log.clone()];
    let opened = drive(&executor, None, &devices, async move {
        Engine::open(env, store, log, EngineOptions::default()).await.map(drop)
    });
    executor.abandon_all();
    opened
}

/// What is there once, or twice, in the system area and in each extent: all but the registry.
fn spare_blocks(w: &World) -> Vec<u64> {
    let sb = w.run(|e| async move { *e.store().superblock() });
    let system = [sb.hosts_start, sb.hosts_start + 1, sb.catalogue_start].map(u64::from);
    let mut all: Vec<u64> = COPIES.into_iter().chain(system).map(|block| block * BLOCK_BYTES).collect();
    for (offset, bytes) in bitmaps(w) {
        // The header lies before the bitmap.
        all.extend((offset - BLOCK_BYTES..offset + bytes as u64).step_by(BLOCK_SIZE));
    }
    all
}

#[test]
fn no_single_sector_that_cannot_be_read_keeps_the_store_shut_while_there_is_another_way_to_know() {
    let (w, _) = two_disks();
    let blocks = spare_blocks(&w);
    assert!(blocks.len() > 8);
    for block in blocks {
        let w = w.fork();
        w.unreadable.set(Some(block));
        let report = checked(&w);
        assert!(!report.findings.is_empty(), "{block:#x} is not seen");
        w.run(|e| async move {
            let good = e.open_vdi("good").await.unwrap();
            assert_eq!(read(&good, 1 << 14, 64 << 10).await, bytes_of(&fill(2, 64 << 10)));
            write(&good, 0, &fill(9, 8192)).await;
            e.checkpoint().await.unwrap();
        });
        w.unreadable.set(None);
        w.run(|e| async move {
            let good = e.open_vdi("good").await.unwrap();
            assert_eq!(read(&good, 0, 8192).await, bytes_of(&fill(9, 8192)));
        });
        clean(&w);
    }
}

#[test]
fn a_registry_that_cannot_be_read_is_no_empty_one() {
    let (w, _) = two_disks();
    let start = w.run(|e| async move { u64::from(e.store().superblock().registry_start) * BLOCK_BYTES });
    w.unreadable.set(Some(start));
    assert!(matches!(open(&w).unwrap_err().kind(), ErrorKind::Io(_)));
    let report = checked(&w);
    assert!(report.is_corrupt() && report.incomplete && report.leak_plan().is_empty(), "{report:?}");
    w.unreadable.set(None);
    clean(&w);
}

#[test]
fn a_superblock_that_cannot_be_read_is_written_anew() {
    let (w, _) = two_disks();
    w.unreadable.set(Some(0));
    let report = checked(&w);
    assert_eq!(report.mend_plan().len(), 1);
    let store = w.store_device();
    let devices = [store.clone()];
    let mended = drive(&Executor::new(), None, &devices, async move { write_mends(&store, &report).await });
    assert_eq!(mended.unwrap(), 1);
    w.unreadable.set(None);
    assert_eq!(checked(&w).findings, []);
}

#[test]
fn the_first_slot_of_the_log_head_serves_alone_and_the_second_does_not() {
    let (w, _) = two_disks();
    let padding = slot_offset_bytes(0) + SLOT_BYTES as u64 - 1;
    for harmless in [slot_offset_bytes(1), padding] {
        let w = w.fork();
        w.log_unreadable.set(Some(harmless));
        w.run(|e| async move {
            let good = e.open_vdi("good").await.unwrap();
            assert_eq!(read(&good, 1 << 14, 64 << 10).await, bytes_of(&fill(2, 64 << 10)));
            write(&good, 0, &fill(9, 8192)).await;
        });
        w.log_unreadable.set(None);
        w.run(|e| async move {
            assert_eq!(read(&e.open_vdi("good").await.unwrap(), 0, 8192).await, bytes_of(&fill(9, 8192)));
        });
        clean(&w);
    }
    w.log_unreadable.set(Some(slot_offset_bytes(0)));
    assert!(matches!(open(&w).unwrap_err().kind(), ErrorKind::Io(_)));
    w.log_unreadable.set(None);
    open(&w).unwrap();
}
