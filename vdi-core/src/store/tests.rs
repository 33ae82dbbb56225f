mod allocator;
mod hostile;

use super::*;
use crate::device::MemoryDevice;
use crate::device::memory::Media;
use crate::executor::{Executor, LocalFuture, block_on, join_all};
use crate::units::{Generation, SegmentSeq};

const BYTES: u64 = 64 << 20;

fn device(media: &Media) -> DeviceHandle {
    DeviceHandle::new(Box::new(MemoryDevice::new("memory", BYTES, media.clone())))
}

fn with_store<T: 'static, F: Future<Output = T> + 'static>(
    media: &Media,
    f: impl FnOnce(Store) -> F + 'static,
) -> T {
    let dev = device(media);
    let handle = dev.clone();
    block_on(&Executor::new(), async move { f(Store::open(dev).await.unwrap()).await }, move || handle.poll())
}

fn formatted() -> Media {
    let media = Media::default();
    let dev = device(&media);
    let handle = dev.clone();
    let sb = block_on(
        &Executor::new(),
        async move { Store::create(&dev, Uuid(1), Uuid(2), 3, CreateOptions::default()).await },
        move || handle.poll(),
    );
    assert_eq!(sb.unwrap().geometry.extent_bits, 9);
    media
}

#[test]
fn claimed_and_unused_blocks_are_free_again_after_a_crash_and_used_ones_are_not() {
    let media = formatted();
    let (run, free) = with_store(&media, |s| async move {
        let run = s.allocate(ExtentKind::Data, 10).await.unwrap();
        let free = s.space().free_bytes;
        // What a checkpoint does before it references the blocks.
        s.write_host_record().await.unwrap();
        s.flush().await.unwrap();
        let lost = s.allocate(ExtentKind::Data, 7).await.unwrap();
        assert_eq!(lost.start, run.start.plus(10));
        (run, free)
    });
    with_store(&media, move |s| async move {
        assert_eq!(s.space().free_bytes, free);
        assert!(s.is_used(run.start) && !s.is_used(run.start.plus(10)));
        let again = s.allocate(ExtentKind::Data, 4).await.unwrap();
        assert!(again.start.0 >= run.start.0 + 10 || again.start.0 + 4 <= run.start.0);
    });
}

#[test]
fn a_freed_block_is_reused_only_after_readers_and_log_let_go() {
    let media = formatted();
    with_store(&media, |s| async move {
        let run = s.allocate(ExtentKind::Data, 8).await.unwrap();
        let pin = s.read_pin();
        s.quarantine([run].into_iter().collect(), SegmentSeq(5));
        assert!(s.release(SegmentSeq(6)).runs().next().is_none(), "a reader still holds it");
        drop(pin);
        assert!(s.release(SegmentSeq(5)).runs().next().is_none(), "segment 5 is not trimmed");
        let released = s.release(SegmentSeq(6));
        assert_eq!(released.runs().collect::<Vec<_>>(), [run]);
        assert!(s.give_back(released).is_empty());
        assert!(!s.is_used(run.start));
    });
}

#[test]
fn a_bitmap_sector_never_goes_back_to_an_older_state() {
    let media = formatted();
    let late = with_store(&media, |s| async move {
        let mut runs = Vec::new();
        while runs.iter().map(|r: &Run| r.blocks).sum::<u32>() < 1500 {
            runs.push(s.allocate(ExtentKind::Data, 512).await.unwrap());
        }
        s.write_host_record().await.unwrap();
        let free = |addr| {
            s.quarantine([addr].into_iter().collect(), SegmentSeq(1));
            assert!(s.give_back(s.release(SegmentSeq(2))).is_empty());
        };
        let (first, last) = (runs[0].start, runs.last().unwrap().start);
        free(first);
        free(last);
        let store = s.clone();
        let one: LocalFuture<'_, Result<()>> = Box::pin(async move { store.write_dirty_bitmaps().await });
        let two: LocalFuture<'_, Result<()>> = Box::pin(async {
            // The first has taken both sectors, and is writing the earlier one.
            free(last.plus(1));
            s.write_dirty_bitmaps().await
        });
        assert!(join_all(vec![one, two]).await.into_iter().all(|r| r.is_ok()));
        assert!(s.is_used(last.plus(2)));
        last.plus(1)
    });
    with_store(&media, move |s| async move { assert!(s.is_used(late.plus(1)) && !s.is_used(late)) });
}

#[test]
fn a_store_fills_up_completely_and_then_says_no_space() {
    let media = formatted();
    with_store(&media, |s| async move {
        let mut got = 0;
        let e = loop {
            match s.allocate(ExtentKind::Data, 512).await {
                Ok(r) => got += u64::from(r.blocks),
                Err(e) => break e,
            }
        };
        assert_eq!(e.kind(), crate::ErrorKind::NoSpace);
        assert!(got * BLOCK_BYTES > BYTES * 9 / 10, "{got} blocks");
        assert_eq!(s.space().free_bytes, 0);
    });
}

#[test]
fn an_extent_is_leased_only_from_what_others_have_not_promised() {
    let media = formatted();
    with_store(&media, |s| async move {
        let spare = s.spare_extents(u64::MAX);
        assert!(spare > 0);
        let e = loop {
            if let Err(e) = s.allocate(ExtentKind::Data, 512).await {
                break e;
            }
        };
        assert_eq!(e.kind(), crate::ErrorKind::NoSpace);
        s.add_extents(spare);
        s.allocate(ExtentKind::Data, 512).await.unwrap();
    });
}

#[test]
fn registry_entries_survive_a_restart_and_names_are_unique() {
    let media = formatted();
    with_store(&media, |s| async move {
        let (slots, generation) = s.allocate_record().await.unwrap();
        assert_eq!(generation, Generation(1));
        s.add_vdi(crate::units::VdiId(7), "web", slots, 1).await.unwrap();
        let e = s.add_vdi(crate::units::VdiId(8), "web", slots, 1).await.unwrap_err();
        assert_eq!(e.kind(), crate::ErrorKind::Exists);
    });
    with_store(&media, |s| async move {
        assert_eq!(s.find_vdi("web").unwrap().id.0, 7);
        s.remove_vdi(crate::units::VdiId(7)).await.unwrap();
    });
    with_store(&media, |s| async move { assert!(s.vdis().is_empty()) });
}

#[test]
fn a_truncated_device_and_a_foreign_device_are_refused_with_a_hint() {
    let media = formatted();
    for (bytes, media, kind) in [
        (BYTES / 2, media, crate::ErrorKind::WrongStore),
        (BYTES, Media::default(), crate::ErrorKind::WrongStore),
    ] {
        let dev = DeviceHandle::new(Box::new(MemoryDevice::new("memory", bytes, media)));
        let handle = dev.clone();
        let r = block_on(&Executor::new(), async move { Store::open(dev).await.map(|_| ()) }, move || {
            handle.poll()
        });
        let e = r.unwrap_err();
        assert_eq!(e.kind(), kind);
        assert!(!e.hint().is_empty());
    }
}
