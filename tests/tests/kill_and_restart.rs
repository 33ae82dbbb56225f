//! `kill -9` of the daemon under load: the guest sees a pause; nothing acknowledged is lost, nothing in
//! flight is lost, doubled or stuck.

use std::collections::BTreeMap;
use std::time::Duration;

use parallax_tests::daemon::Served;
use parallax_tests::front_end::{FrontEnd, READ_REQUEST, Shape};

const LIMIT: Duration = Duration::from_secs(30);
const BLOCKS: u64 = 700;
const BLOCK: usize = 4096;
const KILLS: u64 = 6;

/// xorshift64.
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// A block says which one it is and which version, all over.
fn stamp(block: u64, version: u64) -> Vec<u8> {
    let words = [block.to_le_bytes(), version.to_le_bytes()].concat();
    words.iter().copied().cycle().take(BLOCK).collect()
}

struct Load {
    guest: FrontEnd,
    draw: Draw,
    /// Version of each block that was acknowledged.
    acknowledged: Vec<u64>,
    /// Slot of each write in flight, with its block and version.
    writes: BTreeMap<u16, (u64, u64)>,
    /// Slot of each read in flight, with its block.
    reads: BTreeMap<u16, u64>,
    completed: u64,
}

impl Load {
    fn busy(&self, block: u64) -> bool {
        self.writes.values().any(|(b, _)| *b == block) || self.reads.values().any(|b| *b == block)
    }
    /// Fill the queue with writes and reads of blocks that are not in flight.
    fn submit(&mut self) {
        for _ in 0..40 {
            if self.guest.queues[0].room() == 0 {
                break;
            }
            let block = self.draw.below(BLOCKS);
            if self.busy(block) {
                continue;
            }
            let read = self.draw.below(4) == 0;
            let (queue, ram) = self.guest.queue(0);
            if read {
                let slot = queue.submit(ram, READ_REQUEST, block * 8, BLOCK as u32, 1);
                self.reads.insert(slot, block);
            } else {
                let version = self.acknowledged[block as usize] + 1;
                let slot = queue.submit_write(ram, block * 8, &stamp(block, version));
                self.writes.insert(slot, (block, version));
            }
        }
        self.guest.queue(0).0.kick();
    }
    /// Take completions, at least `count`.
    fn take(&mut self, count: usize) {
        let (queue, ram) = self.guest.queue(0);
        for done in queue.wait(ram, count, LIMIT) {
            assert_eq!(done.status, 0, "the guest sees no error");
            self.completed += 1;
            if let Some((block, version)) = self.writes.remove(&done.slot) {
                self.acknowledged[block as usize] = version;
            } else if let Some(block) = self.reads.remove(&done.slot) {
                let (queue, ram) = self.guest.queue(0);
                let found = ram.read(queue.data_at(done.slot), BLOCK);
                assert_eq!(found, self.expected(block), "block {block}");
            } else {
                panic!("slot {} ended without having begun", done.slot);
            }
        }
    }
    fn expected(&self, block: u64) -> Vec<u8> {
        match self.acknowledged[block as usize] {
            0 => vec![0; BLOCK],
            version => stamp(block, version),
        }
    }
    fn drain(&mut self) {
        let left = self.writes.len() + self.reads.len();
        self.take(left);
        assert!(self.guest.queue(0).0.in_flight().is_empty());
    }
}

#[test]
fn a_killed_daemon_loses_doubles_and_forgets_nothing() {
    let mut served = Served::started(&["--test-reorder-completions", "20261120"]);
    let socket = served.attach_new("web", 64 << 20);
    let shape = Shape { size: 64, data_bytes: BLOCK as u64, ..Shape::default() };
    let guest = FrontEnd::start(&socket, shape).unwrap();
    let mut load = Load {
        guest,
        draw: Draw(4711),
        acknowledged: vec![0; BLOCKS as usize],
        writes: BTreeMap::new(),
        reads: BTreeMap::new(),
        completed: 0,
    };
    let mut taken_up = 0;
    for kill in 0..KILLS {
        for _ in 0..20 + load.draw.below(20) {
            load.submit();
            load.take(1 + kill as usize);
        }
        load.submit();
        std::thread::sleep(Duration::from_micros(load.draw.below(3000)));
        served.daemon.kill();
        taken_up += load.guest.queue(0).0.in_flight().len();
        served.daemon.start().unwrap();
        load.guest.reconnect(&socket, LIMIT).unwrap();
        if kill % 2 == 0 {
            load.drain();
        }
    }
    load.drain();
    assert!(taken_up > 50, "{taken_up} requests were in flight at the kills");
    let completed = load.completed;
    for block in 0..BLOCKS {
        assert_eq!(load.guest.read(block * 8, BLOCK), load.expected(block), "block {block}");
    }
    println!("{completed} requests, {taken_up} in flight at {KILLS} kills");
    load.guest.stop_queue(0).unwrap();
}

#[test]
fn attachments_and_data_outlive_kills_and_orderly_stops() {
    let mut served = Served::started(&[]);
    let socket = served.attach_new("web", 64 << 20);
    let mut guest = FrontEnd::start(&socket, Shape::default()).unwrap();
    assert_eq!(guest.write(0, &[1; 8192]), 0);
    served.daemon.kill();
    served.daemon.start().unwrap();
    guest.reconnect(&socket, LIMIT).unwrap();
    assert_eq!(guest.read(0, 8192), [1; 8192]);
    assert_eq!(guest.write(8, &[2; 4096]), 0);
    served.daemon.stop().unwrap();
    served.daemon.start().unwrap();
    guest.reconnect(&socket, LIMIT).unwrap();
    assert_eq!(guest.read(8, 4096), [2; 4096]);
}

#[test]
fn a_write_that_was_in_flight_does_not_come_back_over_a_later_one() {
    let mut served = Served::started(&["--test-reorder-completions", "7"]);
    let socket = served.attach_new("web", 64 << 20);
    let shape = Shape { size: 64, data_bytes: BLOCK as u64, ..Shape::default() };
    let mut guest = FrontEnd::start(&socket, shape).unwrap();
    let mut overtaken = 0;
    for round in 1..=KILLS {
        // Two writes of each block side by side: the log has them in this order, whatever is answered first.
        let mut second: BTreeMap<u16, u64> = BTreeMap::new();
        let mut first = second.clone();
        for (version, slots) in [(2 * round, &mut first), (2 * round + 1, &mut second)] {
            for block in 0..16 {
                let (queue, ram) = guest.queue(0);
                slots.insert(queue.submit_write(ram, block * 8, &stamp(block, version)), block);
            }
        }
        let (queue, ram) = guest.queue(0);
        queue.kick();
        let done = queue.wait(ram, 12, LIMIT);
        served.daemon.kill();
        let answered = |slot: &u16| done.iter().any(|d| d.slot == *slot);
        let late: Vec<u64> = first.iter().filter(|(s, _)| !answered(s)).map(|(_, b)| *b).collect();
        overtaken += second.iter().filter(|(s, b)| answered(s) && late.contains(b)).count();
        served.daemon.start().unwrap();
        guest.reconnect(&socket, LIMIT).unwrap();
        let (queue, ram) = guest.queue(0);
        let left = queue.in_flight().len();
        assert!(queue.wait(ram, left, LIMIT).iter().all(|d| d.status == 0));
        for block in 0..16 {
            let newest = guest.read(block * 8, BLOCK) == stamp(block, 2 * round + 1);
            assert!(newest, "block {block} in round {round} went back to the first write");
        }
    }
    assert!(overtaken > 0, "some second write was answered before the first");
}
