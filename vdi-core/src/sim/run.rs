//! Worlds from beginning to end: format, work, stop, recover, compare, again; and many of them.

use std::fmt;

use super::model::{Disk, Pending, RECOVERY_STOPS_MAX, Report};
use super::options::{EXTENT_BITS, Options, Stop, draw_survival};
use super::relief::tidy_up;
use super::shards::{Engines, Logs};
use super::verify::Verifier;
use super::workload::draw_size;
use super::world::{End, Lost, World};
use super::{outage, rotten};
use crate::check::{self, CheckOptions};
use crate::engine::{Engine, EngineOptions, Env, FormatOptions};
use crate::error::ErrorKind;
use crate::sabotage;
use crate::store::FREED_TWICE;

/// A broken promise and the world that shows it.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The world.
    pub seed: u64,
    /// What went wrong.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "SEED={}: {}", self.seed, self.what)?;
        write!(f, "again with: make sim SEED={} CYCLES=1", self.seed)
    }
}

/// A world that kept every promise.
#[derive(Clone, Debug)]
pub struct Survivor {
    /// What happened in it.
    pub report: Report,
    /// A hash of every device operation and of everything that guests and administrator were told: equal for
    /// equal seeds.
    pub trace: u64,
}

/// Live through the world of `seed`.
pub fn run_world(seed: u64) -> Result<Survivor, Failure> {
    run(|| World::new(seed)).map_err(|what| Failure { seed, what })
}

/// Live through the world that `script` makes: see [`World::scripted`]. The error says which promise was broken.
pub fn run_script(script: &[u8]) -> Result<Survivor, String> {
    run(|| World::scripted(script))
}

fn run(make: impl FnOnce() -> World) -> Result<Survivor, String> {
    sabotage::disarm();
    let _ = sabotage::take_passes();
    let mut world = make();
    world.model.borrow().say(|| format!("{:?}", world.options));
    let outcome = live(&mut world);
    world.forget();
    let what = world.model.borrow_mut().failure.take().or(outcome.err());
    if let Some(what) = what {
        return Err(what);
    }
    let (mut report, told) = (world.model.borrow().report.clone(), world.model.borrow().told);
    report.points = sabotage::take_passes();
    report.faults.merge(&world.store.counts());
    world.logs.iter().for_each(|log| report.faults.merge(&log.counts()));
    let logs = world.logs.iter().fold(0u64, |all, log| (all ^ log.trace()).rotate_left(2));
    let trace = told ^ world.store.trace().rotate_left(1) ^ logs;
    Ok(Survivor { report, trace })
}

fn live(world: &mut World) -> Result<(), String> {
    world.set_faults(false);
    format(world, FormatOptions::default())?;
    recover(world)?;
    populate(world)?;
    if let Some(liar) = world.options.liar {
        return rotten::live(world, liar);
    }
    for cycle in 0..world.options.cycles {
        if cycle > 0 && world.is_over() {
            break;
        }
        if world.options.lazy {
            start_anew(world)?;
        }
        outage::begin(world)?;
        work(world)?;
        outage::heal(world)?;
        stop_and_recover(world)?;
        let lost = std::mem::take(&mut world.lost);
        compare(world, lost, cycle + 1 == world.options.cycles)?;
    }
    if world.random.coin() { tidy_up(world) } else { Ok(()) }
}

/// A quiet restart: no disk is open after it but those that the log names, perhaps none.
pub(super) fn start_anew(world: &mut World) -> Result<(), String> {
    if world.random.coin() {
        let engine = world.engines.clone();
        let done = world.run(async move { engine.checkpoint().await }).map_err(ended)?;
        done.map_err(|e| format!("checkpoint: {e:?}"))?;
    }
    world.kill();
    world.forget();
    recover(world)
}

pub(super) fn ended(end: End) -> String {
    format!("unexpected end: {end:?}")
}

/// Format the store with extents of the smallest size.
pub(super) fn format(world: &mut World, options: FormatOptions) -> Result<(), String> {
    let env = world.env();
    let (store, _) = world.open_devices();
    let options = FormatOptions { extent_bits: Some(EXTENT_BITS), ..options };
    let work = Engine::format(env, store, options);
    world.run(work).map_err(ended)?.map(drop).map_err(|e| format!("format: {e:?}"))?;
    world.kill();
    world.forget();
    Ok(())
}

