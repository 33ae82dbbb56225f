//! A client of the daemon's control socket, as thin as can be: it measures latency, so it keeps one
//! connection open and does nothing besides.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::error::{Error, Result};

/// An answer comes within this, or the daemon hangs.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// Longest answer taken, bytes.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// One connection to a control socket.
#[derive(Debug)]
pub struct Control {
    stream: UnixStream,
    unread: Vec<u8>,
}

impl Control {
    /// Connect to `socket`.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn connect(socket: &Path) -> Result<Control> {
        let stream = UnixStream::connect(socket)
            .and_then(|stream| {
                stream.set_read_timeout(Some(ANSWER_LIMIT))?;
                stream.set_write_timeout(Some(ANSWER_LIMIT))?;
                Ok(stream)
            })
            .map_err(|e| Error::io(socket.display(), &e))?;
        Ok(Control { stream, unread: Vec::new() })
    }

    /// GET `path`, below `/api/v1`.
    ///
    /// # Errors
    /// As [`Control::request`].
    pub fn get(&mut self, path: &str) -> Result<Value> {
        self.request("GET", path, &Value::Null)
    }

    /// POST `body` to `path`, below `/api/v1`.
    ///
    /// # Errors
    /// As [`Control::request`].
    pub fn post(&mut self, path: &str, body: &Value) -> Result<Value> {
        self.request("POST", path, body)
    }

    /// Take a snapshot of `vdi`; gives its number and how long the call took.
    ///
    /// # Errors
    /// As [`Control::request`].
    pub fn snapshot(&mut self, vdi: &str) -> Result<(u64, Duration)> {
        let started = Instant::now();
        let answer = self.post(&format!("/vdis/{vdi}/snapshots"), &serde_json::json!({}))?;
        let took = started.elapsed();
        let epoch = answer["epoch"].as_u64();
        let epoch = epoch.ok_or_else(|| failed(&format!("a snapshot without a number: {answer}")))?;
        Ok((epoch, took))
    }

    /// Send a request and take its answer.
    ///
    /// # Errors
    /// The daemon's own error with its hint in the message; a broken connection.
    pub fn request(&mut self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let what = format!("{method} {path}");
        let io = |e: std::io::Error| Error::io(format!("control socket, {what}"), &e);
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = format!(
            "{method} /api/v1{path} HTTP/1.1\r\nhost: parallax\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.write_all(request.as_bytes()).map_err(io)?;
        let head_end = loop {
            if let Some(at) = self.unread.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            self.read_more(&what)?;
        };
        let head = String::from_utf8_lossy(&self.unread[..head_end]).to_ascii_lowercase();
        let status: u16 = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
        let length: usize = length.unwrap_or(0);
        while self.unread.len() < head_end + length {
            self.read_more(&what)?;
        }
        let answer: Vec<u8> = self.unread.drain(..head_end + length).skip(head_end).collect();
        let value = if answer.is_empty() { Ok(Value::Null) } else { serde_json::from_slice(&answer) };
        let value = value.map_err(|e| failed(&format!("{what}: {e}")))?;
        if (200..300).contains(&status) {
            Ok(value)
        } else {
            Err(failed(&format!("{what}: {status} {value}")))
        }
    }

    fn read_more(&mut self, what: &str) -> Result<()> {
        let mut buffer = [0; 16384];
        let read = self.stream.read(&mut buffer);
        match read.map_err(|e| Error::io(format!("control socket, {what}"), &e))? {
            0 => Err(failed(&format!("{what}: the daemon closed the connection"))),
            _ if self.unread.len() > ANSWER_BYTES_MAX => Err(failed(&format!("{what}: an endless answer"))),
            n => {
                self.unread.extend_from_slice(&buffer[..n]);
                Ok(())
            }
        }
    }
}

fn failed(message: &str) -> Error {
    Error::new(message, "the daemon's log tells more")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use std::os::unix::net::UnixListener;

    /// A server that gives `answers`, one per request, and closes.
    fn answering(answers: &[&str]) -> (Scratch, Control) {
        let scratch = Scratch::new("control").unwrap();
        let listener = UnixListener::bind(scratch.join("sock")).unwrap();
        let answers: Vec<String> = answers.iter().map(|a| (*a).to_string()).collect();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            for answer in answers {
                let mut request = [0; 4096];
                assert!(stream.read(&mut request).unwrap() > 0);
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        let control = Control::connect(&scratch.join("sock")).unwrap();
        (scratch, control)
    }

    #[test]
    fn one_connection_takes_several_requests() {
        let ok = "HTTP/1.1 201 Created\r\nContent-Length: 11\r\n\r\n{\"epoch\":7}";
        let (_scratch, mut control) = answering(&[ok, ok]);
        assert_eq!(control.snapshot("web").unwrap().0, 7);
        assert_eq!(control.snapshot("web").unwrap().0, 7);
    }

    #[test]
    fn an_error_shows_what_the_daemon_said_and_an_early_end_is_an_error() {
        let busy = "HTTP/1.1 409 Conflict\r\ncontent-length: 15\r\n\r\n{\"code\":\"busy\"}";
        let (_scratch, mut control) = answering(&[busy, "HTTP/1.1 200 OK\r\n"]);
        assert!(control.get("/tree").unwrap_err().to_string().contains("busy"));
        assert!(control.get("/tree").unwrap_err().to_string().contains("closed"));
    }
}
