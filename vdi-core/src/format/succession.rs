//! Which record may follow in a VDI's part of a log. The bytes of a log are not trusted to make sense together: a
//! replay and the checker both ask here.

use super::record::{Body, Record};
use crate::limits::LABEL_BYTES_MAX;
use crate::units::{BLOCK_BYTES, Epoch, SECTOR_BYTES, VdiSeq, VirtualBlock};

/// The snapshots that a VDI has when a record comes.
pub trait Snapshots {
    /// Whether there is one of this epoch.
    fn has(&self, epoch: Epoch) -> bool;
    /// Whether one of them is called `label`.
    fn is_taken(&self, label: &str) -> bool;
}

/// How far a VDI has come.
pub struct Position<'a, S> {
    /// The last record it has.
    pub seq: VdiSeq,
    /// Its present epoch.
    pub epoch: Epoch,
    /// The lease epoch of its VDI record.
    pub lease_epoch: u64,
    /// How much its tree has room for. Not its size: what was logged before a disk shrank may lie beyond that.
    pub capacity_blocks: u64,
    /// Its snapshots.
    pub snapshots: &'a S,
}

impl<S: Snapshots> Position<'_, S> {
    /// Whether `record` is the next one. Fails with what is wrong with it.
    pub fn check(&self, record: &Record) -> Result<(), String> {
        if record.lease_epoch != self.lease_epoch {
            return Err(format!(
                "the log has lease epoch {}, the VDI record {}",
                record.lease_epoch, self.lease_epoch
            ));
        }
        if record.seq.0 != self.seq.0 + 1 {
            return Err(format!("record {} follows record {}", record.seq.0, self.seq.0));
        }
        if record.epoch != self.epoch {
            return Err(format!("epoch {} where {} was due", record.epoch.0, self.epoch.0));
        }
        self.check_body(&record.body).map_err(|e| format!("record {}: {e}", record.seq.0))
    }
    fn check_body(&self, body: &Body) -> Result<(), String> {
        match body {
            Body::Write { at, crcs } => self.check_range(*at, crcs.len() as u64),
            Body::WriteOut { at, runs, crcs } => {
                let named: u64 = runs.iter().map(|r| u64::from(r.1)).sum();
                if named != crcs.len() as u64 {
                    return Err(format!("{named} blocks of the store with {} checksums", crcs.len()));
                }
                self.check_range(*at, named)
            }
            Body::Discard { at, blocks } | Body::WriteZeroes { at, blocks } => self.check_range(*at, *blocks),
            Body::Snapshot { label, size_bytes, .. } => {
                self.check_size(*size_bytes).and_then(|()| self.check_label(label))
            }
            Body::Label { snapshot, label } => {
                self.check_snapshot(*snapshot).and_then(|()| self.check_label(label))
            }
            Body::RemoveSnapshot { snapshot } => self.check_snapshot(*snapshot),
        }
    }
    fn check_range(&self, at: VirtualBlock, blocks: u64) -> Result<(), String> {
        let fits = blocks > 0 && at.0.checked_add(blocks).is_some_and(|end| end <= self.capacity_blocks);
        let detail = || format!("{blocks} blocks from {} on in a tree of {}", at.0, self.capacity_blocks);
        if fits { Ok(()) } else { Err(detail()) }
    }
    fn check_size(&self, bytes: u64) -> Result<(), String> {
        let fits = bytes > 0
            && bytes.is_multiple_of(SECTOR_BYTES)
            && bytes.div_ceil(BLOCK_BYTES) <= self.capacity_blocks;
        let detail = || format!("a size of {bytes} bytes in a tree of {} blocks", self.capacity_blocks);
        if fits { Ok(()) } else { Err(detail()) }
    }
    fn check_snapshot(&self, epoch: Epoch) -> Result<(), String> {
        let here = self.snapshots.has(epoch);
        if here { Ok(()) } else { Err(format!("it concerns snapshot {}, which is not there", epoch.0)) }
    }
    fn check_label(&self, label: &str) -> Result<(), String> {
        if label.is_empty() {
            return Ok(());
        }
        if !is_label(label) {
            return Err("it has a label that is none".to_owned());
        }
        if self.snapshots.is_taken(label) {
            return Err(format!("it takes the label '{label}' a second time"));
        }
        Ok(())
    }
}

/// Whether a snapshot may be called `label`: 1 to [`LABEL_BYTES_MAX`] letters, digits, dots, underscores or dashes, with at
/// least one letter, since a number names a snapshot by its epoch.
#[must_use]
pub fn is_label(label: &str) -> bool {
    let letter = label.bytes().any(|b| b.is_ascii_alphabetic());
    let plain = label.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    letter && plain && label.len() <= LABEL_BYTES_MAX
}

