//! The deliberate bugs.

/// A mistake that a simulated world can be run with.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Bug {
    /// A round writes the VDI records before data and nodes are flushed.
    SkipFlushBeforeRecord,
    /// A round trims the log while the VDI records are in a volatile cache.
    SkipFlushAfterRecord,
    /// A round does not say how far its claims are used.
    SkipHostRecord,
    /// Bitmaps are never written.
    SkipBitmaps,
    /// A trim forgets all that was appended, cut or not.
    TrimTooSoon,
    /// A trim asks only the disks that were open when the round began.
    TrimAsksCutDisksOnly,
    /// A write-back write is acknowledged before its segment is on the device.
    AcknowledgeBeforeLog,
    /// A guest's flush returns without flushing.
    FlushAtOnce,
    /// A flush waits only for what was sent.
    FlushForgetsOpenSegment,
    /// What was written while the device flushed counts as flushed.
    FlushCoversTooMuch,
    /// The log is flushed before the out-of-line data it names.
    FlushForgetsOutOfLine,
    /// A segment counts as written before those ahead of it.
    WrittenOutOfOrder,
    /// A snapshot is acknowledged from memory.
    SnapshotNotFlushed,
    /// Freed blocks are reused while log records name them.
    ReuseBeforeTrim,
    /// Freed blocks are reused while a read is on its way to them.
    ReuseUnderReader,
    /// The ring's space is reused before the log's head is durable.
    SpaceBeforeHead,
    /// A write replaces the version of an earlier epoch in the overlay.
    DropOverlayVersion,
    /// A checkpoint forgets versions written after its cut.
    ForgetNewerVersion,
    /// An explicit zero in the overlay shows the tree below it.
    ZeroIsAHole,
    /// A checkpoint leaves discarded blocks in the tree.
    DiscardNotApplied,
    /// A partial write locks its first block only.
    PartialLocksEdges,
    /// Blocks are born an epoch too late: those of a snapshot are freed.
    BirthTooLate,
    /// A snapshot does not protect its blocks.
    ThresholdNotRaised,
    /// A clone frees blocks of the snapshot it was made from.
    CloneOwnsParent,
    /// A roll-back sets the threshold to its snapshot's.
    RollBackLowersThreshold,
    /// A roll-back gives out epoch numbers again.
    RollBackReusesEpoch,
    /// A snapshot's root is the one at the end of the batch.
    SnapshotOfTheEnd,
    /// A snapshot after a resize is taken for a second name of the last one.
    SnapshotSizeForgotten,
    /// A smaller disk keeps what was cut off.
    ShrinkKeepsData,
    /// A disk is made smaller under writes to what is cut off.
    ShrinkWaitsForNobody,
    /// What a killed daemon had staged is left where it is.
    StagedNotAdopted,
    /// A record counts as staged before it and its data are copied.
    StagedBeforeCopied,
    /// The memory of staged data is used again while its entry counts.
    StagedNotHeld,
    /// A record is no longer staged when the log's device has it, and not when it has flushed it.
    UnstagedWhenWritten,
    /// What a life before the last one of the log staged is adopted.
    StagedInAnotherLife,
    /// What is put in order is not locked: it goes over what a guest wrote meanwhile.
    MovedOverWrite,
    /// Where it was before it was put in order is free at once.
    MovedFreedTooSoon,
    /// A collection takes what the VDI of a damaged registry entry needs.
    MarkMissesUnknown,
    /// A restart frees blocks that copies further on in the log name.
    CopiesForgotten,
    /// What the log of another shard knows of a VDI does not count.
    OtherLogsForgotten,
    /// Of the two slots of a VDI record the older counts.
    OldSlotWins,
    /// A new VDI is registered before its record is flushed.
    RegistryBeforeRecord,
    /// A restart replays records that the tree has.
    ReplaysApplied,
    /// A restart takes out-of-line records whose data never arrived.
    TornDataCounts,
    /// A restart takes the last segments without looking at their data.
    TornTailCounts,
    /// Records that one restart left out count at the next.
    VoidRecordsComeBack,
    /// Segments claim that all before them was flushed.
    DurableTooHigh,
    /// A restart forgets what room the log's records were promised.
    PromisesNotRepeated,
    /// A restart on a full store does not look for leaks.
    LeaksStay,
    /// Regions of a claim that failed are never claimed again.
    FailedClaimLost,
    /// Discards and removals ask for as much room as writes.
    DiscardNeedsRoom,
    /// A collection frees what only snapshots reach.
    MarkMissesSnapshots,
    /// A collection frees what only log records name.
    MarkMissesOverlay,
    /// A collection frees claimed blocks and what waits in quarantine.
    MarkMissesClaims,
    /// A collection does not wait for out-of-line writes.
    MarkUnderPlacing,
    /// A collection does not wait for what the shards have to tell each other.
    MarkBeforeMessages,
    /// A disk changes shard while its log still holds something of it.
    MovedUnsettled,
    /// Blocks that another shard freed are handed out at once.
    ForeignReusedAtOnce,
    /// A list opens a disk that is on its way to another shard.
    OpenedOnTheWay,
    /// Who waits for room in the log does not ask for a checkpoint.
    FullLogAsksNobody,
    /// A collection marks the older record of a disk whose newest could not be read.
    MarkMissesNewest,
    /// What a checkpoint that failed had written is never given back.
    AttemptsLeak,
    /// Labels and snapshots are logged while a roll-back swings the record.
    LoggedWhileRolledBack,
    /// A disk that lost durable writes with a part of the log is held until the next restart only.
    LossForgotten,
    /// A VDI record older than the log remembers is taken for the newest.
    StaleRecordTrusted,
    /// Data is handed out without a look at its checksum.
    DataUnchecked,
}

