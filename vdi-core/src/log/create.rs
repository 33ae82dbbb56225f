//! Create: write the whole ring once, then the head.

use super::Log;
use super::head::{write_first, write_second};
use super::ring::{Position, Ring};
use crate::buffer::AlignedBuf;
use crate::device::DeviceHandle;
use crate::error::Result;
use crate::executor::{LocalFuture, join_all};
use crate::format::log_head::{LogHead, RING_OFFSET_BYTES, StagedIn};
use crate::units::{Generation, Incarnation, SegmentSeq, Uuid};

const CHUNK_BYTES: u64 = 1 << 20;
const CHUNKS_IN_FLIGHT: usize = 4;

impl Log {
    /// Make an empty log `log` for the store `store` that fills `device`. The ring is prewritten with
    /// zeros, so that later writes change no file metadata and flushes stay cheap. Destroys what was
    /// there; the head comes last, so a crash leaves no half-made log.
    ///
    /// [`crate::ErrorKind::BadRequest`] when the device is too short.
    pub async fn create(device: &DeviceHandle, log: Uuid, store: Uuid) -> Result<()> {
        let ring = Ring::on_device(device.info().len_bytes)?;
        prewrite(device, 0, RING_OFFSET_BYTES + ring.bytes).await?;
        device.flush().await?;
        Log::create_on_prewritten(device, log, store).await
    }
    /// As [`Log::create`] on a device that is known to be written with zeros already.
    pub async fn create_on_prewritten(device: &DeviceHandle, log: Uuid, store: Uuid) -> Result<()> {
        let ring = Ring::on_device(device.info().len_bytes)?;
        let start_offset_bytes = ring.device_offset(Position(0));
        let head = LogHead {
            log,
            store,
            generation: Generation(1),
            ring_bytes: ring.bytes,
            incarnation: Incarnation(0),
            first_seq: SegmentSeq(1),
            start_offset_bytes,
            recovered_through: SegmentSeq(0),
            recovered_incarnation: Incarnation(0),
            recovered_records: 0,
            recovered_crc: 0,
            tail_seq: SegmentSeq(1),
            tail_offset_bytes: start_offset_bytes,
            tail_previous_crc: 0,
            durable_through: SegmentSeq(0),
            staged_in: StagedIn::default(),
            retired: false,
            vdis: Vec::new(),
        };
        write_first(device, &head, [0, 1]).await?;
        write_second(device, &head, [0, 1]).await
    }
}

async fn prewrite(device: &DeviceHandle, from: u64, to: u64) -> Result<()> {
    let mut at = from;
    while at < to {
        let mut chunks: Vec<LocalFuture<'_, Result<()>>> = Vec::new();
        while at < to && chunks.len() < CHUNKS_IN_FLIGHT {
            let bytes = CHUNK_BYTES.min(to - at);
            let buf = AlignedBuf::zeroed(usize::try_from(bytes).expect("a chunk fits memory"));
            chunks.push(Box::pin(device.write(at, buf)));
            at += bytes;
        }
        join_all(chunks).await.into_iter().collect::<Result<()>>()?;
    }
    Ok(())
}
