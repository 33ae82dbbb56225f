//! How the daemon starts, refuses to start, and treats its attachments.

use std::process::Output;
use std::time::Duration;

use parallax_tests::daemon::{LOG_SIZE, Served};
use parallax_tests::front_end::{FrontEnd, Shape};
use serde_json::json;

/// The run directory of the daemon that runs.
const OWN: &str = "";

/// It failed, and said what and what to do.
fn refused(output: &Output, says: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(says), "expected '{says}' in: {text}");
    assert!(text.contains("hint: "), "{text}");
}

/// Arguments for another daemon on `served`'s store, with a run directory (or its own) and a log of the caller's.
fn arguments(served: &Served, run: &str, log: &str) -> Vec<String> {
    let path = |name: &str| served.dir().join(name).display().to_string();
    let store = served.daemon.store().display().to_string();
    let run = if run == OWN { served.daemon.run_dir().display().to_string() } else { path(run) };
    let parts = ["--store", &store, "--run-dir", &run, "--log", &path(log), "--log-size", LOG_SIZE];
    parts.iter().map(|s| (*s).to_string()).collect()
}

fn another(served: &Served, run: &str, log: &str) -> Output {
    let arguments = arguments(served, run, log);
    Served::another(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn a_second_daemon_is_refused_by_run_directory_and_by_store() {
    let served = Served::started(&[]);
    refused(&another(&served, OWN, "log"), "another daemon (process");
    refused(&another(&served, "elsewhere", "log2"), "locked by process");
    assert!(served.daemon.control().unwrap().get("/status").is_ok(), "the first is not disturbed");
}

#[test]
fn a_missing_or_foreign_log_is_refused_until_it_is_given_up() {
    let mut served = Served::started(&[]);
    let _ = served.attach_new("web", 8 << 20);
    served.daemon.stop().unwrap();
    let other = Served::started(&[]);
    std::fs::rename(served.daemon.log(), served.dir().join("kept")).unwrap();
    refused(&another(&served, "run", "log"), "--discard-log");
    // The log of another store, and something that is no log at all.
    let mut other = other;
    other.daemon.stop().unwrap();
    std::fs::copy(other.daemon.log(), served.dir().join("foreign")).unwrap();
    refused(&another(&served, "run", "foreign"), "log");
    std::fs::write(served.dir().join("junk"), vec![7; 64 << 20]).unwrap();
    refused(&another(&served, "run", "junk"), "log");
    let mut daemon = served.daemon.with_options(&["--log-size", LOG_SIZE, "--discard-log"]);
    daemon.start().unwrap();
    assert!(daemon.control().unwrap().get("/vdis/web").is_ok());
    daemon.stop().unwrap();
}

#[test]
fn a_fresh_store_does_not_take_a_log_that_is_somebody_elses() {
    let mut first = Served::started(&[]);
    first.daemon.stop().unwrap();
    let second = Served::new(&[]);
    std::fs::copy(first.daemon.log(), second.daemon.log()).unwrap();
    refused(&another(&second, "run", "log"), "not a log of this store");
}

#[test]
fn what_is_no_store_is_refused() {
    let served = Served::new(&[]);
    let store = served.daemon.store();
    std::fs::write(store, vec![0; 1 << 20]).unwrap();
    refused(&another(&served, "run", "log"), "store");
    std::fs::remove_file(store).unwrap();
    refused(&another(&served, "run", "log"), "No such file");
}

#[test]
fn detach_roll_back_and_delete_respect_a_connected_front_end() {
    let served = Served::started(&[]);
    let socket = served.attach_new("web", 8 << 20);
    let mut control = served.daemon.control().unwrap();
    control.post("/vdis/web/snapshots", &json!({ "label": "before" })).unwrap();
    let mut guest = FrontEnd::start(&socket, Shape::default()).unwrap();
    assert_eq!(guest.write(0, &[1; 512]), 0);
    for (path, body) in
        [("/vdis/web/detach", json!({})), ("/vdis/web/rollback", json!({ "snapshot": "before" }))]
    {
        let e = control.post(path, &body).unwrap_err().to_string();
        assert!(e.contains("connected"), "{e}");
    }
    assert!(control.request("DELETE", "/vdis/web?recursive=true", &json!({})).is_err());
    // The same attachment again is a success, another one is not.
    control.post("/vdis/web/attach", &json!({ "num_queues": 4 })).unwrap();
    assert!(control.post("/vdis/web/attach", &json!({ "num_queues": 2 })).is_err());
    drop(guest);
    let rolled = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        control.post("/vdis/web/rollback", &json!({ "snapshot": "before" })).is_ok()
    });
    assert!(rolled, "once the front end is gone");
    let mut guest = FrontEnd::start(&socket, Shape::default()).unwrap();
    assert_eq!(guest.read(0, 512), [0; 512]);
    control.post("/vdis/web/detach", &json!({ "force": true })).unwrap();
    assert!(!socket.exists());
    assert!(guest.wire.as_ref().unwrap().is_cut_off());
    control.request("DELETE", "/vdis/web?recursive=true", &json!({})).unwrap();
}

#[test]
fn an_idle_daemon_uses_no_cpu() {
    let served = Served::started(&[]);
    let socket = served.attach_new("web", 8 << 20);
    let mut guest = FrontEnd::start(&socket, Shape::default()).unwrap();
    assert_eq!(guest.write(0, &[1; 512]), 0);
    let status = served.daemon.control().unwrap().get("/status").unwrap();
    let pid = status["daemon"]["pid"].as_u64().unwrap();
    // Until the write is checkpointed and everything is quiet.
    served.daemon.control().unwrap().post("/checkpoint", &json!({})).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let before = ticks();
    std::thread::sleep(Duration::from_secs(2));
    assert!(ticks() - before <= 1, "at most one tick of 10 ms in two seconds");
    assert_eq!(guest.write(0, &[2; 512]), 0, "and it wakes up");
}
