//! Several shards: each disk is served by one of them, and whatever their number is at the next start, everything is
//! still there.

#![expect(clippy::unwrap_used, reason = "a test: to panic is to fail")]

use std::path::{Path, PathBuf};

use parallax_benches::disk::Disk;
use parallax_tests::daemon::{LOG_SIZE, Served};
use serde_json::{Value, json};

const BLOCK: usize = 4096;
const BLOCKS: usize = 256;
const DISKS: [&str; 5] = ["a", "b", "c", "d", "e"];

fn content(disk: usize, block: usize, version: u8) -> Vec<u8> {
    let mut bytes = vec![version; BLOCK];
    bytes[..16].copy_from_slice(&[disk.to_le_bytes(), block.to_le_bytes()].concat());
    bytes
}

/// Write all blocks of a disk at once, and flush.
fn fill(socket: &Path, disk: usize, version: u8) {
    let mut client = Disk::connect(socket, 1, BLOCKS * BLOCK).unwrap();
    let queue = &mut client.queues[0];
    for round in 0..4 {
        for i in 0..BLOCKS / 4 {
            let block = i * 4 + round;
            queue.fill(block * BLOCK, &content(disk, block, version));
            queue.write((block * BLOCK) as u64, block * BLOCK, BLOCK, block);
        }
        let mut left = BLOCKS / 4;
        while left > 0 {
            for done in queue.wait().unwrap() {
                assert_eq!(done.result, 0);
                left -= 1;
            }
        }
    }
    queue.flush(0);
    assert!(queue.wait().unwrap().iter().all(|done| done.result == 0));
}

fn expect(socket: &Path, disk: usize, version: u8) {
    let mut client = Disk::connect(socket, 1, BLOCKS * BLOCK).unwrap();
    let queue = &mut client.queues[0];
    queue.read(0, 0, BLOCKS * BLOCK, 0);
    assert!(queue.wait().unwrap().iter().all(|done| done.result == 0));
    let mut bytes = vec![0; BLOCKS * BLOCK];
    queue.copy_out(0, &mut bytes);
    for (block, found) in bytes.chunks(BLOCK).enumerate() {
        assert!(found == content(disk, block, version), "disk {disk}, block {block}: not version {version}");
    }
}

fn status(served: &Served) -> Value {
    served.daemon.control().unwrap().get("/status").unwrap()
}

fn logs(served: &Served) -> usize {
    let files = std::fs::read_dir(served.dir()).unwrap();
    files.filter(|f| f.as_ref().unwrap().file_name().to_str().unwrap().starts_with("log")).count()
}

/// Fill two versions of every disk with a snapshot of the first in between.
fn history(served: &Served) {
    let sockets: Vec<PathBuf> = DISKS.iter().map(|name| served.attach_new(name, 16 << 20)).collect();
    std::thread::scope(|scope| {
        for (disk, socket) in sockets.iter().enumerate() {
            scope.spawn(move || {
                fill(socket, disk, 1);
                let mut control = served.daemon.control().unwrap();
                let snapshots = format!("/vdis/{}/snapshots", DISKS[disk]);
                control.post(&snapshots, &json!({ "label": "first" })).unwrap();
                fill(socket, disk, 2);
            });
        }
    });
}

fn all_is_there(served: &Served) {
    for (disk, name) in DISKS.iter().enumerate() {
        expect(&served.socket(name), disk, 2);
        let mut control = served.daemon.control().unwrap();
        let clone = format!("{name}-first");
        let of = json!({ "snapshot": "first", "name": clone });
        control.post(&format!("/vdis/{name}/clone"), &of).unwrap();
        control.post(&format!("/vdis/{clone}/attach"), &json!({ "num_queues": 1 })).unwrap();
        expect(&served.socket(&clone), disk, 1);
        let shown = control.get(&format!("/vdis/{clone}")).unwrap();
        assert_eq!(shown["origin"]["vdi"], *name, "{shown}");
        control.post(&format!("/vdis/{clone}/detach"), &json!({ "force": true })).unwrap();
        control.request("DELETE", &format!("/vdis/{clone}"), &Value::Null).unwrap();
    }
}

