//! The checker against what the engine leaves behind: killed, recovered, closed, collected.

use std::cell::RefCell;
use std::rc::Rc;

use proptest::prelude::*;

use super::World;
use crate::buffer::{GuestBufs, HostMemory};
use crate::check::{Report, Severity};
use crate::clock::ManualClock;
use crate::device::memory::Media;
use crate::engine::{Engine, EngineOptions, Env, FormatOptions};
use crate::executor::Executor;
use crate::units::Epoch;
use crate::vdi::Ack;

const DISK: u64 = 32 << 20;
const NAMES: [&str; 3] = ["a", "b", "c"];

#[derive(Clone, Debug)]
enum Act {
    Create(usize),
    Delete(usize),
    Write(usize, u64, usize, u8),
    Discard(usize, u64, u64),
    Zero(usize, u64, u64),
    Snapshot(usize),
    RemoveSnapshot(usize, prop::sample::Index),
    Clone(usize, usize),
    RollBack(usize, prop::sample::Index),
    Resize(usize, u64),
    Checkpoint,
    /// The end of a life: after everything before it, or after so many rounds of device I/O.
    Kill(Option<u16>),
}

fn act() -> impl Strategy<Value = Act> {
    let vdi = || 0..NAMES.len();
    let sector = || 0u64..(DISK / 512);
    let bytes =
        prop_oneof![4 => (1usize..20).prop_map(|n| n * 512), 1 => (40usize..120).prop_map(|n| n * 4096)];
    prop_oneof![
        2 => vdi().prop_map(Act::Create),
        1 => vdi().prop_map(Act::Delete),
        12 => (vdi(), sector(), bytes, any::<u8>()).prop_map(|(v, s, n, b)| Act::Write(v, s, n, b)),
        2 => (vdi(), sector(), 1u64..20_000).prop_map(|(v, s, n)| Act::Discard(v, s, n)),
        1 => (vdi(), sector(), 1u64..20_000).prop_map(|(v, s, n)| Act::Zero(v, s, n)),
        4 => vdi().prop_map(Act::Snapshot),
        1 => (vdi(), any::<prop::sample::Index>()).prop_map(|(v, i)| Act::RemoveSnapshot(v, i)),
        2 => (vdi(), vdi()).prop_map(|(v, w)| Act::Clone(v, w)),
        1 => (vdi(), any::<prop::sample::Index>()).prop_map(|(v, i)| Act::RollBack(v, i)),
        1 => (vdi(), 1u64..64).prop_map(|(v, n)| Act::Resize(v, n << 20)),
        5 => Just(Act::Checkpoint),
        1 => Just(Act::Kill(None)),
        3 => (0u16..400).prop_map(|rounds| Act::Kill(Some(rounds))),
    ]
}

