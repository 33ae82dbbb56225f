//! What a check found, for people and for tools.

use std::fmt;

use super::mend::Mend;
use crate::error::Error;
use crate::limits::CHECK_FINDINGS_MAX;
use crate::tree::walk::BlockSet;
use crate::units::{BLOCK_BYTES, Epoch, VirtualBlock};

/// How bad a finding is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// Remarkable, and as it may well be: nothing is lost.
    Note,
    /// Blocks that nothing uses and nobody can allocate.
    Leak,
    /// Something on the store is not what was written there.
    Corrupt,
}

/// A range of a disk, or of one of its snapshots, that cannot be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hurt {
    /// Name of the VDI.
    pub vdi: String,
    /// Which snapshot of it; None for its present state.
    pub snapshot: Option<Epoch>,
    /// First block of the range.
    pub first: VirtualBlock,
    /// Blocks in the range.
    pub blocks: u64,
}

/// One thing found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// What is wrong, and where.
    pub message: String,
    /// What to do about it.
    pub hint: &'static str,
    /// Disks it hurts, when that could be told.
    pub hurt: Vec<Hurt>,
}

/// What was looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// VDIs in the registry.
    pub vdis: u64,
    /// Their snapshots.
    pub snapshots: u64,
    /// Tree nodes read (shared ones once).
    pub nodes: u64,
    /// Data blocks that trees name (shared ones once).
    pub data_blocks: u64,
    /// Data blocks read and compared with their checksums.
    pub data_blocks_verified: u64,
    /// Data and metadata extents.
    pub extents: u64,
    /// Segments of the logs.
    pub segments: u64,
    /// Blocks used by something.
    pub blocks_used: u64,
    /// Blocks used by nothing now, but claimed for use or named by a log.
    pub blocks_claimed: u64,
    /// Blocks that leaked.
    pub blocks_leaked: u64,
}

/// The result of a check.
#[derive(Default)]
pub struct Report {
    /// What was found, at most [`CHECK_FINDINGS_MAX`] of them.
    pub findings: Vec<Finding>,
    /// Findings beyond those.
    pub findings_dropped: u64,
    /// What was looked at.
    pub counts: Counts,
    /// References that could not be read: what looks unused need not be, so no leaks were counted.
    pub incomplete: bool,
    worst: Option<Severity>,
    pub(super) leaks: Option<BlockSet>,
    pub(super) mends: Vec<Mend>,
}

impl Report {
    /// Whether anything on the store is not what was written there.
    #[must_use]
    pub fn is_corrupt(&self) -> bool {
        self.worst == Some(Severity::Corrupt)
    }
    /// Exit status as of `qemu-img check`: 0 clean, 2 corrupt, 3 leaks only (1, not completed, is an error).
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self.worst {
            None | Some(Severity::Note) => 0,
            Some(Severity::Corrupt) => 2,
            Some(Severity::Leak) => 3,
        }
    }
    /// Add a finding; returns its index, unless there are too many.
    pub(super) fn add(&mut self, severity: Severity, message: String, hint: &'static str) -> Option<usize> {
        self.worst = self.worst.max(Some(severity));
        if self.findings.len() >= CHECK_FINDINGS_MAX {
            self.findings_dropped += 1;
            return None;
        }
        self.findings.push(Finding { severity, message, hint, hurt: Vec::new() });
        Some(self.findings.len() - 1)
    }
    /// Add corruption.
    pub(super) fn corrupt(&mut self, error: &Error, hint: &'static str) -> Option<usize> {
        self.add(Severity::Corrupt, error.message().to_owned(), hint)
    }
    /// A count beyond half of what there can be was never counted to, and one at its end could not go on.
    pub(super) fn near_its_end(&mut self, what: &'static str, place: String, count: u64, most: u64) {
        if count > most / 2 {
            let error =
                Error::corrupt(what, place, format!("it has counted to {count}, which nobody can have"));
            self.corrupt(&error, "copy the VDIs out into a new store: this one cannot count on");
        }
    }
    /// Add corruption that hides references.
    pub(super) fn blind(&mut self, error: &Error, hint: &'static str) -> Option<usize> {
        self.incomplete = true;
        self.corrupt(error, hint)
    }
}

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Report")
            .field("findings", &self.findings)
            .field("counts", &self.counts)
            .field("incomplete", &self.incomplete)
            .finish_non_exhaustive()
    }
}

impl Hurt {
    /// Where the range starts on the disk and how long it is, in bytes.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        (self.first.0.saturating_mul(BLOCK_BYTES), self.blocks.saturating_mul(BLOCK_BYTES))
    }
}

impl fmt::Display for Hurt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.vdi)?;
        if let Some(epoch) = self.snapshot {
            write!(f, "@{}", epoch.0)?;
        }
        let (first, len) = self.bytes();
        write!(f, ": {len} bytes at offset {first}")
    }
}
