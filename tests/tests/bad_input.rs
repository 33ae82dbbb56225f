//! Bad input from administrators: through the control socket of a real daemon, and in the store and log
//! it is started on. Each gets a clear error; the daemon and all other disks go on; nothing is lost.
//! (Hostile guests and front ends are in `vhost_bad_input.rs`.)

#![expect(clippy::unwrap_used, reason = "a test: to panic is to fail")]

use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use parallax_tests::front_end::{FrontEnd, Shape};
use qemu_harness::daemon::Daemon;
use qemu_harness::process::Process;
use qemu_harness::tools::built;
use serde_json::{Value, json};
use vdi_core::format::superblock::{COPIES, Superblock};

const LIMIT: Duration = Duration::from_secs(60);

/// A daemon that serves the disk `witness` to a guest.
struct Scene {
    daemon: Daemon,
    witness: FrontEnd,
    _dir: tempfile::TempDir,
}

fn formatted(size: &str) -> (tempfile::TempDir, Daemon) {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::format(dir.path(), dir.path(), size, "32M").unwrap();
    (dir, daemon)
}

impl Scene {
    fn new(size: &str) -> Scene {
        let (dir, mut daemon) = formatted(size);
        daemon.start().unwrap();
        daemon.create_and_attach("witness", 8 << 20, 1).unwrap();
        let socket = daemon.run_dir().join("vdi/witness.sock");
        let mut witness = FrontEnd::start(&socket, Shape::default()).unwrap();
        assert_eq!(witness.write(0, &[7; 4096]), 0);
        Scene { daemon, witness, _dir: dir }
    }
    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.daemon.run_dir().join("control.sock")).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    }
    /// One request with these very bytes for a body: the status and the answer.
    fn raw(&self, method: &str, path: &str, body: &[u8]) -> (u16, Value) {
        let mut stream = self.connect();
        let length = body.len();
        write!(
            stream,
            "{method} /api/v1{path} HTTP/1.1\r\nhost: p\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
        )
        .unwrap();
        // The daemon may answer and hang up before it has read all of it.
        let _cut_off = stream.write_all(body);
        answer(&mut stream)
    }
    fn fails(&self, method: &str, path: &str, body: &Value, code: &str) -> String {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (status, error) = self.raw(method, path, body.as_bytes());
        assert_eq!(error["code"], code, "{method} {path} {body}: {status} {error}");
        assert!(error["hint"].as_str().is_some_and(|h| !h.is_empty()), "{error}");
        error["message"].as_str().unwrap().to_owned()
    }
    fn works(&self, method: &str, path: &str, body: &Value) -> Value {
        self.daemon.control().unwrap().request(method, path, body).unwrap()
    }
    /// The witness reads what it wrote and writes on; then the store is whole.
    fn goes_on(mut self) {
        assert_eq!(self.works("GET", "/status", &Value::Null)["vdis"]["connected"], 1);
        assert_eq!(self.witness.read(0, 4096), vec![7; 4096]);
        assert_eq!(self.witness.write(8, &[8; 4096]), 0);
        assert_eq!(self.witness.flush(), 0);
        assert_eq!(self.witness.read(8, 4096), vec![8; 4096]);
        self.daemon.check_alive().unwrap();
        drop(self.witness);
        self.daemon.stop_and_check().unwrap();
    }
}

