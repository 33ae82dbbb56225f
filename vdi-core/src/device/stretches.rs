//! Parts of a device, one after the other: what crosses from one to the next becomes several operations.

use std::ops::Range;
use std::rc::Rc;

use smallvec::{SmallVec, smallvec};

use super::handle::Outcome;
use super::{Op, OpKind};
use crate::buffer::{AlignedBuf, IoBuf, IoBufs};

pub(super) struct Stretches {
    /// Each with where it starts in what they make up together.
    stretches: Vec<(u64, Range<u64>)>,
}

/// Where a part of an operation goes.
struct Part {
    /// Within the operation, bytes.
    at: usize,
    on_device: Range<u64>,
}

impl Stretches {
    pub fn new(ranges: Vec<Range<u64>>) -> Stretches {
        let mut start = 0;
        let place = |range: Range<u64>| {
            let at = start;
            start += range.end - range.start;
            (at, range)
        };
        Stretches { stretches: ranges.into_iter().map(place).collect() }
    }
    pub fn len_bytes(&self) -> u64 {
        self.stretches.last().map_or(0, |(at, range)| at + (range.end - range.start))
    }
    /// Do `op` with `one`, which takes operations on the device.
    pub async fn run<F: Future<Output = Outcome>>(&self, mut op: Op, one: impl Fn(Op) -> F) -> Outcome {
        if op.kind == OpKind::Flush {
            return one(op).await;
        }
        let Some(parts) = self.parts(op.offset_bytes, op.len_bytes) else {
            return (Err(libc::EINVAL), op.bufs);
        };
        if let [part] = &parts[..] {
            op.offset_bytes = part.on_device.start;
            return one(op).await;
        }
        let result = match op.kind {
            OpKind::Read => read(&parts, &mut op, one).await,
            OpKind::Write => write(&parts, &op, one).await,
            OpKind::Discard | OpKind::Flush => discard(&parts, one).await,
        };
        (result, op.bufs)
    }
    /// None when a byte lies outside.
    fn parts(&self, offset_bytes: u64, len_bytes: u64) -> Option<SmallVec<[Part; 2]>> {
        let end = offset_bytes.checked_add(len_bytes).filter(|end| *end <= self.len_bytes())?;
        let mut parts = SmallVec::new();
        let first = self.stretches.partition_point(|(at, _)| *at <= offset_bytes).saturating_sub(1);
        for (at, range) in &self.stretches[first..] {
            let here = offset_bytes.max(*at)..end.min(at + (range.end - range.start));
            if here.start >= here.end && !parts.is_empty() {
                break;
            }
            let on_device = range.start + (here.start - at)..range.start + (here.end.max(here.start) - at);
            parts.push(Part { at: (here.start - offset_bytes) as usize, on_device });
        }
        Some(parts)
    }
}

impl Part {
    fn len(&self) -> usize {
        (self.on_device.end - self.on_device.start) as usize
    }
    fn op(&self, kind: OpKind, bufs: IoBufs) -> Op {
        let len_bytes = self.on_device.end - self.on_device.start;
        Op { kind, offset_bytes: self.on_device.start, len_bytes, bufs }
    }
}

async fn read<F: Future<Output = Outcome>>(
    parts: &[Part],
    op: &mut Op,
    one: impl Fn(Op) -> F,
) -> Result<(), i32> {
    let mut bytes = Vec::with_capacity(op.len_bytes as usize);
    for part in parts {
        let own = smallvec![IoBuf::Owned(AlignedBuf::zeroed(part.len()))];
        let (result, bufs) = one(part.op(OpKind::Read, own)).await;
        result?;
        let [IoBuf::Owned(read)] = &bufs[..] else {
            unreachable!("the device gives back the buffers it was given")
        };
        bytes.extend_from_slice(read);
    }
    let mut at = 0;
    for buf in &mut op.bufs {
        buf.copy_from(&bytes[at..at + buf.len()]);
        at += buf.len();
    }
    Ok(())
}