/// Requests that make no sense where they come are refused; that is another test's business.
async fn perform(engine: &Engine, act: &Act) {
    let vdi = |v: &usize| engine.open_vdi(NAMES[*v]);
    let fits = |size: u64, sector: u64, sectors: u64| sectors.min((size / 512).saturating_sub(sector));
    match act {
        Act::Create(v) => drop(engine.create(NAMES[*v], DISK).await),
        Act::Delete(v) => drop(engine.delete(NAMES[*v], true).await),
        Act::Write(v, sector, bytes, tag) => {
            let Ok(vdi) = vdi(v).await else { return };
            let sectors = fits(vdi.size_bytes(), *sector, *bytes as u64 / 512);
            let data = vec![*tag; sectors as usize * 512];
            if sectors > 0 {
                let bufs: GuestBufs = HostMemory::copy_of(&data).into();
                vdi.write(*sector, &bufs, Ack::WriteBack).await.unwrap();
            }
        }
        Act::Discard(v, sector, sectors) | Act::Zero(v, sector, sectors) => {
            let Ok(vdi) = vdi(v).await else { return };
            let sectors = fits(vdi.size_bytes(), *sector, *sectors);
            if sectors == 0 {
                return;
            }
            match act {
                Act::Discard(..) => vdi.discard(*sector, sectors, Ack::WriteBack).await.unwrap(),
                _ => vdi.write_zeroes(*sector, sectors, true, Ack::WriteBack).await.unwrap(),
            }
        }
        Act::Snapshot(v) => drop(engine.snapshot(NAMES[*v], None).await),
        Act::RemoveSnapshot(v, i) | Act::RollBack(v, i) => {
            let Ok(snapshots) = engine.snapshots(NAMES[*v]).await else { return };
            if snapshots.is_empty() {
                return;
            }
            let epoch: Epoch = i.get(&snapshots).epoch;
            match act {
                Act::RemoveSnapshot(..) => engine.remove_snapshot(NAMES[*v], epoch).await.unwrap(),
                _ => drop(engine.rollback(NAMES[*v], epoch).await),
            }
        }
        Act::Clone(v, w) => drop(engine.clone_vdi(NAMES[*v], None, NAMES[*w]).await),
        Act::Resize(v, bytes) => drop(engine.resize(NAMES[*v], *bytes, true).await),
        Act::Checkpoint => engine.checkpoint().await.unwrap(),
        Act::Kill(_) => {}
    }
}

fn env(executor: &Executor, seed: &Rc<RefCell<u64>>) -> Env {
    let seed = Rc::clone(seed);
    let entropy = Rc::new(move || {
        let mut s = seed.borrow_mut();
        *s = s.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *s
    });
    Env {
        executor: executor.clone(),
        clock: Rc::new(ManualClock::default()),
        entropy,
        staging: crate::log::StagingMemory::default(),
    }
}

/// One life of an engine: opened, recovered, used, and killed when `life` returns or after `rounds` rounds of
/// device I/O.
fn run<F: Future<Output = ()> + 'static>(
    world: &World,
    seed: &Rc<RefCell<u64>>,
    rounds: Option<u16>,
    life: impl FnOnce(Engine) -> F + 'static,
) {
    let executor = Executor::new();
    let (store, log) = world.devices();
    let devices = [store.clone(), log.clone()];
    let env = env(&executor, seed);
    let running: Rc<RefCell<Option<Engine>>> = Rc::default();
    let slot = Rc::clone(&running);
    let done = Rc::new(RefCell::new(false));
    let finished = Rc::clone(&done);
    executor.spawn(async move {
        let engine = Engine::open(env, store, log, EngineOptions::default()).await.unwrap();
        *slot.borrow_mut() = Some(engine.clone());
        life(engine).await;
        *finished.borrow_mut() = true;
    });
    let mut idle = 0;
    let mut rounds_left = rounds.map_or(usize::MAX, usize::from);
    while !*done.borrow() && rounds_left > 0 {
        executor.run_until_stalled();
        if let Some(engine) = &*running.borrow() {
            engine.kick();
        }
        executor.run_until_stalled();
        let any = devices.iter().fold(false, |any, d| d.poll() | any);
        idle = if any { 0 } else { idle + 1 };
        rounds_left -= usize::from(any);
        if idle > 100 {
            executor.advance_to(executor.next_timer_ns().expect("something will come"));
        }
    }
    executor.abandon_all();
}

