//! Messages: the ones that start a queue, and ones of every kind that the tape fills in.

use std::os::fd::{AsFd, BorrowedFd};

use super::cast::{Cast, INFLIGHT_BYTES, RING_SIZE};
use super::wire::{FDS_MAX, NEED_REPLY, VERSION, Wire};
use crate::guest::{FILE_BYTES, REGIONS, RING, USER_BASE};
use crate::tape::Tape;

/// Requests by the numbers of the specification.
mod number {
    pub const GET_FEATURES: u32 = 1;
    pub const SET_FEATURES: u32 = 2;
    pub const SET_OWNER: u32 = 3;
    pub const SET_MEM_TABLE: u32 = 5;
    pub const SET_VRING_NUM: u32 = 8;
    pub const SET_VRING_ADDR: u32 = 9;
    pub const SET_VRING_BASE: u32 = 10;
    pub const GET_VRING_BASE: u32 = 11;
    pub const SET_VRING_KICK: u32 = 12;
    pub const SET_VRING_CALL: u32 = 13;
    pub const SET_VRING_ERR: u32 = 14;
    pub const GET_PROTOCOL_FEATURES: u32 = 15;
    pub const SET_PROTOCOL_FEATURES: u32 = 16;
    pub const SET_VRING_ENABLE: u32 = 18;
    pub const SET_BACKEND_REQ_FD: u32 = 21;
    pub const GET_CONFIG: u32 = 24;
    pub const SET_CONFIG: u32 = 25;
    pub const GET_INFLIGHT_FD: u32 = 31;
    pub const SET_INFLIGHT_FD: u32 = 32;
    pub const RESET_DEVICE: u32 = 34;
    pub const ADD_MEM_REG: u32 = 37;
    pub const REM_MEM_REG: u32 = 38;
    pub const LAST: u32 = 45;
}

