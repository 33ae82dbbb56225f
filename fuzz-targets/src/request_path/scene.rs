//! A guest, its ring and its disk; what the tape has them do.

use std::collections::BTreeSet;
use std::sync::Arc;

use vhost_parallax::vhost::inflight::InflightArea;
use vhost_parallax::vhost::ring::{RingPlace, RingSetup};
use vhost_parallax::vhost::{DeviceFacts, DeviceId, DeviceState, Event, Next, Reply, Ring, Status};

use super::life::Life;
use super::model::Model;
use super::reading::{Chain, Disk};
use crate::disks::{DISK_BYTES, NEIGHBOUR, VILLAIN, two_disks};
use crate::guest::{FILE_BYTES, Guest, REGIONS, RING, USER_BASE, write_request};
use crate::image::Image;
use crate::tape::Tape;

/// Features that have to do with discards and zeroes.
const TRIMS: u64 = 1 << 13 | 1 << 14;
/// Daemons of one run at most.
const LIVES_MAX: u64 = 3;

/// A ring's place by guest address.
#[derive(Clone, Copy)]
pub struct Rings {
    /// Descriptor table.
    pub table: u64,
    /// Available ring.
    pub available: u64,
    /// Used ring.
    pub used: u64,
    /// Entries.
    pub size: u16,
}

/// A request that was taken and not given back.
pub struct Flying {
    /// Its head.
    pub head: u16,
    /// What it means.
    pub chain: Chain,
}

/// All of it.
pub struct Scene {
    pub(super) guest: Guest,
    pub(super) device: Arc<DeviceState>,
    pub(super) disk: Disk,
    pub(super) rings: Rings,
    pub(super) ring: Option<Ring>,
    pub(super) life: Option<Life>,
    pub(super) model: Model,
    pub(super) call: Event,
    /// Executed, and not yet given back.
    pub(super) ended: Vec<(Reply, Status)>,
    pub(super) flying: Vec<Flying>,
    /// In flight when a daemon was killed, and not taken up yet.
    pub(super) behind: BTreeSet<u16>,
    /// Next entries of the rings, as the device must have them.
    pub(super) next_available: u16,
    pub(super) next_used: u16,
    /// The memory is shorter than it was: nothing is certain any more but that nothing panics.
    pub(super) cut: bool,
    pub(super) event_index: bool,
    image: Image,
    area: Option<Arc<InflightArea>>,
    offered: u16,
    lives: u64,
}

fn device(id: u64, name: &str, read_only: bool) -> Arc<DeviceState> {
    let facts =
        DeviceFacts { id: DeviceId(id), name: name.to_owned(), size_bytes: DISK_BYTES, read_only, queues: 1 };
    Arc::new(DeviceState::new(facts))
}

fn guest_addr(user: u64) -> Option<u64> {
    let offset = user.checked_sub(USER_BASE)?;
    REGIONS.iter().find_map(|(start, first, len)| {
        offset.checked_sub(*first).filter(|o| o < len).map(|within| start + within)
    })
}

