//! A validated request, executed on its VDI.

use std::ops::Range;

use vdi_core::buffer::GuestBufs;
use vdi_core::limits::REQUEST_BYTES_MAX;
use vdi_core::units::SECTOR_BYTES;
use vdi_core::vdi::{Ack, Parts, Vdi};
use vdi_core::{ErrorKind, Result};

use crate::vhost::{Operation, Status};

/// Execute `operation`; a failure is logged and becomes the guest's I/O error. On a disk attached `read_only` what is
/// left of a held VDI can be read.
pub async fn execute(
    vdi: &Vdi,
    read_only: bool,
    operation: Operation,
    durable: bool,
    parts: &Parts,
) -> Status {
    let ack = if durable { Ack::WriteThrough } else { Ack::WriteBack };
    let result = match operation {
        Operation::Read { sector, bufs } => read(vdi, read_only, sector, &bufs).await,
        Operation::Write { sector, bufs } => write(vdi, sector, &bufs, ack, parts).await,
        Operation::Flush => vdi.flush().await,
        Operation::Discard(ranges) => {
            let mut done = Ok(());
            for r in ranges {
                done = done.and(vdi.discard_for(parts, r.sector, r.sectors, ack).await);
            }
            done
        }
        Operation::WriteZeroes(ranges) => {
            let mut done = Ok(());
            for r in ranges {
                done = done.and(vdi.write_zeroes_for(parts, r.sector, r.sectors, r.unmap, ack).await);
            }
            done
        }
    };
    match result {
        Ok(()) => Status::Ok,
        Err(e) => {
            // The guest's own mistakes (a request that raced a shrink) are not the operator's business.
            if e.kind() != ErrorKind::BadRequest {
                tracing::warn!(vdi = vdi.name(), error = %e, hint = e.hint(), "a request failed");
            }
            Status::IoError
        }
    }
}

/// The pieces of a request that is larger than the engine takes at once.
fn pieces(len: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len).step_by(REQUEST_BYTES_MAX).map(move |at| at..len.min(at + REQUEST_BYTES_MAX))
}

async fn read(vdi: &Vdi, read_only: bool, sector: u64, bufs: &GuestBufs) -> Result<()> {
    if bufs.len() <= REQUEST_BYTES_MAX && !read_only {
        return vdi.read(sector, bufs).await;
    }
    for piece in pieces(bufs.len()) {
        let (at, bufs) = (sector + piece.start as u64 / SECTOR_BYTES, bufs.range(piece));
        if read_only { vdi.salvage(at, &bufs).await? } else { vdi.read(at, &bufs).await? }
    }
    Ok(())
}

async fn write(vdi: &Vdi, sector: u64, bufs: &GuestBufs, ack: Ack, parts: &Parts) -> Result<()> {
    if bufs.len() <= REQUEST_BYTES_MAX {
        return vdi.write_for(parts, sector, bufs, ack).await;
    }
    for piece in pieces(bufs.len()) {
        let at = sector + piece.start as u64 / SECTOR_BYTES;
        vdi.write_for(parts, at, &bufs.range(piece), ack).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_a_request_exactly_in_whole_sectors() {
        let len = 2 * REQUEST_BYTES_MAX + 512;
        let all: Vec<_> = pieces(len).collect();
        assert_eq!(
            all.iter().map(Range::len).collect::<Vec<_>>(),
            [REQUEST_BYTES_MAX, REQUEST_BYTES_MAX, 512]
        );
        assert_eq!(all[2], 2 * REQUEST_BYTES_MAX..len);
        assert!(REQUEST_BYTES_MAX.is_multiple_of(SECTOR_BYTES as usize));
    }
}