#[cfg(test)]
mod tests {
    use smallvec::smallvec;

    use super::*;
    use crate::format::record::Origin;
    use crate::units::{BlockAddr, VdiId};

    struct One;
    impl Snapshots for One {
        fn has(&self, epoch: Epoch) -> bool {
            epoch == Epoch(3)
        }
        fn is_taken(&self, label: &str) -> bool {
            label == "before"
        }
    }

    fn record(body: Body) -> Record {
        let (seq, epoch) = (VdiSeq(8), Epoch(4));
        Record { vdi: VdiId(1), seq, lease_epoch: 2, epoch, origin: Origin::default(), copy: false, body }
    }
    fn check(record: &Record) -> Result<(), String> {
        let position = Position {
            seq: VdiSeq(7),
            epoch: Epoch(4),
            lease_epoch: 2,
            capacity_blocks: 512,
            snapshots: &One,
        };
        position.check(record)
    }

    #[test]
    fn what_may_follow() {
        let taken = |label: &str| Body::Snapshot { wall_ns: 0, size_bytes: 512, label: label.into() };
        for body in [
            Body::Write { at: VirtualBlock(511), crcs: smallvec![0] },
            Body::WriteOut { at: VirtualBlock(0), runs: smallvec![(BlockAddr(9), 2)], crcs: smallvec![0, 0] },
            Body::Discard { at: VirtualBlock(0), blocks: 512 },
            Body::WriteZeroes { at: VirtualBlock(1), blocks: 511 },
            taken(""),
            taken("after-1.0_x"),
            Body::Label { snapshot: Epoch(3), label: String::new() },
            Body::Label { snapshot: Epoch(3), label: "new".into() },
            Body::RemoveSnapshot { snapshot: Epoch(3) },
        ] {
            assert_eq!(check(&record(body.clone())), Ok(()), "{body:?}");
        }
    }
    #[test]
    fn what_may_not() {
        let taken = |label: &str| Body::Snapshot { wall_ns: 0, size_bytes: 512 << 12, label: label.into() };
        let sized = |size_bytes| Body::Snapshot { wall_ns: 0, size_bytes, label: String::new() };
        for (body, word) in [
            (Body::Write { at: VirtualBlock(511), crcs: smallvec![0, 0] }, "2 blocks from 511"),
            (Body::Write { at: VirtualBlock(0), crcs: smallvec![] }, "0 blocks"),
            (
                Body::WriteOut {
                    at: VirtualBlock(0),
                    runs: smallvec![(BlockAddr(9), 2)],
                    crcs: smallvec![0],
                },
                "checksums",
            ),
            (Body::Discard { at: VirtualBlock(1), blocks: 512 }, "512 blocks from 1"),
            (Body::WriteZeroes { at: VirtualBlock(u64::MAX), blocks: 2 }, "tree of 512"),
            (sized(0), "size of 0 bytes"),
            (sized(511), "size of 511 bytes"),
            (sized((512 << 12) + 512), "tree of 512 blocks"),
            (sized(u64::MAX / 512 * 512), "tree of 512 blocks"),
            (taken("7"), "label that is none"),
            (taken("a b"), "label that is none"),
            (taken(&"x".repeat(LABEL_BYTES_MAX + 1)), "label that is none"),
            (taken("before"), "a second time"),
            (Body::Label { snapshot: Epoch(2), label: "new".into() }, "snapshot 2"),
            (Body::Label { snapshot: Epoch(3), label: "before".into() }, "a second time"),
            (Body::RemoveSnapshot { snapshot: Epoch(4) }, "snapshot 4"),
        ] {
            let why = check(&record(body.clone())).expect_err(word);
            assert!(why.starts_with("record 8: ") && why.contains(word), "{body:?}: {why}");
        }
    }
    #[test]
    fn records_follow_one_another() {
        let sound = record(Body::Discard { at: VirtualBlock(0), blocks: 1 });
        assert_eq!(check(&sound), Ok(()));
        for (record, word) in [
            (Record { seq: VdiSeq(9), ..sound.clone() }, "record 9 follows record 7"),
            (Record { seq: VdiSeq(7), ..sound.clone() }, "record 7 follows record 7"),
            (Record { epoch: Epoch(5), ..sound.clone() }, "epoch 5 where 4 was due"),
            (Record { lease_epoch: 3, ..sound.clone() }, "lease epoch 3, the VDI record 2"),
        ] {
            assert!(check(&record).expect_err(word).contains(word));
        }
    }
}
