//! The daemon's control socket: HTTP/1.1 with JSON on one kept connection, no more than the benches ask.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

/// A connection to the control socket.
pub struct Control {
    stream: BufReader<UnixStream>,
}

impl Control {
    /// Connect to `socket`.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn connect(socket: &Path) -> io::Result<Control> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Control { stream: BufReader::new(stream) })
    }

    /// Ask, and wait for the answer. `path` is below `/api/v1`.
    ///
    /// # Errors
    /// An answer other than 2xx, with its body; or a broken connection.
    pub fn ask(&mut self, method: &str, path: &str, body: Option<&Value>) -> io::Result<Value> {
        let body = body.map_or(String::new(), Value::to_string);
        let request = format!(
            "{method} /api/v1{path} HTTP/1.1\r\nHost: parallax\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        let status = self.line()?;
        let mut length = 0usize;
        loop {
            let line = self.line()?.to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
        }
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer)?;
        if status.split(' ').nth(1).is_none_or(|code| !code.starts_with('2')) {
            let text = String::from_utf8_lossy(&answer);
            return Err(io::Error::other(format!("{method} {path}: {status}: {text}")));
        }
        if answer.is_empty() {
            Ok(Value::Null)
        } else {
            serde_json::from_slice(&answer).map_err(io::Error::other)
        }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the daemon closed the connection"));
        }
        Ok(line.trim_end().to_string())
    }
}