impl Scene {
    /// None when the ring is refused, as it should be.
    pub fn set(tape: &mut Tape<'_>) -> Option<Scene> {
        let choices = tape.u8();
        let bit = |n: u8| choices & 1 << n != 0;
        let device = device(1, VILLAIN, bit(0));
        device.accept(if bit(1) { device.offered() & !TRIMS } else { device.offered() });
        device.set_write_back(!bit(2));
        let size = if bit(3) { tape.u16() } else { 1 << (tape.u8() % 6) };
        let area = if bit(4) { InflightArea::create(1, size).ok() } else { None };
        let mut user = RING.map(|at| USER_BASE + at);
        if bit(5) {
            user = user.map(|_| USER_BASE + tape.below(FILE_BYTES as u64 + 0x1000));
        }
        let guest = Guest::new();
        let image = two_disks();
        let life = Life::begin(&image, 1);
        let mut scene = Scene {
            disk: Disk {
                sectors: device.sectors(),
                read_only: device.read_only(),
                trims: !bit(1),
                name: VILLAIN,
            },
            rings: Rings {
                table: guest_addr(user[0]).unwrap_or_default(),
                available: guest_addr(user[1]).unwrap_or_default(),
                used: guest_addr(user[2]).unwrap_or_default(),
                size,
            },
            guest,
            device,
            ring: None,
            life: Some(life),
            model: Model::new(DISK_BYTES),
            call: Event::new().expect("a descriptor is to be had"),
            ended: Vec::new(),
            flying: Vec::new(),
            behind: BTreeSet::new(),
            next_available: 0,
            next_used: 0,
            cut: false,
            event_index: bit(6),
            image,
            area,
            offered: 0,
            lives: 1,
        };
        for _ in 0..tape.below(3) {
            scene.scribble(tape);
        }
        if bit(7) {
            scene.offered = tape.u16();
        }
        scene.start(user, scene.offered)?;
        Some(scene)
    }
    /// Start the ring from `next_available` on.
    fn start(&mut self, user: [u64; 3], next_available: u16) -> Option<()> {
        let memory = self.guest.table()?;
        let started = Ring::start(RingSetup {
            device: Arc::clone(&self.device),
            index: 0,
            size: self.rings.size,
            place: RingPlace { descriptors: user[0], available: user[1], used: user[2] },
            memory,
            next_available,
            event_index: self.event_index,
            kick: Event::new().expect("a descriptor is to be had"),
            call: Some(self.call.clone()),
            inflight: self.area.as_ref().and_then(|area| area.queue(0)),
        });
        let ring = started.ok()?;
        self.next_available = ring.next_available();
        self.next_used = self.guest.copy().u16_at(self.rings.used + 2)?;
        self.ring = Some(ring);
        Some(())
    }
    /// One thing that the guest, its front end or fate does.
    pub fn step(&mut self, tape: &mut Tape<'_>) {
        match tape.u8() % 16 {
            0..=5 => {
                self.offer(tape);
                self.serve_alone();
            }
            6 | 7 => self.offer(tape),
            8 => self.serve_together(tape),
            9 => self.serve_alone(),
            10 => self.scribble(tape),
            11 => {
                let index = self.next_available.wrapping_add(tape.u16() % (2 * self.rings.size.max(1) + 2));
                self.guest.put(self.rings.available + 2, &index.to_le_bytes());
            }
            12 => self.guest.put(self.rings.available, &u16::from(tape.coin()).to_le_bytes()),
            13 => self.change_device(tape),
            14 => self.die(tape),
            _ if tape.u8() & 7 == 7 => {
                self.guest.cut(tape.below(FILE_BYTES as u64));
                self.cut = true;
            }
            _ => self.change_memory(),
        }
    }
    fn offer(&mut self, tape: &mut Tape<'_>) {
        let head = tape.u16() % self.rings.size.max(1);
        write_request(&self.guest, self.rings.table, self.rings.size, head, tape);
        let entry = self.rings.available + 4 + 2 * u64::from(self.offered % self.rings.size);
        self.guest.put(entry, &head.to_le_bytes());
        self.offered = self.offered.wrapping_add(1);
        self.guest.put(self.rings.available + 2, &self.offered.to_le_bytes());
    }
    /// Any bytes, anywhere; mostly where they mean something.
    pub(super) fn scribble(&mut self, tape: &mut Tape<'_>) {
        let bases = [self.rings.table, self.rings.available, self.rings.used, 0x4000, 0x8000, 0xa000, 0xff00];
        let at = tape.pick(&bases).wrapping_add(tape.below(0x200));
        let len = usize::from(tape.u8() % 64);
        self.guest.put(at, tape.bytes(len));
    }
    fn change_device(&mut self, tape: &mut Tape<'_>) {
        match tape.u8() % 4 {
            0 => self.device.set_write_back(tape.coin()),
            1 => {
                self.disk.trims = tape.coin();
                let offered = self.device.offered();
                self.device.accept(if self.disk.trims { offered } else { offered & !TRIMS });
            }
            _ => {
                // The guest is told less than the disk has: a resize of the disk itself is another target's.
                self.device.resize(tape.below(DISK_BYTES + 1));
                self.disk.sectors = self.device.sectors();
            }
        }
    }
    fn change_memory(&mut self) {
        let (Some(ring), Some(memory)) = (&mut self.ring, self.guest.table()) else { return };
        if let Err(e) = ring.set_memory(memory) {
            assert!(self.cut, "the same memory is refused: {e:?}");
        }
    }
    /// The daemon is killed and started again; the front end brings the in-flight area back, if there is one.
    fn die(&mut self, tape: &mut Tape<'_>) {
        if self.lives == LIVES_MAX || self.cut || self.device.is_broken() {
            return;
        }
        self.lives += 1;
        // Over its own used index a guest may write; then what is in flight is anybody's guess.
        self.cut = self.guest.copy().u16_at(self.rings.used + 2) != Some(self.next_used);
        self.ended.clear();
        let flying = std::mem::take(&mut self.flying);
        flying.iter().for_each(|f| self.model.forget(&f.chain.effect));
        if self.area.is_some() {
            self.behind.extend(flying.iter().map(|f| f.head));
        }
        let user = {
            let at = |guest: u64| {
                let found = REGIONS.iter().find(|(start, _, len)| (*start..start + len).contains(&guest));
                found.map_or(0, |(start, first, _)| USER_BASE + first + guest - start)
            };
            [at(self.rings.table), at(self.rings.available), at(self.rings.used)]
        };
        (self.ring, self.life) = (None, None);
        self.life = Some(Life::begin(&self.image, self.lives));
        let next = if tape.coin() { self.offered } else { self.next_available };
        if self.start(user, next).is_none() {
            // A guest that has written over its used index has no ring any more.
            self.cut = true;
        }
    }
    /// What flies is given back, what waits is served, and the other disk has noticed nothing.
    ///
    /// # Panics
    /// When it has.
    pub fn end(&mut self) {
        self.give_back(usize::MAX);
        self.serve_alone();
        let in_flight = self.ring.as_ref().map_or(0, Ring::in_flight);
        assert!(in_flight == 0 || self.device.is_broken(), "{in_flight} requests are still in flight");
        if let Some(life) = &self.life
            && self.device.is_broken()
        {
            neighbour_is_well(life);
        }
    }
}

