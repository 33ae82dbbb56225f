//! The front end's end of a connection: any bytes, with any descriptors.

use std::io::{self, IoSlice, Read};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

/// An answer is there by then, or never.
const ANSWER_WAIT: Duration = Duration::from_secs(15);
/// Descriptors with one message at most.
pub const FDS_MAX: usize = 40;
/// Bytes of a message's header.
pub const HEADER_BYTES: usize = 12;
/// The version that every message has in its flags.
pub const VERSION: u32 = 1;
/// The flag of an answer.
const REPLY: u32 = 4;
/// The flag of a message that wants to be acknowledged.
pub const NEED_REPLY: u32 = 8;

/// A connection.
pub struct Wire {
    stream: UnixStream,
    /// What has arrived and not been looked at.
    heard: Vec<u8>,
}

/// An answer: the number of its request, and its body.
pub type Answer = (u32, Vec<u8>);

impl Wire {
    /// Connect, whoever is connected already: the device lets one front end in after the other.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn connect(socket: &Path) -> io::Result<Wire> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(ANSWER_WAIT))?;
        stream.set_write_timeout(Some(ANSWER_WAIT))?;
        Ok(Wire { stream, heard: Vec::new() })
    }
    /// Send these bytes with these descriptors. A device that has hung up takes nothing.
    ///
    /// # Panics
    /// When it takes nothing, and has not hung up.
    pub fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = &fds[..fds.len().min(FDS_MAX)];
        if !fds.is_empty() && !bytes.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)), "room for the descriptors");
        }
        let sent =
            rustix::net::sendmsg(&self.stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL);
        assert!(sent != Err(rustix::io::Errno::AGAIN), "the device does not read what it is sent");
    }
    /// Send a message.
    pub fn say(&self, number: u32, flags: u32, body: &[u8], fds: &[BorrowedFd<'_>]) {
        let header = [number, VERSION | flags, body.len() as u32];
        let mut bytes: Vec<u8> = header.iter().flat_map(|w| w.to_le_bytes()).collect();
        bytes.extend(body);
        self.send(&bytes, fds);
    }
    /// The next answer; none when the device has hung up.
    ///
    /// # Panics
    /// When there is none in time, or it is not an answer.
    pub fn answer(&mut self) -> Option<Answer> {
        loop {
            if let Some(answer) = self.take_answer() {
                return Some(answer);
            }
            if !self.listen() {
                return None;
            }
        }
    }
    fn take_answer(&mut self) -> Option<Answer> {
        let word = |at: usize| Some(u32::from_le_bytes(self.heard.get(at..at + 4)?.try_into().ok()?));
        let (number, flags, len) = (word(0)?, word(4)?, word(8)? as usize);
        assert_eq!(flags & 7, VERSION | REPLY, "the answer to request {number}");
        assert!(len <= 4096, "an answer of {len} bytes to request {number}");
        if self.heard.len() < HEADER_BYTES + len {
            return None;
        }
        let rest = self.heard.split_off(HEADER_BYTES + len);
        let body = std::mem::replace(&mut self.heard, rest).split_off(HEADER_BYTES);
        Some((number, body))
    }
    /// False at the end of the connection.
    fn listen(&mut self) -> bool {
        let mut bytes = [0; 4096];
        match self.stream.read(&mut bytes) {
            Ok(0) => false,
            Ok(n) => {
                self.heard.extend_from_slice(&bytes[..n]);
                true
            }
            Err(e) => {
                assert!(e.kind() == io::ErrorKind::ConnectionReset, "the device does not answer: {e}");
                false
            }
        }
    }
    /// Say no more, and hear the rest out.
    ///
    /// # Panics
    /// When the device does not hang up in time, or says what is no answer.
    pub fn end(mut self) {
        let _gone_already = self.stream.shutdown(Shutdown::Write);
        while self.answer().is_some() {}
    }
}
