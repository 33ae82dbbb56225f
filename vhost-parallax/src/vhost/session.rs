//! One front end's connection: what it said so far, and what that makes of the rings.
//!
//! A ring is served while it has a kick descriptor, is enabled, and the device is not broken. Starting
//! and stopping are done by the data thread; every call here returns only when that has happened, so a
//! reply tells the front end the truth.
//!
//! Any error ends the connection and nothing else: the device goes on with the next front end.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use ::vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use ::vhost::vhost_user::{
    Error as ProtocolError, GpuBackend, Result as ProtocolResult, VhostUserBackendReqHandlerMut,
    VhostUserProtocolFeatures,
};
use vdi_core::{Error, ErrorKind, Result};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;

use super::config::{self, WRITE_CACHE_OFFSET};
use super::device::DeviceState;
use super::event::Event;
use super::features::{
    MEMORY_REGIONS_MAX, PROTOCOL_FEATURES_BIT, QUEUE_DEPTH_MAX, QUEUES_MAX, has, offered_protocol,
};
use super::guest_memory::{GuestMemory, Region, RegionPlace, check_size};
use super::inflight::InflightArea;
use super::ring::{RingPlace, RingSetup};
use super::seam::{DataLink, Message};

/// What the front end said about one ring.
struct RingState {
    size: u16,
    place: Option<RingPlace>,
    next_available: u16,
    kick: Option<Event>,
    call: Option<Event>,
    enabled: bool,
    running: bool,
}

impl Default for RingState {
    fn default() -> RingState {
        RingState {
            size: QUEUE_DEPTH_MAX,
            place: None,
            next_available: 0,
            kick: None,
            call: None,
            enabled: false,
            running: false,
        }
    }
}

/// One connection.
pub struct Session {
    device: Arc<DeviceState>,
    data: DataLink,
    memory: Arc<GuestMemory>,
    rings: Vec<RingState>,
    inflight: Option<Arc<InflightArea>>,
    /// Kept when request 21 was seen coming; see `endpoint`.
    back_channel: Option<OwnedFd>,
}

fn refused(message: impl Into<String>) -> Error {
    Error::new(
        ErrorKind::BadRequest,
        message,
        "the front end asked for something this device cannot do; check its version and the disk's options",
    )
}

fn protocol(error: Error) -> ProtocolError {
    ProtocolError::ReqHandlerError(io::Error::other(format!("{error}; hint: {}", error.hint())))
}

fn unsupported<T>(what: &str) -> ProtocolResult<T> {
    Err(protocol(refused(format!("{what} is not supported"))))
}

