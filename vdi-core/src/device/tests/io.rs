//! Transfers, discards and refusals.

use std::os::unix::fs::FileExt;
use std::rc::Rc;

use smallvec::smallvec;

use super::*;
use crate::buffer::{AlignedBuf, HostMemory, IoBuf};
use crate::executor::{LocalFuture, Token, join_all};

fn pattern(seed: u64, len: usize) -> AlignedBuf {
    let mut buf = AlignedBuf::zeroed(len);
    for (i, b) in buf.iter_mut().enumerate() {
        *b = (seed.wrapping_mul(31).wrapping_add(i as u64 / 7)) as u8;
    }
    buf
}

#[test]
fn what_is_written_is_read_back_through_every_kind_of_buffer() {
    let scratch = Scratch::new();
    for (i, method) in METHODS.into_iter().enumerate() {
        for buffered in [false, true] {
            let url = scratch.file(&format!("{i}-{buffered}"), 1 << 20);
            let options = OpenOptions { buffered, ..with(method) };
            run(&url, &options, |d| async move {
                let shared = Rc::new(pattern(2, 8192));
                let guest = HostMemory::slice(8192);
                guest.sub(4096..8192).copy_from(&pattern(3, 4096));
                let bufs = smallvec![
                    IoBuf::Owned(pattern(1, 4096)),
                    IoBuf::Shared(Rc::clone(&shared), 4096..8192),
                    IoBuf::Guest(guest.sub(4096..8192)),
                ];
                d.write_bufs(8192, bufs).await.unwrap();
                d.flush().await.unwrap();
                let back = HostMemory::slice(8192);
                let (result, bufs) = d
                    .read_bufs(8192, smallvec![IoBuf::Owned(AlignedBuf::block()), IoBuf::Guest(back.clone())])
                    .await;
                result.unwrap();
                let mut first = vec![0; 4096];
                bufs[0].copy_to(&mut first);
                assert_eq!(first, pattern(1, 4096)[..]);
                let mut rest = vec![0; 8192];
                back.copy_to(&mut rest);
                assert_eq!(rest[..4096], shared[4096..]);
                assert_eq!(rest[4096..], pattern(3, 4096)[..]);
                assert!(d.read(0, 8192).await.unwrap().iter().all(|b| *b == 0));
            });
            let mut raw = vec![0; 4096];
            std::fs::File::open(&url).unwrap().read_exact_at(&mut raw, 8192).unwrap();
            assert_eq!(raw, pattern(1, 4096)[..], "{method:?}");
        }
    }
}

#[test]
fn more_operations_than_the_ring_holds_all_end() {
    let scratch = Scratch::new();
    for (i, method) in METHODS.into_iter().enumerate() {
        let url = scratch.file(&i.to_string(), 4 << 20);
        run(&url, &with(method), |d| async move {
            let writes = (0..1000).map(|n| {
                let d = d.clone();
                Box::pin(async move { d.write(n * 4096, pattern(n, 4096)).await })
                    as LocalFuture<'_, Result<()>>
            });
            for result in join_all(writes.collect()).await {
                result.unwrap();
            }
            d.flush().await.unwrap();
            for n in 0..1000 {
                assert_eq!(d.read(n * 4096, 4096).await.unwrap()[..], pattern(n, 4096)[..]);
            }
            assert_eq!(d.in_flight(), 0);
        });
    }
}

#[test]
fn a_request_of_more_buffers_than_the_kernel_takes_is_split() {
    let scratch = Scratch::new();
    for (i, method) in METHODS.into_iter().enumerate() {
        let url = scratch.file(&i.to_string(), 4 << 20);
        run(&url, &with(method), |d| async move {
            let whole = pattern(9, 2500 * 512);
            let piece = |n: usize| AlignedBuf::copy_of(&whole[n * 512..(n + 1) * 512]);
            d.write_bufs(512, (0..2500).map(|n| IoBuf::Owned(piece(n))).collect()).await.unwrap();
            let empty = (0..2500).map(|_| IoBuf::Owned(AlignedBuf::zeroed(512))).collect();
            let (result, bufs) = d.read_bufs(512, empty).await;
            result.unwrap();
            let mut back = vec![0; 512];
            for (n, buf) in bufs.iter().enumerate() {
                buf.copy_to(&mut back);
                assert_eq!(back, whole[n * 512..(n + 1) * 512], "buffer {n}");
            }
        });
    }
}

