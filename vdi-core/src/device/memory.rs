//! A device in memory: sparse, shared by clones of its handle so that a "restart" finds its bytes.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::RawFd;
use std::rc::Rc;

use super::{Completion, Device, DeviceInfo, Op, OpKind};
use crate::buffer::AlignedBuf;
use crate::executor::Token;
use crate::units::{BLOCK_BYTES, BLOCK_SIZE};

static ZEROS: [u8; BLOCK_SIZE] = [0; BLOCK_SIZE];

/// The bytes of a memory device; clones share them, forks share the blocks that neither has written since.
#[derive(Clone, Default)]
pub struct Media(Rc<RefCell<BTreeMap<u64, Rc<Page>>>>);

#[derive(Clone)]
struct Page {
    bytes: [u8; BLOCK_SIZE],
    /// A hash of the bytes once somebody asked for it; zero for zeros.
    print: Cell<Option<u64>>,
}

impl Page {
    fn print(&self) -> u64 {
        if let Some(print) = self.print.get() {
            return print;
        }
        let words =
            self.bytes.chunks_exact(8).map(|w| u64::from_le_bytes(w.try_into().expect("eight bytes")));
        let print = if self.bytes == ZEROS { 0 } else { words.fold(1, mix) };
        self.print.set(Some(print));
        print
    }
}

/// Spreads every bit of both over the result (the finalizer of MurmurHash3).
fn mix(hash: u64, word: u64) -> u64 {
    let mut h = (hash.rotate_left(5) ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd);
    h ^= h >> 32;
    h.wrapping_mul(0xc4ce_b9fe_1a85_ec53)
}

impl Media {
    /// Copy `dst.len()` bytes at `offset_bytes`; never-written bytes are zero.
    pub fn read(&self, offset_bytes: u64, dst: &mut [u8]) {
        let map = self.0.borrow();
        for_each_block(offset_bytes, dst.len(), |block, within, range| match map.get(&block) {
            Some(b) => dst[range.clone()].copy_from_slice(&b.bytes[within..within + range.len()]),
            None => dst[range].fill(0),
        });
    }
    /// Overwrite `src.len()` bytes at `offset_bytes`.
    pub fn write(&self, offset_bytes: u64, src: &[u8]) {
        let mut map = self.0.borrow_mut();
        for_each_block(offset_bytes, src.len(), |block, within, range| {
            let src = &src[range];
            match map.get_mut(&block) {
                Some(b) => {
                    let page = Rc::make_mut(b);
                    page.print.set(None);
                    page.bytes[within..within + src.len()].copy_from_slice(src);
                }
                // What was never written is zeros already.
                None if *src == ZEROS[..src.len()] => {}
                None => {
                    let mut bytes = [0; BLOCK_SIZE];
                    bytes[within..within + src.len()].copy_from_slice(src);
                    map.insert(block, Rc::new(Page { bytes, print: Cell::new(None) }));
                }
            }
        });
    }
    /// Numbers of the 4 KiB blocks that were ever written with something else than zeros.
    #[must_use]
    pub fn written_blocks(&self) -> Vec<u64> {
        self.0.borrow().keys().copied().collect()
    }
    /// A hash of everything: equal for equal bytes, and cheap where most blocks were hashed before.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let map = self.0.borrow();
        let prints = map.iter().map(|(block, page)| (block, page.print())).filter(|(_, print)| *print != 0);
        prints.fold(0, |sum, (block, print)| mix(sum, mix(*block, print)))
    }
    /// An independent copy, made without copying a block.
    #[must_use]
    pub fn fork(&self) -> Media {
        Media(Rc::new(RefCell::new(self.0.borrow().clone())))
    }
}

fn for_each_block(offset: u64, len: usize, mut f: impl FnMut(u64, usize, std::ops::Range<usize>)) {
    let mut at = 0;
    while at < len {
        let pos = offset + at as u64;
        let within = (pos % BLOCK_BYTES) as usize;
        let n = (BLOCK_SIZE - within).min(len - at);
        f(pos / BLOCK_BYTES, within, at..at + n);
        at += n;
    }
}

/// A device over [`Media`]; operations end at the next `reap`, in order.
pub struct MemoryDevice {
    info: DeviceInfo,
    media: Media,
    queue: RefCell<VecDeque<(Op, Token)>>,
}

impl MemoryDevice {
    /// A device of `len_bytes` over `media`.
    #[must_use]
    pub fn new(name: &str, len_bytes: u64, media: Media) -> MemoryDevice {
        let info = DeviceInfo {
            name: name.to_owned(),
            len_bytes,
            align_bytes: 512,
            discard: false,
            mode: "memory".to_owned(),
        };
        MemoryDevice { info, media, queue: RefCell::default() }
    }
    fn run(&self, op: &mut Op) -> Result<(), i32> {
        if op.offset_bytes.checked_add(op.len_bytes).is_none_or(|end| end > self.info.len_bytes) {
            return Err(libc::EINVAL);
        }
        let mut at = op.offset_bytes;
        match op.kind {
            OpKind::Flush | OpKind::Discard => {}
            OpKind::Read => {
                for b in &mut op.bufs {
                    let mut bytes = AlignedBuf::zeroed(b.len());
                    self.media.read(at, &mut bytes);
                    b.copy_from(&bytes);
                    at += b.len() as u64;
                }
            }
            OpKind::Write => {
                for b in &op.bufs {
                    let mut bytes = AlignedBuf::zeroed(b.len());
                    b.copy_to(&mut bytes);
                    self.media.write(at, &bytes);
                    at += b.len() as u64;
                }
            }
        }
        Ok(())
    }
}

impl Device for MemoryDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }
    fn submit(&self, op: Op, token: Token) {
        self.queue.borrow_mut().push_back((op, token));
    }
    fn reap(&self, out: &mut Vec<Completion>) {
        let queued = std::mem::take(&mut *self.queue.borrow_mut());
        for (mut op, token) in queued {
            let result = self.run(&mut op);
            out.push(Completion { token, result, bufs: op.bufs });
        }
    }
    fn fds(&self, _out: &mut Vec<RawFd>) {}
}
