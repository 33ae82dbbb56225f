//! A crash image put to the test: the checker finds no damage, the engine recovers, and what is there is what was
//! promised.

use super::image::Image;
use super::start::{SEED_OF_JUDGE, options};
use super::tape::Moment;
use crate::check::CheckOptions;
use crate::device::simulated::{Random, Survival};
use crate::sim::model::Model;
use crate::sim::relief::tidy_up;
use crate::sim::run::{check_stores, compare, recover};
use crate::sim::world::{Lost, World};

/// How far to go with an image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Depth {
    /// Recover and compare.
    Once,
    /// Recover and compare; lose power again, with everything that was not flushed, recover and find the same.
    Twice,
    /// Recover and compare, collect, end in order and find no block that nothing names.
    ToTheEnd,
}

/// Recover from `image`, which a kill left, or else a power loss, and compare with what `moment` allows. Returns how many
/// blocks were compared.
pub fn judge(image: &Image, moment: &Moment, kill: bool, depth: Depth) -> Result<u64, String> {
    let model = &moment.model;
    let mut world = World::with(options(moment.staged.is_some()), Random::new(SEED_OF_JUDGE));
    image.load(&world);
    if let Some(staged) = &moment.staged {
        world.staging.borrow_mut().load(staged, kill);
    }
    *world.model.borrow_mut() = Model::clone(model);
    world.forget();
    let before = model.report.blocks_compared;
    let outcome = put_to_the_test(&mut world, Lost::with(!kill), depth);
    world.forget();
    let model = world.model.borrow();
    match model.failure.clone().or(outcome.err()) {
        Some(what) => Err(what),
        None => Ok(model.report.blocks_compared - before),
    }
}

fn put_to_the_test(world: &mut World, lost: Lost, depth: Depth) -> Result<(), String> {
    let report = check_stores(world, CheckOptions { data: true })?;
    if report.is_corrupt() {
        return Err(format!("check after a stop: {:#?}", report.findings));
    }
    world.kill();
    recover(world)?;
    compare(world, lost, true)?;
    match depth {
        Depth::Once => Ok(()),
        Depth::Twice => {
            world.power_loss(Survival::Nothing);
            world.forget();
            recover(world)?;
            compare(world, Lost::Unflushed, false).map_err(|e| format!("after a second power loss: {e}"))
        }
        Depth::ToTheEnd => tidy_up(world),
    }
}
