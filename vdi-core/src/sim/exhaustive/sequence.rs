//! One sequence: run once with a recording of its last operation, then every crash of that operation judged.

use std::collections::HashMap;
use std::fmt;

use super::image::{Fate, Fates};
use super::judge::{Depth, judge};
use super::operation::{Deed, Operation, Verb};
use super::start::{SEED_OF_SEQUENCE, Start, options};
use super::tape::{Moment, Tape};
use crate::device::simulated::{Random, Survival};
use crate::sim::run::{ended, recover};
use crate::sim::verify::Verifier;
use crate::sim::world::{End, Lost, World};

/// Operations, one after the other. Of the empty one the opening of the store is what is crashed.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Sequence(pub Vec<Operation>);

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        write!(f, "[{}]", names.join(", "))
    }
}

/// What was tried.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Tally {
    /// Sequences that ran.
    pub sequences: u64,
    /// Sequences that turned out impossible.
    pub void: u64,
    /// Crash states recovered and compared.
    pub states: u64,
    /// Those of them that were judged as a kill, where all that was acknowledged must be there.
    pub kills: u64,
    /// Those with a torn write.
    pub torn: u64,
    /// Crash states that were not: the same image was judged as strictly before.
    pub pruned: u64,
    /// Blocks compared with the model.
    pub blocks: u64,
}

impl Tally {
    /// Add another tally to this one.
    pub fn add(&mut self, other: &Tally) {
        self.sequences += other.sequences;
        self.void += other.void;
        self.states += other.states;
        self.kills += other.kills;
        self.torn += other.torn;
        self.pruned += other.pruned;
        self.blocks += other.blocks;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            (self.sequences, "sequences"),
            (self.void, "sequences that turned out impossible"),
            (self.states, "crash states recovered and compared"),
            (self.kills, "of them left by a kill, the others by a power loss"),
            (self.torn, "of them with a torn write"),
            (self.pruned, "crash states pruned: the same image was judged as strictly"),
            (self.blocks, "blocks compared"),
        ];
        counts.iter().try_for_each(|(n, what)| writeln!(f, "{n:>12} {what}"))
    }
}

/// Try every crash in the last operation of `sequence`.
pub fn exhaust(start: &Start, sequence: &Sequence) -> Result<Tally, String> {
    let mut world = World::with(options(start.staged), Random::new(SEED_OF_SEQUENCE));
    let outcome = record(&mut world, start, sequence);
    world.forget();
    let failure = world.model.borrow().failure.clone();
    let Some(moments) = failure.map_or(outcome, Err)? else {
        return Ok(Tally { void: 1, ..Tally::default() });
    };
    let mut tally = Tally { sequences: 1, ..Tally::default() };
    judge_all(&moments, sequence.0.is_empty(), &mut tally)?;
    Ok(tally)
}

/// The moments of the last operation, the first being that before it; None when an operation is not possible.
fn record(world: &mut World, start: &Start, sequence: &Sequence) -> Result<Option<Vec<Moment>>, String> {
    let Some((last, before)) = sequence.0.split_last() else {
        load(world, start);
        let tape = Tape::start(world);
        recover(world)?;
        rest(world)?;
        return Ok(Some(tape.stop(world)));
    };
    resume(world, start)?;
    for operation in before {
        if !operate(world, *operation, None)? {
            return Ok(None);
        }
    }
    world.options.write_through = last.verb == Verb::WriteThrough;
    let tape = Tape::start(world);
    let done = operate(world, *last, Some(&tape))?;
    let moments = tape.stop(world);
    Ok(done.then_some(moments))
}

fn load(world: &World, start: &Start) {
    start.image.load(world);
    *world.model.borrow_mut() = start.model.clone();
}

/// Open the store as `start` left it.
pub fn resume(world: &mut World, start: &Start) -> Result<(), String> {
    load(world, start);
    recover(world)?;
    rest(world)
}

fn rest(world: &mut World) -> Result<(), String> {
    match world.rest() {
        End::Done => Ok(()),
        end => Err(ended(end)),
    }
}

