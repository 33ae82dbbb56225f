//! Raw vhost-user messages: anything can be said, also what no sane front end says.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

/// Request numbers of the vhost-user specification.
pub mod request {
    /// Features the device offers.
    pub const GET_FEATURES: u32 = 1;
    /// Features the driver accepts.
    pub const SET_FEATURES: u32 = 2;
    /// Begin.
    pub const SET_OWNER: u32 = 3;
    /// All memory regions.
    pub const SET_MEM_TABLE: u32 = 5;
    /// Size of a ring.
    pub const SET_VRING_NUM: u32 = 8;
    /// Place of a ring.
    pub const SET_VRING_ADDR: u32 = 9;
    /// Where to go on in a ring.
    pub const SET_VRING_BASE: u32 = 10;
    /// Stop a ring.
    pub const GET_VRING_BASE: u32 = 11;
    /// Start a ring.
    pub const SET_VRING_KICK: u32 = 12;
    /// How to interrupt.
    pub const SET_VRING_CALL: u32 = 13;
    /// Protocol features the device offers.
    pub const GET_PROTOCOL_FEATURES: u32 = 15;
    /// Protocol features accepted.
    pub const SET_PROTOCOL_FEATURES: u32 = 16;
    /// Enable or disable a ring.
    pub const SET_VRING_ENABLE: u32 = 18;
    /// Read the configuration space.
    pub const GET_CONFIG: u32 = 24;
    /// Write the configuration space.
    pub const SET_CONFIG: u32 = 25;
    /// A fresh in-flight area.
    pub const GET_INFLIGHT_FD: u32 = 31;
    /// The in-flight area of before.
    pub const SET_INFLIGHT_FD: u32 = 32;
    /// Reset.
    pub const RESET_DEVICE: u32 = 34;
}

const VERSION: u32 = 1;
const REPLY: u32 = 4;
const NEED_REPLY: u32 = 8;
const HEADER_BYTES: usize = 12;
const FDS_MAX: usize = 33;

/// A connection to a device.
pub struct Wire(UnixStream);

/// Little-endian words in a row.
#[must_use]
pub fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Little-endian double words in a row.
#[must_use]
pub fn quads(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

impl Wire {
    /// Connect; no answer takes longer than 20 s.
    pub fn connect(socket: &Path) -> io::Result<Wire> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        Ok(Wire(stream))
    }
    /// The socket.
    #[must_use]
    pub fn stream(&self) -> &UnixStream {
        &self.0
    }
    /// Send a message as it is.
    pub fn send(&self, number: u32, flags: u32, body: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let header = words(&[number, VERSION | flags, body.len() as u32]);
        self.send_bytes(&[&header, body], fds)
    }
    /// Send any bytes.
    pub fn send_bytes(&self, parts: &[&[u8]], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)), "room for {} descriptors", fds.len());
        }
        let slices: Vec<_> = parts.iter().map(|p| IoSlice::new(p)).collect();
        rustix::net::sendmsg(&self.0, &slices, &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }
    /// Receive one message: its number, body and descriptors.
    pub fn receive(&self) -> io::Result<(u32, Vec<u8>, Vec<OwnedFd>)> {
        let mut header = [0; HEADER_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::WAITALL | RecvFlags::CMSG_CLOEXEC;
        let got = rustix::net::recvmsg(&self.0, &mut [IoSliceMut::new(&mut header)], &mut control, flags)?;
        if got.bytes != HEADER_BYTES {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(list) = message {
                fds.extend(list);
            }
        }
        let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
        let mut body = vec![0; word(8) as usize];
        io::Read::read_exact(&mut &self.0, &mut body)?;
        Ok((word(0), body, fds))
    }
    /// Send a message that has an answer of its own, and wait for it.
    pub fn ask(
        &self,
        number: u32,
        body: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
        self.send(number, 0, body, fds)?;
        let (answered, body, fds) = self.receive()?;
        assert_eq!(answered, number, "the answer belongs to the question");
        Ok((body, fds))
    }
    /// Ask for one number.
    pub fn ask_u64(&self, number: u32) -> io::Result<u64> {
        let (body, _) = self.ask(number, &[], &[])?;
        Ok(u64::from_le_bytes(body[..8].try_into().expect("eight bytes")))
    }
    /// Send a message and wait until the device says that it is done.
    pub fn tell(&self, number: u32, body: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.send(number, NEED_REPLY, body, fds)?;
        let (_, body, _) = self.receive()?;
        match body.first() {
            Some(0) => Ok(()),
            _ => Err(io::Error::other(format!("request {number} was refused"))),
        }
    }
    /// True when the device hangs up within 20 s.
    #[must_use]
    pub fn is_cut_off(&self) -> bool {
        let mut bytes = [0; 64];
        loop {
            match io::Read::read(&mut &self.0, &mut bytes) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(e) => return e.kind() == io::ErrorKind::ConnectionReset,
            }
        }
    }
}

/// A file as borrowed descriptor.
#[must_use]
pub fn fd(file: &File) -> BorrowedFd<'_> {
    file.as_fd()
}

const _: () = assert!(REPLY & NEED_REPLY == 0);
