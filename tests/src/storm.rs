//! Eight queues that write, discard and flush while snapshots, checkpoints and collections go on, and everything read
//! is looked at: the recipe under which a peer lost data. What was there at quiet moments is snapshotted, and must be in
//! the clones of those snapshots at the end.

#![expect(clippy::unwrap_used, reason = "to panic is to fail")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::front_end::{FrontEnd, Shape};
use crate::kills::served;
use crate::load::{BLOCK, Load, Versions, verify};

const QUEUES: u16 = 8;
/// Quiet moments of one storm.
const QUIET: usize = 4;

/// What happened.
#[derive(Clone, Copy, Default, Debug)]
pub struct Told {
    /// Requests that ended.
    pub requests: u64,
    /// Snapshots, checkpoints and collections meanwhile.
    pub orders: u64,
}

/// Let a storm of this seed go on for `duration`; panics when a promise is broken.
#[must_use]
pub fn run(seed: u64, shards: u16, duration: Duration) -> Told {
    let (mut served, socket) = served(seed, shards);
    let mut load = Load::start(&socket, QUEUES, seed).unwrap();
    let mut control = served.daemon.control().unwrap();
    let over = AtomicBool::new(false);
    let (mut quiet, mut orders): (Vec<Versions>, u64) = (Vec::new(), 0);
    std::thread::scope(|scope| {
        let busy = scope.spawn(|| {
            let mut control = served.daemon.control().unwrap();
            let mut done = 0;
            while !over.load(Ordering::SeqCst) {
                let (path, body) = match done % 16 {
                    5 | 11 => ("/checkpoint", json!({})),
                    15 => ("/collect", json!({})),
                    _ => ("/vdis/web/snapshots", json!({})),
                };
                control.post(path, &body).unwrap();
                done += 1;
            }
            done
        });
        for moment in 0..QUIET {
            let until = Instant::now() + duration / QUIET as u32;
            while Instant::now() < until {
                load.submit();
                let q = load.draw.below(QUEUES.into()) as usize;
                load.take(q, 3);
            }
            load.drain();
            control.post("/vdis/web/snapshots", &json!({ "label": format!("quiet{moment}") })).unwrap();
            quiet.push(load.versions.clone());
        }
        over.store(true, Ordering::SeqCst);
        orders = busy.join().unwrap();
    });
    load.verify();
    for (moment, versions) in quiet.iter().enumerate() {
        let clone = format!("then{moment}");
        let of = json!({ "snapshot": format!("quiet{moment}"), "name": clone });
        control.post("/vdis/web/clone", &of).unwrap();
        control.post(&format!("/vdis/{clone}/attach"), &json!({ "num_queues": 1 })).unwrap();
        let shape = Shape { data_bytes: BLOCK as u64, ..Shape::default() };
        verify(&mut FrontEnd::start(&served.socket(&clone), shape).unwrap(), versions);
    }
    let requests = load.completed;
    drop(load);
    let checked = served.daemon.stop_and_check().unwrap();
    assert!(checked.contains("result: clean"), "{checked}");
    Told { requests, orders }
}
