//! One virtqueue being served. It lives on the data thread; the session thread hands it over with
//! its set-up and asks for it back.
//!
//! Invariants:
//! - a descriptor is in flight at most once: a guest that offers it again meanwhile breaks the device,
//!   so requests in flight never exceed the ring's size;
//! - each descriptor taken is in the in-flight area before anything is done about it, and leaves it
//!   only once it is in the used ring;
//! - a broken ring hands out nothing more and never spins.

use std::collections::VecDeque;
use std::num::Wrapping;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use vdi_core::{Error, ErrorKind, Result};
use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};

use super::device::DeviceState;
use super::event::Event;
use super::features::QUEUE_DEPTH_MAX;
use super::guest_memory::GuestMemory;
use super::inflight::{InflightQueue, Taken};
use super::request::{Name, Parsed, Reply, Request, Status, parse};

/// Where a ring lies, in the front end's address space.
#[derive(Clone, Copy, Default, Debug)]
pub struct RingPlace {
    /// Descriptor table.
    pub descriptors: u64,
    /// Available ring.
    pub available: u64,
    /// Used ring.
    pub used: u64,
}

/// Everything the front end said about a ring.
pub struct RingSetup {
    /// Whose ring.
    pub device: Arc<DeviceState>,
    /// Its number.
    pub index: u16,
    /// Entries.
    pub size: u16,
    /// Where.
    pub place: RingPlace,
    /// In which memory.
    pub memory: Arc<GuestMemory>,
    /// Next entry of the available ring to take, unless the in-flight area knows better.
    pub next_available: u16,
    /// Whether the driver accepted event indexes.
    pub event_index: bool,
    /// Rung by the guest.
    pub kick: Event,
    /// Rung by us; none when the front end polls.
    pub call: Option<Event>,
    /// What an earlier daemon left behind.
    pub inflight: Option<InflightQueue>,
}

/// What [`Ring::take`] found.
#[expect(clippy::large_enum_variant, reason = "moved once; an allocation would cost more")]
#[derive(Debug)]
pub enum Next {
    /// A request to execute and to [`Ring::complete`].
    Request(Request),
    /// A chain that was answered on the spot.
    Answered,
    /// Nothing at the moment.
    Empty,
}

/// A running ring.
pub struct Ring {
    device: Arc<DeviceState>,
    index: u16,
    place: RingPlace,
    queue: Queue,
    memory: Arc<GuestMemory>,
    kick: Event,
    call: Option<Event>,
    inflight: Option<InflightQueue>,
    /// By descriptor: handed out and not completed.
    taken: Vec<bool>,
    in_flight: u16,
    /// Left by an earlier daemon, still to be handed out, in order of arrival. At most one per descriptor.
    left_behind: VecDeque<Taken>,
    published: bool,
}

fn fault(device: &DeviceState, index: u16, what: impl std::fmt::Display) -> Error {
    Error::new(
        ErrorKind::BadRequest,
        format!("queue {index} of disk {}: the guest offered {what}", device.name()),
        "the disk is not served until the guest resets it: check the guest's driver, then reboot the guest",
    )
}

