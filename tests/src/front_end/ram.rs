//! A guest's memory: one memfd, mapped here and given to the device.

use std::fs::File;

use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory};

/// Where the memory begins in our (pretended) address space.
pub const USER_BASE: u64 = 0x7f00_0000_0000;

/// A guest's memory, from guest address zero on.
pub struct Ram {
    file: File,
    map: MmapRegion<()>,
}

impl Ram {
    /// `len` zeroed bytes.
    #[must_use]
    pub fn new(len: usize) -> Ram {
        let fd = rustix::fs::memfd_create("test-guest", rustix::fs::MemfdFlags::CLOEXEC).expect("a memfd");
        let file = File::from(fd);
        file.set_len(len as u64).expect("a memfd of that size");
        let shared = file.try_clone().expect("a descriptor more");
        let map = MmapRegion::from_file(FileOffset::new(shared, 0), len).expect("a memfd can be mapped");
        Ram { file, map }
    }
    /// The memfd.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }
    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.map.size() as u64
    }
    /// Never: a guest has memory.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }
    /// Write bytes.
    pub fn write(&self, at: u64, bytes: &[u8]) {
        self.map.as_volatile_slice().write_slice(bytes, at as usize).expect("inside the guest's memory");
    }
    /// Read bytes.
    #[must_use]
    pub fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.map.as_volatile_slice().read_slice(&mut bytes, at as usize).expect("inside the guest's memory");
        bytes
    }
    /// Write 16 bits that the device looks at.
    pub fn store(&self, at: u64, value: u16) {
        let order = std::sync::atomic::Ordering::SeqCst;
        self.map.as_volatile_slice().store(value, at as usize, order).expect("inside, aligned");
    }
    /// Read 16 bits that the device writes.
    #[must_use]
    pub fn load(&self, at: u64) -> u16 {
        let order = std::sync::atomic::Ordering::SeqCst;
        self.map.as_volatile_slice().load(at as usize, order).expect("inside, aligned")
    }
}