/// Open the engine; the outer error is a crash on the way.
pub(super) fn open(world: &mut World) -> Result<Result<(), String>, End> {
    let before = world.model.borrow().shards;
    let shards = 1 + world.random.below(u64::from(world.options.shards_max)) as u16;
    let mut opened = open_as(world, shards, false)?;
    if opened.as_ref().is_err_and(|e| e.kind() == ErrorKind::StagingMissing)
        && world.staging.borrow().is_astray()
    {
        close_again(world);
        // Look for it, or do without.
        let found = world.random.coin();
        match found {
            true => world.staging.borrow_mut().find(),
            false if world.lost == Lost::Nothing => {
                world.lost = Lost::Staged(world.staging.borrow().astray())
            }
            false => {}
        }
        world.model.borrow_mut().report.missed += 1;
        opened = open_as(world, shards, !found)?;
    }
    // What a shard more leaves to the others must be in its trees, and a full store may not take that.
    // Nor the log of one more.
    let full = |e: &crate::Error| e.kind() == ErrorKind::NoSpace;
    let may_be_full = shards < before && world.options.full || shards != before && world.options.log_inside;
    if may_be_full && opened.as_ref().is_err_and(full) {
        close_again(world);
        opened = open_as(world, before, false)?;
    }
    if opened.is_ok() {
        world.staging.borrow_mut().are_used();
        world.model.borrow_mut().left_staging = false;
    }
    Ok(opened.map_err(|e| format!("open: {e:?}")))
}

fn close_again(world: &mut World) {
    world.kill();
    world.forget();
}

fn open_as(world: &mut World, shards: u16, discard_log: bool) -> Result<crate::error::Result<()>, End> {
    world.engines = Engines::new(shards);
    world.model.borrow_mut().shards = shards;
    world.model.borrow().say(|| format!("{shards} shards"));
    let env = world.env();
    let (store, logs) = world.open_devices();
    let logs =
        if world.options.log_inside { Logs::Inside(world.options.log_bytes) } else { Logs::Disks(logs) };
    let (engines, options) = (world.engines.clone(), EngineOptions { discard_log, ..world.options.engine });
    let staging = world.staging.borrow_mut().next_life();
    let env = move |shard| Env { staging: staging[usize::from(shard)].clone(), ..env.clone() };
    world.run(async move { engines.open(env, store, logs, options).await })
}

pub(super) fn recover(world: &mut World) -> Result<(), String> {
    open(world).map_err(ended)?
}

fn populate(world: &mut World) -> Result<(), String> {
    for number in 0..world.options.disks {
        let name = format!("vm{number}");
        let size_bytes = draw_size(&world.options, &mut world.random);
        let (engine, n) = (world.engines.clone(), name.clone());
        let made = world.run(async move { engine.create(&n, size_bytes).await }).map_err(ended)?;
        made.map_err(|e| format!("create: {e:?}"))?;
        world.model.borrow_mut().disks.insert(name, Disk { size_bytes, ..Disk::default() });
    }
    Ok(())
}

/// Guests and administrator at work, until a crash point or the end of the work.
pub(super) fn work(world: &mut World) -> Result<(), String> {
    world.set_faults(true);
    toil(world)
}

/// As [`work`], with the devices as they are.
pub(super) fn toil(world: &mut World) -> Result<(), String> {
    if world.random.below(4) > 0 {
        let scale = world.random.below(if world.options.full { 15 } else { 11 });
        world.arm(scale);
    }
    let operations = world.random.below(world.options.operations) + 1;
    match world.busy(operations) {
        End::Failure => Err(String::from("a promise was broken")),
        End::Done | End::Crash => Ok(()),
    }
}

/// Stop, and come up again, perhaps after stopping again on the way.
fn stop_and_recover(world: &mut World) -> Result<(), String> {
    stop(world, true)?;
    check_image(world)?;
    world.model.borrow_mut().report.cycles += 1;
    for depth in 0..RECOVERY_STOPS_MAX {
        if world.random.below(3) > 0 {
            break;
        }
        let scale = world.random.below(8);
        world.arm_start(scale);
        match open(world) {
            Ok(result) => {
                // Recovered before the crash point: what was recovered is certain even now.
                world.crash_point.disarm();
                return result;
            }
            Err(End::Crash) => {
                world.model.borrow_mut().report.cycles_in_recovery[depth] += 1;
                stop(world, false)?;
                check_image(world)?;
            }
            Err(end) => return Err(ended(end)),
        }
    }
    if world.options.is_failing() && world.random.coin() {
        start_on_failing_devices(world)?;
    }
    recover(world)
}

/// A start while the devices fail now and then: it may come to nothing, and must spoil nothing.
fn start_on_failing_devices(world: &mut World) -> Result<(), String> {
    world.set_faults(true);
    let opened = open(world).map_err(ended)?;
    world.model.borrow().say(|| format!("on failing devices: {opened:?}"));
    if opened.is_ok() {
        let engines = world.engines.clone();
        let _may_fail = world.run(async move { engines.checkpoint().await }).map_err(ended)?;
    }
    world.set_faults(false);
    stop(world, false)?;
    check_image(world)
}

/// The checker must find no damage in what a stop left. Leaks there are: what was deleted waits for a collection.
fn check_image(world: &mut World) -> Result<(), String> {
    let options = CheckOptions { data: world.random.below(4) == 0 };
    let report = check_stores(world, options)?;
    if report.is_corrupt() { Err(format!("check after a stop: {:#?}", report.findings)) } else { Ok(()) }
}

