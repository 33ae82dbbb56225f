//! A disk on the loop that `vhost-user-backend` brings: the reference peer. What a front end of ours does with it must work, and
//! what a null device costs on it is what our own loop is compared with.

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost::vhost_user::{Backend, Listener};
use vhost_user_backend::{VhostUserBackendMut, VhostUserDaemon, VringRwLock, VringT};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{DescriptorChain, QueueOwnedT};
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryLoadGuard, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventNotifier};

const SECTOR: usize = 512;
/// Bytes of `virtio_blk_config` up to and with `wce`.
const CONFIG_BYTES: usize = 33;

type Memory = GuestMemoryAtomic<GuestMemoryMmap>;

/// What is behind the disk.
pub enum Content {
    /// Bytes in memory.
    Memory(Vec<u8>),
    /// Nothing: requests succeed and no data are moved. As many bytes as that.
    Null(u64),
}

impl Content {
    fn len_bytes(&self) -> u64 {
        match self {
            Content::Memory(bytes) => bytes.len() as u64,
            Content::Null(len_bytes) => *len_bytes,
        }
    }
}

struct Stock {
    content: Content,
    memory: Memory,
}

/// Serve `content` at `socket`, to one front end after the other. Ends with an error only.
///
/// # Errors
/// When it cannot listen or start a thread.
pub fn serve(socket: &Path, content: Content) -> io::Result<()> {
    let mut listener = Listener::new(socket, true).map_err(io::Error::other)?;
    let no_memory = || Memory::new(GuestMemoryMmap::new());
    let stock = Arc::new(Mutex::new(Stock { content, memory: no_memory() }));
    loop {
        let daemon = VhostUserDaemon::new("stock".to_owned(), Arc::clone(&stock), no_memory());
        let mut daemon = daemon.map_err(|e| io::Error::other(e.to_string()))?;
        daemon.start(&mut listener).map_err(|e| io::Error::other(e.to_string()))?;
        // However it ended, there may be another one.
        drop(daemon.wait());
    }
}

impl Stock {
    /// Carry out one request; returns how many bytes were written to the guest.
    fn request(
        &mut self,
        memory: &GuestMemoryMmap,
        chain: DescriptorChain<GuestMemoryLoadGuard<GuestMemoryMmap>>,
    ) -> io::Result<u32> {
        let mut reader = chain.clone().reader(memory).map_err(io::Error::other)?;
        let mut writer = chain.writer(memory).map_err(io::Error::other)?;
        let mut header = [0; 16];
        reader.read_exact(&mut header)?;
        let kind = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        let sector = u64::from_le_bytes(header[8..].try_into().expect("eight bytes"));
        let at = usize::try_from(sector).unwrap_or(usize::MAX).saturating_mul(SECTOR);
        let data_in = writer.available_bytes().saturating_sub(1);
        let mut status = writer.split_at(data_in).map_err(io::Error::other)?;
        let ok = match (&mut self.content, kind) {
            (Content::Null(_), _) => true,
            (Content::Memory(bytes), VIRTIO_BLK_T_IN) => match bytes.get(at..at.saturating_add(data_in)) {
                Some(from) => writer.write_all(from).is_ok(),
                None => false,
            },
            (Content::Memory(bytes), VIRTIO_BLK_T_OUT) => {
                let end = at.saturating_add(reader.available_bytes());
                bytes.get_mut(at..end).is_some_and(|to| reader.read_exact(to).is_ok())
            }
            _ => true,
        };
        let outcome = if ok { VIRTIO_BLK_S_OK } else { VIRTIO_BLK_S_IOERR };
        status.write_all(&[outcome as u8])?;
        Ok(u32::try_from(data_in + 1).expect("a request is smaller than 4 GiB"))
    }
    fn take_all(&mut self, vring: &VringRwLock) -> io::Result<()> {
        let mut any = false;
        loop {
            let memory = self.memory.memory();
            let next = vring.get_mut().get_queue_mut().iter(memory.clone()).map(|mut all| all.next());
            let Some(chain) = next.map_err(io::Error::other)? else { break };
            let head = chain.head_index();
            let len = self.request(&memory, chain)?;
            vring.add_used(head, len).map_err(io::Error::other)?;
            any = true;
        }
        if any && vring.needs_notification().map_err(io::Error::other)? {
            vring.signal_used_queue()?;
        }
        Ok(())
    }
}

impl VhostUserBackendMut for Stock {
    type Bitmap = ();
    type Vring = VringRwLock;

    fn num_queues(&self) -> usize {
        1
    }
    fn max_queue_size(&self) -> usize {
        1024
    }
    fn features(&self) -> u64 {
        let bits =
            [VIRTIO_F_VERSION_1, VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC, VIRTIO_BLK_F_FLUSH];
        let features = bits.iter().fold(0, |all, bit| all | 1u64 << bit);
        features | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }
    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        type Features = VhostUserProtocolFeatures;
        Features::CONFIG | Features::REPLY_ACK | Features::MQ | Features::CONFIGURE_MEM_SLOTS
    }
    fn set_event_idx(&mut self, _: bool) {}
    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let mut config = vec![0; CONFIG_BYTES.max((offset + size) as usize)];
        config[..8].copy_from_slice(&(self.content.len_bytes() / SECTOR as u64).to_le_bytes());
        config[offset as usize..(offset + size) as usize].to_vec()
    }
    fn update_memory(&mut self, memory: Memory) -> io::Result<()> {
        self.memory = memory;
        Ok(())
    }
    fn set_backend_req_fd(&mut self, _: Backend) {}
    fn exit_event(&self, _: usize) -> Option<(EventConsumer, EventNotifier)> {
        vmm_sys_util::event::new_event_consumer_and_notifier(vmm_sys_util::event::EventFlag::NONBLOCK).ok()
    }
    fn handle_event(
        &mut self,
        queue: u16,
        events: EventSet,
        vrings: &[VringRwLock],
        _: usize,
    ) -> io::Result<()> {
        if !events.contains(EventSet::IN) {
            return Err(io::Error::other("an event that is none"));
        }
        let vring = &vrings[usize::from(queue)];
        loop {
            vring.disable_notification().map_err(io::Error::other)?;
            self.take_all(vring)?;
            if !vring.enable_notification().map_err(io::Error::other)? {
                return Ok(());
            }
        }
    }
}
