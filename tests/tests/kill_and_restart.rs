//! `kill -9` of the daemon under load: the guest sees a pause; nothing acknowledged is lost, nothing in
//! flight is lost, doubled or stuck.

use std::collections::BTreeMap;
use std::time::Duration;

use parallax_tests::daemon::{LOG_SIZE, Served};
use parallax_tests::front_end::{FrontEnd, Shape};
use parallax_tests::kills::{Plan, run};
use parallax_tests::load::stamp;
use parallax_tests::storm;

const LIMIT: Duration = Duration::from_secs(30);
const BLOCK: usize = 4096;
const KILLS: u64 = 6;

#[test]
fn a_killed_daemon_loses_doubles_and_forgets_nothing() {
    for (queues, shards) in [(1, 1), (2, 2), (3, 1), (4, 3)] {
        let told = run(Plan { seed: 20_261_120 + u64::from(queues), kills: KILLS, queues, shards });
        assert!(told.in_flight > 50, "{told:?}");
        println!("{queues} queues, {shards} shards: {told:?} at {KILLS} kills");
    }
}

#[test]
fn eight_queues_of_writes_discards_and_flushes_under_snapshots_and_checkpoints() {
    for shards in [1, 2] {
        let told = storm::run(20_261_120, shards, Duration::from_secs(6));
        assert!(told.requests > 1000 && told.orders > 20, "{told:?}");
        println!("{shards} shards: {told:?}");
    }
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

#[test]
fn what_a_killed_daemon_had_staged_is_looked_for_and_a_stop_leaves_nothing_to_look_for() {
    for (shards, inside) in [("1", false), ("2", false), ("2", true)] {
        let mut served = match inside {
            true => Served::started_with_log_inside(&["--shards", shards, "--log-size", LOG_SIZE]),
            false => Served::started(&["--shards", shards]),
        };
        let files = |served: &Served| {
            let dir = std::fs::read_dir(served.daemon.run_dir().join("staging")).unwrap();
            dir.flatten().map(|entry| entry.path()).collect::<Vec<_>>()
        };
        assert_eq!(files(&served).len().to_string(), shards);
        let socket = served.attach_new("web", 64 << 20);
        let mut guest = FrontEnd::start(&socket, Shape::default()).unwrap();
        assert_eq!(guest.write(0, &[1; 8192]), 0);
        served.daemon.kill();
        for file in files(&served) {
            let elsewhere = served.daemon.run_dir().join("elsewhere");
            std::fs::rename(&file, &elsewhere).unwrap();
            let refused = served.daemon.start().unwrap_err().to_string();
            assert!(refused.contains("its staging memory is not here"), "{refused}");
            std::fs::rename(&elsewhere, &file).unwrap();
        }
        served.daemon.start().unwrap();
        guest.reconnect(&socket, LIMIT).unwrap();
        assert_eq!(guest.read(0, 8192), [1; 8192]);
        served.daemon.stop().unwrap();
        assert_eq!(files(&served), Vec::<std::path::PathBuf>::new());
    }
}