#[test]
fn misaligned_and_out_of_range_operations_are_refused_with_einval() {
    let scratch = Scratch::new();
    let einval = ErrorKind::Io(libc::EINVAL);
    for (i, method) in METHODS.into_iter().enumerate() {
        let url = scratch.file(&i.to_string(), 1 << 20);
        run(&url, &with(method), |d| async move {
            for (offset, len) in
                [(1, 512), (0, 511), (1 << 20, 512), ((1 << 20) - 512, 1024), (u64::MAX - 511, 512)]
            {
                assert_eq!(d.read(offset, len).await.unwrap_err().kind(), einval, "read {len} at {offset}");
                let e = d.write(offset, AlignedBuf::zeroed(len)).await.unwrap_err();
                assert_eq!(e.kind(), einval, "write {len} at {offset}");
                assert!(e.message().contains(&offset.to_string()), "{e}");
            }
            assert_eq!(d.discard(1 << 20, 4096).await.unwrap_err().kind(), einval);
            let odd = HostMemory::slice(1024).sub(256..768);
            let (result, _) = d.read_bufs(0, smallvec![IoBuf::Guest(odd)]).await;
            if d.info().mode.contains("O_DIRECT") {
                assert_eq!(result.unwrap_err().kind(), einval);
            } else {
                result.unwrap();
            }
            d.read(0, 0).await.unwrap();
        });
    }
}

#[test]
fn a_file_that_became_shorter_answers_eio_not_zeros() {
    let scratch = Scratch::new();
    for (i, method) in METHODS.into_iter().enumerate() {
        let url = scratch.file(&i.to_string(), 1 << 20);
        let path = url.clone();
        run(&url, &with(method), |d| async move {
            std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(8192).unwrap();
            let e = d.read(4096, 8192).await.unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Io(libc::EIO));
            assert!(!e.hint().is_empty());
            d.read(4096, 4096).await.unwrap();
        });
    }
}

#[test]
fn a_write_that_the_kernel_refuses_keeps_its_errno() {
    let scratch = Scratch::new();
    for (i, method) in METHODS.into_iter().enumerate() {
        let url = scratch.file(&i.to_string(), 1 << 20);
        let read_only = OpenOptions { write: false, ..with(method) };
        run(&url, &read_only, |d| async move {
            d.read(0, 4096).await.unwrap();
            let e = d.write(0, AlignedBuf::block()).await.unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Io(libc::EROFS));
        });
        // A file without a file system behind it: every write fails, out of space.
        let full = std::fs::OpenOptions::new().read(true).write(true).open("/dev/full").unwrap();
        let open = file::OpenFile::for_test(full, 1 << 20);
        let device: Box<dyn Device> = match method {
            Method::Pread => Box::new(pread::PreadDevice::new(open, "").unwrap()),
            _ => Box::new(uring::UringDevice::new(open).map_err(|(_, e)| e).unwrap()),
        };
        let device = DeviceHandle::new(device);
        let d = device.clone();
        let e = drive(&device, async move { d.write(0, AlignedBuf::block()).await.unwrap_err() });
        assert_eq!(e.kind(), ErrorKind::Io(libc::ENOSPC), "{method:?}");
    }
}

#[test]
fn discard_returns_the_space_of_a_file_and_keeps_its_size() {
    use std::os::unix::fs::MetadataExt;
    let scratch = Scratch::new();
    for (i, method) in METHODS.into_iter().enumerate() {
        let url = scratch.file(&i.to_string(), 1 << 20);
        run(&url, &with(method), |d| async move {
            assert!(d.info().discard);
            d.write(0, pattern(1, 1 << 20)).await.unwrap();
            d.flush().await.unwrap();
        });
        let before = std::fs::metadata(&url).unwrap().blocks();
        run(&url, &with(method), |d| async move {
            d.discard(0, 512 << 10).await.unwrap();
            assert!(d.read(0, 4096).await.unwrap().iter().all(|b| *b == 0));
            assert_eq!(d.read(512 << 10, 4096).await.unwrap()[..], pattern(1, 1 << 20)[512 << 10..][..4096]);
        });
        let meta = std::fs::metadata(&url).unwrap();
        assert!(meta.blocks() < before, "{} blocks of {before} left", meta.blocks());
        assert_eq!(meta.len(), 1 << 20);
    }
}

