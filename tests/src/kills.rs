//! A daemon that is killed under load, again and again: the guest sees a pause and no error; nothing acknowledged is
//! lost, nothing in flight is lost, doubled or stuck. Completions come out of order, since in-order luck hides mistakes
//! in the tracking of what is in flight.

#![expect(clippy::unwrap_used, reason = "to panic is to fail")]

use std::path::PathBuf;
use std::time::Duration;

use crate::daemon::{LOG_SIZE, Served};
use crate::load::{LIMIT, Load};

/// What is done to one daemon.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Of everything random.
    pub seed: u64,
    /// How often it is killed.
    pub kills: u64,
    /// Queues that the guest uses.
    pub queues: u16,
    /// Shards of the daemon; with several, the disk is the last one's.
    pub shards: u16,
}

/// What happened.
#[derive(Clone, Copy, Default, Debug)]
pub struct Told {
    /// Requests that ended.
    pub completed: u64,
    /// Requests that were in flight at a kill.
    pub in_flight: u64,
}

/// A daemon that completes out of order, with a disk on its last shard; and the disk's socket.
#[must_use]
pub fn served(seed: u64, shards: u16) -> (Served, PathBuf) {
    let (seed, count) = (seed.to_string(), shards.to_string());
    let options = ["--test-reorder-completions", &seed, "--shards", &count, "--log-size", LOG_SIZE];
    let served = Served::started(&options);
    for other in 1..shards {
        // Each goes to another shard.
        let _socket = served.attach_new(&format!("other{other}"), 64 << 20);
    }
    let socket = served.attach_new("web", 64 << 20);
    (served, socket)
}

/// Carry out `plan` on a daemon and a store of its own; panics when a promise is broken.
#[must_use]
pub fn run(plan: Plan) -> Told {
    let (mut served, socket) = served(plan.seed, plan.shards);
    let mut load = Load::start(&socket, plan.queues, plan.seed).unwrap();
    let mut in_flight = 0;
    for kill in 0..plan.kills {
        for _ in 0..20 + load.draw.below(20) {
            load.submit();
            let q = load.draw.below(plan.queues.into()) as usize;
            load.take(q, 1 + (kill % 6) as usize);
        }
        load.submit();
        std::thread::sleep(Duration::from_micros(load.draw.below(3000)));
        if kill % 5 == 3 {
            // In good order: what is in flight is finished first, or left to the next daemon.
            served.daemon.stop().unwrap();
        } else {
            served.daemon.kill();
        }
        in_flight += load.in_flight() as u64;
        served.daemon.start().unwrap();
        load.guest.reconnect(&socket, LIMIT).unwrap();
        if kill % 2 == 0 {
            load.drain();
        }
    }
    load.drain();
    load.verify();
    for q in 0..plan.queues {
        load.guest.stop_queue(q.into()).unwrap();
    }
    Told { completed: load.completed, in_flight }
}
