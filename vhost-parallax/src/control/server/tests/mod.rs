//! Laws of the control socket, over a real one, with a map for a data thread.

mod document;
mod hostile;
mod schema;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::access::Access;
use super::map_responder;
use super::{Deadlines, Server, ServerConfig};

/// A server on a socket of its own.
struct Fixture {
    socket: PathBuf,
    server: Option<Server>,
    _dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Fixture {
        Fixture::with(Access::of_process(None), Deadlines::default())
    }
    fn with(access: Access, deadlines: Deadlines) -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("control.sock");
        let (commands, _data_thread) = map_responder::start();
        let server =
            Server::start(ServerConfig { socket: socket.clone(), access, deadlines }, commands).unwrap();
        Fixture { socket, server: Some(server), _dir: dir }
    }
    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    }
    /// One request on a connection of its own; JSON null for an empty answer.
    fn call(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let mut stream = self.connect();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: parallax\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        // The server may answer and hang up before it has read all of it.
        let _cut_off = stream.write_all(body.as_bytes());
        answer(&mut stream)
    }
    fn get(&self, path: &str) -> (u16, Value) {
        self.call("GET", path, "")
    }
    fn post(&self, path: &str, body: &str) -> (u16, Value) {
        self.call("POST", path, body)
    }
    /// The daemon is well: it answers a new client.
    fn assert_goes_on(&self) {
        assert_eq!(self.get("/api/v1/status").0, 200);
    }
}

/// The status and body of the answer on `stream`, which then ends.
fn answer(stream: &mut UnixStream) -> (u16, Value) {
    let mut all = Vec::new();
    // A hang-up with unread bytes is a reset, after the answer.
    let _reset = stream.read_to_end(&mut all);
    parse_answer(&all)
}

fn parse_answer(all: &[u8]) -> (u16, Value) {
    let text = String::from_utf8_lossy(all);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP answer: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, if body.is_empty() { Value::Null } else { serde_json::from_str(body).unwrap() })
}

/// The error shape, whole: code as expected, message and hint not empty.
fn assert_error((status, body): (u16, Value), code: &str) -> String {
    assert_eq!(body["code"], code, "{status} {body}");
    assert!(!body["hint"].as_str().unwrap().is_empty(), "{body}");
    assert!(status >= 400, "{status}");
    let message = body["message"].as_str().unwrap().to_owned();
    assert!(!message.is_empty());
    message
}

#[test]
fn a_life_of_a_disk() {
    let f = Fixture::new();
    let (status, web) = f.post("/api/v1/vdis", r#"{"name": "web", "size_bytes": 21474836480}"#);
    assert_eq!((status, &web["size_bytes"]), (201, &Value::from(20u64 << 30)));
    assert_eq!(f.post("/api/v1/vdis", r#"{"name": "web", "size_bytes": 21474836480}"#).0, 201);
    assert_error(f.post("/api/v1/vdis", r#"{"name": "web", "size_bytes": 512}"#), "exists");
    assert_eq!(f.post("/api/v1/vdis/web/attach", r#"{"num_queues": 2}"#).1["num_queues"], 2);
    assert_error(f.post("/api/v1/vdis/web/attach", r#"{"num_queues": 3}"#), "busy");
    assert_eq!(f.post("/api/v1/vdis/web/snapshots", r#"{"label": "first"}"#).0, 201);
    assert_eq!(f.post("/api/v1/vdis/web/snapshots", "").1["epoch"], 2);
    let (_, clone) = f.post("/api/v1/vdis/web/clone", r#"{"name": "w2", "snapshot": "first"}"#);
    assert_eq!((&clone["origin"]["vdi"], &clone["origin"]["epoch"]), (&"web".into(), &1.into()));
    assert_error(f.call("DELETE", "/api/v1/vdis/web", ""), "busy");
    assert_eq!(f.post("/api/v1/vdis/web/detach", "{}").0, 204);
    assert_error(f.call("DELETE", "/api/v1/vdis/web", ""), "busy");
    assert_eq!(f.call("DELETE", "/api/v1/vdis/web?recursive=true", ""), (204, Value::Null));
    assert_error(f.get("/api/v1/vdis/web"), "not_found");
    assert_eq!(f.get("/api/v1/vdis").1["vdis"].as_array().unwrap().len(), 1);
}

#[test]
fn one_connection_carries_many_requests() {
    let f = Fixture::new();
    let mut stream = f.connect();
    for _ in 0..3 {
        stream.write_all(b"POST /api/v1/checkpoint HTTP/1.1\r\nhost: p\r\n\r\n").unwrap();
        let mut buf = [0; 512];
        let n = stream.read(&mut buf).unwrap();
        assert!(buf[..n].starts_with(b"HTTP/1.1 204"), "{}", String::from_utf8_lossy(&buf[..n]));
    }
}

#[test]
fn a_stopped_server_takes_its_socket_with_it() {
    let mut f = Fixture::new();
    let mut idle = f.connect();
    idle.write_all(b"POST /api/v1/checkpoint HTTP/1.1\r\nhost: p\r\n\r\n").unwrap();
    assert!(idle.read(&mut [0; 512]).unwrap() > 0);
    f.server.take().unwrap().stop();
    assert!(!f.socket.exists());
    assert_eq!(idle.read(&mut [0; 1]).unwrap(), 0, "idle connections end too");
}
