//! The rings: handed over and taken back, requests out of them, completions into them.

use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::mpsc::SyncSender;

use slab::Slab;
use vdi_core::latency::Layer;
use vdi_core::{Error, ErrorKind, Result};

use super::execute::execute;
use super::reorder::Reorder;
use super::{Disk, World};
use crate::vhost::ring::RingSetup;
use crate::vhost::{DeviceId, Message, Next, Operation, Reply, Request, Ring, Status};

/// Requests taken from one ring in one turn at most, so that none starves the others.
const BURST_MAX: usize = 64;

/// A request that has ended.
pub(super) struct Finished {
    pub(super) ring: usize,
    pub(super) reply: Reply,
    pub(super) status: Status,
}

struct Slot {
    index: u16,
    ring: Ring,
    disk: Rc<Disk>,
    /// Looked at every turn; the guest is not asked to kick.
    hot: bool,
    stopping: Option<SyncSender<Option<u16>>>,
    /// Completions the guest has not been told of.
    untold: bool,
}

/// The rings being served. The key of a ring is its epoll token.
pub(super) struct Rings {
    world: Rc<World>,
    epoll: RawFd,
    slots: Slab<Slot>,
    hot: Vec<usize>,
    reorder: Option<Reorder>,
    /// Kept for its capacity.
    ended: Vec<Finished>,
}

