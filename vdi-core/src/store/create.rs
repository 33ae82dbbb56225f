//! Formatting a device: system area and nothing else; extents are leased as they are needed.

use super::HOME_SLOT;
use super::host::host_offset;
use crate::buffer::AlignedBuf;
use crate::device::DeviceHandle;
use crate::error::{Error, ErrorKind, Result};
use crate::format::catalogue::{self, CatalogueEntry, ENTRIES_PER_SECTOR, ExtentKind};
use crate::format::host::HostRecord;
use crate::format::registry;
use crate::format::superblock::{COPIES, Features, HOSTS_START, Superblock};
use crate::limits::{
    EXTENT_BITS_DEFAULT, EXTENT_BITS_MAX, EXTENT_BITS_MIN, EXTENTS_MAX, HOSTS_MAX, LOG_VDIS_MAX,
};
use crate::units::{BLOCK_BYTES, BLOCK_SIZE, Generation, Geometry, Uuid};

/// Choices at format.
#[derive(Clone, Copy, Debug, Default)]
pub struct CreateOptions {
    /// log2 of blocks per extent; default: 1 GiB extents, smaller on small stores (128 or more of them).
    pub extent_bits: Option<u32>,
    /// Most VDIs the store can hold; default 4,000, on stores below 1 GiB 256.
    pub vdis_max: Option<u32>,
    /// Format even if the device holds a store already.
    pub force: bool,
}

/// Smallest store: the system area and a few extents of each kind.
pub const STORE_BYTES_MIN: u64 = 16 << 20;

/// Write an empty store of identity `uuid` to `device`.
pub async fn create(
    device: &DeviceHandle,
    uuid: Uuid,
    host: Uuid,
    created_ns: u64,
    options: CreateOptions,
) -> Result<Superblock> {
    let bytes = device.info().len_bytes;
    if bytes < STORE_BYTES_MIN {
        return Err(Error::new(
            ErrorKind::BadRequest,
            format!("{} has {bytes} bytes, a store needs at least {STORE_BYTES_MIN}", device.info().name),
            "give it a larger file or device",
        ));
    }
    if !options.force {
        refuse_existing(device).await?;
    }
    let sb = plan(bytes, uuid, created_ns, options)?;
    write_system_area(device, &sb, host).await?;
    device.flush().await?;
    // The superblock last: until it is there, there is no store.
    for copy in [1, 0] {
        device.write(COPIES[copy] * BLOCK_BYTES, AlignedBuf::copy_of(&sb.encode(copy))).await?;
        device.flush().await?;
    }
    Ok(sb)
}

async fn refuse_existing(device: &DeviceHandle) -> Result<()> {
    for (copy, block) in COPIES.iter().enumerate() {
        let bytes = device.read(block * BLOCK_BYTES, BLOCK_SIZE).await?;
        if let Ok(sb) = Superblock::verify(&bytes, copy) {
            return Err(Error::new(
                ErrorKind::Exists,
                format!("{} holds store {} already", device.info().name, sb.uuid),
                "use --force to destroy it and make a new one",
            ));
        }
    }
    Ok(())
}

fn plan(bytes: u64, uuid: Uuid, created_ns: u64, options: CreateOptions) -> Result<Superblock> {
    let by_size = (bytes / BLOCK_BYTES / 128).max(1).ilog2();
    let extent_bits = options.extent_bits.unwrap_or(by_size.clamp(EXTENT_BITS_MIN, EXTENT_BITS_DEFAULT));
    if !(EXTENT_BITS_MIN..=EXTENT_BITS_MAX).contains(&extent_bits) {
        return Err(Error::new(
            ErrorKind::BadRequest,
            format!("extent size 2^{extent_bits} blocks is out of range"),
            "choose extents between 2 MiB and 16 GiB",
        ));
    }
    let geometry = Geometry { extent_bits };
    let extents = bytes / geometry.extent_bytes();
    if extents > EXTENTS_MAX {
        return Err(Error::new(
            ErrorKind::TooLarge,
            format!("{bytes} bytes are {extents} extents, at most {EXTENTS_MAX} are possible"),
            "choose larger extents",
        ));
    }
    // A log head remembers a generation for each VDI.
    let vdis = options.vdis_max.unwrap_or(if bytes < 1 << 30 { 256 } else { 4000 }).min(LOG_VDIS_MAX as u32);
    let catalogue_start = HOSTS_START + u32::from(HOSTS_MAX) * 2;
    // Room for four times the extents, so that the store can be extended in place.
    let catalogue_sectors = (extents * 4).min(EXTENTS_MAX).div_ceil(ENTRIES_PER_SECTOR as u64) as u32;
    let registry_start = catalogue_start + catalogue_sectors.div_ceil(8);
    let system_blocks = u64::from(registry_start) + u64::from(vdis).div_ceil(8);
    let system_extents = system_blocks.div_ceil(geometry.extent_blocks());
    if extents < system_extents + 2 {
        return Err(Error::new(
            ErrorKind::BadRequest,
            format!("{bytes} bytes hold only {extents} extents of {} bytes", geometry.extent_bytes()),
            "choose smaller extents or a larger device",
        ));
    }
    Ok(Superblock {
        uuid,
        generation: Generation(1),
        geometry,
        features: Features::default(),
        extents: extents as u32,
        system_extents: system_extents as u32,
        hosts_start: HOSTS_START,
        catalogue_start,
        catalogue_sectors,
        registry_start,
        registry_entries: vdis,
        created_ns,
    })
}

async fn write_system_area(device: &DeviceHandle, sb: &Superblock, host: Uuid) -> Result<()> {
    // The lease room and the other hosts' slots must not hold anything of a former life.
    let head = (sb.catalogue_start as usize) * BLOCK_SIZE;
    device.write(0, AlignedBuf::zeroed(head)).await?;
    let mut sectors = Vec::new();
    for index in 0..sb.catalogue_sectors {
        let entries: Vec<_> = (0..ENTRIES_PER_SECTOR as u32)
            .map(|i| index * ENTRIES_PER_SECTOR as u32 + i)
            .take_while(|n| *n < sb.extents)
            .map(|n| CatalogueEntry {
                kind: if n < sb.system_extents { ExtentKind::System } else { ExtentKind::Free },
                host: 0,
                shard: 0,
                device: 0,
                start_block: u64::from(n) << sb.geometry.extent_bits,
                lease_generation: 0,
            })
            .collect();
        sectors.extend(catalogue::encode(index, &entries, sb.uuid, Generation(1)));
    }
    write_padded(device, u64::from(sb.catalogue_start), &sectors).await?;
    let mut sectors = Vec::new();
    for index in 0..sb.registry_entries {
        sectors.extend(registry::encode(index, None, sb.uuid, Generation(1)));
    }
    write_padded(device, u64::from(sb.registry_start), &sectors).await?;
    let record = HostRecord { generation: Generation(1), host, ..HostRecord::default() };
    let offset = host_offset(sb, HOME_SLOT, 1);
    device.write(offset, AlignedBuf::copy_of(&record.encode(HOME_SLOT, 1, sb.uuid))).await
}

async fn write_padded(device: &DeviceHandle, start_block: u64, bytes: &[u8]) -> Result<()> {
    const CHUNK: usize = 1 << 20;
    for (i, chunk) in bytes.chunks(CHUNK).enumerate() {
        let mut buf = AlignedBuf::zeroed(chunk.len().next_multiple_of(BLOCK_SIZE));
        buf[..chunk.len()].copy_from_slice(chunk);
        device.write(start_block * BLOCK_BYTES + (i * CHUNK) as u64, buf).await?;
    }
    Ok(())
}