impl Session {
    /// A fresh connection to `device`. The write-cache mode starts as write-back, features as none.
    #[must_use]
    pub fn new(device: Arc<DeviceState>, data: DataLink) -> Session {
        device.accept(0);
        device.set_write_back(true);
        device.mend();
        device.set_connected(true);
        let rings = std::iter::repeat_with(RingState::default).take(QUEUES_MAX as usize).collect();
        Session { device, data, memory: Arc::default(), rings, inflight: None, back_channel: None }
    }
    /// The duplicate of the descriptor that the next request 21 carries.
    pub fn keep_back_channel(&mut self, fd: OwnedFd) {
        self.back_channel = Some(fd);
    }
    /// The connection ended: finish what is in flight and give up the rings.
    pub fn end(&mut self) {
        self.device.set_back_channel(None);
        if let Err(e) = self.stop_all() {
            tracing::error!(vdi = self.device.name(), error = %e, "rings could not be stopped");
        }
        self.device.set_connected(false);
    }
    fn ring(&mut self, index: u32) -> Result<&mut RingState> {
        let count = self.rings.len();
        self.rings
            .get_mut(index as usize)
            .ok_or_else(|| refused(format!("queue {index}; there are {count} at most")))
    }
    fn idle_ring(&mut self, index: u32) -> Result<&mut RingState> {
        let ring = self.ring(index)?;
        if ring.running {
            return Err(refused(format!("queue {index} was changed while it is served")));
        }
        Ok(ring)
    }
    /// Serve ring `index` if everything is there and it is not served yet.
    fn start(&mut self, index: u32) -> Result<()> {
        let event_index = has(self.device.accepted(), VIRTIO_RING_F_EVENT_IDX);
        let ring = self.ring(index)?;
        if ring.running || !ring.enabled {
            return Ok(());
        }
        let Some(kick) = ring.kick.clone() else { return Ok(()) };
        let call = ring.call.clone();
        let place =
            ring.place.ok_or_else(|| refused(format!("queue {index} started before it was placed")))?;
        let (size, next_available) = (ring.size, ring.next_available);
        let setup = RingSetup {
            device: Arc::clone(&self.device),
            index: index as u16,
            size,
            place,
            memory: Arc::clone(&self.memory),
            next_available,
            event_index,
            kick,
            call,
            inflight: self.inflight.as_ref().and_then(|area| area.queue(index as u16)),
        };
        if self.device.rings() == 0 {
            self.recall_mode();
        }
        self.data.ask(|reply| Message::Start(Box::new(setup), reply))??;
        self.ring(index)?.running = true;
        self.count_rings();
        Ok(())
    }
    /// Stop serving ring `index`; its next available entry is remembered for a later start.
    fn stop(&mut self, index: u32) -> Result<()> {
        if !self.ring(index)?.running {
            return Ok(());
        }
        let id = self.device.id();
        let base = self.data.ask(|reply| Message::Stop(id, index as u16, reply))?;
        let ring = self.ring(index)?;
        ring.running = false;
        ring.next_available = base.unwrap_or(ring.next_available);
        self.count_rings();
        Ok(())
    }
    fn stop_all(&mut self) -> Result<()> {
        (0..self.rings.len() as u32).try_for_each(|index| self.stop(index))
    }
    /// With the last ring stopped, health starts anew.
    fn count_rings(&mut self) {
        let running = self.rings.iter().filter(|r| r.running).count();
        self.device.set_rings(running as u16);
        if running == 0 {
            self.device.mend();
        }
    }
    /// Give up ring `index`. With the last one given up the driver is gone (a front end sends no more than that for a
    /// device reset): the cache mode starts anew, until an in-flight area in use brings it back. A front end that only
    /// disables its rings pauses a guest, which believes in the mode it chose.
    fn give_up(&mut self, index: u32) -> Result<u16> {
        self.stop(index)?;
        let ring = self.ring(index)?;
        ring.call = None;
        let base = ring.next_available;
        if ring.kick.take().is_some() && self.rings.iter().all(|ring| ring.kick.is_none()) {
            self.device.set_write_back(true);
        }
        Ok(base)
    }
    /// Before the first ring starts: a guest that ran on the in-flight area has the mode that is kept there.
    fn recall_mode(&mut self) {
        let Some(area) = self.inflight.as_ref().filter(|area| area.is_used()) else { return };
        if let Some(mode) = area.write_back()
            && mode != self.device.write_back()
        {
            self.device.set_write_back(mode);
            self.device.make_config_due();
        }
    }
    fn reset(&mut self) -> Result<()> {
        self.stop_all()?;
        self.rings.iter_mut().for_each(|ring| *ring = RingState::default());
        self.inflight = None;
        self.device.accept(0);
        self.device.set_write_back(true);
        self.device.mend();
        Ok(())
    }
    /// Without protocol features rings start enabled.
    fn accept(&mut self, accepted: u64) -> Result<()> {
        let offered = self.device.offered();
        if accepted & !offered != 0 {
            return Err(refused(format!(
                "features {:#x} were accepted but not offered",
                accepted & !offered
            )));
        }
        if !has(accepted, PROTOCOL_FEATURES_BIT as u32) {
            self.rings.iter_mut().for_each(|ring| ring.enabled = true);
        }
        self.device.accept(accepted);
        Ok(())
    }
    fn change_memory(&mut self, regions: Vec<Arc<Region>>) -> Result<()> {
        let memory = GuestMemory::new(regions)?;
        if self.rings.iter().any(|ring| ring.running) {
            let (id, new) = (self.device.id(), Arc::clone(&memory));
            self.data.ask(|reply| Message::Memory(id, new, reply))??;
        }
        self.memory = memory;
        Ok(())
    }
    fn use_inflight(&mut self, area: Arc<InflightArea>) {
        match area.write_back() {
            Some(mode) if area.is_used() => {
                self.device.set_write_back(mode);
                // The guest runs on; QEMU does not read the configuration again after a reconnect.
                self.device.make_config_due();
            }
            _ => area.set_write_back(self.device.write_back()),
        }
        self.inflight = Some(area);
    }
    fn write_config(&mut self, offset: u32, bytes: &[u8]) -> Result<()> {
        if offset != WRITE_CACHE_OFFSET || bytes.len() != 1 || bytes[0] > 1 {
            let len = bytes.len();
            return Err(refused(format!(
                "write of {len} configuration bytes at {offset}; only wce is writable"
            )));
        }
        let write_back = bytes[0] == 1;
        self.device.set_write_back(write_back);
        if let Some(area) = &self.inflight {
            area.set_write_back(write_back);
        }
        Ok(())
    }
    fn set_call(&mut self, index: u32, call: Option<Event>) -> Result<()> {
        let id = self.device.id();
        let ring = self.ring(index)?;
        ring.call = call;
        if ring.running {
            let call = ring.call.clone();
            self.data.ask(|reply| Message::Call(id, index as u16, call, reply))?;
        }
        Ok(())
    }
}