#[test]
fn whatever_the_number_of_shards_everything_is_there() {
    let mut served = Served::started(&["--shards", "3", "--log-size", LOG_SIZE]);
    whatever_the_number_of_shards(&mut served, |shards| shards);
}

#[test]
fn so_it_is_with_logs_in_the_store() {
    let mut served = Served::started_with_log_inside(&["--shards", "3", "--log-size", LOG_SIZE]);
    let free = |served: &Served| status(served)["store"]["free_bytes"].as_u64().unwrap();
    let with_three = free(&served);
    whatever_the_number_of_shards(&mut served, |_| 0);
    served.daemon.start().unwrap();
    assert!(free(&served) > with_three, "the logs of the others are gone");
    assert_eq!(status(&served)["log"]["path"], "store");
    served.daemon.kill();
    let (store, run) = (served.daemon.store().display().to_string(), served.dir().join("run-2"));
    let log = served.dir().join("elsewhere").display().to_string();
    let elsewhere =
        ["--store", &store, "--run-dir", &run.display().to_string(), "--log", &log].map(String::from);
    let refused = Served::another(&elsewhere.each_ref().map(String::as_str));
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(text.contains("is in the store, not at"), "{text}");
}

/// Start with one number after the other; there must be so many log files.
fn whatever_the_number_of_shards(served: &mut Served, files: impl Fn(usize) -> usize) {
    history(served);
    let told = status(served);
    assert_eq!((&told["daemon"]["shards"], &told["vdis"]["attached"]), (&json!(3), &json!(5)), "{told}");
    let busy = |log: &Value| log["segments_written"].as_u64().unwrap() > 0;
    assert!(busy(&told["log"]), "{told}");
    assert_eq!(told["other_logs"].as_array().unwrap().iter().filter(|l| busy(l)).count(), 2, "{told}");
    for shards in [3, 2, 1, 3, 1] {
        served.daemon.kill();
        let number = shards.to_string();
        served.daemon.set_options(&["--shards", &number, "--log-size", LOG_SIZE]);
        served.daemon.start().unwrap();
        assert_eq!(status(served)["daemon"]["shards"].to_string(), number);
        assert_eq!(logs(served), files(shards), "a log for each shard");
        all_is_there(served);
    }
    served.daemon.control().unwrap().post("/collect", &json!({})).unwrap();
    let checked = served.daemon.stop_and_check().unwrap();
    assert!(checked.contains("result: clean"), "{checked}");
}

#[test]
fn a_lost_log_costs_the_disks_of_its_shard_what_only_it_held_and_no_other() {
    let mut served = Served::started(&["--shards", "2", "--log-size", LOG_SIZE]);
    let sockets = [served.attach_new("a", 16 << 20), served.attach_new("b", 16 << 20)];
    sockets.iter().enumerate().for_each(|(disk, socket)| fill(socket, disk, 1));
    served.daemon.parallax(&["checkpoint"]).unwrap();
    sockets.iter().enumerate().for_each(|(disk, socket)| fill(socket, disk, 2));
    served.daemon.kill();
    std::fs::remove_file(served.dir().join("log.1")).unwrap();
    let refused = served.daemon.start().unwrap_err().to_string();
    assert!(refused.contains("log.1") && refused.contains("--discard-log"), "{refused}");
    served.daemon.set_options(&["--shards", "2", "--log-size", LOG_SIZE, "--discard-log"]);
    served.daemon.start().unwrap();
    expect(&sockets[0], 0, 2);
    expect(&sockets[1], 1, 1);
    served.daemon.kill();
    served.daemon.start().unwrap();
    expect(&sockets[0], 0, 2);
}
