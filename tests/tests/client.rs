//! Another project's client (`blkio`) on a real daemon's socket.

#![expect(clippy::unwrap_used, reason = "a test: to panic is to fail")]

use parallax_benches::disk::{Disk, Queue};
use parallax_tests::daemon::Served;

const MIB: usize = 1 << 20;

fn pattern(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i / 7 + i * 13 + seed * 101) as u8).collect()
}

/// Wait for `count` completions; returns the worst result.
fn finish(queue: &mut Queue, count: usize) -> i32 {
    let (mut seen, mut worst) = (0, 0);
    while seen < count {
        for done in queue.wait().unwrap() {
            seen += 1;
            worst = worst.min(done.result);
        }
    }
    worst
}

fn write(queue: &mut Queue, offset: u64, bytes: &[u8]) -> i32 {
    queue.fill(0, bytes);
    queue.write(offset, 0, bytes.len(), 1);
    finish(queue, 1)
}

fn read(queue: &mut Queue, offset: u64, len: usize) -> Vec<u8> {
    queue.fill(0, &vec![0xaa; len]);
    queue.read(offset, 0, len, 2);
    assert_eq!(finish(queue, 1), 0);
    let mut bytes = vec![0; len];
    queue.copy_out(0, &mut bytes);
    bytes
}

#[test]
fn a_client_reads_what_it_wrote_whatever_the_alignment() {
    let served = Served::started(&[]);
    let socket = served.attach_new("web", 256 << 20);
    let mut disk = Disk::connect(&socket, 1, 4 * MIB).unwrap();
    assert_eq!(disk.capacity_bytes, 256 << 20);
    let q = &mut disk.queues[0];
    assert_eq!(read(q, 12_288, 8192), [0; 8192], "a new disk is zeros");
    // One mebibyte, whole blocks; then sectors in and across blocks.
    let mut expected = pattern(1, MIB);
    assert_eq!(write(q, 0, &expected), 0);
    for (offset, len) in [(512, 512), (3584, 1024), (4096 * 3 + 512, 4096 * 2), (MIB - 512, 512), (0, 512)] {
        let bytes = pattern(offset, len);
        assert_eq!(write(q, offset as u64, &bytes), 0);
        expected[offset..offset + len].copy_from_slice(&bytes);
    }
    assert_eq!(read(q, 0, MIB), expected);
    for (offset, len) in [(512, 512), (1024, 4096), (5632, 100 * 512)] {
        assert_eq!(read(q, offset as u64, len), expected[offset..offset + len]);
    }
    q.flush(3);
    assert_eq!(finish(q, 1), 0);
    assert_eq!(read(q, 0, MIB), expected);
}

#[test]
fn discards_and_zeroes_read_as_zeros_and_touch_nothing_else() {
    let served = Served::started(&[]);
    let socket = served.attach_new("web", 256 << 20);
    let mut disk = Disk::connect(&socket, 1, 4 * MIB).unwrap();
    let q = &mut disk.queues[0];
    let mut expected = pattern(2, MIB);
    assert_eq!(write(q, 0, &expected), 0);
    for (offset, len) in [(8192, 65_536), (512, 512), (200_704, 4096 + 512)] {
        q.write_zeroes(offset as u64, len as u64, 1);
        assert_eq!(finish(q, 1), 0);
        expected[offset..offset + len].fill(0);
    }
    q.discard(524_288, 131_072, 1);
    assert_eq!(finish(q, 1), 0);
    expected[524_288..524_288 + 131_072].fill(0);
    assert_eq!(read(q, 0, MIB), expected);
}

#[test]
fn what_is_out_of_range_is_an_error_and_the_disk_goes_on() {
    let served = Served::started(&[]);
    let socket = served.attach_new("web", 8 << 20);
    let mut disk = Disk::connect(&socket, 1, MIB).unwrap();
    let q = &mut disk.queues[0];
    for offset in [8 << 20, (8 << 20) - 512, 1 << 40] {
        q.read(offset, 0, 1024, 1);
        assert!(finish(q, 1) < 0, "{offset}");
        q.write(offset, 0, 1024, 1);
        assert!(finish(q, 1) < 0, "{offset}");
    }
    assert_eq!(write(q, (8 << 20) - 512, &[7; 512]), 0);
    assert_eq!(read(q, (8 << 20) - 512, 512), [7; 512]);
}

#[test]
fn queues_work_side_by_side_on_one_disk() {
    let served = Served::started(&[]);
    let socket = served.attach_new("web", 256 << 20);
    let mut disk = Disk::connect(&socket, 4, MIB).unwrap();
    assert_eq!(disk.queues.len(), 4);
    std::thread::scope(|scope| {
        for (i, q) in disk.queues.iter_mut().enumerate() {
            scope.spawn(move || {
                for round in 0..4 {
                    for slot in 0..64 {
                        q.fill(slot * 4096, &pattern(i * 1000 + slot + round, 4096));
                        let block = (slot * 4 + i) as u64;
                        q.write(block * 4096, slot * 4096, 4096, slot);
                    }
                    assert_eq!(finish(q, 64), 0);
                }
            });
        }
    });
    let q = &mut disk.queues[3];
    for i in 0..4 {
        for slot in 0..64 {
            let block = (slot * 4 + i) as u64;
            assert_eq!(read(q, block * 4096, 4096), pattern(i * 1000 + slot + 3, 4096), "block {block}");
        }
    }
}
