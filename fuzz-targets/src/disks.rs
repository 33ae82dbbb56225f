//! A store with two small disks, for the targets of the front end: what the villain has, and a neighbour that must
//! never notice.

use std::cell::OnceCell;

use vdi_core::engine::EngineOptions;

use crate::image::Image;

/// The disk of the guest that the bytes play.
pub const VILLAIN: &str = "villain";
/// Another disk of the same daemon.
pub const NEIGHBOUR: &str = "neighbour";
/// Size of each, bytes: a copy of it stays below what the sanitizer's allocator maps anew each time.
pub const DISK_BYTES: u64 = 96 << 10;

/// An image with both disks, empty; the first one of a thread is made by the engine, the others are forks of it.
#[must_use]
pub fn two_disks() -> Image {
    thread_local! {
        static MADE: OnceCell<Image> = const { OnceCell::new() };
    }
    MADE.with(|made| made.get_or_init(make).fork())
}

/// What the engine may use; enough for every request that fits into a guest of a few hundred kilobytes.
#[must_use]
pub fn options() -> EngineOptions {
    EngineOptions {
        cache_bytes: 1 << 16,
        staging_bytes: 4 << 20,
        out_of_line_bytes: 32 << 10,
        ..EngineOptions::default()
    }
}

fn make() -> Image {
    let image = Image::formatted();
    let stage = image.stage(1);
    let engine = stage.open(options()).expect("an opening ends").expect("a fresh store opens");
    let inner = engine.clone();
    let done = stage.run(Some(&engine), async move {
        inner.create(VILLAIN, DISK_BYTES).await?;
        inner.create(NEIGHBOUR, DISK_BYTES).await?;
        inner.close().await
    });
    done.expect("the making ends").expect("a fresh store takes two disks");
    image
}
