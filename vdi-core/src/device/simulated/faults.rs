//! What can go wrong with a simulated disk, how often, and how often it did.

/// A kind of fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A read failed with `EIO`.
    ReadError,
    /// A write failed with `EIO`, some of its sectors written.
    WriteError,
    /// A flush failed with `EIO`; nothing became durable by it.
    FlushError,
    /// A write failed with `ENOSPC`, nothing written.
    NoSpace,
    /// A flush was acknowledged and made nothing durable.
    LyingFlush,
    /// A write was acknowledged and never happened.
    LostWrite,
    /// A write was acknowledged and landed elsewhere.
    MisdirectedWrite,
    /// A read was answered with what lies elsewhere.
    MisdirectedRead,
    /// One bit of a write is wrong on the medium.
    RottenWrite,
    /// One bit of what a read returned is wrong; the medium is right.
    FlippedRead,
    /// One bit of what had lain on the medium for long is wrong.
    RottenSector,
    /// A write ended before one that was submitted earlier.
    Reordered,
    /// An operation took long.
    Slow,
    /// Power was lost.
    PowerLoss,
    /// The process died; the disk went on.
    Kill,
    /// A write in flight or unflushed at a power loss or kill was torn: some sectors new, some old.
    TornWrite,
    /// An unflushed write vanished whole at a power loss.
    VanishedWrite,
}

/// How many faults of each kind happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts([u64; FaultCounts::KINDS.len()]);

impl FaultCounts {
    /// Every kind.
    pub const KINDS: [Fault; 17] = [
        Fault::ReadError,
        Fault::WriteError,
        Fault::FlushError,
        Fault::NoSpace,
        Fault::LyingFlush,
        Fault::LostWrite,
        Fault::MisdirectedWrite,
        Fault::MisdirectedRead,
        Fault::RottenWrite,
        Fault::FlippedRead,
        Fault::RottenSector,
        Fault::Reordered,
        Fault::Slow,
        Fault::PowerLoss,
        Fault::Kill,
        Fault::TornWrite,
        Fault::VanishedWrite,
    ];
    /// Count one.
    pub fn add(&mut self, fault: Fault) {
        self.0[fault as usize] += 1;
    }
    /// How many of this kind.
    #[must_use]
    pub fn get(&self, fault: Fault) -> u64 {
        self.0[fault as usize]
    }
    /// How many of all kinds.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
    /// Add another count to this one.
    pub fn merge(&mut self, other: &FaultCounts) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }
}

/// How often what happens, per million operations of the kind concerned; all zero is a perfect disk.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// [`Fault::ReadError`]
    pub read_error: u32,
    /// [`Fault::WriteError`]
    pub write_error: u32,
    /// [`Fault::FlushError`]
    pub flush_error: u32,
    /// [`Fault::NoSpace`]
    pub no_space: u32,
    /// [`Fault::LyingFlush`]
    pub lying_flush: u32,
    /// [`Fault::LostWrite`]
    pub lost_write: u32,
    /// [`Fault::MisdirectedWrite`]
    pub misdirected_write: u32,
    /// [`Fault::MisdirectedRead`]
    pub misdirected_read: u32,
    /// [`Fault::RottenWrite`]
    pub rotten_write: u32,
    /// [`Fault::FlippedRead`]
    pub flipped_read: u32,
    /// [`Fault::Slow`]
    pub slow: u32,
    /// [`Fault::Slow`], of reads only: so slow that what they read may be freed and written again meanwhile.
    pub slow_read: u32,
    /// Longest virtual time of an ordinary operation, ns; each takes a random part of it.
    pub delay_ns_max: u64,
    /// Longest virtual time of a slow operation, ns.
    pub slow_ns_max: u64,
}

/// Which unflushed sector writes survive a power loss.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Survival {
    /// None: the cache was volatile and nobody had written it back.
    Nothing,
    /// All.
    Everything,
    /// Each write as a whole with this probability, per million.
    Writes(u32),
    /// Each 512-byte sector of each write with this probability, per million.
    Sectors(u32),
    /// Every write before a random one, whole; that one torn; none after it.
    Prefix,
}
