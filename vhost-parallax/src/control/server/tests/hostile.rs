//! Clients that are wrong, huge, slow, too many, or not allowed.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::{Fixture, answer, assert_error, parse_answer};
use crate::control::api::limits::{BODY_BYTES_MAX, CONNECTIONS_MAX};
use crate::control::server::Deadlines;
use crate::control::server::access::Access;

const SHORT: Duration = Duration::from_millis(300);

fn impatient() -> Fixture {
    let deadlines = Deadlines { head: SHORT, body: SHORT, write: SHORT };
    Fixture::with(Access::of_process(None), deadlines)
}

#[test]
fn nonsense_gets_the_one_error_shape() {
    let f = Fixture::new();
    let create = |body: &str| f.post("/api/v1/vdis", body);
    assert_error(f.get("/"), "not_found");
    let message = assert_error(f.get("/api/v2/vdis"), "not_found");
    assert_eq!(message, "there is nothing at /api/v2/vdis");
    assert_error(f.get("/api/v1/vdis/"), "not_found");
    assert_error(f.call("PUT", "/api/v1/vdis", "{}"), "bad_request");
    assert_error(f.call("BREW", "/api/v1/vdis", "{}"), "bad_request");
    assert_error(create(""), "bad_request");
    assert_error(create("{"), "bad_request");
    assert_error(create("null"), "bad_request");
    assert_error(create(r#"{"name": "web", "size_bytes": "20G"}"#), "bad_request");
    assert_error(create(r#"{"name": "web", "size_bytes": 512, "x": 1}"#), "bad_request");
    assert_error(create(r#"{"name": "web", "size_bytes": 0}"#), "bad_request");
    assert_error(create(r#"{"name": "web", "size_bytes": 9007199254740992}"#), "too_large");
    assert_error(create(r#"{"name": "../etc", "size_bytes": 512}"#), "bad_request");
    assert_error(f.get("/api/v1/vdis/..%2f..%2fetc"), "bad_request");
    assert_error(f.get("/api/v1/vdis/%ff%fe"), "bad_request");
    assert_error(f.get("/api/v1/vdis?page=2"), "bad_request");
    assert_error(f.call("DELETE", "/api/v1/vdis/web?recursiv=true", ""), "bad_request");
    assert_error(f.call("DELETE", "/api/v1/vdis/web?recursive=maybe", ""), "bad_request");
    assert_error(f.post("/api/v1/vdis/web/snapshots", r#"{"label": "17"}"#), "bad_request");
    assert_error(f.post("/api/v1/vdis/web/snapshots", "{}"), "not_found");
    assert_error(f.post("/api/v1/vdis/web/attach", r#"{"num_queues": 0}"#), "bad_request");
    assert_error(f.post("/api/v1/vdis/web/attach", r#"{"num_queues": 65}"#), "too_large");
    assert_error(f.call("DELETE", "/api/v1/vdis/web/snapshots/x%40y", ""), "bad_request");
    f.assert_goes_on();
}

/// A panic in a handler would end the daemon: every field gets its extremes, and each an answer.
#[test]
fn no_value_of_any_field_goes_unanswered() {
    let f = Fixture::new();
    assert_eq!(f.post("/api/v1/vdis", r#"{"name": "web", "size_bytes": 512}"#).0, 201);
    let strings =
        ["", "@", "%", "0", "99999999999999999999", "\\u0000", "\\ud83d\\ude00", "é", "..", "-1", "a+b"];
    let long = "x".repeat(60_000);
    for text in strings.into_iter().chain([long.as_str()]) {
        for (path, field) in [
            ("/vdis", "name"),
            ("/vdis/web/snapshots", "label"),
            ("/vdis/web/clone", "name"),
            ("/vdis/web/rollback", "snapshot"),
        ] {
            let body = format!("{{\"{field}\": \"{text}\", \"size_bytes\": 512}}");
            let plain = format!("{{\"{field}\": \"{text}\"}}");
            for body in [body, plain] {
                assert!(f.post(&format!("/api/v1{path}"), &body).0 >= 200, "{path} {body}");
            }
        }
    }
    for bits in 0..=64_u32 {
        for near in -1..=1_i128 {
            let n = (1_i128 << bits) + near;
            let size = format!("{{\"name\": \"n{bits}\", \"size_bytes\": {n}}}");
            assert!(f.post("/api/v1/vdis", &size).0 >= 200, "{n}");
            assert!(f.call("PATCH", "/api/v1/vdis/web", &format!("{{\"size_bytes\": {n}}}")).0 >= 200, "{n}");
            assert!(f.post("/api/v1/vdis/web/attach", &format!("{{\"num_queues\": {n}}}")).0 >= 200, "{n}");
            assert!(f.get(&format!("/api/v1/vdis/web/snapshots/{n}")).0 >= 200, "{n}");
        }
    }
    f.assert_goes_on();
}

/// Send `head` and then `chunk` for ever; give back the answer and how many bytes were taken.
fn flood(f: &Fixture, head: &str, chunk: &[u8]) -> ((u16, serde_json::Value), usize) {
    let mut stream = f.connect();
    stream.write_all(head.as_bytes()).unwrap();
    let mut taken = 0;
    while taken < 100 << 20 {
        match stream.write(chunk) {
            Ok(n) => taken += n,
            Err(_) => break,
        }
    }
    let mut all = Vec::new();
    let mut buf = [0; 4096];
    while let Ok(n @ 1..) = stream.read(&mut buf) {
        all.extend_from_slice(&buf[..n]);
    }
    (parse_answer(&all), taken)
}

#[test]
fn a_hundred_megabytes_of_json_are_refused_unread() {
    let f = Fixture::new();
    let chunk = vec![b' '; 1 << 20];
    let head = "POST /api/v1/vdis HTTP/1.1\r\nhost: p\r\ncontent-length: 104857600\r\n\r\n";
    let (refused, taken) = flood(&f, head, &chunk);
    assert_eq!(refused.0, 413);
    assert_error(refused, "too_large");
    assert!(taken < 8 << 20, "{taken} bytes were taken");

    let head = "POST /api/v1/vdis HTTP/1.1\r\nhost: p\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut chunked = b"10000\r\n".to_vec();
    chunked.extend(vec![b' '; 0x10000]);
    chunked.extend(b"\r\n");
    let (refused, taken) = flood(&f, head, &chunked);
    assert_error(refused, "too_large");
    assert!(taken < 8 << 20, "{taken} bytes were taken");
    f.assert_goes_on();
}

#[test]
fn the_largest_body_is_read_and_one_byte_more_is_not() {
    let f = Fixture::new();
    let mut body = "{\"name\": \"web\", \"size_bytes\": 512".to_owned();
    body += &" ".repeat(BODY_BYTES_MAX - body.len() - 1);
    body.push('}');
    assert_eq!(f.post("/api/v1/vdis", &body).0, 201);
    body.push(' ');
    assert_error(f.post("/api/v1/vdis", &body), "too_large");
}

#[test]
fn bytes_that_are_not_http_end_the_connection_only() {
    let f = Fixture::new();
    for garbage in
        [&b"\x00\xff\x16\x03\x01 hello\r\n\r\n"[..], &vec![b'A'; 100_000], b"GET / HTTP/9.9\r\n\r\n"]
    {
        let mut stream = f.connect();
        let _may_be_cut_off = stream.write_all(garbage);
        let _may_be_cut_off = stream.read_to_end(&mut Vec::new());
    }
    let many = format!("GET /api/v1/status HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(1000));
    let mut stream = f.connect();
    let _may_be_cut_off = stream.write_all(many.as_bytes());
    let mut text = Vec::new();
    let _may_be_cut_off = stream.read_to_end(&mut text);
    assert!(text.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&text));
    f.assert_goes_on();
}

/// Dribble `bytes` until the server hangs up; how long it took.
fn dribble(f: &Fixture, opening: &str) -> (Duration, Vec<u8>) {
    let mut stream = f.connect();
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let start = Instant::now();
    stream.write_all(opening.as_bytes()).unwrap();
    let mut all = Vec::new();
    let mut buf = [0; 1024];
    while start.elapsed() < Duration::from_secs(20) {
        match stream.read(&mut buf) {
            Ok(0) => break,
            Ok(n) => all.extend_from_slice(&buf[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                let _may_be_closed = stream.write(b"a");
            }
            Err(_) => break,
        }
    }
    (start.elapsed(), all)
}

#[test]
fn slow_clients_are_dropped_at_every_stage() {
    let f = impatient();
    let (took, _) = dribble(&f, "GET /api/v1/status HTTP/1.1\r\nx-slow: ");
    assert!(took < SHORT * 20, "a slow head took {took:?}");
    let (took, all) = dribble(&f, "POST /api/v1/vdis HTTP/1.1\r\nhost: p\r\ncontent-length: 1000\r\n\r\n{");
    assert!(took < SHORT * 20, "a slow body took {took:?}");
    let message = assert_error(parse_answer(&all), "bad_request");
    assert!(message.contains("did not arrive"), "{message}");

    let mut idle = f.connect();
    let start = Instant::now();
    assert_eq!(idle.read(&mut [0; 1]).unwrap_or(0), 0);
    assert!(start.elapsed() < SHORT * 20, "an idle connection took {:?}", start.elapsed());
    f.assert_goes_on();
}

#[test]
fn an_idle_connection_ends_after_its_answer_too() {
    let f = impatient();
    let mut stream = f.connect();
    stream.write_all(b"GET /api/v1/status HTTP/1.1\r\nhost: p\r\n\r\n").unwrap();
    let start = Instant::now();
    let mut all = Vec::new();
    let _reset_or_end = stream.read_to_end(&mut all);
    assert!(all.starts_with(b"HTTP/1.1 200"));
    assert!(start.elapsed() < SHORT * 20, "took {:?}", start.elapsed());
}

#[test]
fn a_client_that_does_not_read_its_answers_is_dropped() {
    let f = impatient();
    let mut stream = f.connect();
    stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    let start = Instant::now();
    // Each answer is some 30 KB, so the socket's buffers are full after a few.
    let one = b"GET /api/v1/openapi.json HTTP/1.1\r\nhost: p\r\n\r\n".repeat(100);
    while stream.write_all(&one).is_ok() {
        assert!(start.elapsed() < SHORT * 50, "the server goes on writing to nobody");
    }
    assert!(start.elapsed() < SHORT * 50, "took {:?}", start.elapsed());
    f.assert_goes_on();
}

#[test]
fn connections_are_bounded_and_the_bound_is_given_back() {
    let f = Fixture::new();
    let mut held: Vec<UnixStream> = (0..CONNECTIONS_MAX).map(|_| f.connect()).collect();
    // Every one of them is being served once the last has had an answer.
    let last = held.last_mut().unwrap();
    last.write_all(b"GET /api/v1/status HTTP/1.1\r\nhost: p\r\n\r\n").unwrap();
    assert!(last.read(&mut [0; 4096]).unwrap() > 0);
    let mut turned_away = f.connect();
    let refused = answer(&mut turned_away);
    assert_eq!(refused.0, 503);
    assert_error(refused, "unavailable");
    held.clear();
    let start = Instant::now();
    while f.get("/api/v1/status").0 != 200 {
        assert!(start.elapsed() < Duration::from_secs(10), "places are not given back");
    }
}

#[test]
fn a_denied_client_learns_which_group_it_needs_before_anything_is_read() {
    // A user and a group that are nobody's here, root included.
    let access = Access::new(&[4_000_000], Some((rustix::process::getegid().as_raw(), "disks".into())));
    assert_eq!(access.refuses(5, rustix::process::getegid().as_raw(), None), None);
    let f = Fixture::with(Access::new(&[4_000_000], None), Deadlines::default());
    let mut stream = f.connect();
    let refused = answer(&mut stream);
    assert_eq!(refused.0, 403);
    let message = assert_error(refused.clone(), "denied");
    assert!(message.contains("may not use the control socket"), "{message}");
    assert!(refused.1["hint"].as_str().unwrap().contains("--control-group"));
}

#[test]
fn a_data_thread_that_died_is_told_not_waited_for() {
    use crate::control::api::command::channel;
    use crate::control::server::{Server, ServerConfig};
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("control.sock");
    let (commands, receiver) = channel(|| {});
    let access = Access::of_process(None);
    let config = ServerConfig { socket: socket.clone(), access, deadlines: Deadlines::default() };
    let server = Server::start(config, commands).unwrap();
    drop(receiver);
    let mut stream = UnixStream::connect(&socket).unwrap();
    stream.write_all(b"GET /api/v1/vdis HTTP/1.1\r\nhost: p\r\nconnection: close\r\n\r\n").unwrap();
    assert_error(answer(&mut stream), "unavailable");
    server.stop();
}
