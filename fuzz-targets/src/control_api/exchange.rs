//! Bytes to a server and back, in both directions at once.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

/// A server that says nothing for so long has nothing more to say to what may be no request.
pub const QUIET: Timespec = Timespec { tv_sec: 0, tv_nsec: 30_000_000 };
/// So long it may take to answer a sound one: who hangs up before hears nothing.
pub const PATIENT: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };
/// Every exchange is over by then.
const LIMIT: Duration = Duration::from_secs(20);

/// What an exchange was.
pub struct Exchange {
    /// Bytes that the server took.
    pub taken: usize,
    /// Bytes that it said.
    pub said: Vec<u8>,
}

/// Send `bytes` and hear the server out until it hangs up; the client hangs up when it is `quiet` so long.
///
/// # Panics
/// When it does not hang up, although the client has.
#[must_use]
pub fn exchange(socket: &Path, bytes: &[u8], quiet: &Timespec) -> Exchange {
    let mut stream = UnixStream::connect(socket).expect("the server listens");
    stream.set_nonblocking(true).expect("a socket can be made so");
    let (start, mut left, mut said) = (Instant::now(), bytes, Vec::new());
    let (mut closed, mut taken) = (false, 0);
    loop {
        assert!(start.elapsed() < LIMIT, "the connection does not end");
        let interest = if left.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
        let ready = rustix::event::poll(&mut [PollFd::new(&stream, interest)], Some(quiet));
        if matches!(ready, Ok(0)) && !std::mem::replace(&mut closed, true) {
            left = &[];
            let _gone = stream.shutdown(Shutdown::Write);
        }
        if !left.is_empty() {
            match stream.write(left) {
                Ok(n) => (left, taken) = (&left[n..], taken + n),
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                // It has hung up; what it said before is still there.
                Err(_) => left = &[],
            }
        }
        let mut some = [0; 4096];
        match stream.read(&mut some) {
            Ok(0) => break,
            Ok(n) => said.extend_from_slice(&some[..n]),
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
    }
    Exchange { taken, said }
}
