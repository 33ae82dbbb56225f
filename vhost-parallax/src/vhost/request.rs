//! A descriptor chain of a hostile guest becomes a fully validated [`Request`]. Nothing is checked
//! again past this file.
//!
//! The chain is walked here and not with `virtio_queue::DescriptorChain`, which ends silently on
//! errors and cannot be started at a descriptor that is taken up again after a restart. Each
//! descriptor and the request header are read once; the guest may change them right after.
//!
//! Two kinds of fault: a chain that leaves no place to answer makes the device broken ([`Fault`]);
//! anything else is answered with a status.

use smallvec::{SmallVec, smallvec};
use vdi_core::buffer::{GuestBufs, GuestSlice};
use vdi_core::limits::GUEST_REQUEST_BYTES_MAX;
use vdi_core::units::SECTOR_BYTES;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress};

use super::device::DeviceState;
use super::features::{RANGE_SECTORS_MAX, RANGES_MAX, SEGMENTS_MAX};
use super::guest_memory::GuestMemory;

const HEADER_BYTES: usize = 16;
const RANGE_BYTES: usize = 16;
const DESCRIPTOR_BYTES: u64 = 16;
const _: () =
    assert!(GUEST_REQUEST_BYTES_MAX <= u32::MAX as usize, "the used ring counts bytes with 32 bits");
/// Descriptors of one chain at most, header and status included.
const CHAIN_MAX: u32 = SEGMENTS_MAX as u32 + 2;

/// How a request ended, as virtio-blk numbers it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// Failed, or not a sensible request.
    IoError = 1,
    /// Not something this device does.
    Unsupported = 2,
}

/// One range of a discard or write-zeroes request, inside the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    /// First sector.
    pub sector: u64,
    /// Number of sectors, not zero.
    pub sectors: u64,
    /// For write zeroes: the space may be given back.
    pub unmap: bool,
}

/// What to do.
#[derive(Debug)]
pub enum Operation {
    /// Fill the buffers from `sector` on.
    Read {
        /// First sector; everything lies inside the disk.
        sector: u64,
        /// Whole sectors, at least one.
        bufs: GuestBufs,
    },
    /// Write the buffers from `sector` on.
    Write {
        /// First sector; everything lies inside the disk.
        sector: u64,
        /// Whole sectors, at least one.
        bufs: GuestBufs,
    },
    /// Make every write completed so far durable.
    Flush,
    /// Forget these ranges.
    Discard(SmallVec<[Range; 2]>),
    /// Zero these ranges.
    WriteZeroes(SmallVec<[Range; 2]>),
}

/// What a request is called in the log.
#[derive(Clone, Copy, Default, Debug)]
pub struct Name {
    /// No other's of its disk; 0 when nothing could offer it again.
    pub request: u64,
    /// An earlier daemon may have begun with it.
    pub again: bool,
}

/// A request to execute.
#[derive(Debug)]
pub struct Request {
    /// What it is called.
    pub name: Name,
    /// What to do.
    pub operation: Operation,
    /// Writes must be durable before they complete.
    pub durable: bool,
    /// Where to answer.
    pub reply: Reply,
}

/// Where the status goes; hand it back to the ring when the request has ended.
#[derive(Debug)]
pub struct Reply {
    pub(super) head: u16,
    pub(super) status: GuestSlice,
    pub(super) data_bytes: u32,
}

impl Reply {
    /// The descriptor at the head of its chain.
    #[must_use]
    pub fn head(&self) -> u16 {
        self.head
    }
}

/// What a chain means.
#[derive(Debug)]
pub enum Parsed {
    /// To be executed.
    Request(Request),
    /// Answered already, or refused: complete it with this status.
    Answer(Reply, Status),
}

/// What is wrong with a chain that cannot be answered.
pub type Fault = &'static str;

/// The buffers of a chain in order.
struct Chain {
    readable: GuestBufs,
    writable: GuestBufs,
}

