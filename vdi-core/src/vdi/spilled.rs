//! Data of a checkpoint that left memory: read back from the log in the log's own order, many blocks with each
//! request. The disk's order would take a request for nearly every block.

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use super::Vdi;
use super::checkpoint::Piece;
use crate::buffer::AlignedBuf;
use crate::error::Result;
use crate::executor::{LocalFuture, join_all, yield_now};
use crate::limits::CHECKPOINT_READ_BYTES_MAX;
use crate::units::{BLOCK_SIZE, SegmentSeq};

/// Blocks between two pieces that are rather read than left out: as long as a request takes.
const GAP_BLOCKS: u32 = 16;
/// Reads on their way at once.
const READS_MAX: usize = 32;

/// Pieces whose data are on the log's device only.
#[derive(Default)]
pub(super) struct Spilled {
    by_segment: BTreeMap<SegmentSeq, Vec<Piece>>,
}

/// One read: blocks of a segment, and the pieces that lie there.
struct Stretch {
    blocks: Range<u32>,
    pieces: Vec<Piece>,
}

impl Spilled {
    pub fn add(&mut self, piece: Piece) {
        self.by_segment.entry(piece.staged.segment.seq()).or_default().push(piece);
    }
    /// The oldest stretches, some [`CHECKPOINT_READ_BYTES_MAX`] of them.
    fn take_some(&mut self) -> Vec<Stretch> {
        let mut bytes = 0;
        let mut out = Vec::new();
        while bytes < CHECKPOINT_READ_BYTES_MAX
            && let Some((_, pieces)) = self.by_segment.pop_first()
        {
            let new = stretches(pieces);
            bytes += new.iter().map(|s| s.blocks.len() * BLOCK_SIZE).sum::<usize>();
            out.extend(new);
        }
        out
    }
}

/// The pieces of one segment as few stretches.
fn stretches(mut pieces: Vec<Piece>) -> Vec<Stretch> {
    pieces.sort_unstable_by_key(Piece::first_in_segment);
    let mut out: Vec<Stretch> = Vec::new();
    for piece in pieces {
        let first = piece.first_in_segment();
        let end = first + piece.blocks;
        match out.last_mut() {
            Some(s) if first <= s.blocks.end + GAP_BLOCKS => {
                s.blocks.end = s.blocks.end.max(end);
                s.pieces.push(piece);
            }
            _ => out.push(Stretch { blocks: first..end, pieces: vec![piece] }),
        }
    }
    out
}

impl Vdi {
    /// Read some of what is spilled; the pieces, with their data, in order of the disk. None when there is no more.
    pub(super) async fn read_spilled(&self, spilled: &mut Spilled) -> Result<Option<Vec<Piece>>> {
        let mut pieces = Vec::new();
        let mut left = spilled.take_some().into_iter().peekable();
        if left.peek().is_none() {
            return Ok(None);
        }
        while left.peek().is_some() {
            let some = left.by_ref().take(READS_MAX);
            let reads: Vec<LocalFuture<'_, Result<Vec<Piece>>>> =
                some.map(|s| Box::pin(self.read_stretch(s)) as LocalFuture<'_, _>).collect();
            for read in join_all(reads).await {
                pieces.extend(read?);
            }
            yield_now().await;
        }
        pieces.sort_unstable_by_key(|p| p.at);
        Ok(Some(pieces))
    }
    async fn read_stretch(&self, stretch: Stretch) -> Result<Vec<Piece>> {
        let Stretch { blocks, mut pieces } = stretch;
        let segment = Rc::clone(&pieces[0].staged.segment);
        let data = self.0.shared.log.read_data(&segment, blocks.start, blocks.len() as u32).await?;
        let data: Rc<AlignedBuf> = Rc::new(data);
        for p in &mut pieces {
            let at = p.first_in_segment() - blocks.start;
            let bytes = &data[at as usize * BLOCK_SIZE..][..p.blocks as usize * BLOCK_SIZE];
            super::read::verify_all(bytes, &p.staged.crcs[p.first as usize..], &self.name())?;
            p.memory = Some((Rc::clone(&data), at));
        }
        Ok(pieces)
    }
}
