//! The agent in the guest (`images/init`): shell scripts in, their output and exit status out, over a
//! virtio-serial port that QEMU shows as a Unix socket.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::error::{Error, Result};

/// Most output of one job, bytes.
const OUTPUT_BYTES_MAX: usize = 16 << 20;

/// A job that the guest is running.
#[derive(Debug)]
#[must_use = "a job must be waited for before the next one starts"]
pub struct Job {
    pub(crate) id: u64,
    pub(crate) text: String,
}

/// What a job left.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JobOutput {
    /// Its exit status.
    pub status: i32,
    /// Its standard output and error.
    pub text: String,
}

/// The host's end of the agent's port.
#[derive(Debug)]
pub struct Agent {
    stream: UnixStream,
    unread: Vec<u8>,
    id_last: u64,
}

impl Agent {
    /// Connect to the port; the guest need not be up yet. `None` while QEMU does not listen yet.
    #[must_use]
    pub fn connect(path: &Path) -> Option<Agent> {
        let stream = UnixStream::connect(path).ok()?;
        Some(Agent { stream, unread: Vec::new(), id_last: 0 })
    }

    /// Ask the guest to answer; gives the line that will come.
    ///
    /// # Errors
    /// When the port is gone.
    pub fn ping(&mut self) -> Result<String> {
        let id = self.next_id();
        self.send(&format!("ping {id}\n"))?;
        Ok(format!("@@PONG {id}"))
    }

    /// Start `script` in the guest's shell.
    ///
    /// # Errors
    /// When the port is gone.
    pub fn start(&mut self, script: &str) -> Result<Job> {
        let id = self.next_id();
        self.send(&format!("run {id} {}\n", base64(script.as_bytes())))?;
        Ok(Job { id, text: String::new() })
    }

    /// Take one line of output into `job`; its result when that line ends it. Lines left over from a job
    /// given up earlier are dropped with that job's end.
    ///
    /// # Errors
    /// When the job prints too much.
    pub fn take_line(job: &mut Job, line: &str) -> Result<Option<JobOutput>> {
        if let Some(end) = line.strip_prefix("@@END ") {
            let mut fields = end.split(' ').map(str::parse::<i64>);
            let (Some(Ok(id)), Some(Ok(status))) = (fields.next(), fields.next()) else {
                return Err(Error::new(
                    format!("the agent says {line:?}"),
                    "is the guest image stale? make setup",
                ));
            };
            let text = std::mem::take(&mut job.text);
            if u64::try_from(id) != Ok(job.id) {
                return Ok(None);
            }
            // The agent puts a line end before its marker, for output that has none.
            let text = text.strip_suffix('\n').unwrap_or(&text).to_string();
            return Ok(Some(JobOutput { status: i32::try_from(status).unwrap_or(-1), text }));
        }
        if job.text.len() + line.len() > OUTPUT_BYTES_MAX {
            return Err(too_much());
        }
        if !line.starts_with("@@PONG ") {
            job.text.push_str(line);
            job.text.push('\n');
        }
        Ok(None)
    }

    /// The next line from the guest, waiting at most `limit`.
    ///
    /// # Errors
    /// When QEMU closed the port.
    pub fn line(&mut self, limit: Duration) -> Result<Option<String>> {
        if let Some(line) = self.buffered_line() {
            return Ok(Some(line));
        }
        let mut buffer = [0; 16384];
        let limit = limit.max(Duration::from_millis(1));
        match self.stream.set_read_timeout(Some(limit)).and_then(|()| self.stream.read(&mut buffer)) {
            Ok(0) => Err(Error::new("QEMU closed the agent's port", "QEMU's output tells more")),
            Ok(_) if self.unread.len() > OUTPUT_BYTES_MAX => Err(too_much()),
            Ok(n) => {
                self.unread.extend_from_slice(&buffer[..n]);
                Ok(self.buffered_line())
            }
            Err(e) if timed_out(&e) => Ok(None),
            Err(e) => Err(Error::io("the agent's port", &e)),
        }
    }

    fn buffered_line(&mut self) -> Option<String> {
        let end = self.unread.iter().position(|b| *b == b'\n')?;
        let line: Vec<u8> = self.unread.drain(..=end).collect();
        Some(String::from_utf8_lossy(&line[..end]).into_owned())
    }

    fn next_id(&mut self) -> u64 {
        self.id_last += 1;
        self.id_last
    }

    fn send(&mut self, text: &str) -> Result<()> {
        self.stream.write_all(text.as_bytes()).map_err(|e| Error::io("the agent's port", &e))
    }
}

fn too_much() -> Error {
    Error::new(
        format!("a job printed more than {OUTPUT_BYTES_MAX} bytes"),
        "send its output to a file in the guest and print what matters",
    )
}

/// Whether a read gave nothing because its time was up.
pub(crate) fn timed_out(e: &std::io::Error) -> bool {
    matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// RFC 4648 base64, with padding: what the guest's busybox decodes.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let at = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for i in 0..4 {
            let index = (bits >> (18 - 6 * i)) & 63;
            text.push(if i <= chunk.len() { char::from(ALPHABET[index as usize]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_the_rfc_examples() {
        for (plain, coded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn output_of_a_job_given_up_earlier_is_not_taken_for_this_one() {
        let mut job = Job { id: 7, text: String::new() };
        for line in ["late output", "", "@@END 6 1", "@@PONG 5", "mine", ""] {
            assert_eq!(Agent::take_line(&mut job, line).unwrap(), None);
        }
        let output = Agent::take_line(&mut job, "@@END 7 0").unwrap().unwrap();
        assert_eq!(output, JobOutput { status: 0, text: "mine\n".into() });
    }
}