/// Read and check the chain that starts at descriptor `head` of the table at `table` with `entries` entries.
pub fn parse(
    memory: &GuestMemory,
    table: u64,
    entries: u16,
    head: u16,
    name: Name,
    device: &DeviceState,
) -> Result<Parsed, Fault> {
    let chain = walk(memory, table, entries, head)?;
    let Some(data_len) = chain.writable.len().checked_sub(1) else {
        return Err("a chain without a status byte");
    };
    let status = chain.writable.range(data_len..data_len + 1).slices()[0].clone();
    let reply = Reply { head, status, data_bytes: 0 };
    if chain.readable.len() < HEADER_BYTES {
        return Err("a chain without a request header");
    }
    let mut header = [0; HEADER_BYTES];
    chain.readable.range(0..HEADER_BYTES).copy_to(&mut header);
    let kind = u32::from_le_bytes(header[..4].try_into().expect("four bytes"));
    let sector = u64::from_le_bytes(header[8..].try_into().expect("eight bytes"));
    let incoming = chain.writable.range(0..data_len);
    let outgoing = chain.readable.range(HEADER_BYTES..chain.readable.len());

    let operation = match kind {
        VIRTIO_BLK_T_IN => read(sector, incoming, &outgoing, device),
        VIRTIO_BLK_T_OUT => write(sector, outgoing, &incoming, device),
        VIRTIO_BLK_T_FLUSH => Ok(Operation::Flush),
        VIRTIO_BLK_T_DISCARD if device.discards() => {
            ranges(&outgoing, &incoming, 0, device).map(Operation::Discard)
        }
        VIRTIO_BLK_T_WRITE_ZEROES if device.writes_zeroes() => {
            ranges(&outgoing, &incoming, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP, device)
                .map(Operation::WriteZeroes)
        }
        VIRTIO_BLK_T_GET_ID => return Ok(answer_id(reply, &incoming, device)),
        _ => Err(Status::Unsupported),
    };
    Ok(match operation {
        Ok(operation) => {
            let data_bytes =
                if let Operation::Read { bufs, .. } = &operation { bufs.len() as u32 } else { 0 };
            let reply = Reply { data_bytes, ..reply };
            Parsed::Request(Request { name, operation, durable: device.writes_through(), reply })
        }
        Err(status) => Parsed::Answer(reply, status),
    })
}

/// Collect the buffers; every descriptor is checked before it is believed.
fn walk(memory: &GuestMemory, table: u64, entries: u16, head: u16) -> Result<Chain, Fault> {
    let mut chain = Chain { readable: GuestBufs::new(), writable: GuestBufs::new() };
    let (mut table, mut entries, mut index) = (table, u32::from(entries), u32::from(head));
    let mut indirect = false;
    let mut walked = 0;
    loop {
        if index >= entries {
            return Err("a descriptor index beyond the table");
        }
        let at =
            table.checked_add(u64::from(index) * DESCRIPTOR_BYTES).ok_or("a descriptor table at the end")?;
        let d: Descriptor = memory
            .map()
            .read_obj(GuestAddress(at))
            .map_err(|_| "a descriptor table outside the guest's memory")?;
        if d.refers_to_indirect_table() {
            if indirect || walked > 0 || d.has_next() {
                return Err("an indirect table inside a chain");
            }
            if d.len() == 0 || !u64::from(d.len()).is_multiple_of(DESCRIPTOR_BYTES) {
                return Err("an indirect table of no whole descriptors");
            }
            (table, entries, index) = (d.addr().0, d.len() / DESCRIPTOR_BYTES as u32, 0);
            indirect = true;
            continue;
        }
        walked += 1;
        if walked > CHAIN_MAX {
            return Err("a chain that loops or is longer than the device allows");
        }
        take(memory, &mut chain, d)?;
        if !d.has_next() {
            return Ok(chain);
        }
        index = u32::from(d.next());
    }
}