#[test]
fn a_device_dropped_with_operations_in_flight_waits_for_them() {
    let scratch = Scratch::new();
    let url = scratch.file("f", 64 << 20);
    for _ in 0..20 {
        let device = DeviceHandle::new(open(&url, &with(Method::Uring)).unwrap());
        let executor = Executor::new();
        for n in 0..64 {
            let d = device.clone();
            executor.spawn(async move {
                let _ = d.read(n << 20, 1 << 20).await;
            });
        }
        executor.run_until_stalled();
        device.poll();
        // The kernel is writing into these buffers now; freeing them early would be found by the allocator sooner or later.
        executor.abandon_all();
        drop(device);
    }
}

#[test]
fn an_open_device_says_how_it_works() {
    let scratch = Scratch::new();
    let url = scratch.file("f", (1 << 20) + 100);
    let device = open(&url, &with(Method::Pread)).unwrap();
    assert!(device.info().mode.starts_with("pread, "));
    assert_eq!(device.info().len_bytes, 1 << 20, "the size is whole sectors");
    assert_eq!(device.info().name, url);
    let buffered = OpenOptions { buffered: true, ..with(Method::Auto) };
    assert!(open(&url, &buffered).unwrap().info().mode.ends_with("buffered"));
}

#[test]
fn urls_that_cannot_be_opened_say_why_and_what_to_do() {
    let scratch = Scratch::new();
    let e = open_err("iscsi://host/iqn.2008:x/0", &OpenOptions::default());
    assert_eq!(e.kind(), ErrorKind::Unsupported);
    assert!(e.hint().contains("iscsiadm"), "{e:?}");
    assert_eq!(open_err("nfs://x", &OpenOptions::default()).kind(), ErrorKind::Unsupported);
    let missing = scratch.path("missing");
    let e = open_err(missing.to_str().unwrap(), &OpenOptions::default());
    assert_eq!((e.kind(), e.hint()), (ErrorKind::Io(libc::ENOENT), "check the path"));
    let e = open_err("/dev/null", &OpenOptions::default());
    assert_eq!(e.kind(), ErrorKind::BadRequest);
    let dir = open_err(scratch.0.to_str().unwrap(), &OpenOptions::default());
    assert!(matches!(dir.kind(), ErrorKind::Io(libc::EISDIR) | ErrorKind::BadRequest), "{dir:?}");
}

/// A device whose kernel takes nothing for the first reaps.
struct Refusing {
    device: uring::UringDevice,
    refusals: std::cell::Cell<u32>,
}

impl Device for Refusing {
    fn info(&self) -> &DeviceInfo {
        self.device.info()
    }
    fn submit(&self, op: Op, token: Token) {
        self.device.submit(op, token);
    }
    fn reap(&self, out: &mut Vec<Completion>) {
        match self.refusals.get() {
            0 => self.device.reap(out),
            left => self.refusals.set(left - 1),
        }
    }
    fn is_behind(&self) -> bool {
        self.device.is_behind()
    }
    fn fds(&self, out: &mut Vec<std::os::fd::RawFd>) {
        self.device.fds(out);
    }
}

#[test]
fn what_the_kernel_did_not_take_is_offered_again_before_anyone_sleeps() {
    let dir = Scratch::new();
    let file = file::OpenFile::open(&dir.file("disk", 1 << 20), &with(Method::Uring)).unwrap();
    // Without io_uring the other back end is used, which waits for nothing.
    let Ok(device) = uring::UringDevice::new(file) else { return };
    let device = DeviceHandle::new(Box::new(Refusing { device, refusals: 2.into() }));
    let (executor, flushed) = (Executor::new(), device.clone());
    executor.spawn(async move { flushed.flush().await.unwrap() });
    executor.run_until_stalled();
    assert_eq!((device.poll(), device.poll()), (true, true), "nothing else would wake the loop");
    while device.in_flight() > 0 {
        device.poll();
        executor.run_until_stalled();
    }
    assert!(!device.poll());
}