fn region_place(region: &VhostUserMemoryRegion) -> RegionPlace {
    RegionPlace {
        guest_addr: region.guest_phys_addr,
        len_bytes: region.memory_size,
        user_addr: region.user_addr,
        file_offset: region.mmap_offset,
    }
}

impl VhostUserBackendReqHandlerMut for Session {
    fn set_owner(&mut self) -> ProtocolResult<()> {
        Ok(())
    }
    fn reset_owner(&mut self) -> ProtocolResult<()> {
        self.reset().map_err(protocol)
    }
    fn reset_device(&mut self) -> ProtocolResult<()> {
        self.reset().map_err(protocol)
    }
    fn get_features(&mut self) -> ProtocolResult<u64> {
        Ok(self.device.offered())
    }
    fn set_features(&mut self, features: u64) -> ProtocolResult<()> {
        self.accept(features).map_err(protocol)
    }
    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy: Option<bool>,
    ) -> ProtocolResult<Option<Vec<u64>>> {
        check_size(regions.iter().map(region_place)).map_err(protocol)?;
        let mapped: Result<Vec<_>> =
            regions.iter().zip(files).map(|(r, file)| Region::map(region_place(r), file)).collect();
        mapped.and_then(|regions| self.change_memory(regions)).map_err(protocol)?;
        Ok(None)
    }
    fn set_vring_num(&mut self, index: u32, num: u32) -> ProtocolResult<()> {
        let ring = self.idle_ring(index).map_err(protocol)?;
        match u16::try_from(num) {
            Ok(size) if size.is_power_of_two() && size <= QUEUE_DEPTH_MAX => {
                ring.size = size;
                Ok(())
            }
            _ => Err(protocol(refused(format!(
                "queue {index} of {num} entries; a power of two up to {QUEUE_DEPTH_MAX} is possible"
            )))),
        }
    }
    fn set_vring_addr(
        &mut self,
        index: u32,
        _flags: VhostUserVringAddrFlags,
        descriptors: u64,
        used: u64,
        available: u64,
        _log: u64,
    ) -> ProtocolResult<()> {
        // QEMU repeats the addresses of running rings when it switches logging; the same is fine.
        let place = RingPlace { descriptors, available, used };
        let ring = self.ring(index).map_err(protocol)?;
        if ring.running {
            let same = ring
                .place
                .is_some_and(|p| (p.descriptors, p.available, p.used) == (descriptors, available, used));
            return if same { Ok(()) } else { unsupported("moving a queue that is served") };
        }
        ring.place = Some(place);
        Ok(())
    }
    fn set_vring_base(&mut self, index: u32, base: u32) -> ProtocolResult<()> {
        let ring = self.idle_ring(index).map_err(protocol)?;
        ring.next_available =
            u16::try_from(base).map_err(|_| protocol(refused(format!("base {base} of queue {index}"))))?;
        Ok(())
    }
    fn get_vring_base(&mut self, index: u32) -> ProtocolResult<VhostUserVringState> {
        let base = self.give_up(index).map_err(protocol)?;
        Ok(VhostUserVringState::new(index, u32::from(base)))
    }
    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> ProtocolResult<()> {
        let index = u32::from(index);
        let Some(file) = fd else { return unsupported("a queue that must be polled") };
        let kick = Event::to_hear(file).map_err(protocol)?;
        self.idle_ring(index).map_err(protocol)?.kick = Some(kick);
        self.start(index).map_err(protocol)
    }
    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> ProtocolResult<()> {
        let call = fd.map(Event::to_ring).transpose().map_err(protocol)?;
        self.set_call(u32::from(index), call).map_err(protocol)
    }
    fn set_vring_err(&mut self, index: u8, _fd: Option<File>) -> ProtocolResult<()> {
        self.ring(u32::from(index)).map(|_| ()).map_err(protocol)
    }
    fn get_protocol_features(&mut self) -> ProtocolResult<VhostUserProtocolFeatures> {
        Ok(offered_protocol())
    }
    fn set_protocol_features(&mut self, features: u64) -> ProtocolResult<()> {
        let extra = features & !offered_protocol().bits();
        if extra != 0 {
            return Err(protocol(refused(format!("protocol features {extra:#x} were not offered"))));
        }
        Ok(())
    }
    fn get_queue_num(&mut self) -> ProtocolResult<u64> {
        Ok(u64::from(QUEUES_MAX))
    }
    fn set_vring_enable(&mut self, index: u32, enable: bool) -> ProtocolResult<()> {
        self.ring(index).map_err(protocol)?.enabled = enable;
        let done = if enable { self.start(index) } else { self.stop(index) };
        done.map_err(protocol)
    }
    fn get_config(
        &mut self,
        offset: u32,
        size: u32,
        _flags: VhostUserConfigFlags,
    ) -> ProtocolResult<Vec<u8>> {
        let device = &self.device;
        Ok(config::read(device.sectors(), device.queues(), device.write_back(), offset, size))
    }
    fn set_config(&mut self, offset: u32, buf: &[u8], _flags: VhostUserConfigFlags) -> ProtocolResult<()> {
        self.write_config(offset, buf).map_err(protocol)
    }
    fn set_backend_req_fd(&mut self, _backend: ::vhost::vhost_user::Backend) {
        self.device.set_back_channel(self.back_channel.take());
    }
    fn get_inflight_fd(&mut self, inflight: &VhostUserInflight) -> ProtocolResult<(VhostUserInflight, File)> {
        let area = InflightArea::create(inflight.num_queues, inflight.queue_size).map_err(protocol)?;
        let described = area.describe().map_err(protocol)?;
        self.use_inflight(area);
        Ok(described)
    }
    fn set_inflight_fd(&mut self, inflight: &VhostUserInflight, file: File) -> ProtocolResult<()> {
        if self.rings.iter().any(|ring| ring.running) {
            return unsupported("a new in-flight area while queues are served");
        }
        let VhostUserInflight { mmap_size, mmap_offset, num_queues, queue_size } = *inflight;
        let area =
            InflightArea::open(file, mmap_size, mmap_offset, num_queues, queue_size).map_err(protocol)?;
        self.use_inflight(area);
        Ok(())
    }
    fn get_max_mem_slots(&mut self) -> ProtocolResult<u64> {
        Ok(MEMORY_REGIONS_MAX as u64)
    }
    fn add_mem_region(
        &mut self,
        region: &VhostUserSingleMemoryRegion,
        fd: File,
        _postcopy: Option<bool>,
    ) -> ProtocolResult<Option<u64>> {
        let mut regions = self.memory.regions().to_vec();
        let places = regions.iter().map(|r| r.place()).chain([region_place(region)]);
        check_size(places).map_err(protocol)?;
        regions.push(Region::map(region_place(region), fd).map_err(protocol)?);
        self.change_memory(regions).map_err(protocol)?;
        Ok(None)
    }
    fn remove_mem_region(&mut self, region: &VhostUserSingleMemoryRegion) -> ProtocolResult<()> {
        let gone = region_place(region);
        let matches = |r: &Arc<Region>| {
            let p = r.place();
            (p.guest_addr, p.len_bytes, p.user_addr) == (gone.guest_addr, gone.len_bytes, gone.user_addr)
        };
        let mut regions = self.memory.regions().to_vec();
        let before = regions.len();
        regions.retain(|r| !matches(r));
        if regions.len() == before {
            let at = gone.guest_addr;
            return Err(protocol(refused(format!("there is no memory region at {at:#x} to remove"))));
        }
        self.change_memory(regions).map_err(protocol)
    }
    fn set_gpu_socket(&mut self, _gpu: GpuBackend) -> ProtocolResult<()> {
        unsupported("a GPU socket")
    }
    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> ProtocolResult<File> {
        unsupported("a shared object")
    }
    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _fd: File,
    ) -> ProtocolResult<Option<File>> {
        unsupported("device state transfer")
    }
    fn check_device_state(&mut self) -> ProtocolResult<()> {
        unsupported("device state transfer")
    }
    fn get_shmem_config(&mut self) -> ProtocolResult<VhostUserShMemConfig> {
        unsupported("a shared memory device region")
    }
    fn set_log_base(&mut self, _log: &VhostUserLog, _file: File) -> ProtocolResult<()> {
        unsupported("dirty page logging")
    }
}
