//! The offline checker: reads a whole store in its own way and says what is wrong with it.
//!
//! It shares the descriptions of structures (`format`), the walk over trees and the log's scan with the
//! engine, but neither its allocator nor its idea of what is free. The caller holds the store's lock.
//!
//! Order of work: superblock, catalogue, host records, registry ([`system`]); the log ([`logs`]); VDI
//! records, snapshot logs and trees ([`vdis`]), noting every block's owner ([`owners`]); what only the log has
//! ([`logged`]); then extent headers
//! and bitmaps against what was reached ([`space`]); last, for damage in trees, which disks it hurts ([`hurt`]).
//!
//! Invariants:
//! - it writes nothing; [`repair_leaks`] and [`write_mends`] write only what the report names, and only while the
//!   store is as the check saw it;
//! - no bytes on the store make it panic, loop or take more memory than a few bits for each block;
//! - a leak is a block that nothing can name: not a tree, not a record, not a claim, not a live segment.

mod data;
mod hurt;
mod logged;
mod logs;
mod mend;
mod owners;
mod reader;
mod repair;
mod report;
mod space;
mod system;
mod vdis;

use std::collections::BTreeMap;

use crate::device::DeviceHandle;
use crate::error::Result;
use crate::format::log_head::VdiGeneration;
use crate::log::Scan;
use crate::tree::walk::BlockSet;
use crate::units::{BlockAddr, Generation, VdiId};

pub use repair::{repair_leaks, write_mends};
pub use report::{Counts, Finding, Hurt, Report, Severity};

use logged::Applied;
use owners::Owners;
use reader::Reader;
use system::System;

/// What to check beyond the metadata.
#[derive(Clone, Copy, Debug, Default)]
pub struct CheckOptions {
    /// Read every data block and compare it with its checksum.
    pub data: bool,
}

/// What is known so far.
struct Check {
    options: CheckOptions,
    reader: Reader,
    system: System,
    owners: Owners,
    /// Blocks that live log records name.
    logged: BlockSet,
    /// Those of records that no tree has yet.
    pending: BlockSet,
    /// Generations that the log heads remember.
    remembered: Vec<VdiGeneration>,
    /// What the logs hold, each with its device.
    scans: Vec<(DeviceHandle, Scan)>,
    /// What the tree of each VDI has of the logs.
    applied: BTreeMap<VdiId, Applied>,
    /// The newest host record that a VDI record relies on.
    relied_on: Generation,
    /// Slots that may be emptied, each with the name of its VDI: the other one is the newest for certain.
    damaged_slots: Vec<(String, BlockAddr)>,
    trees: Vec<vdis::Tree>,
    damage: Vec<hurt::Damage>,
    report: Report,
}

/// Check the store on `store`; `logs` are whatever logs of it are at hand, in any order.
///
/// # Errors
/// When the check cannot be completed: no superblock to start from, or a format this program does not know.
/// What is wrong with the store is not an error but in the report.
pub async fn check(store: &DeviceHandle, logs: &[DeviceHandle], options: CheckOptions) -> Result<Report> {
    let mut report = Report::default();
    let superblock = system::superblock(store, &mut report).await?;
    let catalogue = system::catalogue(store, &superblock, &mut report).await;
    let reader = Reader::new(store.clone(), superblock, catalogue);
    let system = system::read(&reader, &mut report).await;
    let set = || BlockSet::new(superblock.geometry, superblock.extents);
    let mut check = Check {
        options,
        owners: Owners::new(set),
        logged: set(),
        pending: set(),
        remembered: Vec::new(),
        scans: Vec::new(),
        applied: BTreeMap::new(),
        relied_on: Generation(0),
        damaged_slots: Vec::new(),
        trees: Vec::new(),
        damage: Vec::new(),
        reader,
        system,
        report,
    };
    check.logs(logs).await;
    check.vdis().await;
    check.logged_order();
    check.logged_data().await;
    check.space().await;
    check.who_is_hurt().await;
    Ok(check.report)
}

#[cfg(test)]
mod tests;
