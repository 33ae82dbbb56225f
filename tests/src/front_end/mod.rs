//! A small vhost-user-blk front end and guest driver of our own: it does what `blkio` cannot (in-flight
//! areas, reconnects, raw descriptors) and what no front end should (loops, jumps, garbage).
//!
//! [`FrontEnd`] holds the guest: its memory, queues and in-flight area live on while connections come and
//! go, as they do in QEMU.

mod queue;
mod ram;
mod wire;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

pub use queue::{
    DISCARD_REQUEST, Descriptor, Done, FLUSH_REQUEST, INDIRECT, NEXT, NO_STATUS, Queue, READ_REQUEST, WRITE,
    WRITE_REQUEST, WRITE_ZEROES_REQUEST,
};
pub use ram::{Ram, USER_BASE};
pub use wire::{Wire, fd, quads, request, words};

/// Bit of the protocol feature "in-flight area".
const INFLIGHT: u64 = 1 << 12;

/// What kind of guest.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Queues.
    pub queues: u16,
    /// Entries per queue, and requests in flight per queue at most.
    pub size: u16,
    /// Data bytes of the largest request.
    pub data_bytes: u64,
    /// Whether it keeps an in-flight area.
    pub inflight: bool,
}

impl Default for Shape {
    fn default() -> Shape {
        Shape { queues: 1, size: 64, data_bytes: 64 << 10, inflight: true }
    }
}

/// A guest with its front end.
pub struct FrontEnd {
    /// The connection; none before the first and after a hang-up.
    pub wire: Option<Wire>,
    /// The guest's memory.
    pub ram: Ram,
    /// Its queues.
    pub queues: Vec<Queue>,
    shape: Shape,
    inflight: Option<(Vec<u8>, File)>,
}

