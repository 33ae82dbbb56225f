//! A seeded world: the real engine on simulated disks, guests that do everything a guest may, an administrator
//! who snapshots, clones, rolls back and deletes meanwhile, and crashes at any moment, also during recovery.
//! A plain model beside it says after each crash what the disks may hold.

mod admin;
mod content;
mod coverage;
pub mod exhaustive;
mod guard;
mod guest;
mod history;
mod many;
mod model;
mod options;
mod outage;
mod relief;
mod rotten;
mod run;
pub(crate) mod shards;
mod staging;
mod verify;
mod workload;
mod world;

#[cfg(test)]
mod tests;

pub use coverage::WORLDS_FOR_ALL;
pub use many::{Progress, Series, run_series};
pub use model::Report;
pub use run::{Failure, Survivor, run_script, run_world};