/// A sound guest on the other disk writes and reads.
fn neighbour_is_well(life: &Life) {
    let (guest, device) = (Guest::new(), device(2, NEIGHBOUR, false));
    device.accept(device.offered());
    let user = RING.map(|at| USER_BASE + at);
    let mut ring = Ring::start(RingSetup {
        device: Arc::clone(&device),
        index: 0,
        size: 4,
        place: RingPlace { descriptors: user[0], available: user[1], used: user[2] },
        memory: guest.table().expect("sound memory is mapped"),
        next_available: 0,
        event_index: false,
        kick: Event::new().expect("a descriptor is to be had"),
        call: None,
        inflight: None,
    })
    .expect("a sound ring starts");
    // A write of one sector and a read of it, as a tape has them.
    for (n, script) in [&[1u8, 0, 8, 1, 0, 0, 7, 7, 7, 7][..], &[0, 0, 8, 1, 0, 0]].into_iter().enumerate() {
        let mut tape = Tape::new(script);
        write_request(&guest, RING[0], 4, n as u16, &mut tape);
        guest.put(RING[1] + 4 + 2 * n as u64, &(n as u16).to_le_bytes());
        guest.put(RING[1] + 2, &(n as u16 + 1).to_le_bytes());
        guest.put(0xa000, if n == 0 { &[7; 512] } else { &[0; 512] });
        let Next::Request(request) = ring.take() else {
            panic!("the neighbour's request is not taken: {:?}", device.broken())
        };
        for (reply, status) in life.execute_for_neighbour(vec![request]) {
            assert_eq!(status, Status::Ok, "the neighbour's request {n} fails");
            ring.complete(reply, status);
        }
    }
    assert!(!device.is_broken(), "the neighbour is broken too");
    assert_eq!(guest.copy().at(0xa000, 512), Some(vec![7; 512]), "the neighbour reads something else");
}
