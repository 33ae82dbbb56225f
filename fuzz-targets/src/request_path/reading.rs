//! What a chain means, read a second time by other code: as the virtio specification has it, with the bounds that the
//! device states.

use std::ops::Range;

use crate::guest::{Copied, pieces};

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const CHAIN_MAX: usize = 1024;
const RANGES_MAX: usize = 256;
const SECTOR: usize = 512;

/// How a request ends.
pub const OK: u8 = 0;
const FAILED: u8 = 1;
const UNSUPPORTED: u8 = 2;

/// What the device is, as far as a request can tell.
#[derive(Clone, Copy)]
pub struct Disk {
    /// Its size.
    pub sectors: u64,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Whether discards and zeroes were negotiated.
    pub trims: bool,
    /// What it is called.
    pub name: &'static str,
}

/// A chain that can be answered.
#[derive(Clone)]
pub struct Chain {
    /// What the device may write, as pieces of the file in order; the last byte is the status.
    pub writable: Vec<Range<usize>>,
    /// What is to happen.
    pub effect: Effect,
    /// The status it must get.
    pub status: u8,
    /// Bytes that the device must say it has written.
    pub written: u32,
}

/// What a request does to disk and guest.
#[derive(Clone)]
pub enum Effect {
    /// Nothing.
    None,
    /// The buffers become what the disk holds from this sector on.
    Read(u64),
    /// The disk becomes these bytes from this sector on.
    Write(u64, Vec<u8>),
    /// The whole blocks of these ranges (sector, sectors) become zeros.
    Discard(Vec<(u64, u64)>),
    /// These ranges become zeros.
    Zero(Vec<(u64, u64)>),
    /// The buffers begin with this.
    Say(Vec<u8>),
}

fn word(bytes: &[u8], at: usize, len: usize) -> u64 {
    bytes[at..at + len].iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))
}

/// The chain at `head` of the table at `table` with `size` entries; none when the device must break off.
#[must_use]
pub fn chain(memory: &Copied, table: u64, size: u16, head: u16, disk: Disk) -> Option<Chain> {
    let (readable, writable) = walk(memory, table, size, head)?;
    let len = |pieces: &[Range<usize>]| pieces.iter().map(Range::len).sum::<usize>();
    let (out_len, in_len) = (len(&readable).checked_sub(16)?, len(&writable).checked_sub(1)?);
    let written = u32::try_from(in_len).ok()?;
    // Overlapping descriptors can name far more than there is: only what fits the disk is copied.
    let refused = |status| (Effect::None, status, 0);
    let head_bytes = gather_at_most(memory, &readable, 16);
    let (kind, sector) = (word(&head_bytes, 0, 4), word(&head_bytes, 8, 8));
    let whole = |bytes: usize| bytes > 0 && bytes.is_multiple_of(SECTOR);
    let inside =
        |sector: u64, sectors: u64| sector.checked_add(sectors).is_some_and(|end| end <= disk.sectors);
    let (effect, status, written) = match kind {
        0 if out_len == 0 && whole(in_len) && inside(sector, (in_len / SECTOR) as u64) => {
            (Effect::Read(sector), OK, written)
        }
        1 if !disk.read_only
            && in_len == 0
            && whole(out_len)
            && inside(sector, (out_len / SECTOR) as u64) =>
        {
            let all = gather_at_most(memory, &readable, 16 + out_len);
            (Effect::Write(sector, all[16..].to_vec()), OK, 0)
        }
        0 | 1 => refused(FAILED),
        4 => (Effect::None, OK, 0),
        8 => {
            let serial = &disk.name.as_bytes()[..disk.name.len().min(20)];
            let mut said = serial.to_vec();
            said.resize(20, 0);
            said.truncate(in_len);
            let n = said.len() as u32;
            (Effect::Say(said), OK, n)
        }
        11 | 13 if !disk.trims => refused(UNSUPPORTED),
        11 | 13 => {
            let sound = !disk.read_only && in_len == 0 && out_len > 0 && out_len.is_multiple_of(16);
            if !sound || out_len / 16 > RANGES_MAX {
                refused(FAILED)
            } else {
                let all = gather_at_most(memory, &readable, 16 + out_len);
                match ranges(&all[16..], kind == 13, inside) {
                    Ok(ranges) if kind == 11 => (Effect::Discard(ranges), OK, 0),
                    Ok(ranges) => (Effect::Zero(ranges), OK, 0),
                    Err(status) => refused(status),
                }
            }
        }
        _ => refused(UNSUPPORTED),
    };
    Some(Chain { writable, effect, status, written: written + 1 })
}

fn gather_at_most(memory: &Copied, all: &[Range<usize>], mut len: usize) -> Vec<u8> {
    let mut cut = Vec::new();
    for piece in all {
        let n = piece.len().min(len);
        cut.push(piece.start..piece.start + n);
        len -= n;
    }
    memory.gather(&cut)
}

fn ranges(bytes: &[u8], unmap: bool, inside: impl Fn(u64, u64) -> bool) -> Result<Vec<(u64, u64)>, u8> {
    let mut all = Vec::new();
    for range in bytes.chunks_exact(16) {
        let (sector, sectors, flags) = (word(range, 0, 8), word(range, 8, 4), word(range, 12, 4));
        if flags > u64::from(unmap) {
            return Err(UNSUPPORTED);
        }
        if sectors > u64::from(u32::MAX - 7) || !inside(sector, sectors) {
            return Err(FAILED);
        }
        all.push((sector, sectors));
    }
    Ok(all)
}

/// Readable and writable buffers, in order.
type Buffers = (Vec<Range<usize>>, Vec<Range<usize>>);

fn walk(memory: &Copied, table: u64, size: u16, head: u16) -> Option<Buffers> {
    let first = descriptor(memory, table, u32::from(head), u32::from(size))?;
    if first.flags & INDIRECT != 0 {
        let entries = first.len / 16;
        if first.flags & NEXT != 0 || entries == 0 || !first.len.is_multiple_of(16) {
            return None;
        }
        return gather_chain(memory, first.addr, entries, 0);
    }
    gather_chain(memory, table, u32::from(size), u32::from(head))
}

fn gather_chain(memory: &Copied, table: u64, entries: u32, mut index: u32) -> Option<Buffers> {
    let (mut readable, mut writable) = (Vec::new(), Vec::new());
    for _ in 0..CHAIN_MAX {
        let d = descriptor(memory, table, index, entries)?;
        if d.flags & INDIRECT != 0 || (d.flags & WRITE == 0 && !writable_is_empty(&writable)) {
            return None;
        }
        let buffer = pieces(d.addr, d.len as usize)?;
        if d.flags & WRITE == 0 {
            readable.extend(buffer)
        } else {
            writable.extend(buffer)
        }
        if d.flags & NEXT == 0 {
            return Some((readable, writable));
        }
        index = u32::from(d.next);
    }
    None
}

fn writable_is_empty(writable: &[Range<usize>]) -> bool {
    writable.iter().all(Range::is_empty)
}

struct Descriptor {
    addr: u64,
    len: u32,
    flags: u16,
    next: u16,
}

fn descriptor(memory: &Copied, table: u64, index: u32, entries: u32) -> Option<Descriptor> {
    if index >= entries {
        return None;
    }
    let bytes = memory.at(table.checked_add(u64::from(index) * 16)?, 16)?;
    Some(Descriptor {
        addr: word(&bytes, 0, 8),
        len: word(&bytes, 8, 4) as u32,
        flags: word(&bytes, 12, 2) as u16,
        next: word(&bytes, 14, 2) as u16,
    })
}
