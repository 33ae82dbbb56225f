//! QMP, QEMU's machine protocol: JSON lines over a Unix socket; commands one at a time, events in between.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::wait::Deadline;

/// Events kept until someone asks for them; older ones are dropped.
const EVENTS_MAX: usize = 256;
/// A command is answered within this, or QEMU hangs.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// Longest line QEMU may send, bytes.
const LINE_BYTES_MAX: usize = 4 << 20;

/// A connection to one QEMU.
#[derive(Debug)]
pub struct Qmp {
    stream: UnixStream,
    unread: Vec<u8>,
    events: Vec<Value>,
}

impl Qmp {
    /// Connect and leave negotiation mode. `None` while QEMU does not listen yet.
    ///
    /// # Errors
    /// When QEMU listens but does not speak QMP.
    pub fn connect(path: &Path) -> Result<Option<Qmp>> {
        let Ok(stream) = UnixStream::connect(path) else { return Ok(None) };
        let mut qmp = Qmp { stream, unread: Vec::new(), events: Vec::new() };
        let greeting = qmp.message(Deadline::after(ANSWER_LIMIT), "the greeting")?;
        if greeting.get("QMP").is_none() {
            return Err(failed(&format!("QEMU greets with {greeting}")));
        }
        qmp.command("qmp_capabilities", &json!({}))?;
        Ok(Some(qmp))
    }

    /// Execute `command`.
    ///
    /// # Errors
    /// QEMU's own error; no answer.
    pub fn command(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let text = json!({ "execute": command, "arguments": arguments }).to_string() + "\n";
        self.stream.write_all(text.as_bytes()).map_err(|e| Error::io(format!("QMP {command}"), &e))?;
        let deadline = Deadline::after(ANSWER_LIMIT);
        loop {
            let mut message = self.message(deadline, command)?;
            if let Some(error) = message.get("error") {
                return Err(failed(&format!("QMP {command} {arguments}: {error}")));
            }
            match message.get_mut("return") {
                Some(value) => return Ok(value.take()),
                None => self.keep(message),
            }
        }
    }

    /// Wait for the event `name` that `wanted` accepts; it and all before it are forgotten.
    ///
    /// # Errors
    /// When it does not come before `deadline`, or QEMU goes away.
    pub fn event(
        &mut self,
        name: &str,
        deadline: Deadline,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let matches = |e: &Value| e["event"] == name && wanted(&e["data"]);
        loop {
            if let Some(at) = self.events.iter().position(matches) {
                return Ok(self.events.drain(..=at).next_back().expect("the range holds the event found"));
            }
            let message = self.message(deadline, name)?;
            self.keep(message);
        }
    }

    /// Forget the events that happened so far, those still in the socket included.
    ///
    /// # Errors
    /// As [`Qmp::command`].
    pub fn forget_events(&mut self) -> Result<()> {
        self.command("query-status", &json!({}))?;
        self.events.clear();
        Ok(())
    }

    fn keep(&mut self, message: Value) {
        if message.get("event").is_some() {
            if self.events.len() == EVENTS_MAX {
                self.events.remove(0);
            }
            self.events.push(message);
        }
    }

    fn message(&mut self, deadline: Deadline, what: &str) -> Result<Value> {
        loop {
            if let Some(end) = self.unread.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                return serde_json::from_slice(&line).map_err(|e| failed(&format!("QMP {what}: {e}")));
            }
            deadline.check(&format!("QMP {what}"))?;
            let left = deadline.left().max(Duration::from_millis(1));
            let mut buffer = [0; 4096];
            let read = self.stream.set_read_timeout(Some(left)).and_then(|()| self.stream.read(&mut buffer));
            match read {
                Ok(0) => return Err(failed(&format!("QMP {what}: QEMU closed the connection"))),
                Ok(n) => self.unread.extend_from_slice(&buffer[..n]),
                Err(e) if crate::agent::timed_out(&e) => {}
                Err(e) => return Err(Error::io(format!("QMP {what}"), &e)),
            }
            if self.unread.len() > LINE_BYTES_MAX {
                return Err(failed(&format!("QMP {what}: a line of more than {LINE_BYTES_MAX} bytes")));
            }
        }
    }
}

fn failed(message: &str) -> Error {
    Error::new(message, "QEMU's output and the guest's serial log tell more")
}
