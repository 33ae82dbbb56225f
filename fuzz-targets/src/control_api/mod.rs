//! Target `control-api`: bytes on the control socket, with a data thread behind it that has no disks. Every answer is a
//! document or has the one shape of an error; what is no HTTP ends its connection and nothing else.

mod answers;
mod exchange;
mod requests;

use std::path::Path;

use vhost_parallax::control::server::access::Access;
use vhost_parallax::control::server::{Deadlines, Server, ServerConfig, map_responder};

use crate::tape::Tape;
use exchange::{PATIENT, QUIET, exchange};

/// Requests of one connection at most.
const REQUESTS_MAX: u64 = 24;
/// Connections of one run at most.
const CONNECTIONS_MAX: usize = 4;
/// A body without end is given up after far less than this.
const FLOOD_BYTES: usize = 16 << 20;
const FLOOD_BYTES_TAKEN_MAX: usize = 8 << 20;

/// Connections, each of requests built from the API's words or of plain bytes.
///
/// # Panics
/// When the server does, does not end a connection, answers in another shape, or is not there any more.
pub fn run(bytes: &[u8]) {
    let mut tape = Tape::new(bytes);
    let dir = tempfile::Builder::new().prefix("plx-fuzz-").tempdir().expect("a temporary directory");
    let socket = dir.path().join("control.sock");
    let (commands, data_thread) = map_responder::start();
    let access = Access::of_process(None);
    let config = ServerConfig { socket: socket.clone(), access, deadlines: Deadlines::default() };
    let server = Server::start(config, commands).expect("the server starts");
    for _ in 0..CONNECTIONS_MAX {
        connection(&socket, &mut tape);
        if tape.is_over() {
            break;
        }
    }
    let sound = b"GET /api/v1/vdis HTTP/1.1\r\nhost: p\r\nconnection: close\r\n\r\n";
    let well = exchange(&socket, sound, &PATIENT).said;
    assert!(well.starts_with(b"HTTP/1.1 200 "), "the next client gets {}", String::from_utf8_lossy(&well));
    answers::check(&well);
    server.stop();
    assert!(data_thread.join().is_ok(), "the data thread ends with the server");
}

fn connection(socket: &Path, tape: &mut Tape<'_>) {
    let how = tape.u8();
    let mut sent = Vec::new();
    match how % 8 {
        0 => {
            let len = usize::from(tape.u16());
            sent.extend(tape.bytes(len));
        }
        1 => return flood(socket, tape),
        _ => {
            for _ in 0..=tape.below(REQUESTS_MAX) {
                requests::write_request(&mut sent, tape);
                if tape.is_over() {
                    break;
                }
            }
        }
    }
    if how & 16 != 0 {
        sent.extend(b"GET /api/v1/tree HTTP/1.1\r\nhost: p\r\nconnection: close\r\n\r\n");
    }
    answers::check(&exchange(socket, &sent, &QUIET).said);
}

/// A head, or a body, that never ends.
fn flood(socket: &Path, tape: &mut Tape<'_>) {
    let mut sent = Vec::new();
    requests::write_request(&mut sent, tape);
    let heads = ["", "POST /api/v1/vdis HTTP/1.1\r\nhost: p\r\ntransfer-encoding: chunked\r\n\r\n", "GET /"];
    sent.extend(tape.pick(&heads).bytes());
    let len = 1 + usize::from(tape.u8() % 64);
    let piece = tape.bytes(len);
    let piece = if piece.is_empty() { b" " } else { piece };
    // As many as the tape says; one in a while is without end.
    let bytes_wanted = if tape.u8() & 31 == 31 { FLOOD_BYTES } else { usize::from(tape.u16()) * 4 };
    sent.extend(piece.iter().copied().cycle().take(bytes_wanted));
    let had = exchange(socket, &sent, &QUIET);
    answers::check(&had.said);
    let requests = had.said.windows(9).filter(|w| w == b"HTTP/1.1 ").count();
    // Many requests in a row may be many bytes; one may not.
    assert!(had.taken < FLOOD_BYTES_TAKEN_MAX || requests > 8, "{} bytes are taken", had.taken);
}