pub(super) fn check_stores(world: &mut World, options: CheckOptions) -> Result<check::Report, String> {
    let (store, mut logs) = world.open_devices();
    if world.options.log_inside {
        // The check finds it.
        logs.clear();
    }
    let checked = world.run(async move { check::check(&store, &logs, options).await }).map_err(ended)?;
    world.forget();
    checked.map_err(|e| format!("check: {e:?}"))
}

/// Stop, all being open that the world has when it is `first`; else in the middle of a start.
pub(super) fn stop(world: &mut World, first: bool) -> Result<(), String> {
    let crashed = world.crash_point.reached();
    let poisoned = world.model.borrow().restart.is_some();
    world.crash_point.disarm();
    let how = Options::draw_stop(&mut world.random);
    world
        .model
        .borrow()
        .say(|| format!("stop: {how:?}, at the crash point: {crashed}, for a restart: {poisoned}"));
    if world.options.liar.is_none() {
        nothing_freed_twice(world)?;
    }
    let closes = first && !crashed && !poisoned;
    let mut complete = false;
    if how == Stop::Close && closes {
        // A liar goes on lying to the last.
        if world.options.liar.is_none() {
            world.set_faults(false);
        }
        let engines = world.engines.clone();
        let closed = world.run(async move { engines.close().await }).map_err(ended)?;
        let excused = world.options.is_faulty() || world.model.borrow().unreadable.is_some();
        // What a held disk has stays in its log.
        let held = world.engines.all().iter().any(|e| !e.status().held.is_empty());
        let mut model = world.model.borrow_mut();
        let now = model.now();
        match closed {
            Ok(()) if held => {}
            Ok(()) => {
                model.checkpointed(now);
                complete = true;
            }
            Err(_) if excused => {}
            Err(e) => return Err(format!("close: {e:?}")),
        }
    }
    outage::end(world);
    world.set_faults(false);
    match how {
        Stop::Power(on_store, on_log) => {
            world.store.power_loss(on_store);
            for log in &world.logs {
                log.power_loss(on_log);
            }
            world.staging.borrow_mut().reboot(&mut world.random);
            world.lost = Lost::Unflushed;
        }
        // After an orderly end the loss of power takes nothing.
        Stop::Close if complete => {
            let survival = draw_survival(&mut world.random);
            world.power_loss(survival);
        }
        Stop::Kill | Stop::Close => {
            world.kill();
            if first && world.options.staged && world.options.liar.is_none() {
                staging_is_put_to_the_test(world);
            }
        }
    }
    world.forget();
    Ok(())
}

/// With the daemon the logs' devices lose what was not flushed, which is in memory all the same; or a start does not find
/// the memory.
fn staging_is_put_to_the_test(world: &mut World) {
    let staged = world.staging.borrow().all_outlive() && !world.model.borrow().left_staging;
    if staged && world.random.below(4) == 0 {
        let survival = draw_survival(&mut world.random);
        world.logs.iter().for_each(|log| drop(log.power_loss(survival)));
    }
    if world.random.below(16) == 0 {
        let owners = world.engines.owners();
        world.staging.borrow_mut().mislay(&mut world.random, &owners);
    }
}

/// On devices that do not lie no block is freed twice.
fn nothing_freed_twice(world: &World) -> Result<(), String> {
    let engines = world.engines.all();
    let mut warnings = engines.iter().flat_map(|e| e.status().warnings);
    warnings.find(|w| w.contains(FREED_TWICE)).map_or(Ok(()), Err)
}

pub(super) fn compare(world: &mut World, lost: Lost, last: bool) -> Result<(), String> {
    let engine = world.engines.clone();
    for engine in engine.all() {
        world.model.borrow().say(|| format!("recovered: {:?}", engine.status().recovery));
    }
    let sample = world.random.bits();
    let verifier = Verifier { engine, model: world.model.clone(), lost, sample };
    let all = verifier.clone();
    world.run(async move { all.everything().await }).map_err(ended)??;
    let snapshots: Vec<(String, u64)> = {
        let model = world.model.borrow();
        let of = |(name, disk): (&String, &Disk)| {
            disk.snapshots.keys().map(|e| (name.clone(), *e)).collect::<Vec<_>>()
        };
        model.disks.iter().flat_map(of).collect()
    };
    for (name, epoch) in snapshots {
        if last || world.random.below(4) == 0 {
            let verifier = verifier.clone();
            world.run(async move { verifier.snapshot(&name, epoch).await }).map_err(ended)??;
        }
    }
    debug_assert!(
        world.model.borrow().pending.values().all(|p: &Pending| !matches!(p, Pending::Becomes(..)))
    );
    Ok(())
}
