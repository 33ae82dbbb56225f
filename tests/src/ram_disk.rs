//! A data thread that serves devices from memory: for tests of the protocol, without an engine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use vhost_parallax::vhost::{
    DataLink, DataPort, DeviceFacts, DeviceId, DeviceState, Endpoint, Message, Next, Operation, Reply,
    Request, Ring, SocketAccess, Status, data_link,
};

/// How the data thread treats requests; change it at any time.
#[derive(Default)]
pub struct Mood {
    /// Take requests and complete none.
    pub hold: AtomicBool,
    /// Complete the newest first.
    pub newest_first: AtomicBool,
    /// Leave at once: nothing is completed or given back, as if killed.
    pub die: AtomicBool,
    /// Requests executed so far.
    pub executed: AtomicU64,
}

/// Disks in memory behind sockets.
pub struct RamDisks {
    dir: tempfile::TempDir,
    link: DataLink,
    disks: Disks,
    /// How requests are treated.
    pub mood: Arc<Mood>,
    endpoints: Vec<Endpoint>,
    thread: Option<JoinHandle<()>>,
    next_id: u64,
}

/// The bytes of a disk; they outlive their daemon.
pub type Bytes = Arc<Mutex<Vec<u8>>>;

/// A disk of `len` zeros.
#[must_use]
pub fn blank(len: usize) -> Bytes {
    Arc::new(Mutex::new(vec![0; len]))
}

impl RamDisks {
    /// A daemon with no disks.
    #[must_use]
    pub fn new() -> RamDisks {
        let (link, port) = data_link().expect("an eventfd");
        let mood = Arc::new(Mood::default());
        let disks: Disks = Arc::default();
        let thread = {
            let (mood, disks) = (Arc::clone(&mood), Arc::clone(&disks));
            std::thread::spawn(move || Loop { port, mood, disks, rings: BTreeMap::new() }.run())
        };
        RamDisks {
            dir: tempfile::tempdir().expect("a temporary directory"),
            link,
            disks,
            mood,
            endpoints: Vec::new(),
            thread: Some(thread),
            next_id: 1,
        }
    }
    /// Serve `bytes` as disk `name`; returns its socket and its state.
    pub fn attach(&mut self, name: &str, bytes: &Bytes, read_only: bool) -> (PathBuf, Arc<DeviceState>) {
        self.attach_at(&self.dir.path().join(format!("{name}.sock")), name, bytes, read_only)
    }
    /// As [`RamDisks::attach`], at a socket path of the caller's.
    pub fn attach_at(
        &mut self,
        socket: &Path,
        name: &str,
        bytes: &Bytes,
        read_only: bool,
    ) -> (PathBuf, Arc<DeviceState>) {
        let id = DeviceId(self.next_id);
        self.next_id += 1;
        let size_bytes = bytes.lock().expect("no test panics with a disk").len() as u64;
        let facts = DeviceFacts { id, name: name.to_owned(), size_bytes, read_only, queues: 64 };
        let device = Arc::new(DeviceState::new(facts));
        self.disks.lock().expect("as above").insert(id, Arc::clone(bytes));
        let access = SocketAccess::default();
        let endpoint =
            Endpoint::open(socket, access, Arc::clone(&device), self.link.clone()).expect("a socket");
        self.endpoints.push(endpoint);
        (socket.to_owned(), device)
    }
    /// Close every socket in good order.
    pub fn close(mut self) {
        self.end();
    }
    /// End as if killed: connections drop, nothing in flight is finished.
    pub fn kill(mut self) {
        self.mood.die.store(true, Ordering::SeqCst);
        self.end();
    }
    fn end(&mut self) {
        self.endpoints.iter().for_each(Endpoint::close);
        self.endpoints.drain(..).for_each(Endpoint::join);
        self.mood.die.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the data thread does not panic");
        }
    }
}

impl Default for RamDisks {
    fn default() -> RamDisks {
        RamDisks::new()
    }
}

impl Drop for RamDisks {
    fn drop(&mut self) {
        self.mood.hold.store(false, Ordering::SeqCst);
        self.end();
    }
}

