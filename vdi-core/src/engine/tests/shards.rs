//! Two shards on one thread.

use super::*;
use crate::executor::{block_on, yield_now};
use crate::sim::shards::{Engines, Logs};

/// Open a new store as two shards, and do `f`.
fn with_two_shards<F: Future<Output = ()> + 'static>(f: impl FnOnce(Engines, Executor) -> F + 'static) {
    two_shards_on(&World::formatted(), &Media::default(), f);
}

/// Open the store of `w` as two shards, the log of the second on `second`, do `f`, and kill.
fn two_shards_on<F: Future<Output = ()> + 'static>(
    w: &World,
    second: &Media,
    f: impl FnOnce(Engines, Executor) -> F + 'static,
) {
    shards_on(2, w, second, f);
}

/// As [`two_shards_on`] with so many; one takes over what a second had.
fn shards_on<F: Future<Output = ()> + 'static>(
    shards: u16,
    w: &World,
    second: &Media,
    f: impl FnOnce(Engines, Executor) -> F + 'static,
) {
    let executor = Executor::new();
    let store = w.store_device();
    let second = DeviceHandle::new(Box::new(MemoryDevice::new("log 1", LOG_BYTES, second.clone())));
    let devices = vec![store, w.log_device(), second];
    let engines = Engines::new(shards);
    let (all, disks, env) = (engines.clone(), devices.clone(), env(&executor));
    let (runs, time) = (executor.clone(), executor.clone());
    let work = async move {
        let [store, logs @ ..] = disks.as_slice() else { unreachable!("three devices") };
        let env = |_| Env { staging: StagingMemory::default(), ..env.clone() };
        all.open(env, store.clone(), Logs::Disks(logs.to_vec()), EngineOptions::default()).await.unwrap();
        f(all, runs).await;
    };
    block_on(&executor, work, || {
        let asked = engines.pass_on();
        engines.all().iter().for_each(|e| _ = e.kick());
        let moved = devices.iter().fold(asked, |any, device| device.poll() | any);
        // Nothing but time can go on.
        let later = || time.next_timer_ns().map(|ns| time.advance_to(ns)).is_some();
        moved || later()
    });
    executor.abandon_all();
}

#[test]
pub(super) fn a_list_while_a_disk_changes_shard_does_not_bring_back_what_it_was() {
    with_two_shards(|engines, executor| async move {
        engines.create("a", 1 << 20).await.unwrap();
        write(&engines.open_vdi("a").await.unwrap(), 0, &fill(1, 8192)).await;
        let over = Rc::new(Cell::new(false));
        let (all, seen) = (engines.clone(), Rc::clone(&over));
        executor.spawn(async move {
            while !seen.get() {
                all.list().await.unwrap();
                yield_now().await;
            }
        });
        for version in 2..6 {
            for shard in [1, 0] {
                engines.move_vdi("a", shard).await.unwrap();
                let vdi = engines.open_vdi("a").await.unwrap();
                write(&vdi, 8, &fill(version * 2 + shard as u8, 4096)).await;
                assert_eq!(read(&vdi, 0, 4096).await, bytes_of(&fill(1, 4096)));
            }
            let vdi = engines.open_vdi("a").await.unwrap();
            assert_eq!(read(&vdi, 8, 4096).await, bytes_of(&fill(version * 2, 4096)), "version {version}");
        }
        over.set(true);
        engines.collect(false).await.unwrap();
    });
}

/// Shard 1 frees what a disk had in extents of shard 0.
fn blocks_freed_elsewhere_wait() {
    with_two_shards(|engines, executor| async move {
        engines.create("a", 1 << 20).await.unwrap();
        write(&engines.open_vdi("a").await.unwrap(), 0, &fill(1, 64 << 10)).await;
        engines.checkpoint().await.unwrap();
        engines.move_vdi("a", 1).await.unwrap();
        write(&engines.open_vdi("a").await.unwrap(), 0, &fill(2, 64 << 10)).await;
        let [home, other] = &engines.all()[..] else { unreachable!("two shards") };
        let waiting = || home.store().quarantined_blocks();
        let (before, free) = (waiting(), home.store().space().free_bytes);
        while other.store().quarantined_blocks() > 0 || waiting() == before {
            assert_eq!(home.store().space().free_bytes, free, "handed out at once");
            other.checkpoint().await.unwrap();
            // What it told the other shard has arrived then.
            executor.sleep(1).await;
        }
        // The data; their nodes are of the same batch.
        assert!(waiting() - before >= 16);
        home.checkpoint().await.unwrap();
        assert_eq!(waiting(), 0);
        assert!(home.store().space().free_bytes > free);
    });
}

