//! What a full store must still do: everything that frees space, and then there is room again.

use std::cell::RefCell;

use super::model::Model;
use super::run::{check_stores, ended};
use super::shards::Engines;
use super::world::World;
use crate::buffer::HostMemory;
use crate::check::CheckOptions;
use crate::error::ErrorKind;
use crate::limits::NODE_ENTRIES;
use crate::units::{BLOCK_BYTES, Epoch, SECTORS_PER_BLOCK};
use crate::vdi::Ack;

/// A disk that nobody else uses.
const BRIM: &str = "brim";
/// Its size: a block in each of its leaves fills any store of a full world.
const BRIM_BYTES: u64 = 1 << 40;
/// Discards and removals tried on a store filled to the brim.
const TRIES: u64 = 16;

/// After a collection and an orderly end every block that nothing names is free. On a full store what frees space
/// must work, and then there is room again.
pub(super) fn tidy_up(world: &mut World) -> Result<(), String> {
    let fill = world.options.full && world.random.below(3) == 0;
    let engine = world.engines.clone();
    let model = world.model.clone();
    let relieve = world.options.full;
    let work = async move {
        if fill {
            fill_and_free(&engine).await?;
        }
        if relieve {
            relief(&engine, &model).await?;
            engine.collect(false).await.map_err(|e| format!("collect on a full store: {e:?}"))?;
            // What is free in the extents of one shard is no room for another.
            if engine.all().len() == 1 {
                room_again(&engine, &model).await?;
            }
        }
        engine.collect(false).await.map_err(|e| format!("last collect: {e:?}"))?;
        engine.close().await.map_err(|e| format!("close: {e:?}"))
    };
    world.run(work).map_err(ended)??;
    world.kill();
    world.forget();
    let report = check_stores(world, CheckOptions { data: true })?;
    if report.exit_code() != 0 {
        return Err(format!("check after a collection and an orderly end: {:#?}", report.findings));
    }
    Ok(())
}

/// Remove every snapshot and all disks but the first.
async fn relief(engine: &Engines, model: &RefCell<Model>) -> Result<(), String> {
    let names: Vec<String> = model.borrow().disks.keys().cloned().collect();
    for (nth, name) in names.iter().enumerate() {
        if nth > 0 {
            engine.delete(name, true).await.map_err(|e| format!("delete on a full store: {e:?}"))?;
            continue;
        }
        let epochs: Vec<u64> = model.borrow().disks[name].snapshots.keys().copied().collect();
        for epoch in epochs {
            let removed = engine.remove_snapshot(name, Epoch(epoch)).await;
            removed.map_err(|e| format!("remove a snapshot on a full store: {e:?}"))?;
        }
    }
    Ok(())
}

async fn room_again(engine: &Engines, model: &RefCell<Model>) -> Result<(), String> {
    let Some(name) = model.borrow().disks.keys().next().cloned() else { return Ok(()) };
    let vdi = engine.open_vdi(&name).await.map_err(|e| format!("open {name}: {e:?}"))?;
    let bytes = vdi.size_bytes().min(8 * BLOCK_BYTES) as usize;
    let written = vdi.write(0, &HostMemory::slice(bytes).into(), Ack::WriteThrough).await;
    written.map_err(|e| format!("write after space was made: {e:?}"))
}

/// Write blocks so far apart that each takes a path of nodes, until the store is full. Then discards, removals of
/// snapshots and the disk's end must work.
async fn fill_and_free(engine: &Engines) -> Result<(), String> {
    let full = |e: &crate::Error| e.kind() == ErrorKind::NoSpace;
    match engine.create(BRIM, BRIM_BYTES).await {
        Ok(_) => {}
        Err(e) if full(&e) => return Ok(()),
        Err(e) => return Err(format!("create {BRIM}: {e:?}")),
    }
    let vdi = engine.open_vdi(BRIM).await.map_err(|e| format!("open {BRIM}: {e:?}"))?;
    let block = HostMemory::slice(BLOCK_BYTES as usize).into();
    let leaf = NODE_ENTRIES as u64 * SECTORS_PER_BLOCK;
    let mut snapshots = Vec::new();
    for nth in 0.. {
        match vdi.write(nth * leaf, &block, Ack::WriteBack).await {
            Ok(()) => {}
            Err(e) if full(&e) => break,
            Err(e) => return Err(format!("write to {BRIM}: {e:?}")),
        }
        if nth < TRIES {
            match engine.snapshot(BRIM, None).await {
                Ok(s) => snapshots.push(s.epoch),
                Err(e) if full(&e) => {}
                Err(e) => return Err(format!("snapshot of {BRIM}: {e:?}")),
            }
        }
    }
    for (nth, epoch) in (0..TRIES).zip(snapshots) {
        let removed = engine.remove_snapshot(BRIM, epoch).await;
        removed.map_err(|e| format!("remove a snapshot on a store filled to the brim: {e:?}"))?;
        let discarded = vdi.discard(nth * leaf, SECTORS_PER_BLOCK, Ack::WriteBack).await;
        discarded.map_err(|e| format!("discard on a store filled to the brim: {e:?}"))?;
    }
    drop(vdi);
    engine.delete(BRIM, true).await.map_err(|e| format!("delete on a store filled to the brim: {e:?}"))
}