type Disks = Arc<Mutex<BTreeMap<DeviceId, Bytes>>>;

struct Slot {
    ring: Ring,
    waiting: Vec<Request>,
    stopping: Option<mpsc::SyncSender<Option<u16>>>,
}

struct Loop {
    port: DataPort,
    mood: Arc<Mood>,
    disks: Disks,
    rings: BTreeMap<(DeviceId, u16), Slot>,
}

impl Loop {
    fn run(mut self) {
        let mut quiet_since = Instant::now();
        while !self.mood.die.load(Ordering::SeqCst) {
            self.port.wake_fd().clear();
            while let Some(message) = self.port.take() {
                self.act(message);
                quiet_since = Instant::now();
            }
            if self.serve() {
                quiet_since = Instant::now();
            } else if quiet_since.elapsed() > Duration::from_millis(1) {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
    }
    fn act(&mut self, message: Message) {
        match message {
            Message::Start(setup, reply) => {
                let key = (setup.device.id(), setup.index);
                let started = Ring::start(*setup)
                    .map(|ring| drop(self.rings.insert(key, Slot { ring, waiting: vec![], stopping: None })));
                let _ = reply.send(started);
            }
            Message::Stop(id, index, reply) => match self.rings.get_mut(&(id, index)) {
                Some(slot) => slot.stopping = Some(reply),
                None => drop(reply.send(None)),
            },
            Message::Memory(id, memory, reply) => {
                let mut mine = self.rings.iter_mut().filter(|((device, _), _)| *device == id);
                let moved = mine.try_for_each(|(_, slot)| slot.ring.set_memory(Arc::clone(&memory)));
                let _ = reply.send(moved);
            }
            Message::Call(id, index, call, reply) => {
                if let Some(slot) = self.rings.get_mut(&(id, index)) {
                    slot.ring.set_call(call);
                }
                let _ = reply.send(());
            }
            Message::Gone(_) => {}
        }
    }
    /// One round over all rings; true if anything happened.
    fn serve(&mut self) -> bool {
        let mut busy = false;
        let newest_first = self.mood.newest_first.load(Ordering::SeqCst);
        let mut stopped = Vec::new();
        for (key, slot) in &mut self.rings {
            slot.ring.clear_kick();
            while slot.stopping.is_none() {
                match slot.ring.take() {
                    Next::Request(request) => slot.waiting.push(request),
                    Next::Answered => {}
                    Next::Empty => break,
                }
                busy = true;
            }
            // Looked at after the requests were taken: what is held when it is set stays held.
            if !self.mood.hold.load(Ordering::SeqCst) || slot.stopping.is_some() {
                if newest_first {
                    slot.waiting.reverse();
                }
                for request in slot.waiting.drain(..) {
                    let bytes = self.disks.lock().expect("as above").get(&key.0).cloned();
                    let (reply, status) = execute(&bytes.expect("an attached disk"), request);
                    self.mood.executed.fetch_add(1, Ordering::SeqCst);
                    slot.ring.complete(reply, status);
                }
            }
            slot.ring.notify();
            busy |= slot.stopping.is_none() && slot.ring.rearm();
            if slot.stopping.is_some() {
                stopped.push(*key);
            }
        }
        for key in stopped {
            if let Some(Slot { ring, stopping: Some(reply), .. }) = self.rings.remove(&key) {
                let _ = reply.send(Some(ring.next_available()));
            }
        }
        busy
    }
}

fn execute(bytes: &Bytes, request: Request) -> (Reply, Status) {
    let mut bytes = bytes.lock().expect("as above");
    let at = |sector: u64| sector as usize * 512;
    match request.operation {
        Operation::Read { sector, bufs } => bufs.copy_from(&bytes[at(sector)..at(sector) + bufs.len()]),
        Operation::Write { sector, bufs } => bufs.copy_to(&mut bytes[at(sector)..at(sector) + bufs.len()]),
        Operation::Flush => {}
        Operation::Discard(ranges) | Operation::WriteZeroes(ranges) => {
            for r in ranges {
                bytes[at(r.sector)..at(r.sector + r.sectors)].fill(0);
            }
        }
    }
    (request.reply, Status::Ok)
}