impl Bug {
    /// Every bug.
    pub const ALL: [Bug; 66] = [
        Bug::SkipFlushBeforeRecord,
        Bug::SkipFlushAfterRecord,
        Bug::SkipHostRecord,
        Bug::SkipBitmaps,
        Bug::TrimTooSoon,
        Bug::TrimAsksCutDisksOnly,
        Bug::AcknowledgeBeforeLog,
        Bug::FlushAtOnce,
        Bug::FlushForgetsOpenSegment,
        Bug::FlushCoversTooMuch,
        Bug::FlushForgetsOutOfLine,
        Bug::WrittenOutOfOrder,
        Bug::SnapshotNotFlushed,
        Bug::ReuseBeforeTrim,
        Bug::ReuseUnderReader,
        Bug::SpaceBeforeHead,
        Bug::DropOverlayVersion,
        Bug::ForgetNewerVersion,
        Bug::ZeroIsAHole,
        Bug::DiscardNotApplied,
        Bug::PartialLocksEdges,
        Bug::BirthTooLate,
        Bug::ThresholdNotRaised,
        Bug::CloneOwnsParent,
        Bug::RollBackLowersThreshold,
        Bug::RollBackReusesEpoch,
        Bug::SnapshotOfTheEnd,
        Bug::SnapshotSizeForgotten,
        Bug::ShrinkKeepsData,
        Bug::ShrinkWaitsForNobody,
        Bug::StagedNotAdopted,
        Bug::StagedBeforeCopied,
        Bug::StagedNotHeld,
        Bug::UnstagedWhenWritten,
        Bug::StagedInAnotherLife,
        Bug::MovedOverWrite,
        Bug::MovedFreedTooSoon,
        Bug::MarkMissesUnknown,
        Bug::CopiesForgotten,
        Bug::OtherLogsForgotten,
        Bug::OldSlotWins,
        Bug::RegistryBeforeRecord,
        Bug::ReplaysApplied,
        Bug::TornDataCounts,
        Bug::TornTailCounts,
        Bug::VoidRecordsComeBack,
        Bug::DurableTooHigh,
        Bug::PromisesNotRepeated,
        Bug::LeaksStay,
        Bug::FailedClaimLost,
        Bug::DiscardNeedsRoom,
        Bug::MarkMissesSnapshots,
        Bug::MarkMissesOverlay,
        Bug::MarkMissesClaims,
        Bug::MarkUnderPlacing,
        Bug::MarkBeforeMessages,
        Bug::MovedUnsettled,
        Bug::ForeignReusedAtOnce,
        Bug::OpenedOnTheWay,
        Bug::FullLogAsksNobody,
        Bug::MarkMissesNewest,
        Bug::AttemptsLeak,
        Bug::LoggedWhileRolledBack,
        Bug::LossForgotten,
        Bug::StaleRecordTrusted,
        Bug::DataUnchecked,
    ];
    /// The test of the engine that finds it, if there is one: what worlds and short sequences seldom meet needs it.
    #[must_use]
    pub fn test(self) -> Option<&'static str> {
        let test = match self {
            Bug::SkipBitmaps | Bug::FailedClaimLost | Bug::ReuseBeforeTrim | Bug::ReuseUnderReader => {
                "seeded_bugs_of_the_allocator_are_found"
            }
            Bug::DropOverlayVersion | Bug::ForgetNewerVersion => "seeded_bugs_of_the_overlay_are_found",
            Bug::SpaceBeforeHead => "space_is_not_written_again_before_a_durable_head_calls_it_free",
            Bug::FullLogAsksNobody => {
                "a_full_log_that_a_restart_need_not_replay_is_trimmed_for_the_first_who_waits"
            }
            Bug::ForeignReusedAtOnce => {
                "blocks_that_another_shard_freed_wait_for_the_trim_of_their_owners_log"
            }
            Bug::MarkMissesNewest
            | Bug::AttemptsLeak
            | Bug::LoggedWhileRolledBack
            | Bug::LossForgotten
            | Bug::SnapshotSizeForgotten
            | Bug::ShrinkWaitsForNobody
            | Bug::MarkMissesUnknown
            | Bug::CopiesForgotten
            | Bug::OtherLogsForgotten
            | Bug::LeaksStay
            | Bug::StaleRecordTrusted
            | Bug::OpenedOnTheWay => "seeded_bugs_break_the_laws_of_the_engine",
            _ => return None,
        };
        Some(test)
    }
    /// Its name in reports and on the command line, and what it does.
    #[must_use]
    pub fn name_and_effect(self) -> (&'static str, &'static str) {
        match self {
            Bug::SkipFlushBeforeRecord => (
                "skip-flush-before-record",
                "A round writes the VDI records before data and nodes are flushed.",
            ),
            Bug::SkipFlushAfterRecord => (
                "skip-flush-after-record",
                "A round trims the log while the VDI records are in a volatile cache.",
            ),
            Bug::SkipHostRecord => ("skip-host-record", "A round does not say how far its claims are used."),
            Bug::SkipBitmaps => ("skip-bitmaps", "Bitmaps are never written."),
            Bug::TrimTooSoon => ("trim-too-soon", "A trim forgets all that was appended, cut or not."),
            Bug::TrimAsksCutDisksOnly => (
                "trim-asks-cut-disks-only",
                "A trim asks only the disks that were open when the round began.",
            ),
            Bug::AcknowledgeBeforeLog => (
                "acknowledge-before-log",
                "A write-back write is acknowledged before its segment is on the device.",
            ),
            Bug::FlushAtOnce => ("flush-at-once", "A guest's flush returns without flushing."),
            Bug::FlushForgetsOpenSegment => {
                ("flush-forgets-open-segment", "A flush waits only for what was sent.")
            }
            Bug::FlushCoversTooMuch => {
                ("flush-covers-too-much", "What was written while the device flushed counts as flushed.")
            }
            Bug::FlushForgetsOutOfLine => {
                ("flush-forgets-out-of-line", "The log is flushed before the out-of-line data it names.")
            }
            Bug::WrittenOutOfOrder => {
                ("written-out-of-order", "A segment counts as written before those ahead of it.")
            }
            Bug::SnapshotNotFlushed => ("snapshot-not-flushed", "A snapshot is acknowledged from memory."),
            Bug::ReuseBeforeTrim => {
                ("reuse-before-trim", "Freed blocks are reused while log records name them.")
            }
            Bug::ReuseUnderReader => {
                ("reuse-under-reader", "Freed blocks are reused while a read is on its way to them.")
            }
            Bug::SpaceBeforeHead => {
                ("space-before-head", "The ring's space is reused before the log's head is durable.")
            }
            Bug::DropOverlayVersion => {
                ("drop-overlay-version", "A write replaces the version of an earlier epoch in the overlay.")
            }
            Bug::ForgetNewerVersion => {
                ("forget-newer-version", "A checkpoint forgets versions written after its cut.")
            }
            Bug::ZeroIsAHole => {
                ("zero-is-a-hole", "An explicit zero in the overlay shows the tree below it.")
            }
            Bug::DiscardNotApplied => {
                ("discard-not-applied", "A checkpoint leaves discarded blocks in the tree.")
            }
            Bug::PartialLocksEdges => ("partial-locks-edges", "A partial write locks its first block only."),
            Bug::BirthTooLate => {
                ("birth-too-late", "Blocks are born an epoch too late: those of a snapshot are freed.")
            }
            Bug::ThresholdNotRaised => ("threshold-not-raised", "A snapshot does not protect its blocks."),
            Bug::CloneOwnsParent => {
                ("clone-owns-parent", "A clone frees blocks of the snapshot it was made from.")
            }
            Bug::RollBackLowersThreshold => {
                ("roll-back-lowers-threshold", "A roll-back sets the threshold to its snapshot's.")
            }
            Bug::RollBackReusesEpoch => {
                ("roll-back-reuses-epoch", "A roll-back gives out epoch numbers again.")
            }
            Bug::SnapshotOfTheEnd => {
                ("snapshot-of-the-end", "A snapshot's root is the one at the end of the batch.")
            }
            Bug::SnapshotSizeForgotten => (
                "snapshot-size-forgotten",
                "A snapshot after a resize is taken for a second name of the last one.",
            ),
            Bug::ShrinkKeepsData => ("shrink-keeps-data", "A smaller disk keeps what was cut off."),
            Bug::ShrinkWaitsForNobody => {
                ("shrink-waits-for-nobody", "A disk is made smaller under writes to what is cut off.")
            }
            Bug::StagedNotAdopted => {
                ("staged-not-adopted", "What a killed daemon had staged is left where it is.")
            }
            Bug::StagedBeforeCopied => {
                ("staged-before-copied", "A record counts as staged before it and its data are copied.")
            }
            Bug::StagedNotHeld => {
                ("staged-not-held", "The memory of staged data is used again while its entry counts.")
            }
            Bug::UnstagedWhenWritten => (
                "unstaged-when-written",
                "A record is no longer staged when the log's device has it, and not when it has flushed it.",
            ),
            Bug::MovedOverWrite => (
                "moved-over-write",
                "What is put in order is not locked: it goes over what a guest wrote meanwhile.",
            ),
            Bug::MovedFreedTooSoon => (
                "moved-freed-too-soon",
                "Blocks are free as soon as what they held is put in order elsewhere.",
            ),
            Bug::StagedInAnotherLife => {
                ("staged-in-another-life", "What a life before the last one of the log staged is adopted.")
            }
            Bug::MarkMissesUnknown => {
                ("mark-misses-unknown", "A collection takes what the VDI of a damaged registry entry needs.")
            }
            Bug::CopiesForgotten => {
                ("copies-forgotten", "A restart frees blocks that copies further on in the log name.")
            }
            Bug::OtherLogsForgotten => {
                ("other-logs-forgotten", "What the log of another shard knows of a VDI does not count.")
            }
            Bug::OldSlotWins => ("old-slot-wins", "Of the two slots of a VDI record the older counts."),
            Bug::RegistryBeforeRecord => {
                ("registry-before-record", "A new VDI is registered before its record is flushed.")
            }
            Bug::ReplaysApplied => ("replays-applied", "A restart replays records that the tree has."),
            Bug::TornDataCounts => {
                ("torn-data-counts", "A restart takes out-of-line records whose data never arrived.")
            }
            Bug::TornTailCounts => {
                ("torn-tail-counts", "A restart takes the last segments without looking at their data.")
            }
            Bug::VoidRecordsComeBack => {
                ("void-records-come-back", "Records that one restart left out count at the next.")
            }
            Bug::DurableTooHigh => ("durable-too-high", "Segments claim that all before them was flushed."),
            Bug::PromisesNotRepeated => {
                ("promises-not-repeated", "A restart forgets what room the log's records were promised.")
            }
            Bug::LeaksStay => ("leaks-stay", "A restart on a full store does not look for leaks."),
            Bug::FailedClaimLost => {
                ("failed-claim-lost", "Regions of a claim that failed are never claimed again.")
            }
            Bug::DiscardNeedsRoom => {
                ("discard-needs-room", "Discards and removals ask for as much room as writes.")
            }
            Bug::MarkMissesSnapshots => {
                ("mark-misses-snapshots", "A collection frees what only snapshots reach.")
            }
            Bug::MarkMissesOverlay => {
                ("mark-misses-overlay", "A collection frees what only log records name.")
            }
            Bug::MarkMissesClaims => {
                ("mark-misses-claims", "A collection frees claimed blocks and what waits in quarantine.")
            }
            Bug::MarkUnderPlacing => {
                ("mark-under-placing", "A collection does not wait for out-of-line writes.")
            }
            Bug::MarkBeforeMessages => (
                "mark-before-messages",
                "A collection does not wait for what the shards have to tell each other.",
            ),
            Bug::MovedUnsettled => {
                ("moved-unsettled", "A disk changes shard while its log still holds something of it.")
            }
            Bug::ForeignReusedAtOnce => {
                ("foreign-reused-at-once", "Blocks that another shard freed are handed out at once.")
            }
            Bug::OpenedOnTheWay => {
                ("opened-on-the-way", "A list opens a disk that is on its way to another shard.")
            }
            Bug::FullLogAsksNobody => {
                ("full-log-asks-nobody", "Who waits for room in the log does not ask for a checkpoint.")
            }
            Bug::MarkMissesNewest => (
                "mark-misses-newest",
                "A collection marks the older record of a disk whose newest could not be read.",
            ),
            Bug::AttemptsLeak => {
                ("attempts-leak", "What a checkpoint that failed had written is never given back.")
            }
            Bug::LoggedWhileRolledBack => (
                "logged-while-rolled-back",
                "Labels and snapshots are logged while a roll-back swings the record.",
            ),
            Bug::LossForgotten => (
                "loss-forgotten",
                "A disk that lost durable writes with a part of the log is held until the next restart only.",
            ),
            Bug::StaleRecordTrusted => {
                ("stale-record-trusted", "A VDI record older than the log remembers is taken for the newest.")
            }
            Bug::DataUnchecked => ("data-unchecked", "Data is handed out without a look at its checksum."),
        }
    }
    /// The bug of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Bug> {
        Bug::ALL.into_iter().find(|b| b.name_and_effect().0 == name)
    }
}
