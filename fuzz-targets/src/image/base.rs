//! The images that damage starts from: a store with disks, snapshots and clones, and a log that holds more than
//! the trees do. The engine makes them, always the same.

use std::cell::OnceCell;

use vdi_core::buffer::{GuestBufs, HostMemory};
use vdi_core::device::memory::Media;
use vdi_core::engine::{Engine, EngineOptions, FormatOptions};
use vdi_core::format::catalogue::{self, ExtentKind};
use vdi_core::format::extent::overhead_blocks;
use vdi_core::format::log_head::RING_OFFSET_BYTES;
use vdi_core::format::superblock::Superblock;
use vdi_core::units::{BLOCK_BYTES, BLOCK_SIZE, SECTORS_PER_BLOCK};
use vdi_core::vdi::Ack;

use crate::stage::Stage;

/// Length of the store, bytes.
pub const STORE_BYTES: u64 = 16 << 20;
/// Length of the log, bytes: the smallest ring.
pub const LOG_BYTES: u64 = RING_OFFSET_BYTES + (1 << 20);
const EXTENT_BITS: u32 = 9;
const VDIS_MAX: u32 = 16;

/// A store and its log.
pub struct Image {
    /// The store's bytes.
    pub store: Media,
    /// The log's bytes.
    pub log: Media,
}

impl Image {
    /// A store without disks, and nothing where its log will be.
    ///
    /// # Panics
    /// When the engine cannot format a memory device.
    #[must_use]
    pub fn formatted() -> Image {
        let image = Image { store: Media::default(), log: Media::default() };
        let stage = image.stage(1);
        let format = FormatOptions { extent_bits: Some(EXTENT_BITS), vdis_max: Some(VDIS_MAX), force: false };
        let formatted = stage.run(None, Engine::format(stage.env(), stage.store.clone(), format));
        formatted.expect("a format ends").expect("a memory device can be formatted");
        image
    }
    /// An independent copy.
    #[must_use]
    pub fn fork(&self) -> Image {
        Image { store: self.store.fork(), log: self.log.fork() }
    }
    /// A process over it.
    #[must_use]
    pub fn stage(&self, seed: u64) -> Stage {
        Stage::new((&self.store, STORE_BYTES), (&self.log, LOG_BYTES), seed)
    }
    /// Block `block` of `media`.
    #[must_use]
    pub fn block(media: &Media, block: u64) -> [u8; BLOCK_SIZE] {
        let mut bytes = [0; BLOCK_SIZE];
        media.read(block * BLOCK_BYTES, &mut bytes);
        bytes
    }
}

/// An image to start from, and what there is in it to damage.
pub struct Base {
    /// The image; never changed.
    pub image: Image,
    /// Blocks of the store that hold anything but guests' data.
    pub store_blocks: Vec<u64>,
    /// Blocks of the log that hold anything.
    pub log_blocks: Vec<u64>,
}

/// Lend a base image to `f`: the one killed with a full log, or the one closed in order. Each is made once a thread.
pub fn with_base<T>(closed: bool, f: impl FnOnce(&Base) -> T) -> T {
    thread_local! {
        static BASES: [OnceCell<Base>; 2] = const { [OnceCell::new(), OnceCell::new()] };
    }
    BASES.with(|bases| f(bases[usize::from(closed)].get_or_init(|| Base::make(closed))))
}

impl Base {
    fn make(closed: bool) -> Base {
        let image = Image::formatted();
        let stage = image.stage(1);
        let options = EngineOptions { out_of_line_bytes: 32 << 10, ..EngineOptions::default() };
        let engine = stage.open(options).expect("an opening ends").expect("a fresh store opens");
        let inner = engine.clone();
        stage
            .run(Some(&engine), async move {
                live(&inner).await.expect("a sound store does everything");
                if closed {
                    inner.close().await.expect("a sound store closes");
                }
            })
            .expect("the life of the image ends");
        drop((engine, stage));
        let store_blocks = image.store.written_blocks();
        let store_blocks = store_blocks.into_iter().filter(|b| !is_data(&image.store, *b)).collect();
        let log_blocks = image.log.written_blocks();
        Base { image, store_blocks, log_blocks }
    }
}

fn is_data(store: &Media, block: u64) -> bool {
    let sb = Superblock::verify(&Image::block(store, 0), 0).expect("a sound superblock");
    let mut sector = [0; catalogue::SECTOR_SIZE];
    store.read(u64::from(sb.catalogue_start) * BLOCK_BYTES, &mut sector);
    let entries = catalogue::decode(&sector, 0, sb.extents as usize, sb.uuid).expect("a sound catalogue").0;
    let head = u64::from(overhead_blocks(sb.geometry));
    entries
        .iter()
        .filter(|e| e.kind == ExtentKind::Data)
        .any(|e| (e.start_block + head..e.start_block + sb.geometry.extent_blocks()).contains(&block))
}

/// Everything that leaves something on the disk, in an order that leaves most of it there.
async fn live(engine: &Engine) -> vdi_core::Result<()> {
    engine.create("a", 300 << 20).await?;
    engine.create("small", 1 << 20).await?;
    engine.create("gone", 2 << 20).await?;
    let a = engine.open_vdi("a").await?;
    let small = engine.open_vdi("small").await?;
    for (block, blocks) in [(0, 12), (250, 10), (65_530, 9), (70_000, 1)] {
        a.write(block * SECTORS_PER_BLOCK, &filled(block as u8, blocks), Ack::WriteBack).await?;
    }
    small.write(0, &filled(3, 20), Ack::WriteBack).await?;
    engine.open_vdi("gone").await?.write(0, &filled(4, 2), Ack::WriteBack).await?;
    engine.snapshot("a", Some("first")).await?;
    a.write(8, &filled(7, 3), Ack::WriteBack).await?;
    engine.checkpoint().await?;
    engine.snapshot("a", None).await?;
    a.discard(255 * SECTORS_PER_BLOCK, 24, Ack::WriteBack).await?;
    engine.clone_vdi("a", None, "b").await?;
    let b = engine.open_vdi("b").await?;
    b.write(16, &filled(9, 2), Ack::WriteBack).await?;
    engine.snapshot("b", Some("of-b")).await?;
    engine.delete("gone", true).await?;
    engine.checkpoint().await?;
    // From here on only the log knows.
    a.write(3, &filled(0x11, 1), Ack::WriteBack).await?;
    a.write(100 * SECTORS_PER_BLOCK, &filled(0x22, 10), Ack::WriteThrough).await?;
    b.write_zeroes(0, 40, true, Ack::WriteBack).await?;
    b.discard(64, 8, Ack::WriteThrough).await?;
    engine.snapshot("small", Some("late")).await?;
    small.write(80, &filled(0x33, 2), Ack::WriteThrough).await?;
    let first = engine.snapshots("a").await?[0].epoch;
    engine.label("a", first, Some("renamed")).await?;
    let of_b = engine.snapshots("b").await?[0].epoch;
    engine.remove_snapshot("b", of_b).await?;
    a.write(0, &filled(0x44, 1), Ack::WriteThrough).await
}

/// Guest memory of `blocks` blocks, each different.
fn filled(seed: u8, blocks: usize) -> GuestBufs {
    let mut bytes = vec![0; blocks * BLOCK_SIZE];
    for (n, block) in bytes.chunks_exact_mut(BLOCK_SIZE).enumerate() {
        block.fill(seed.wrapping_mul(31).wrapping_add(n as u8) | 1);
    }
    HostMemory::copy_of(&bytes).into()
}
