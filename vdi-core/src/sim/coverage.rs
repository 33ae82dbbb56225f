//! What a series of worlds went through, and what it never met: a fault that never happens proves nothing.

use std::fmt;

use super::model::Report;
use crate::device::simulated::FaultCounts;

/// A series of at least so many worlds must meet everything.
pub const WORLDS_FOR_ALL: u64 = 500;

/// What guests and administrator do.
pub const VERBS: [&str; 18] = [
    "write",
    "read",
    "discard",
    "write zeroes",
    "flush",
    "snapshot",
    "label",
    "remove snapshot",
    "clone",
    "roll back",
    "create",
    "delete",
    "resize",
    "checkpoint",
    "collect",
    "tidy",
    "move",
    "leave staging",
];

impl Report {
    /// Every counter by name.
    #[must_use]
    pub fn counters(&self) -> Vec<(String, u64)> {
        let mut all: Vec<(String, u64)> = Vec::new();
        for verb in VERBS {
            all.push((format!("verb {verb}"), self.operations.get(verb).copied().unwrap_or(0)));
        }
        for fault in FaultCounts::KINDS {
            all.push((format!("fault {fault:?}"), self.faults.get(fault)));
        }
        for (depth, cycles) in self.cycles_in_recovery.iter().enumerate() {
            all.push((format!("stop in recovery, {} deep", depth + 1), *cycles));
        }
        let full = self.errors.iter().filter(|(kind, _)| kind.ends_with(": NoSpace")).map(|(_, n)| n).sum();
        all.push(("refused for want of space".to_owned(), full));
        all.push(("disk opened late".to_owned(), self.opened_late));
        all.push(("lap of the log".to_owned(), self.laps));
        all.push(("wait for room in the log".to_owned(), self.waits));
        all.push(("outage of one disk's tree".to_owned(), self.outages));
        all.push(("failing devices that worked again".to_owned(), self.healed));
        all.push(("start without the staging memory".to_owned(), self.missed));
        all.push(("disk lost to a lie".to_owned(), self.refused));
        for (point, passed, stopped) in self.points.iter() {
            all.push((format!("passed {}", point.name()), passed));
            all.push((format!("stopped at {}", point.name()), stopped));
        }
        all
    }
    /// What never happened.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        self.counters().into_iter().filter(|(_, n)| *n == 0).map(|(name, _)| name).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:>12} stops and recoveries", self.cycles)?;
        writeln!(f, "{:>12} blocks compared", self.blocks_compared)?;
        for (name, n) in self.counters() {
            writeln!(f, "{n:>12} {name}")?;
        }
        for (kind, n) in &self.errors {
            writeln!(f, "{n:>12} error {kind}")?;
        }
        Ok(())
    }
}
