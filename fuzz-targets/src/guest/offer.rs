//! Requests that the tape builds: whole ones, and ones that are wrong in one place.

use super::Guest;
use crate::tape::Tape;

/// Where the guest keeps its indirect tables, headers, status bytes and data.
const TABLES_AT: u64 = 0x4000;
const TABLE_BYTES: u64 = 0x200;
const HEADERS_AT: u64 = 0x8000;
const STATUS_AT: u64 = 0x9000;
const DATA_AT: u64 = 0xa000;
/// Places worth a buffer: across two regions, at the end of one, behind the hole, in the rings, in no memory.
const ODD_PLACES: [u64; 10] =
    [0xfe00, 0x1_7e00, 0x1_7fff, 0x10_0000, 0x10_3e00, 0x10_3fff, 0x1000, 0x2000, 0x3000, u64::MAX - 511];
/// Lengths of buffers.
const LENGTHS: [u32; 12] = [512, 512, 4096, 1024, 0, 1, 16, 511, 8192, 0x8000, 0x6000, u32::MAX];

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

struct Descriptor {
    addr: u64,
    len: u32,
    flags: u16,
}

/// Write one request of the tape's into the guest's memory: header, data, descriptors from `head` on.
pub fn write_request(guest: &Guest, table: u64, size: u16, head: u16, tape: &mut Tape<'_>) {
    let kind = *tape.pick(&[0u32, 1, 1, 0, 4, 8, 11, 13, 13, 2, 0x8000_0000]);
    let how = tape.u8();
    let header_at = HEADERS_AT + 16 * u64::from(head);
    let sector = if how & 1 == 0 { tape.below(64) } else { tape.below(0xc8) };
    guest.put(header_at, &kind.to_le_bytes());
    guest.put(header_at + 8, &sector.to_le_bytes());

    let mut chain = vec![Descriptor { addr: header_at, len: 16, flags: 0 }];
    if how & 2 != 0 {
        chain[0].len = 5;
        chain.push(Descriptor { addr: header_at + 5, len: 11, flags: 0 });
    }
    data(guest, kind, &mut chain, tape);
    chain.push(Descriptor { addr: STATUS_AT + u64::from(head), len: 1, flags: WRITE });
    if how & 12 == 12 {
        spoil(&mut chain, tape);
    }
    if how & 16 == 0 {
        let at = TABLES_AT + TABLE_BYTES * u64::from(head);
        put_chain(guest, at, &chain, |i| i);
        let len = 16 * chain.len() as u32 + u32::from(how & 224 == 224);
        put_chain(guest, table, &[Descriptor { addr: at, len, flags: INDIRECT }], |_| head);
    } else {
        put_chain(guest, table, &chain, |i| (head + i) % size);
    }
}

/// Buffers as the kind wants them, and what is in them.
fn data(guest: &Guest, kind: u32, chain: &mut Vec<Descriptor>, tape: &mut Tape<'_>) {
    let flags = if kind == 0 || kind == 8 { WRITE } else { 0 };
    if kind == 11 || kind == 13 {
        let count = tape.below(4);
        for i in 0..count {
            let (sector, sectors) = (tape.below(0xc8), tape.below(100) as u32);
            guest.put(DATA_AT + 16 * i, &sector.to_le_bytes());
            guest.put(DATA_AT + 16 * i + 8, &sectors.to_le_bytes());
            guest.put(DATA_AT + 16 * i + 12, &u32::from(tape.u8() & 7 == 7).to_le_bytes());
        }
        chain.push(Descriptor { addr: DATA_AT, len: 16 * count as u32, flags });
        return;
    }
    let mut next = DATA_AT;
    for _ in 0..tape.below(4) {
        let len = *tape.pick(&LENGTHS);
        let addr = if tape.u8() & 7 == 7 { *tape.pick(&ODD_PLACES) } else { next };
        if kind == 1 {
            let pattern: Vec<u8> =
                tape.bytes(4).iter().copied().cycle().take(len.min(0x8000) as usize).collect();
            guest.put(addr, &pattern);
        }
        chain.push(Descriptor { addr, len, flags });
        next = addr.wrapping_add(u64::from(len));
    }
}

/// One thing wrong.
fn spoil(chain: &mut [Descriptor], tape: &mut Tape<'_>) {
    let index = tape.below(chain.len() as u64) as usize;
    let d = &mut chain[index];
    match tape.u8() % 5 {
        0 => d.flags ^= WRITE,
        1 => d.flags ^= INDIRECT,
        2 => d.len = tape.interesting() as u32,
        3 => d.addr = tape.interesting(),
        _ => d.addr ^= 1 << (tape.u8() % 64),
    }
}

fn put_chain(guest: &Guest, table: u64, chain: &[Descriptor], place: impl Fn(u16) -> u16) {
    let mut left = chain.len();
    for (i, d) in (0u16..).zip(chain) {
        left -= 1;
        let flags = if left > 0 { d.flags | NEXT } else { d.flags };
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&d.addr.to_le_bytes());
        bytes[8..12].copy_from_slice(&d.len.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..].copy_from_slice(&place(i + 1).to_le_bytes());
        guest.put(table.wrapping_add(16 * u64::from(place(i))), &bytes);
    }
}