fn worst(report: &Report) -> Option<Severity> {
    report.findings.iter().map(|f| f.severity).max()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]
    #[test]
    fn what_the_engine_leaves_is_never_corrupt_and_clean_after_a_collection(
        lives in proptest::collection::vec(act(), 1..60).prop_map(|acts| {
            acts.split_inclusive(|a| matches!(a, Act::Kill(_))).map(<[Act]>::to_vec).collect::<Vec<_>>()
        }),
        seed in any::<u64>(),
    ) {
        let world = World { store: Media::default(), log: Media::default() };
        let seed = Rc::new(RefCell::new(seed));
        {
            let (store, _) = world.devices();
            let poll = store.clone();
            let executor = Executor::new();
            let env = env(&executor, &seed);
            let format = async move { Engine::format(env, store, FormatOptions::default()).await.unwrap() };
            crate::executor::block_on(&executor, format, move || poll.poll());
        }
        for acts in lives {
            let rounds = acts.last().and_then(|a| if let Act::Kill(rounds) = a { *rounds } else { None });
            let lived = acts.clone();
            run(&world, &seed, rounds, |engine| async move {
                engine.create(NAMES[0], DISK).await.ok();
                for act in &lived {
                    perform(&engine, act).await;
                }
            });
            let report = world.check();
            prop_assert!(worst(&report) <= Some(Severity::Leak), "killed after {:?}: {:?}", acts, report);
            prop_assert!(!report.incomplete, "{:?}", report);
        }
        run(&world, &seed, None, |engine| async move {
            engine.collect(false).await.unwrap();
            engine.close().await.unwrap();
        });
        let report = world.check();
        prop_assert_eq!(&report.findings, &[], "{:?}", report);
    }
}

#[test]
fn damaged_data_that_only_the_log_has_are_found_and_the_disk_is_named() {
    let world = World { store: Media::default(), log: Media::default() };
    let seed = Rc::new(RefCell::new(1));
    let (store, _) = world.devices();
    let (poll, executor) = (store.clone(), Executor::new());
    let env = env(&executor, &seed);
    let format = async move { Engine::format(env, store, FormatOptions::default()).await.unwrap() };
    crate::executor::block_on(&executor, format, move || poll.poll());
    run(&world, &seed, None, |engine| async move {
        engine.create("a", DISK).await.unwrap();
        let bufs: GuestBufs = HostMemory::copy_of(&[0x77; 8192]).into();
        let vdi = engine.open_vdi("a").await.unwrap();
        vdi.write(80, &bufs, Ack::WriteThrough).await.unwrap();
        // A later segment says that this one is durable: only then is its damage no torn tail.
        vdi.write(0, &bufs.range(0..512), Ack::WriteThrough).await.unwrap();
    });
    assert_eq!(worst(&world.check()), None);
    let at = world.log.written_blocks().into_iter().filter(|block| {
        let mut bytes = [0; 4096];
        world.log.read(block * 4096, &mut bytes);
        bytes == [0x77; 4096]
    });
    let second = at.max().unwrap();
    world.log.write(second * 4096 + 100, &[0x78]);
    let report = world.check();
    assert!(report.is_corrupt(), "{report:?}");
    let hurt: Vec<(String, u64)> =
        report.findings.iter().flat_map(|f| &f.hurt).map(|h| (h.vdi.clone(), h.first.0)).collect();
    assert_eq!(hurt, [(String::from("a"), 11)]);
}

