//! The named points.

/// Where a simulated world may stop.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Point {
    /// A log segment is on its device, not flushed.
    SegmentWritten,
    /// Out-of-line data is flushed, the log is not.
    BarrierFlushed,
    /// Out-of-line data is written, no log record names it.
    OutOfLineWritten,
    /// A checkpoint has written data, not yet nodes.
    DataWritten,
    /// A checkpoint has written nodes, the root is not named.
    NodesWritten,
    /// A checkpoint has written the snapshot log, the record does not name it.
    SnapshotLogWritten,
    /// All disks of a round are applied, the host record is old.
    BatchesApplied,
    /// A round has written the host record, the bitmaps are old.
    HostRecordWritten,
    /// A round has flushed the log, not yet the store.
    LogFlushed,
    /// A round has flushed the store, the VDI records are old.
    StoreFlushed,
    /// A round has written the VDI records, not yet flushed them.
    RecordsWritten,
    /// The records of a round are durable, nothing is published or trimmed.
    RecordsFlushed,
    /// A round is published, the log is not trimmed.
    Published,
    /// A slot of the log's head is written, not flushed.
    HeadWritten,
    /// The first slot of a log head is durable, the second is old.
    HeadFirstSlot,
    /// The log is trimmed, nothing is given back.
    Trimmed,
    /// The host record that names a claim is durable, the bitmap is not.
    ClaimNamed,
    /// The bitmap of a claim is written, not flushed.
    ClaimWritten,
    /// A fresh extent has its header, the catalogue calls it free.
    ExtentHeaded,
    /// The catalogue entry of a leased extent is written, not flushed.
    ExtentLeased,
    /// An extent of a log is free again.
    LogReturned,
    /// A recovery has opened the log's next incarnation.
    IncarnationOpened,
    /// A recovery has replayed the log and written nothing of it.
    Replayed,
    /// The record of a new VDI is durable, the registry does not name it.
    RecordBeforeRegistry,
    /// A registry entry is written, not flushed.
    RegistryWritten,
    /// A resize or roll-back has written the record, not flushed it.
    SwingWritten,
    /// A word of the staging memory is set for a new life of the log.
    StagingBegins,
    /// Nothing is acknowledged for being staged any more, and not everything is durable.
    StagingLeft,
    /// A record and its data are copied to the staging memory, which does not count them yet.
    StagedNotYet,
    /// A record is staged, and not on its way to the log's device.
    Staged,
    /// A segment that a killed daemon had staged is written, not flushed.
    Adopted,
    /// Scattered data are written in order and in the log, not in the tree.
    Rewritten,
}

impl Point {
    /// Every point.
    pub const ALL: [Point; 32] = [
        Point::SegmentWritten,
        Point::BarrierFlushed,
        Point::OutOfLineWritten,
        Point::DataWritten,
        Point::NodesWritten,
        Point::SnapshotLogWritten,
        Point::BatchesApplied,
        Point::HostRecordWritten,
        Point::LogFlushed,
        Point::StoreFlushed,
        Point::RecordsWritten,
        Point::RecordsFlushed,
        Point::Published,
        Point::HeadWritten,
        Point::HeadFirstSlot,
        Point::Trimmed,
        Point::ClaimNamed,
        Point::ClaimWritten,
        Point::ExtentHeaded,
        Point::ExtentLeased,
        Point::LogReturned,
        Point::IncarnationOpened,
        Point::Replayed,
        Point::RecordBeforeRegistry,
        Point::RegistryWritten,
        Point::SwingWritten,
        Point::StagingBegins,
        Point::StagingLeft,
        Point::StagedNotYet,
        Point::Staged,
        Point::Adopted,
        Point::Rewritten,
    ];
    /// Those that are passed at starts only.
    pub const AT_START: [Point; 5] =
        [Point::LogReturned, Point::IncarnationOpened, Point::Replayed, Point::StagingBegins, Point::Adopted];
    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Point::SegmentWritten => "segment-written",
            Point::BarrierFlushed => "barrier-flushed",
            Point::OutOfLineWritten => "out-of-line-written",
            Point::DataWritten => "data-written",
            Point::NodesWritten => "nodes-written",
            Point::SnapshotLogWritten => "snapshot-log-written",
            Point::BatchesApplied => "batches-applied",
            Point::HostRecordWritten => "host-record-written",
            Point::LogFlushed => "log-flushed",
            Point::StoreFlushed => "store-flushed",
            Point::RecordsWritten => "records-written",
            Point::RecordsFlushed => "records-flushed",
            Point::Published => "published",
            Point::HeadWritten => "head-written",
            Point::HeadFirstSlot => "head-first-slot",
            Point::Trimmed => "trimmed",
            Point::ClaimNamed => "claim-named",
            Point::ClaimWritten => "claim-written",
            Point::ExtentHeaded => "extent-headed",
            Point::ExtentLeased => "extent-leased",
            Point::LogReturned => "log-returned",
            Point::IncarnationOpened => "incarnation-opened",
            Point::Replayed => "replayed",
            Point::RecordBeforeRegistry => "record-before-registry",
            Point::RegistryWritten => "registry-written",
            Point::SwingWritten => "swing-written",
            Point::StagingBegins => "staging-begins",
            Point::StagingLeft => "staging-left",
            Point::StagedNotYet => "staged-not-yet",
            Point::Staged => "staged",
            Point::Adopted => "adopted",
            Point::Rewritten => "rewritten",
        }
    }
}