impl Ring {
    /// Check the set-up and take up what an earlier daemon left in flight.
    pub fn start(setup: RingSetup) -> Result<Ring> {
        let RingSetup { device, index, size, place, memory, mut inflight, .. } = setup;
        let queue = locate(&device, index, size, place, &memory)?;
        let mut ring = Ring {
            taken: vec![false; size as usize],
            in_flight: 0,
            left_behind: VecDeque::new(),
            published: false,
            kick: setup.kick,
            call: setup.call,
            inflight: None,
            device,
            index,
            place,
            queue,
            memory,
        };
        let used = ring.queue.used_idx(ring.memory.map(), Ordering::Acquire);
        let used = used.map_err(|_| ring.fault("a used ring outside its memory"))?.0;
        ring.queue.set_next_used(used);
        ring.queue.set_next_avail(setup.next_available);
        ring.queue.set_event_idx(setup.event_index);
        if let Some(area) = &mut inflight {
            ring.recover(area, used)?;
        }
        ring.inflight = inflight;
        // What was completed before may never have been told: an earlier daemon died in between, or the front end had
        // taken its end of the call away already.
        ring.ring_guest();
        Ok(ring)
    }
    fn recover(&mut self, area: &mut InflightQueue, used: u16) -> Result<()> {
        if area.len() < self.queue.size() {
            return Err(self.fault("a ring larger than its in-flight area"));
        }
        let Some(taken) = area.recover(used)? else { return Ok(()) };
        if taken.iter().any(|t| t.head >= self.queue.size()) {
            return Err(self.fault("an in-flight area that names descriptors beyond the ring"));
        }
        // What was taken is exactly what was given back and what is still in flight.
        self.queue.set_next_avail((Wrapping(used) + Wrapping(taken.len() as u16)).0);
        if !taken.is_empty() {
            tracing::info!(
                vdi = self.device.name(),
                queue = self.index,
                requests = taken.len(),
                "taking up requests that were in flight"
            );
        }
        self.left_behind = taken.into();
        Ok(())
    }
    fn fault(&self, what: impl std::fmt::Display) -> Error {
        fault(&self.device, self.index, what)
    }
    /// Whose ring.
    #[must_use]
    pub fn device(&self) -> &Arc<DeviceState> {
        &self.device
    }
    /// Becomes readable when the guest rings.
    #[must_use]
    pub fn kick_fd(&self) -> RawFd {
        self.kick.as_raw_fd()
    }
    /// Take note of the guest's ring.
    pub fn clear_kick(&self) {
        self.kick.clear();
    }
    /// Requests handed out and not completed.
    #[must_use]
    pub fn in_flight(&self) -> u16 {
        self.in_flight
    }
    /// Next entry of the available ring to take.
    #[must_use]
    pub fn next_available(&self) -> u16 {
        self.queue.next_avail()
    }
    /// The next request. A guest that breaks the rules breaks its device: then and from then on, `Empty`.
    pub fn take(&mut self) -> Next {
        if self.device.is_broken() {
            return Next::Empty;
        }
        match self.try_take() {
            Ok(next) => next,
            Err(e) => {
                self.device.break_off(e);
                Next::Empty
            }
        }
    }
    fn try_take(&mut self) -> Result<Next> {
        let parsed = self.pop();
        // What was read from memory that went away is nothing to complain about.
        if self.memory.is_hurt() || self.inflight.as_ref().is_some_and(InflightQueue::is_hurt) {
            return Err(self.fault("memory that went away"));
        }
        let Some(parsed) = parsed? else { return Ok(Next::Empty) };
        self.in_flight += 1;
        Ok(match parsed {
            Parsed::Request(request) => Next::Request(request),
            Parsed::Answer(reply, status) => {
                self.complete(reply, status);
                Next::Answered
            }
        })
    }
    fn pop(&mut self) -> Result<Option<Parsed>> {
        let again = self.left_behind.pop_front();
        let head = match again {
            Some(taken) => taken.head,
            None => match self.next_head()? {
                Some(head) => head,
                None => return Ok(None),
            },
        };
        if head >= self.queue.size() {
            return Err(self.fault(format!("descriptor {head} of {}", self.queue.size())));
        }
        if std::mem::replace(&mut self.taken[head as usize], true) {
            return Err(self.fault(format!("descriptor {head}, which is still in flight")));
        }
        let name = match (again, &mut self.inflight) {
            (Some(taken), _) => Name { request: taken.request, again: true },
            (None, Some(area)) => Name { request: area.taken(head), again: false },
            (None, None) => Name::default(),
        };
        parse(&self.memory, self.queue.desc_table(), self.queue.size(), head, name, &self.device)
            .map(Some)
            .map_err(|what| self.fault(what))
    }
    fn next_head(&mut self) -> Result<Option<u16>> {
        let chain = self.queue.iter(self.memory.map()).map(|mut iter| iter.next());
        let disorder = |e| fault(&self.device, self.index, format!("an available ring in disorder ({e})"));
        Ok(chain.map_err(disorder)?.map(|chain| chain.head_index()))
    }
    /// A request ended: write its status and put it into the used ring. The guest learns of it with the
    /// next [`Ring::notify`].
    pub fn complete(&mut self, reply: Reply, status: Status) {
        let Reply { head, status: place, data_bytes } = reply;
        assert!(
            std::mem::replace(&mut self.taken[head as usize], false),
            "descriptor {head} completed twice"
        );
        self.in_flight -= 1;
        let written = if status == Status::Ok { data_bytes } else { 0 };
        place.copy_from(&[status as u8]);
        if self.memory.is_hurt() {
            self.device.break_off(self.fault("memory that went away"));
            return;
        }
        if let Some(area) = &mut self.inflight {
            area.before_used(head);
        }
        if self.queue.add_used(self.memory.map(), head, written.saturating_add(1)).is_err() {
            self.device.break_off(self.fault("a used ring outside its memory"));
            return;
        }
        let used = self.queue.next_used();
        if let Some(area) = &mut self.inflight {
            area.after_used(head, used);
        }
        self.published = true;
    }
    /// Tell the guest of everything completed since the last call, if it wants to know.
    pub fn notify(&mut self) {
        if !std::mem::take(&mut self.published) {
            return;
        }
        let wanted = if self.queue.event_idx_enabled() {
            self.queue.needs_notification(self.memory.map()).unwrap_or(true)
        } else {
            // Completes the used ring before the flags are read.
            std::sync::atomic::fence(Ordering::SeqCst);
            let flags = self.memory.map().load(GuestAddress(self.queue.avail_ring()), Ordering::Relaxed);
            flags.map_or(true, |f| u16::from_le(f) & VRING_AVAIL_F_NO_INTERRUPT as u16 == 0)
        };
        if wanted {
            self.ring_guest();
        }
    }
    /// Interrupt the guest, wanted or not.
    pub fn ring_guest(&self) {
        if let Some(call) = &self.call {
            call.ring();
        }
    }
    /// Ask for the guest's next kick; true when there is work already.
    #[must_use]
    pub fn rearm(&mut self) -> bool {
        if self.device.is_broken() {
            return false;
        }
        if !self.left_behind.is_empty() {
            return true;
        }
        self.queue.enable_notification(self.memory.map()).unwrap_or(false)
    }
    /// True when a request waits. Cheaper than [`Ring::rearm`]: the guest is not asked to kick.
    #[must_use]
    pub fn has_work(&self) -> bool {
        if self.device.is_broken() {
            return false;
        }
        let available = self.queue.avail_idx(self.memory.map(), Ordering::Acquire);
        !self.left_behind.is_empty() || available.is_ok_and(|idx| idx.0 != self.queue.next_avail())
    }
    /// Go on in another memory table. Fails when the ring is not inside it.
    pub fn set_memory(&mut self, memory: Arc<GuestMemory>) -> Result<()> {
        let mut queue = locate(&self.device, self.index, self.queue.size(), self.place, &memory)?;
        queue.set_next_avail(self.queue.next_avail());
        queue.set_next_used(self.queue.next_used());
        queue.set_event_idx(self.queue.event_idx_enabled());
        self.queue = queue;
        self.memory = memory;
        // The new queue object does not know how much the guest was told.
        self.ring_guest();
        Ok(())
    }
    /// Ring the guest by other means from now on.
    pub fn set_call(&mut self, call: Option<Event>) {
        self.call = call;
        // Whatever was rung on the old one may never have been seen.
        self.ring_guest();
    }
}

fn locate(
    device: &DeviceState,
    index: u16,
    size: u16,
    place: RingPlace,
    memory: &GuestMemory,
) -> Result<Queue> {
    let bad = |e: virtio_queue::Error| fault(device, index, format!("a ring that cannot be: {e}"));
    let mut queue = Queue::new(QUEUE_DEPTH_MAX).map_err(bad)?;
    queue.try_set_size(size).map_err(bad)?;
    let at = |user_addr| memory.guest_addr(user_addr).map(GuestAddress);
    let available = at(place.available)?;
    // There the queue would call itself not ready with every request.
    if available == GuestAddress(0) {
        return Err(fault(device, index, "an available ring at guest address 0, which stands for none"));
    }
    queue.try_set_desc_table_address(at(place.descriptors)?).map_err(bad)?;
    queue.try_set_avail_ring_address(available).map_err(bad)?;
    queue.try_set_used_ring_address(at(place.used)?).map_err(bad)?;
    queue.set_ready(true);
    if !queue.is_valid(memory.map()) {
        return Err(fault(device, index, "a ring outside its memory"));
    }
    Ok(queue)
}