/// Three disks, one a clone of another, closed in good order; what each block of them holds.
fn three_disks(world: &World, seed: &Rc<RefCell<u64>>) -> Vec<(&'static str, Vec<u8>)> {
    const BLOCKS: u64 = 1024;
    let (store, _) = world.devices();
    let (poll, executor) = (store.clone(), Executor::new());
    let env = env(&executor, seed);
    let format = async move { Engine::format(env, store, FormatOptions::default()).await.unwrap() };
    crate::executor::block_on(&executor, format, move || poll.poll());
    let model = Rc::new(RefCell::new(Vec::<(&str, Vec<u8>)>::new()));
    let written = Rc::clone(&model);
    run(world, seed, None, |engine| async move {
        let mut tag = 0;
        let mut fill = async |vdi: &crate::vdi::Vdi, model: &mut Vec<u8>, step: usize| {
            for block in (0..BLOCKS).step_by(step) {
                tag = tag % 250 + 1;
                let bufs: GuestBufs = HostMemory::copy_of(&[tag; 4096]).into();
                vdi.write(block * 8, &bufs, Ack::WriteBack).await.unwrap();
                model[block as usize] = tag;
            }
        };
        for (name, step) in [("a", 37), ("c", 53)] {
            engine.create(name, BLOCKS * 4096).await.unwrap();
            let mut model = vec![0; BLOCKS as usize];
            fill(&engine.open_vdi(name).await.unwrap(), &mut model, step).await;
            written.borrow_mut().push((name, model));
        }
        let taken = engine.snapshot("a", None).await.unwrap();
        engine.clone_vdi("a", Some(taken.epoch), "b").await.unwrap();
        let mut model = written.borrow()[0].1.clone();
        fill(&engine.open_vdi("b").await.unwrap(), &mut model, 71).await;
        written.borrow_mut().push(("b", model));
        let mut model = std::mem::take(&mut written.borrow_mut()[0].1);
        fill(&engine.open_vdi("a").await.unwrap(), &mut model, 111).await;
        written.borrow_mut()[0].1 = model;
        engine.collect(false).await.unwrap();
        engine.close().await.unwrap();
    });
    model.take()
}

/// Blocks of the disk that cannot be read; all of them when it cannot be opened. Panics at a wrong byte.
async fn unreadable(engine: &Engine, name: &str, model: &[u8]) -> Vec<u64> {
    let Ok(vdi) = engine.open_vdi(name).await else { return (0..model.len() as u64).collect() };
    let mut failed = Vec::new();
    for (block, tag) in (0..).zip(model) {
        let bufs: GuestBufs = HostMemory::slice(4096).into();
        if vdi.read(block * 8, &bufs).await.is_err() {
            failed.push(block);
            continue;
        }
        let mut bytes = [0; 4096];
        bufs.copy_to(&mut bytes);
        assert!(bytes == [*tag; 4096], "block {block} of {name} holds {}, not {tag}", bytes[0]);
    }
    failed
}

#[test]
fn a_damaged_block_costs_the_reads_that_the_check_names_and_no_other() {
    let world = World { store: Media::default(), log: Media::default() };
    let seed = Rc::new(RefCell::new(3));
    let model = Rc::new(three_disks(&world, &seed));
    assert_eq!(world.check().findings, []);
    let (mut told, mut whole_disks) = (0, 0);
    for (i, block) in world.store.written_blocks().into_iter().enumerate() {
        let damaged = world.fork();
        let mut byte = [0];
        let at = block * 4096 + (i as u64 * 97) % 512;
        damaged.store.read(at, &mut byte);
        damaged.store.write(at, &[byte[0] ^ 1 << (i % 8)]);
        let report = damaged.check();
        let failed = Rc::new(RefCell::new(Vec::<(&str, Vec<u64>)>::new()));
        let (out, disks) = (Rc::clone(&failed), Rc::clone(&model));
        run(&damaged, &seed, None, |engine| async move {
            for (name, model) in disks.iter() {
                let blocks = unreadable(&engine, name, model).await;
                out.borrow_mut().push((name, blocks));
            }
        });
        for (name, blocks) in failed.take() {
            let hurt = report.findings.iter().flat_map(|f| &f.hurt);
            let hurt = hurt.filter(|h| h.vdi == name && h.snapshot.is_none());
            let named: std::collections::BTreeSet<u64> =
                hurt.flat_map(|h| h.first.0..(h.first.0 + h.blocks).min(1024)).collect();
            if blocks.len() == 1024 && named.is_empty() {
                // Its record, or what leads to it: the finding says so in words.
                assert!(report.is_corrupt(), "block {block} of the store: {report:?}");
                whole_disks += 1;
                continue;
            }
            told += blocks.len();
            assert_eq!(blocks, Vec::from_iter(named), "block {block} of the store, disk {name}: {report:?}");
        }
    }
    assert!(told > 1000 && whole_disks < 20, "{told} {whole_disks}");
}