/// Do it and wait until the engine rests; false when it is not possible.
pub fn operate(world: &mut World, operation: Operation, tape: Option<&Tape>) -> Result<bool, String> {
    let deed = operation.deed(&world.model.borrow());
    match deed {
        Deed::Nothing => return Ok(false),
        Deed::Stop => restart(world, operation.verb, tape)?,
        Deed::Client(action) => {
            world.options.write_through = operation.verb == Verb::WriteThrough;
            world.begin(action).map_err(ended)?;
            if let Some(tape) = tape {
                tape.mark();
            }
            match world.settle() {
                End::Done => {}
                end => return Err(ended(end)),
            }
        }
    }
    let restart = world.model.borrow().restart.clone();
    restart.map_or(Ok(true), Err)
}

fn restart(world: &mut World, verb: Verb, tape: Option<&Tape>) -> Result<(), String> {
    if verb == Verb::Restart {
        let engine = world.engines.clone();
        let closed = world.run(async move { engine.close().await }).map_err(ended)?;
        closed.map_err(|e| format!("close: {e:?}"))?;
    }
    let power_lost = verb == Verb::PowerLoss;
    if power_lost {
        if let Some(tape) = tape {
            tape.power_lost(true);
        }
        world.power_loss(Survival::Nothing);
    } else {
        world.kill();
    }
    world.forget();
    recover(world)?;
    let engine = world.engines.clone();
    let lost = Lost::with(power_lost);
    let verifier = Verifier { engine, model: world.model.clone(), lost, sample: 0 };
    world.run(async move { verifier.everything().await }).map_err(ended)??;
    world.model.borrow_mut().report.cycles += 1;
    rest(world)?;
    if let Some(tape) = tape {
        tape.power_lost(false);
    }
    Ok(())
}

/// How strictly an image was judged.
#[derive(Clone, Copy, Default)]
struct Judged {
    /// As a power loss.
    power: bool,
    /// As a kill, which is stricter.
    kill: bool,
}

fn judge_all(moments: &[Moment], from_nothing: bool, tally: &mut Tally) -> Result<(), String> {
    let (first, rest) = moments.split_first().expect("a recording has moments");
    let mut before: HashMap<u64, Judged> = HashMap::new();
    // Nobody judged what was there before the first opening.
    if !from_nothing {
        for fates in first.fates_after_power_loss() {
            before.entry(first.fingerprint(&first.image(&fates), false)).or_default().power = true;
        }
        for fates in first.fates_after_kill() {
            before.entry(first.fingerprint(&first.image(&fates), true)).or_default().kill = true;
        }
    }
    let mut judged: HashMap<u64, Judged> = HashMap::new();
    // The last moment has promised most: what is judged there need not be judged at an earlier one.
    for (nth, moment) in rest.iter().enumerate().rev() {
        let last = nth + 1 == rest.len();
        for (kill, fates) in all_fates(moment) {
            let image = moment.image(&fates);
            let print = moment.fingerprint(&image, kill);
            let old = before.get(&print).copied().unwrap_or_default();
            let known = judged.entry(print).or_default();
            let fresh_promise =
                if kill { moment.endings != first.endings } else { moment.promises != first.promises };
            let old_holds = !fresh_promise && if kill { old.kill } else { old.power || old.kill };
            if old_holds || known.kill || known.power && !kill {
                tally.pruned += 1;
                continue;
            }
            (known.kill, known.power) = (kill, true);
            let depth = match kill {
                true if last => Depth::ToTheEnd,
                true => Depth::Once,
                false => Depth::Twice,
            };
            tally.blocks += judge(&image, moment, kill, depth)
                .map_err(|what| tell(what, nth + 1, moment, kill, &fates))?;
            tally.states += 1;
            tally.kills += u64::from(kill);
            tally.torn += u64::from(fates.iter().any(|f| matches!(f, Fate::Torn(..))));
        }
    }
    Ok(())
}

/// The fates after a kill, then those after a power loss.
fn all_fates(moment: &Moment) -> Vec<(bool, Fates)> {
    let kills = if moment.same_life { moment.fates_after_kill() } else { Default::default() };
    let losses = moment.fates_after_power_loss();
    kills.into_iter().map(|f| (true, f)).chain(losses.into_iter().map(|f| (false, f))).collect()
}

fn tell(what: String, nth: usize, moment: &Moment, kill: bool, fates: &Fates) -> String {
    let how = if kill { "kill" } else { "power loss" };
    let pending = moment.pending();
    let each: Vec<String> = pending.iter().zip(fates).map(|(w, f)| format!("{w:?}: {f:?}")).collect();
    format!("{how} at moment {nth}, pending writes [{}]: {what}", each.join("; "))
}