impl FrontEnd {
    /// A guest that is switched off.
    #[must_use]
    pub fn new(shape: Shape) -> FrontEnd {
        let each = Queue::bytes(shape.size, shape.data_bytes).next_multiple_of(4096);
        let ram = Ram::new((each * u64::from(shape.queues)) as usize);
        let queues = (0..u64::from(shape.queues))
            .map(|i| Queue::new(i * each, shape.size, shape.data_bytes))
            .collect();
        FrontEnd { wire: None, ram, queues, shape, inflight: None }
    }
    /// A guest that runs on the device at `socket`.
    pub fn start(socket: &Path, shape: Shape) -> io::Result<FrontEnd> {
        let mut guest = FrontEnd::new(shape);
        guest.connect(socket)?;
        Ok(guest)
    }
    /// Connect and start every queue; a second time as QEMU does: same in-flight area, queues from
    /// their used index on.
    pub fn connect(&mut self, socket: &Path) -> io::Result<()> {
        self.wire = None;
        let wire = Wire::connect(socket)?;
        let offered = negotiate(&wire)?;
        self.send_memory(&wire)?;
        if self.shape.inflight && offered & INFLIGHT != 0 {
            self.set_up_inflight(&wire)?;
        }
        for index in 0..self.queues.len() {
            self.start_queue(&wire, index)?;
        }
        self.wire = Some(wire);
        Ok(())
    }
    /// As [`FrontEnd::connect`], again and again for up to `limit`: the device may be restarting.
    pub fn reconnect(&mut self, socket: &Path, limit: Duration) -> io::Result<()> {
        let end = Instant::now() + limit;
        loop {
            match self.connect(socket) {
                Err(_) if Instant::now() < end => std::thread::sleep(Duration::from_millis(10)),
                result => return result,
            }
        }
    }
    fn send_memory(&self, wire: &Wire) -> io::Result<()> {
        let mut body = words(&[1, 0]);
        body.extend(quads(&[0, self.ram.len(), USER_BASE, 0]));
        wire.tell(request::SET_MEM_TABLE, &body, &[fd(self.ram.file())])
    }
    fn set_up_inflight(&mut self, wire: &Wire) -> io::Result<()> {
        if self.inflight.is_none() {
            let mut asked = quads(&[0, 0]);
            asked.extend(self.shape.queues.to_le_bytes());
            asked.extend(self.shape.size.to_le_bytes());
            asked.extend([0; 4]);
            let (body, fds) = wire.ask(request::GET_INFLIGHT_FD, &asked, &[])?;
            let file = fds.into_iter().next().ok_or(io::ErrorKind::InvalidData)?;
            self.inflight = Some((body, File::from(file)));
        }
        let (body, file) = self.inflight.as_ref().expect("set above");
        wire.tell(request::SET_INFLIGHT_FD, body, &[fd(file)])
    }
    fn start_queue(&self, wire: &Wire, index: usize) -> io::Result<()> {
        let (queue, index) = (&self.queues[index], index as u32);
        wire.tell(request::SET_VRING_NUM, &words(&[index, u32::from(queue.size())]), &[])?;
        let base = u32::from(queue.used_index(&self.ram));
        wire.tell(request::SET_VRING_BASE, &words(&[index, base]), &[])?;
        let (descriptors, available, used) = queue.place();
        let mut body = words(&[index, 0]);
        body.extend(quads(&[USER_BASE + descriptors, USER_BASE + used, USER_BASE + available, 0]));
        wire.tell(request::SET_VRING_ADDR, &body, &[])?;
        wire.tell(request::SET_VRING_CALL, &quads(&[u64::from(index)]), &[queue.call_file().as_fd()])?;
        wire.tell(request::SET_VRING_KICK, &quads(&[u64::from(index)]), &[queue.kick_file().as_fd()])?;
        wire.tell(request::SET_VRING_ENABLE, &words(&[index, 1]), &[])
    }
    /// Stop a queue; returns the next available entry the device would take.
    pub fn stop_queue(&self, index: u32) -> io::Result<u32> {
        let wire = self.wire.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let (body, _) = wire.ask(request::GET_VRING_BASE, &words(&[index, 0]), &[])?;
        Ok(u32::from_le_bytes(body[4..8].try_into().expect("four bytes")))
    }
    /// Start a queue again that was stopped.
    pub fn restart_queue(&self, index: usize) -> io::Result<()> {
        self.start_queue(self.wire.as_ref().ok_or(io::ErrorKind::NotConnected)?, index)
    }
    /// The in-flight area's file.
    #[must_use]
    pub fn inflight_file(&self) -> Option<&File> {
        self.inflight.as_ref().map(|(_, file)| file)
    }
    /// Queue and memory, borrowed together.
    pub fn queue(&mut self, index: usize) -> (&mut Queue, &Ram) {
        (&mut self.queues[index], &self.ram)
    }
    /// Write and wait; returns the status.
    pub fn write(&mut self, sector: u64, data: &[u8]) -> u8 {
        let (queue, ram) = self.queue(0);
        queue.submit_write(ram, sector, data);
        queue.kick();
        queue.wait(ram, 1, Duration::from_secs(20))[0].status
    }
    /// Read and wait; panics unless the status is fine.
    pub fn read(&mut self, sector: u64, len: usize) -> Vec<u8> {
        let (queue, ram) = self.queue(0);
        let slot = queue.submit(ram, READ_REQUEST, sector, len as u32, 1);
        queue.kick();
        let done = queue.wait(ram, 1, Duration::from_secs(20))[0];
        assert_eq!((done.slot, done.status, done.len), (slot, 0, len as u32 + 1));
        ram.read(queue.data_at(slot), len)
    }
    /// Flush and wait; returns the status.
    pub fn flush(&mut self) -> u8 {
        let (queue, ram) = self.queue(0);
        queue.submit(ram, FLUSH_REQUEST, 0, 0, 1);
        queue.kick();
        queue.wait(ram, 1, Duration::from_secs(20))[0].status
    }
}

/// Accept everything that is offered; returns the protocol features.
fn negotiate(wire: &Wire) -> io::Result<u64> {
    let features = wire.ask_u64(request::GET_FEATURES)?;
    wire.send(request::SET_FEATURES, 0, &quads(&[features]), &[])?;
    let protocol = wire.ask_u64(request::GET_PROTOCOL_FEATURES)?;
    wire.send(request::SET_PROTOCOL_FEATURES, 0, &quads(&[protocol]), &[])?;
    wire.send(request::SET_OWNER, 0, &[], &[])?;
    Ok(protocol)
}