#[test]
fn blocks_that_another_shard_freed_wait_for_the_trim_of_their_owners_log() {
    blocks_freed_elsewhere_wait();
    assert!(breaks(Bug::ForeignReusedAtOnce, blocks_freed_elsewhere_wait), "the seeded bug hides");
}

/// The store loses what it called durable; the logs do not.
pub(super) fn a_disk_whose_move_the_store_has_lost_is_not_shown_as_it_was() {
    for (checkpointed, shards) in [(true, 2), (false, 2), (true, 1), (false, 1)] {
        let (w, second) = (World::formatted(), Media::default());
        two_shards_on(&w, &second, |engines, _| async move {
            engines.create("a", DISK).await.unwrap();
            let a = engines.open_vdi("a").await.unwrap();
            write(&a, 0, &fill(1, 8192)).await;
            engines.checkpoint().await.unwrap();
        });
        let before = w.store.fork();
        two_shards_on(&w, &second, move |engines, _| async move {
            engines.move_vdi("a", 1).await.unwrap();
            let a = engines.open_vdi("a").await.unwrap();
            write(&a, 0, &fill(2, 8192)).await;
            a.flush().await.unwrap();
            if checkpointed {
                engines.checkpoint().await.unwrap();
            }
        });
        let w = World { store: before, log: w.log.fork(), log_bytes: w.log_bytes, ..World::default() };
        for _ in 0..3 {
            shards_on(shards, &w, &second, |engines, _| async move {
                assert!(engines.open_vdi("a").await.unwrap().held().is_some());
                engines.create("b", DISK).await.unwrap();
                write(&engines.open_vdi("b").await.unwrap(), 0, &fill(3, 1 << 20)).await;
                engines.checkpoint().await.unwrap();
                engines.delete("b", true).await.unwrap();
            });
        }
    }
}

#[test]
fn a_lost_move_of_a_disk_between_shards_is_known_from_the_other_log() {
    a_disk_whose_move_the_store_has_lost_is_not_shown_as_it_was();
}

#[test]
fn a_log_that_the_store_has_lost_track_of_is_not_made_anew() {
    let w = World::formatted();
    let before = w.store.fork();
    w.run(|e| async move {
        e.create("a", DISK).await.unwrap();
        write(&e.open_vdi("a").await.unwrap(), 0, &fill(1, 8192)).await;
    });
    let lost = World { store: before, log: w.log.fork(), log_bytes: w.log_bytes, ..World::default() };
    let open = |options: EngineOptions| {
        let executor = Executor::new();
        let (store, log) = (lost.store_device(), lost.log_device());
        let (devices, env) = ([store.clone(), log.clone()], env(&executor));
        let opened = async move { Engine::open(env, store, log, options).await.map(drop) };
        let opened = drive(&executor, None, &devices, opened);
        executor.abandon_all();
        opened
    };
    let refused = open(EngineOptions::default()).unwrap_err();
    assert!(refused.kind() == ErrorKind::Corrupt && refused.hint().contains("--discard-log"), "{refused:?}");
    open(EngineOptions { discard_log: true, ..EngineOptions::default() }).unwrap();
    open(EngineOptions::default()).unwrap();
}

#[test]
fn a_disk_does_not_move_to_a_shard_that_has_no_room_to_free_anything() {
    let (w, second) = (World::formatted(), Media::default());
    w.run(|e| async move {
        e.create("a", DISK).await.unwrap();
        e.snapshot("a", None).await.unwrap();
        let a = e.open_vdi("a").await.unwrap();
        let data = fill(1, 1 << 20);
        let mut at = 0;
        while a.write(at, &data, Ack::WriteBack).await.is_ok() {
            at += (1 << 20) / SECTOR_BYTES;
        }
        e.close().await.unwrap();
    });
    two_shards_on(&w, &second, |engines, _| async move {
        assert_eq!(engines.move_vdi("a", 1).await.unwrap_err().kind(), ErrorKind::NoSpace);
        let epoch = engines.all()[0].snapshots("a").await.unwrap()[0].epoch;
        engines.remove_snapshot("a", epoch).await.unwrap();
        let a = engines.open_vdi("a").await.unwrap();
        a.discard(0, a.size_bytes() / SECTOR_BYTES, Ack::WriteBack).await.unwrap();
        engines.collect(false).await.unwrap();
    });
}