fn take(memory: &GuestMemory, chain: &mut Chain, d: Descriptor) -> Result<(), Fault> {
    if !d.is_write_only() && !chain.writable.is_empty() {
        return Err("a readable descriptor behind a writable one");
    }
    let bufs = if d.is_write_only() { &mut chain.writable } else { &mut chain.readable };
    if !memory.push_slices(d.addr().0, d.len() as usize, bufs) {
        return Err("a buffer outside the guest's memory");
    }
    Ok(())
}

/// The sectors of `len` data bytes at `sector`, checked against the disk and against what one request may be.
fn check_data(sector: u64, len: usize, device: &DeviceState) -> Result<(), Status> {
    if len > GUEST_REQUEST_BYTES_MAX {
        return Err(Status::IoError);
    }
    let len = len as u64;
    if len == 0 || !len.is_multiple_of(SECTOR_BYTES) {
        return Err(Status::IoError);
    }
    check_inside(sector, len / SECTOR_BYTES, device)
}

fn check_inside(sector: u64, sectors: u64, device: &DeviceState) -> Result<(), Status> {
    match sector.checked_add(sectors) {
        Some(end) if end <= device.sectors() => Ok(()),
        _ => Err(Status::IoError),
    }
}

fn read(
    sector: u64,
    incoming: GuestBufs,
    outgoing: &GuestBufs,
    device: &DeviceState,
) -> Result<Operation, Status> {
    if !outgoing.is_empty() {
        return Err(Status::IoError);
    }
    check_data(sector, incoming.len(), device)?;
    Ok(Operation::Read { sector, bufs: incoming })
}

fn write(
    sector: u64,
    outgoing: GuestBufs,
    incoming: &GuestBufs,
    device: &DeviceState,
) -> Result<Operation, Status> {
    if device.read_only() || !incoming.is_empty() {
        return Err(Status::IoError);
    }
    check_data(sector, outgoing.len(), device)?;
    Ok(Operation::Write { sector, bufs: outgoing })
}

fn ranges(
    outgoing: &GuestBufs,
    incoming: &GuestBufs,
    flags_allowed: u32,
    device: &DeviceState,
) -> Result<SmallVec<[Range; 2]>, Status> {
    let len = outgoing.len();
    if device.read_only() || !incoming.is_empty() || len == 0 || !len.is_multiple_of(RANGE_BYTES) {
        return Err(Status::IoError);
    }
    if len / RANGE_BYTES > RANGES_MAX as usize {
        return Err(Status::IoError);
    }
    let mut bytes: SmallVec<[u8; 2 * RANGE_BYTES]> = smallvec![0; len];
    outgoing.copy_to(&mut bytes);
    let mut out = SmallVec::new();
    for range in bytes.chunks_exact(RANGE_BYTES) {
        let sector = u64::from_le_bytes(range[..8].try_into().expect("eight bytes"));
        let sectors = u32::from_le_bytes(range[8..12].try_into().expect("four bytes"));
        let flags = u32::from_le_bytes(range[12..].try_into().expect("four bytes"));
        if flags & !flags_allowed != 0 {
            return Err(Status::Unsupported);
        }
        if sectors > RANGE_SECTORS_MAX {
            return Err(Status::IoError);
        }
        check_inside(sector, u64::from(sectors), device)?;
        if sectors > 0 {
            out.push(Range { sector, sectors: u64::from(sectors), unmap: flags != 0 });
        }
    }
    Ok(out)
}

fn answer_id(reply: Reply, incoming: &GuestBufs, device: &DeviceState) -> Parsed {
    let mut serial = [0; VIRTIO_BLK_ID_BYTES as usize];
    let name = device.name().as_bytes();
    let n = name.len().min(serial.len());
    serial[..n].copy_from_slice(&name[..n]);
    let n = incoming.len().min(serial.len());
    incoming.range(0..n).copy_from(&serial[..n]);
    Parsed::Answer(Reply { data_bytes: n as u32, ..reply }, Status::Ok)
}

#[cfg(test)]
mod tests;