impl Rings {
    pub(super) fn new(world: Rc<World>, epoll: RawFd) -> Rings {
        let reorder = world.options.reorder_seed.map(Reorder::new);
        Rings { world, epoll, slots: Slab::new(), hot: Vec::new(), reorder, ended: Vec::new() }
    }
    /// Act on what a session says.
    pub(super) fn act(&mut self, message: Message) {
        match message {
            Message::Start(setup, reply) => {
                let started = self.start(*setup);
                let _ = reply.send(started);
            }
            Message::Stop(id, index, reply) => self.stop(id, index, reply),
            Message::Memory(id, memory, reply) => {
                let mut of_device = self.slots.iter_mut().filter(|(_, s)| s.disk.device.id() == id);
                let moved = of_device.try_for_each(|(_, s)| s.ring.set_memory(memory.clone()));
                let _ = reply.send(moved);
            }
            Message::Call(id, index, call, reply) => {
                if let Some(key) = self.find(id, index) {
                    self.slots[key].ring.set_call(call);
                }
                let _ = reply.send(());
            }
            Message::Gone(id) => {
                if let Some(disk) = self.world.disks.borrow().get(&id) {
                    disk.gone.set(true);
                    disk.on_gone.notify();
                }
            }
        }
    }
    fn find(&self, id: DeviceId, index: u16) -> Option<usize> {
        self.slots.iter().find(|(_, s)| s.disk.device.id() == id && s.index == index).map(|(key, _)| key)
    }
    fn start(&mut self, setup: RingSetup) -> Result<()> {
        let (id, index) = (setup.device.id(), setup.index);
        let disk = self.world.disks.borrow().get(&id).cloned();
        let Some(disk) = disk.filter(|d| !d.closed.get()) else {
            return Err(Error::new(
                ErrorKind::Busy,
                format!("disk {} is being rolled back or detached", setup.device.name()),
                "let the front end connect again in a moment",
            ));
        };
        let ring = Ring::start(setup)?;
        let key = self.slots.vacant_key();
        // Edges only: what a front end keeps readable for ever must not keep this thread awake.
        let events = epoll::Events::EPOLLIN | epoll::Events::EPOLLET;
        let event = epoll::Event::new(events, key as u64);
        epoll::ctl(self.epoll, epoll::ControlOptions::EPOLL_CTL_ADD, ring.kick_fd(), event)
            .map_err(|e| Error::io("wait for a queue's kicks", e.raw_os_error().unwrap_or(libc::EINVAL)))?;
        self.slots.insert(Slot { index, ring, disk, hot: false, stopping: None, untold: false });
        // There may be requests already, in flight from before or offered before the kick was heard.
        self.heat(key);
        Ok(())
    }
    fn stop(&mut self, id: DeviceId, index: u16, reply: SyncSender<Option<u16>>) {
        match self.find(id, index) {
            Some(key) => {
                self.slots[key].stopping = Some(reply);
                self.give_up_if_drained(key);
            }
            None => drop(reply.send(None)),
        }
    }
    fn give_up_if_drained(&mut self, key: usize) {
        if self.slots[key].stopping.is_none() || self.slots[key].ring.in_flight() > 0 {
            return;
        }
        let mut slot = self.slots.remove(key);
        self.hot.retain(|k| *k != key);
        slot.ring.notify();
        let nothing = epoll::Event::new(epoll::Events::empty(), 0);
        let _ = epoll::ctl(self.epoll, epoll::ControlOptions::EPOLL_CTL_DEL, slot.ring.kick_fd(), nothing);
        if let Some(reply) = slot.stopping {
            let _ = reply.send(Some(slot.ring.next_available()));
        }
    }
    fn heat(&mut self, key: usize) {
        if !std::mem::replace(&mut self.slots[key].hot, true) {
            self.hot.push(key);
        }
    }
    /// The guest rang. A stale token, of a ring given up since, is nothing.
    pub(super) fn kicked(&mut self, key: usize) {
        if self.slots.contains(key) {
            self.heat(key);
        }
    }
    /// Make tasks of what the hot rings offer; true if there was anything.
    pub(super) fn take_requests(&mut self) -> bool {
        let mut any = false;
        for key in &self.hot {
            let slot = &mut self.slots[*key];
            if slot.stopping.is_some() || !slot.ring.has_work() {
                continue;
            }
            for _ in 0..BURST_MAX {
                match slot.ring.take() {
                    Next::Request(request) => begin(&self.world, *key, &slot.disk, request),
                    Next::Answered => slot.untold = true,
                    Next::Empty => break,
                }
                any = true;
            }
            if std::mem::take(&mut slot.untold) {
                slot.ring.notify();
            }
        }
        any
    }
    /// Put what has ended into the used rings, and tell each guest once; true if there was anything.
    pub(super) fn finish_requests(&mut self, now_ns: u64) -> bool {
        let mut ended = std::mem::take(&mut self.ended);
        ended.append(&mut self.world.finished.borrow_mut());
        if let Some(reorder) = &mut self.reorder {
            reorder.pass(&mut ended, now_ns);
        }
        let any = !ended.is_empty();
        let mut touched: smallvec::SmallVec<[usize; 8]> = smallvec::SmallVec::new();
        for Finished { ring, reply, status } in ended.drain(..) {
            let slot = &mut self.slots[ring];
            slot.ring.complete(reply, status);
            if !std::mem::replace(&mut slot.untold, true) {
                touched.push(ring);
            }
        }
        self.ended = ended;
        for key in touched {
            self.slots[key].untold = false;
            self.slots[key].ring.notify();
            self.give_up_if_drained(key);
        }
        any
    }
    /// When a completion held back is due.
    pub(super) fn next_ns(&self) -> Option<u64> {
        self.reorder.as_ref().and_then(Reorder::next_ns)
    }
    /// Ask every guest to kick; true when one of them has offered something meanwhile.
    pub(super) fn rearm(&mut self) -> bool {
        let slots = &mut self.slots;
        self.hot.retain(|key| {
            let slot = &mut slots[*key];
            slot.hot = slot.stopping.is_none() && slot.ring.rearm();
            slot.hot
        });
        !self.hot.is_empty()
    }
}

fn begin(world: &Rc<World>, ring: usize, disk: &Rc<Disk>, request: Request) {
    let (shared, disk) = (Rc::clone(world), Rc::clone(disk));
    let started = world.engine.latencies().start();
    world.executor.spawn(async move {
        let Request { name, operation, durable, reply } = request;
        let layer = layer_of(&operation);
        let parts = disk.vdi.parts(name.request, name.again);
        let status = match shared.options.null_disks {
            true => Status::Ok,
            false => execute(&disk.vdi, disk.attachment.read_only, operation, durable, &parts).await,
        };
        shared.engine.latencies().end(layer, started);
        shared.finished.borrow_mut().push(Finished { ring, reply, status });
    });
}

fn layer_of(operation: &Operation) -> Layer {
    match operation {
        Operation::Read { .. } => Layer::Read,
        Operation::Write { .. } => Layer::Write,
        Operation::Flush => Layer::Flush,
        Operation::Discard(_) | Operation::WriteZeroes(_) => Layer::Discard,
    }
}