const KNOWN: [u32; 22] = [
    number::GET_FEATURES,
    number::SET_FEATURES,
    number::SET_OWNER,
    number::SET_MEM_TABLE,
    number::SET_VRING_NUM,
    number::SET_VRING_ADDR,
    number::SET_VRING_BASE,
    number::GET_VRING_BASE,
    number::SET_VRING_KICK,
    number::SET_VRING_CALL,
    number::SET_VRING_ERR,
    number::GET_PROTOCOL_FEATURES,
    number::SET_PROTOCOL_FEATURES,
    number::SET_VRING_ENABLE,
    number::SET_BACKEND_REQ_FD,
    number::GET_CONFIG,
    number::SET_CONFIG,
    number::GET_INFLIGHT_FD,
    number::SET_INFLIGHT_FD,
    number::RESET_DEVICE,
    number::ADD_MEM_REG,
    number::REM_MEM_REG,
];

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn quads(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn region(index: usize) -> Vec<u8> {
    let (guest, file, len) = REGIONS[index];
    quads(&[guest, len, USER_BASE + file, file])
}

fn ring_place(index: u32) -> Vec<u8> {
    let [table, available, used] = RING.map(|at| USER_BASE + at);
    [words(&[index, 0]), quads(&[table, used, available, 0])].concat()
}

/// Ask for a number. None when the device has hung up.
pub fn ask_features(wire: &mut Wire) -> Option<u64> {
    ask(wire, number::GET_FEATURES)
}

fn ask(wire: &mut Wire, number: u32) -> Option<u64> {
    wire.say(number, 0, &[], &[]);
    let (answered, body) = wire.answer()?;
    assert_eq!(answered, number, "the answer belongs to the question");
    Some(u64::from_le_bytes(body.try_into().expect("a number is eight bytes")))
}

/// Accept all that is offered. None when the device has hung up.
pub fn greet(wire: &mut Wire) -> Option<()> {
    let features = ask_features(wire)?;
    wire.say(number::SET_FEATURES, 0, &quads(&[features]), &[]);
    let protocol = ask(wire, number::GET_PROTOCOL_FEATURES)?;
    wire.say(number::SET_PROTOCOL_FEATURES, 0, &quads(&[protocol]), &[]);
    wire.say(number::SET_OWNER, 0, &[], &[]);
    Some(())
}

/// Everything that a sound front end says to start queue 0; it is served, or the device has hung up.
pub fn start_queue(wire: &mut Wire, cast: &Cast, inflight: bool) -> Option<()> {
    let table = [words(&[3, 0]), region(0), region(1), region(2)].concat();
    wire.say(number::SET_MEM_TABLE, 0, &table, &[cast.guest.file().as_fd(); 3]);
    if inflight {
        wire.say(number::SET_INFLIGHT_FD, 0, &inflight_area(), &[cast.inflight.as_fd()]);
    }
    wire.say(number::SET_VRING_NUM, 0, &words(&[0, u32::from(RING_SIZE)]), &[]);
    wire.say(number::SET_VRING_BASE, 0, &words(&[0, 0]), &[]);
    wire.say(number::SET_VRING_ADDR, 0, &ring_place(0), &[]);
    wire.say(number::SET_VRING_CALL, 0, &quads(&[0]), &[cast.call.as_fd()]);
    wire.say(number::SET_VRING_KICK, 0, &quads(&[0]), &[cast.kick.as_fd()]);
    wire.say(number::SET_VRING_ENABLE, NEED_REPLY, &words(&[0, 1]), &[]);
    wire.answer().map(drop)
}

fn inflight_area() -> Vec<u8> {
    [quads(&[INFLIGHT_BYTES, 0]), [2u16.to_le_bytes(), RING_SIZE.to_le_bytes()].concat(), vec![0; 4]].concat()
}

/// One message of the tape's: its number, a body that fits it or does not, and descriptors.
pub fn say_any(wire: &Wire, cast: &Cast, tape: &mut Tape<'_>) {
    let number = match tape.u8() {
        240.. => u32::from(tape.u8()) % (number::LAST + 5),
        often => KNOWN[usize::from(often) % KNOWN.len()],
    };
    let how = tape.u8();
    let index = if how & 1 == 0 { 0 } else { tape.interesting() as u32 };
    let (mut body, mut fds) = sound(number, index, cast, tape);
    if how & 6 == 6 && !body.is_empty() {
        let at = tape.below(body.len() as u64) as usize;
        body[at] ^= 1 << (tape.u8() % 8);
    }
    if how & 24 == 24 {
        fds = (0..tape.below(FDS_MAX as u64)).map(|_| cast.any(tape)).collect();
    }
    let mut flags = VERSION | if how & 32 == 0 { NEED_REPLY } else { 0 };
    let mut len = body.len() as u32;
    match how >> 6 {
        1 => len = tape.interesting() as u32,
        2 if tape.u8() & 3 == 3 => flags = tape.u32(),
        _ => {}
    }
    wire.send(&[words(&[number, flags, len]), body].concat(), &fds);
}

/// A body as request `number` has it, and its descriptors.
fn sound<'c>(number: u32, index: u32, cast: &'c Cast, tape: &mut Tape<'_>) -> (Vec<u8>, Vec<BorrowedFd<'c>>) {
    let one = |tape: &mut Tape<'_>, usual: BorrowedFd<'c>| {
        vec![if tape.u8() & 3 == 3 { cast.any(tape) } else { usual }]
    };
    match number {
        number::SET_FEATURES | number::SET_PROTOCOL_FEATURES => (quads(&[tape.interesting()]), vec![]),
        number::SET_MEM_TABLE => memory_table(cast, tape),
        number::SET_VRING_NUM => (words(&[index, 1 << (tape.u8() % 12)]), vec![]),
        number::SET_VRING_BASE => (words(&[index, tape.interesting() as u32]), vec![]),
        number::GET_VRING_BASE => (words(&[index, 0]), vec![]),
        number::SET_VRING_ENABLE => (words(&[index, u32::from(tape.u8() % 3)]), vec![]),
        number::SET_VRING_ADDR => {
            let mut place = ring_place(index);
            if tape.u8() & 3 == 3 {
                let at = 8 * (1 + tape.below(3) as usize);
                place[at..at + 8].copy_from_slice(&(USER_BASE + tape.below(FILE_BYTES as u64)).to_le_bytes());
            }
            (place, vec![])
        }
        number::SET_VRING_KICK | number::SET_VRING_CALL | number::SET_VRING_ERR => {
            let usual = if number == number::SET_VRING_KICK { &cast.kick } else { &cast.call };
            match tape.u8() & 7 {
                7 => (quads(&[u64::from(index) | 0x100]), vec![]),
                _ => (quads(&[u64::from(index)]), one(tape, usual.as_fd())),
            }
        }
        number::SET_BACKEND_REQ_FD => (vec![], vec![cast.any(tape)]),
        number::GET_CONFIG | number::SET_CONFIG => {
            let len = if number == number::SET_CONFIG { 1 } else { tape.u8() };
            let at = if number == number::SET_CONFIG { 32 } else { u32::from(tape.u8()) };
            let payload: Vec<u8> = (0..len).map(|_| tape.u8() & 1).collect();
            ([words(&[at, u32::from(len), 0]), payload].concat(), vec![])
        }
        number::GET_INFLIGHT_FD => (inflight_area(), vec![]),
        number::SET_INFLIGHT_FD => (inflight_area(), one(tape, cast.inflight.as_fd())),
        number::ADD_MEM_REG | number::REM_MEM_REG => {
            let body = [quads(&[0]), region(tape.below(3) as usize)].concat();
            let fds = one(tape, cast.guest.file().as_fd());
            (body, if number == number::ADD_MEM_REG { fds } else { vec![] })
        }
        0..=number::LAST => (vec![], vec![]),
        _ => (tape.bytes(16).to_vec(), vec![]),
    }
}

fn memory_table<'c>(cast: &'c Cast, tape: &mut Tape<'_>) -> (Vec<u8>, Vec<BorrowedFd<'c>>) {
    let count = 1 + tape.below(3) as usize;
    let mut body = words(&[count as u32, 0]);
    let mut fds = Vec::new();
    for index in 0..count {
        let mut region = region(index);
        fds.push(cast.guest.file().as_fd());
        if tape.u8() & 3 == 3 {
            let at = 8 * tape.below(4) as usize;
            region[at..at + 8].copy_from_slice(&tape.interesting().to_le_bytes());
            fds[index] = cast.any(tape);
        }
        body.extend(region);
    }
    (body, fds)
}
