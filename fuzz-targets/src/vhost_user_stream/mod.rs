//! Target `vhost-user-stream`: a front end that says anything, with any descriptors, to a whole daemon: its sockets,
//! sessions, rings and shard. Whatever it says, it is heard out or cut off, the next front end and the other disk are
//! served, and nothing of it stays behind.

mod cast;
mod daemon;
mod messages;
mod watch;
mod wire;

use std::path::{Path, PathBuf};

use crate::guest::{FILE_BYTES, Guest, RING, write_request};
use crate::tape::Tape;
use cast::{Cast, RING_SIZE};
use daemon::Daemon;
use messages::{ask_features, greet, say_any, start_queue};
use watch::{Descriptors, Rounds};
use wire::Wire;

/// Steps of one run at most.
const STEPS_MAX: usize = 48;
/// Connections of one run at most.
const CONNECTIONS_MAX: usize = 4;

/// How far a sound front end gets, then what this one says and does.
///
/// # Panics
/// When the daemon's code does, does not answer, spins, keeps a descriptor, or fails the other disk.
pub fn run(bytes: &[u8]) {
    let before = Descriptors::now();
    let script = bytes.to_vec();
    Daemon::start().serve(move |[villain, neighbour]: &[PathBuf; 2], rounds: &Rounds| {
        {
            let cast = Cast::new();
            let mut play = Play { cast, socket: villain, rounds, offered: 0 };
            let mut tape = Tape::new(&script);
            for _ in 0..CONNECTIONS_MAX {
                play.connection(&mut tape);
                if tape.is_over() {
                    break;
                }
            }
        }
        for socket in [villain, neighbour] {
            is_served(socket);
        }
    });
    before.are_all_there_are();
}

struct Play<'s> {
    cast: Cast,
    socket: &'s Path,
    rounds: &'s Rounds,
    offered: u16,
}

impl Play<'_> {
    fn connection(&mut self, tape: &mut Tape<'_>) {
        let mut wire = Wire::connect(self.socket).expect("the device listens");
        let begin = tape.u8();
        let greeted = begin & 3 == 0 || greet(&mut wire).is_some();
        if greeted && begin & 2 != 0 {
            // A used index that a former queue has moved, say, may end it here.
            let _cut_off = start_queue(&mut wire, &self.cast, begin & 4 != 0);
        }
        for _ in 0..STEPS_MAX {
            if tape.is_over() || tape.u8() == 0xff {
                break;
            }
            self.step(&wire, tape);
        }
        wire.end();
    }
    fn step(&mut self, wire: &Wire, tape: &mut Tape<'_>) {
        let guest: &Guest = &self.cast.guest;
        match tape.u8() % 16 {
            0..=8 => say_any(wire, &self.cast, tape),
            9 => {
                let len = usize::from(tape.u8() % 64);
                let fds: Vec<_> = (0..tape.below(3)).map(|_| self.cast.any(tape)).collect();
                wire.send(tape.bytes(len), &fds);
            }
            10 | 11 => {
                let head = tape.u16() % RING_SIZE;
                write_request(guest, RING[0], RING_SIZE, head, tape);
                guest.put(RING[1] + 4 + 2 * u64::from(self.offered % RING_SIZE), &head.to_le_bytes());
                self.offered = self.offered.wrapping_add(1);
                guest.put(RING[1] + 2, &self.offered.to_le_bytes());
                let _full = rustix::io::write(&self.cast.kick, &1u64.to_le_bytes());
            }
            12 => {
                let at = RING[usize::from(tape.u8() % 3)] + tape.below(0x100);
                let len = usize::from(tape.u8() % 32);
                guest.put(at, tape.bytes(len));
                let _full = rustix::io::write(&self.cast.kick, &1u64.to_le_bytes());
            }
            13 if tape.u8() & 7 == 7 => guest.cut(tape.below(FILE_BYTES as u64)),
            14 if tape.u8() & 3 == 3 => self.rounds.come_to_rest(),
            _ => {}
        }
    }
}

/// A sound front end connects, starts a queue, and reads a sector.
fn is_served(socket: &Path) {
    let mut wire = Wire::connect(socket).expect("the device listens");
    let cast = Cast::new();
    let started = greet(&mut wire).and_then(|()| start_queue(&mut wire, &cast, false));
    assert!(started.is_some(), "a sound front end is cut off");
    // Kind, place, one buffer of one sector.
    write_request(&cast.guest, RING[0], RING_SIZE, 0, &mut Tape::new(&[0, 0, 8, 1, 0, 0]));
    cast.guest.put(RING[1] + 2, &1u16.to_le_bytes());
    rustix::io::write(&cast.kick, &1u64.to_le_bytes()).expect("a kick");
    let wait = rustix::event::Timespec { tv_sec: 15, tv_nsec: 0 };
    let start = std::time::Instant::now();
    while cast.guest.copy().u16_at(RING[2] + 2) != Some(1) {
        assert!(start.elapsed().as_secs() < 15, "a sound request is not answered");
        let mut fds = [rustix::event::PollFd::new(&cast.call, rustix::event::PollFlags::IN)];
        let _interrupted = rustix::event::poll(&mut fds, Some(&wait));
        let mut count = [0; 8];
        let _empty = rustix::io::read(&cast.call, &mut count);
    }
    assert!(ask_features(&mut wire).is_some(), "a sound front end is cut off");
    wire.end();
}
