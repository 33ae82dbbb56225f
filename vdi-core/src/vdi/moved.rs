//! Records of a held VDI, written again further on in the log: inline data go to the store first, so that a
//! copy is small. Here is the VDI's side: which records, and what they become.

use std::rc::Rc;

use smallvec::smallvec;

use super::Vdi;
use super::content::{Content, Placed};
use crate::buffer::{AlignedBuf, IoBuf, crc32c};
use crate::error::{Error, Result};
use crate::log::{Body, Record, Segment};
use crate::store::{ExtentKind, Need, Run, Store};
use crate::units::{BLOCK_SIZE, SegmentSeq, VdiSeq};

/// A record found in the log.
pub struct Original {
    /// What it says.
    pub record: Record,
    /// Its segment.
    pub segment: Rc<Segment>,
    /// Its first data block there.
    pub first_block: u32,
}

/// A copy to be appended, and where the data of its original now lie if that was inline.
pub struct Copy {
    /// What to append.
    pub record: Record,
    /// The original's segment and first block, and the new place of its data.
    pub parked: Option<(SegmentSeq, u32, Rc<Placed>)>,
}

/// Give the inline data of `originals` a place in the store, written but not flushed, and say what their copies
/// are. Damage in the log's data is an error: a copy must never vouch for it.
///
/// # Errors
/// `Corrupt`, `NoSpace` and device errors; nothing names what was allocated then.
pub async fn park(store: &Store, log: &crate::log::Log, originals: &[Original]) -> Result<Vec<Copy>> {
    let data = Rc::new(read_inline(log, originals).await?);
    let mut left = (data.len() / BLOCK_SIZE) as u32;
    let mut runs: Vec<Run> = Vec::new();
    let mut result = Ok(());
    while left > 0 && result.is_ok() {
        match store.allocate(ExtentKind::Data, left).await {
            Ok(run) => {
                let from = data.len() - left as usize * BLOCK_SIZE;
                let bytes = from..from + run.blocks as usize * BLOCK_SIZE;
                left -= run.blocks;
                runs.push(run);
                result =
                    store.write_blocks(run.start, smallvec![IoBuf::Shared(Rc::clone(&data), bytes)]).await;
            }
            Err(e) => result = Err(e),
        }
    }
    if let Err(e) = result {
        // Nothing names these blocks, and nothing ever did.
        store.give_back_unreachable(runs.into_iter().collect());
        return Err(e);
    }
    let mut runs = runs.into_iter();
    let mut rest: Option<Run> = None;
    let mut copies = Vec::with_capacity(originals.len());
    for o in originals {
        let mut record = Record { copy: true, ..o.record.clone() };
        let mut parked = None;
        if let Body::Write { at, crcs } = &o.record.body {
            let mut wanted = crcs.len() as u32;
            let mut own = Vec::new();
            while wanted > 0 {
                let run = rest.take().or_else(|| runs.next()).expect("as many blocks as were allocated");
                let n = run.blocks.min(wanted);
                own.push(Run { start: run.start, blocks: n });
                wanted -= n;
                rest = (n < run.blocks)
                    .then(|| Run { start: run.start.plus(u64::from(n)), blocks: run.blocks - n });
            }
            let named = own.iter().map(|r| (r.start, r.blocks)).collect();
            record.body = Body::WriteOut { at: *at, runs: named, crcs: crcs.clone() };
            let placed = Rc::new(Placed { runs: own, crcs: crcs.to_vec() });
            parked = Some((o.segment.seq(), o.first_block, placed));
        }
        copies.push(Copy { record, parked });
    }
    Ok(copies)
}