async fn write<F: Future<Output = Outcome>>(
    parts: &[Part],
    op: &Op,
    one: impl Fn(Op) -> F,
) -> Result<(), i32> {
    let mut bytes = AlignedBuf::zeroed(op.len_bytes as usize);
    let mut at = 0;
    for buf in &op.bufs {
        buf.copy_to(&mut bytes[at..at + buf.len()]);
        at += buf.len();
    }
    let bytes = Rc::new(bytes);
    for part in parts {
        let shared = IoBuf::Shared(Rc::clone(&bytes), part.at..part.at + part.len());
        one(part.op(OpKind::Write, smallvec![shared])).await.0?;
    }
    Ok(())
}

async fn discard<F: Future<Output = Outcome>>(parts: &[Part], one: impl Fn(Op) -> F) -> Result<(), i32> {
    for part in parts {
        one(part.op(OpKind::Discard, IoBufs::new())).await.0?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::{GuestBufs, HostMemory};
    use crate::device::DeviceHandle;
    use crate::device::memory::{Media, MemoryDevice};
    use crate::device::simulated::Random;
    use crate::executor::{Executor, block_on};
    use crate::units::BLOCK_SIZE;

    const BLOCK: u64 = BLOCK_SIZE as u64;

    #[test]
    fn stretches_are_read_and_written_as_one_device_whatever_crosses_them() {
        let device = DeviceHandle::new(Box::new(MemoryDevice::new("memory", 64 * BLOCK, Media::default())));
        let executor = Executor::new();
        let whole = device.clone();
        let places = [40..47, 3..4, 10..30u64];
        let order: Vec<u64> = places.iter().cloned().flatten().collect();
        let joined =
            device.joined("joined".to_owned(), places.map(|r| r.start * BLOCK..r.end * BLOCK).to_vec());
        assert_eq!((joined.info().len_bytes, joined.info().name.as_str()), (28 * BLOCK, "joined"));
        let work = async move {
            let mut random = Random::new(1);
            let mut model = vec![0u8; order.len()];
            for n in 0..2000u32 {
                let first = random.within(0..28);
                let blocks = random.within(1..29 - first);
                let (at, len) = (first * BLOCK, (blocks * BLOCK) as usize);
                if random.coin() {
                    model[first as usize..(first + blocks) as usize].fill(n as u8);
                    let half = AlignedBuf::copy_of(&vec![n as u8; len / 2 / 512 * 512]);
                    let rest = AlignedBuf::copy_of(&vec![n as u8; len - half.len()]);
                    joined.write_bufs(at, smallvec![IoBuf::Owned(half), IoBuf::Owned(rest)]).await.unwrap();
                } else {
                    let guest = HostMemory::slice(len);
                    let (result, _) = joined.read_bufs(at, smallvec![IoBuf::Guest(guest.clone())]).await;
                    result.unwrap();
                    let mut found = vec![0; len];
                    GuestBufs::from(guest).copy_to(&mut found);
                    let expected = &model[first as usize..(first + blocks) as usize];
                    assert!(found.chunks(BLOCK_SIZE).zip(expected).all(|(b, n)| b.iter().all(|b| b == n)));
                }
            }
            let all = whole.read(0, 64 * BLOCK_SIZE).await.unwrap();
            for (n, block) in all.chunks(BLOCK_SIZE).enumerate() {
                let here = order.iter().position(|o| *o == n as u64).map_or(0, |at| model[at]);
                assert!(block.iter().all(|b| *b == here), "block {n}");
            }
            for (at, blocks) in [(28, 1), (0, 29), (u64::MAX / BLOCK, 1)] {
                joined.read(at.saturating_mul(BLOCK), (blocks * BLOCK) as usize).await.unwrap_err();
            }
            joined.flush().await.unwrap();
            joined.discard(0, 28 * BLOCK).await.unwrap();
            assert!(whole.counts().writes.get() == 0 && joined.counts().writes.get() > 900);
        };
        block_on(&executor, work, || device.poll());
    }
}