/// The answer on `stream`, which then ends.
fn answer(stream: &mut UnixStream) -> (u16, Value) {
    let mut all = Vec::new();
    let mut part = [0; 4096];
    while let Ok(n @ 1..) = stream.read(&mut part) {
        all.extend_from_slice(&part[..n]);
    }
    let text = String::from_utf8(all).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

#[test]
fn malformed_json_is_a_bad_request() {
    let scene = Scene::new("256M");
    let deep = "[".repeat(10_000);
    let twice = r#"{"name": "a", "name": "b", "size_bytes": 512}"#;
    for body in ["{", "nonsense", "null", "[\"web\", 512]", "{\"name\": \"web\"}", "\u{0}", &deep, twice] {
        let (status, error) = scene.raw("POST", "/vdis", body.as_bytes());
        assert_eq!((status, &error["code"]), (400, &json!("bad_request")), "{body:.60}: {error}");
        assert!(!error["hint"].as_str().unwrap().is_empty(), "{error}");
    }
    let (status, _) = scene.raw("POST", "/vdis", b"{\"name\": \"\xff\xfe\", \"size_bytes\": 512}");
    assert_eq!(status, 400);
    scene.fails("POST", "/vdis", &json!({"name": "web", "size_bytes": 512, "colour": 1}), "bad_request");
    scene.fails("GET", "/nonsense", &Value::Null, "not_found");
    scene.fails("PUT", "/vdis", &json!({}), "bad_request");
    scene.goes_on();
}

#[test]
fn a_hundred_megabytes_of_json_are_too_large_and_not_taken_into_memory() {
    let scene = Scene::new("256M");
    let pid = scene.works("GET", "/status", &Value::Null)["daemon"]["pid"].as_u64().unwrap();
    let peak_kib = || -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    let before = peak_kib();
    let mut body = br#"{"name": "web", "size_bytes": 512, "padding": ""#.to_vec();
    body.resize(100 << 20, b'x');
    let (status, error) = scene.raw("POST", "/vdis", &body);
    assert_eq!((status, &error["code"]), (413, &json!("too_large")), "{error}");
    let grown = peak_kib() - before;
    assert!(grown < 20 << 10, "the daemon grew by {grown} KiB");
    scene.goes_on();
}

#[test]
fn a_taken_name_and_a_name_that_is_none_are_refused() {
    let scene = Scene::new("256M");
    let create = |name: &str, size: u64| json!({"name": name, "size_bytes": size});
    scene.works("POST", "/vdis", &create("web", 1 << 20));
    scene.works("POST", "/vdis", &create("web", 1 << 20));
    let message = scene.fails("POST", "/vdis", &create("web", 2 << 20), "exists");
    assert!(message.contains("'web'"), "{message}");
    scene.fails("POST", "/vdis/web/clone", &json!({"name": "witness"}), "exists");
    let long = "x".repeat(64);
    for name in ["", "../etc/passwd", "a b", ".hidden", "web@3", &long] {
        scene.fails("POST", "/vdis", &create(name, 1 << 20), "bad_request");
    }
    scene.works("POST", "/vdis/web/snapshots", &json!({"label": "first"}));
    scene.fails("POST", "/vdis/web/snapshots", &json!({"label": "first"}), "exists");
    scene.fails("POST", "/vdis/web/snapshots", &json!({"label": "17"}), "bad_request");
    scene.goes_on();
}

#[test]
fn a_size_of_zero_and_one_beyond_the_limit_are_refused() {
    let scene = Scene::new("256M");
    let create = |size: u64| json!({"name": "web", "size_bytes": size});
    scene.fails("POST", "/vdis", &create(0), "bad_request");
    scene.fails("POST", "/vdis", &create(1000), "bad_request");
    scene.fails("POST", "/vdis", &create((1 << 52) + 512), "too_large");
    scene.fails("POST", "/vdis", &create(u64::MAX), "too_large");
    scene.works("POST", "/vdis", &create(1 << 52));
    scene.fails("PATCH", "/vdis/web", &json!({"size_bytes": 0}), "bad_request");
    scene.fails("PATCH", "/vdis/web", &json!({"size_bytes": 1 << 20}), "bad_request");
    scene.works("PATCH", "/vdis/web", &json!({"size_bytes": 1 << 20, "force": true}));
    scene.goes_on();
}

#[test]
fn what_is_not_there_is_not_found() {
    let scene = Scene::new("256M");
    let nothing = json!({});
    for (method, path, body) in [
        ("GET", "/vdis/nosuch", &Value::Null),
        ("DELETE", "/vdis/nosuch", &Value::Null),
        ("PATCH", "/vdis/nosuch", &json!({"size_bytes": 512})),
        ("POST", "/vdis/nosuch/snapshots", &nothing),
        ("GET", "/vdis/nosuch/snapshots", &Value::Null),
        ("POST", "/vdis/nosuch/attach", &nothing),
        ("POST", "/vdis/nosuch/clone", &json!({"name": "new"})),
        ("POST", "/vdis/nosuch/rollback", &json!({"snapshot": "1"})),
        ("POST", "/vdis/witness/clone", &json!({"name": "new", "snapshot": "17"})),
        ("PATCH", "/vdis/witness/snapshots/17", &json!({"label": "x"})),
        ("DELETE", "/vdis/witness/snapshots/golden", &Value::Null),
    ] {
        let message = scene.fails(method, path, body, "not_found");
        assert!(message.contains('\''), "it says what: {message}");
    }
    scene.goes_on();
}

#[test]
fn an_attached_disk_is_not_attached_otherwise_nor_deleted() {
    let scene = Scene::new("256M");
    scene.works("POST", "/vdis/witness/attach", &json!({"num_queues": 1}));
    for other in [json!({"num_queues": 2}), json!({"num_queues": 1, "read_only": true})] {
        scene.fails("POST", "/vdis/witness/attach", &other, "busy");
    }
    scene.fails("POST", "/vdis/witness/attach", &json!({"num_queues": 0}), "bad_request");
    scene.fails("POST", "/vdis/witness/attach", &json!({"num_queues": 65}), "too_large");
    scene.fails("DELETE", "/vdis/witness?recursive=true", &Value::Null, "busy");
    scene.works("POST", "/vdis/witness/snapshots", &json!({}));
    scene.fails("POST", "/vdis/witness/rollback", &json!({"snapshot": "1"}), "busy");
    scene.fails("POST", "/vdis/witness/detach", &json!({}), "busy");
    scene.goes_on();
}

#[test]
fn slow_clients_hold_up_no_disk_and_are_dropped() {
    let mut scene = Scene::new("256M");
    let half = b"POST /api/v1/vdis HTTP/1.1\r\nhost: p\r\nx-slow: ";
    let slow: Vec<UnixStream> = (0..100)
        .map(|_| {
            let mut stream = scene.connect();
            // Beyond the bound on connections it is turned away, perhaps before it has written.
            let _turned_away = stream.write_all(half);
            stream
        })
        .collect();
    let start = Instant::now();
    for i in 0..100 {
        assert_eq!(scene.witness.write(16 + i, &[9; 512]), 0, "the data path knows nothing of them");
    }
    assert!(start.elapsed() < Duration::from_secs(5), "took {:?}", start.elapsed());
    let answers_again = || scene.daemon.control().and_then(|mut control| control.get("/status")).is_ok();
    while !answers_again() {
        assert!(start.elapsed() < LIMIT, "slow clients keep others out");
        std::thread::sleep(Duration::from_millis(200));
    }
    drop(slow);
    scene.goes_on();
}

#[test]
fn a_full_store_refuses_new_data_and_recovers() {
    let scene = Scene::new("64M");
    scene.works("POST", "/vdis", &json!({"name": "big", "size_bytes": 1_u64 << 30}));
    scene.works("POST", "/vdis/big/attach", &json!({}));
    let socket = scene.daemon.run_dir().join("vdi/big.sock");
    let mut guest = FrontEnd::start(&socket, Shape::default()).unwrap();
    let chunk = vec![0x5a; 64 << 10];
    let refused = (0..2048).find(|i| guest.write(i * 128, &chunk) != 0).expect("64 MiB hold no 128 MiB");
    assert!(refused > 64, "only {refused} chunks of 64 KiB fit a store of 64 MiB");
    // What was written is there, and the control socket answers.
    assert_eq!(guest.read((refused - 1) * 128, 4096), vec![0x5a; 4096]);
    scene.works("GET", "/status", &Value::Null);
    // Nor is there room for what else takes some, until something is given back.
    let mut names = (0..4096).map(|n| json!({"name": format!("more-{n}"), "size_bytes": 1 << 20}));
    let denied = names.find_map(|new| {
        let (status, answer) = scene.raw("POST", "/vdis", new.to_string().as_bytes());
        (status != 201).then_some((status, answer))
    });
    let (status, error) = denied.expect("4,096 disks do not fit a full store");
    assert_eq!((status, &error["code"]), (507, &json!("no_space")), "{error}");
    assert!(error["hint"].as_str().is_some_and(|h| !h.is_empty()), "{error}");
    drop(guest);
    scene.works("POST", "/vdis/big/detach", &json!({"force": true}));
    scene.works("DELETE", "/vdis/big?recursive=true", &Value::Null);
    let report = scene.works("POST", "/collect", &json!({}));
    assert!(report["freed_bytes"].as_u64().unwrap() > 4 << 20, "{report}");
    scene.goes_on();
}

/// The daemon on `daemon`'s store and log ends with 1, an error that says `says`, and a hint.
fn refuses_to_start(daemon: &Daemon, says: &str) {
    let output = daemon.run_dir().with_file_name("refused.log");
    let mut command = Command::new(built("vhost-parallax").unwrap());
    command.arg("--store").arg(daemon.store()).arg("--log").arg(daemon.log());
    command.arg("--run-dir").arg(daemon.run_dir());
    let mut process = Process::spawn("vhost-parallax", command, &output).unwrap();
    let status = process.wait(LIMIT).unwrap();
    let text = std::fs::read_to_string(&output).unwrap();
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(text.contains(says), "expected '{says}' in: {text}");
    assert!(text.contains("\nhint: "), "{text}");
}

/// `parallax check` ends with one of `codes` and a hint.
fn check_ends_with(daemon: &Daemon, codes: &[i32]) {
    let mut command = Command::new(built("parallax").unwrap());
    let output = command.args(daemon.check_arguments()).output().unwrap();
    let text = [output.stdout, output.stderr].map(|t| String::from_utf8(t).unwrap()).concat();
    assert!(codes.contains(&output.status.code().unwrap()), "{}: {text}", output.status);
    assert!(text.contains("hint: "), "{text}");
}

#[test]
fn a_file_that_is_no_store_is_refused() {
    let (_dir, daemon) = formatted("64M");
    std::fs::write(daemon.store(), b"something else".repeat(10_000)).unwrap();
    refuses_to_start(&daemon, "store");
    check_ends_with(&daemon, &[1]);
}

#[test]
fn a_truncated_store_is_refused_and_whole_again_when_restored() {
    let (_dir, mut daemon) = formatted("64M");
    daemon.start().unwrap();
    daemon.create_and_attach("web", 8 << 20, 1).unwrap();
    daemon.stop().unwrap();
    let whole = std::fs::read(daemon.store()).unwrap();
    for len in [0, 4096, 1 << 20, 32 << 20] {
        let file = std::fs::File::options().write(true).open(daemon.store()).unwrap();
        file.set_len(len).unwrap();
        refuses_to_start(&daemon, "store");
        check_ends_with(&daemon, &[1, 2]);
        std::fs::write(daemon.store(), &whole).unwrap();
    }
    daemon.start().unwrap();
    daemon.control().unwrap().get("/vdis/web").unwrap();
    daemon.stop_and_check().unwrap();
}

#[test]
fn the_log_of_another_store_is_refused_and_nothing_is_lost() {
    let (_dir, mut one) = formatted("64M");
    let (_other_dir, mut two) = formatted("64M");
    for daemon in [&mut one, &mut two] {
        daemon.start().unwrap();
        daemon.create_and_attach("web", 8 << 20, 1).unwrap();
    }
    let mut guest = FrontEnd::start(&one.run_dir().join("vdi/web.sock"), Shape::default()).unwrap();
    assert_eq!(guest.write(0, &[3; 4096]), 0);
    // The newest write is in the log only.
    one.kill();
    two.kill();
    drop(guest);
    let swap = || {
        let aside = one.log().with_extension("aside");
        std::fs::rename(one.log(), &aside).unwrap();
        std::fs::rename(two.log(), one.log()).unwrap();
        std::fs::rename(&aside, two.log()).unwrap();
    };
    swap();
    refuses_to_start(&one, "log");
    refuses_to_start(&two, "log");
    swap();
    one.start().unwrap();
    let mut guest = FrontEnd::new(Shape::default());
    guest.reconnect(&one.run_dir().join("vdi/web.sock"), LIMIT).unwrap();
    assert_eq!(guest.read(0, 4096), vec![3; 4096]);
    drop(guest);
    one.stop_and_check().unwrap();
}

#[test]
fn an_unknown_feature_flag_means_refuse() {
    let (_dir, daemon) = formatted("64M");
    let file = std::fs::File::options().read(true).write(true).open(daemon.store()).unwrap();
    for (copy, block) in COPIES.into_iter().enumerate() {
        let mut bytes = vec![0; 4096];
        file.read_exact_at(&mut bytes, block * 4096).unwrap();
        let mut superblock = Superblock::verify(&bytes, copy).unwrap();
        superblock.features.refuse |= 1 << 40;
        file.write_all_at(&superblock.encode(copy), block * 4096).unwrap();
    }
    refuses_to_start(&daemon, "feature");
    check_ends_with(&daemon, &[1]);
}
