//! What the locks really promise, in particular that unfinished I/O of a dead process holds them.

use std::fs::{File, OpenOptions as FileOptions};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::super::lock::lock_range;
use super::*;
use crate::buffer::AlignedBuf;

fn rw(path: &str) -> File {
    FileOptions::new().read(true).write(true).open(path).unwrap()
}

fn locked(path: &str) -> bool {
    lock_range(&rw(path), path, &(0..4096), true, 0).is_err()
}

#[test]
fn a_second_opening_is_busy_and_names_the_holder() {
    let scratch = Scratch::new();
    let url = scratch.file("f", 1 << 20);
    let options = OpenOptions { lock: Some(0..4096), ..OpenOptions::default() };
    let first = open(&url, &options).unwrap();
    let e = open_err(&url, &options);
    assert_eq!(e.kind(), ErrorKind::Busy);
    assert!(e.message().contains(&format!("process {} (", std::process::id())), "{e:?}");
    assert!(!e.hint().is_empty());
    let reader = OpenOptions { write: false, ..options.clone() };
    assert_eq!(open_err(&url, &reader).kind(), ErrorKind::Busy);
    open(&url, &OpenOptions { lock: Some(4096..8192), ..options.clone() }).unwrap();
    drop(first);
    let one = open(&url, &reader).unwrap();
    let _two = open(&url, &reader).unwrap();
    assert_eq!(open_err(&url, &options).kind(), ErrorKind::Busy);
    drop(one);
}

#[test]
fn a_file_opened_again_holds_its_own_part_of_the_lock() {
    let scratch = Scratch::new();
    let url = scratch.file("f", 1 << 20);
    let everything = OpenOptions { lock: Some(0..1 << 40), ..OpenOptions::default() };
    let first = Opened::open(&url, &everything).unwrap();
    assert!(first.again(4096..4097).is_err(), "not given up yet");
    first.unlock(&(4096..1 << 40)).unwrap();
    let second = first.again(4096..4097).unwrap();
    assert_eq!(open_err(&url, &everything).kind(), ErrorKind::Busy);
    let (first, second) = (first.device().unwrap(), second.device().unwrap());
    assert_eq!(second.info().name, url);
    drop(first);
    assert_eq!(open_err(&url, &everything).kind(), ErrorKind::Busy, "the second still works with it");
    drop(second);
    open(&url, &everything).unwrap();
}

/// A request in flight keeps the open file description, and with it the lock, although no descriptor is left.
/// A FIFO makes it hang for as long as we like.
#[test]
fn a_request_in_flight_holds_the_lock_until_it_ends() {
    let scratch = Scratch::new();
    let fifo = scratch.path("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let path = fifo.to_str().unwrap();
    let other_end = rw(path);
    let file = rw(path);
    lock_range(&file, path, &(0..4096), true, 0).unwrap();
    let mut device =
        uring::UringDevice::new(file::OpenFile::for_test(file, 4096)).map_err(|(_, e)| e).unwrap();
    let bufs = smallvec::smallvec![IoBuf::Owned(AlignedBuf::zeroed(512))];
    device.submit(Op { kind: OpKind::Read, offset_bytes: 0, len_bytes: 512, bufs }, Token(0));
    let mut out = Vec::new();
    device.reap(&mut out);
    assert!(out.is_empty(), "the read hangs");
    // Closes the only descriptor that was locked.
    device.open.file = File::open("/dev/null").unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert!(locked(path), "the request alone holds the lock");
    std::io::Write::write_all(&mut &other_end, &[1; 512]).unwrap();
    let started = Instant::now();
    while out.is_empty() || locked(path) {
        assert!(started.elapsed() < Duration::from_secs(10), "the lock went with the request");
        device.reap(&mut out);
    }
    assert_eq!(out[0].result, Ok(()));
}

const CHILD: &str = "PARALLAX_TEST_LOCK_CHILD";
const AREA_BYTES: u64 = 16 << 20;
const WRITE_BYTES: u64 = 64 << 10;

/// Not a law but the victim of the next test: writes for ever when told to.
#[test]
fn child_that_writes_until_it_is_killed() {
    let Ok(url) = std::env::var(CHILD) else { return };
    let options = OpenOptions { lock: Some(0..4096), ..with(Method::Uring) };
    run(&url, &options, |d| async move {
        for round in 1u8.. {
            let writes = (0..AREA_BYTES / WRITE_BYTES).map(|n| {
                let d = d.clone();
                Box::pin(async move {
                    let bytes = AlignedBuf::copy_of(&vec![round; WRITE_BYTES as usize]);
                    d.write(n * WRITE_BYTES, bytes).await
                }) as crate::executor::LocalFuture<'_, Result<()>>
            });
            for result in crate::executor::join_all(writes.collect()).await {
                result.unwrap();
            }
        }
    });
}

/// The dead daemon's write must not land after its successor's: whoever gets the lock sees no more of them.
#[test]
fn nothing_of_a_killed_process_lands_after_its_lock_is_free() {
    let scratch = Scratch::new();
    let url = scratch.file("f", AREA_BYTES);
    for round in 0..5 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "device::tests::lock::child_that_writes_until_it_is_killed"])
            .env(CHILD, &url)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let started = Instant::now();
        while !locked(&url) {
            assert!(started.elapsed() < Duration::from_secs(20), "the child takes the lock");
        }
        std::thread::sleep(Duration::from_millis(20 + 7 * round));
        child.kill().unwrap();
        let file = rw(&url);
        lock_range(&file, &url, &(0..4096), true, 10_000).unwrap();
        let snapshot = || {
            let direct = OpenOptions { write: false, ..with(Method::Pread) };
            run(&url, &direct, |d| async move { d.read(0, AREA_BYTES as usize).await.unwrap() })
        };
        let first = snapshot();
        std::thread::sleep(Duration::from_millis(50));
        assert!(first[..] == snapshot()[..], "a dead process's write landed after its lock was free");
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }
}