async fn read_inline(log: &crate::log::Log, originals: &[Original]) -> Result<AlignedBuf> {
    let blocks: usize = originals.iter().map(|o| o.record.body.inline_blocks() as usize).sum();
    let mut all = AlignedBuf::zeroed(blocks * BLOCK_SIZE);
    let mut at = 0;
    for o in originals {
        let Body::Write { crcs, .. } = &o.record.body else { continue };
        let is_whole =
            |data: &[u8]| data.chunks_exact(BLOCK_SIZE).zip(crcs).all(|(block, crc)| crc32c(block) == *crc);
        let mut data = log.read_data(&o.segment, o.first_block, crcs.len() as u32).await?;
        if !is_whole(&data) {
            // All of a move is in vain for data that were misread.
            data = log.read_data(&o.segment, o.first_block, crcs.len() as u32).await?;
        }
        if !is_whole(&data) {
            return Err(Error::corrupt(
                "log data",
                format!("segment {}", o.segment.seq().0),
                format!("record {} of VDI {}", o.record.seq.0, o.record.vdi),
            ));
        }
        all[at..at + data.len()].copy_from_slice(&data);
        at += data.len();
    }
    Ok(all)
}

impl Vdi {
    /// The last record that the tree has, and the last one there is.
    #[must_use]
    pub fn records_through(&self) -> (VdiSeq, VdiSeq) {
        (self.0.record.get().applied.seq, self.0.seq.get())
    }
    /// Copies of its records lie in `segment` now: what they parked is read from there. The VDI is held, so
    /// nothing else changes the overlay; no await may lie between the append and this.
    pub fn adopt(&self, copies: &[Copy], segment: SegmentSeq) {
        let store = &self.0.shared.store;
        let mut dead = Vec::new();
        let mut blocks = 0;
        for copy in copies {
            let Some((from, first_block, placed)) = &copy.parked else { continue };
            let Body::WriteOut { at, crcs, .. } = &copy.record.body else { continue };
            let live =
                self.0.overlay.borrow_mut().exchange(at.0, crcs.len() as u64, |content| match content {
                    Content::Staged(s, first)
                        if s.segment.seq() == *from && s.first_block == *first_block =>
                    {
                        Some(Content::Placed(Rc::clone(placed), *first))
                    }
                    _ => None,
                });
            dead.extend(without(&placed.runs, live));
            blocks += crcs.len() as u64;
        }
        // What a later record replaced is named by its copy only, and forgotten with it.
        store.quarantine(dead.into_iter().collect(), segment);
        let mut reserved = self.0.reserved.get();
        let kept = reserved.data.saturating_sub(blocks);
        store.unreserve(Need { data: reserved.data - kept, metadata: 0 });
        reserved.data = kept;
        self.0.reserved.set(reserved);
    }
    /// Every record of it that the tree lacks has a durable copy, the first of them in `segment`.
    pub fn moved_to(&self, segment: SegmentSeq) {
        self.0.oldest.borrow_mut().iter_mut().for_each(|(_, s)| *s = segment);
    }
}

/// What of `runs` is not in `taken`, parts of them.
fn without(runs: &[Run], mut taken: Vec<Run>) -> Vec<Run> {
    taken.sort_unstable();
    let mut out = Vec::new();
    for run in runs {
        let (mut at, end) = (run.start.0, run.start.0 + u64::from(run.blocks));
        let first = taken.partition_point(|t| t.start.0 < at);
        for t in taken[first..].iter().take_while(|t| t.start.0 < end) {
            if t.start.0 > at {
                out.push(Run { start: crate::units::BlockAddr(at), blocks: (t.start.0 - at) as u32 });
            }
            at = t.start.0 + u64::from(t.blocks);
        }
        if at < end {
            out.push(Run { start: crate::units::BlockAddr(at), blocks: (end - at) as u32 });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::BlockAddr;

    #[test]
    fn what_is_not_taken_of_runs_is_left() {
        let run = |start, blocks| Run { start: BlockAddr(start), blocks };
        let runs = [run(10, 5), run(100, 2)];
        assert_eq!(without(&runs, vec![]), runs);
        assert_eq!(without(&runs, vec![run(100, 2), run(12, 1), run(10, 1)]), [run(11, 1), run(13, 2)]);
        assert_eq!(without(&runs, vec![run(10, 5), run(101, 1)]), [run(100, 1)]);
    }
}
