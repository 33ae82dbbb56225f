//! Our clients on the reference peer, the loop that `vhost-user-backend` brings: when a test of our daemon fails and these pass,
//! the fault is ours.

use std::path::PathBuf;
use std::time::Duration;

use parallax_benches::disk::Disk;
use parallax_benches::stock::{Content, serve};
use parallax_tests::front_end::{FrontEnd, Shape};

const MIB: usize = 1 << 20;

fn stock_disk(dir: &tempfile::TempDir) -> PathBuf {
    let socket = dir.path().join("stock.sock");
    let at = socket.clone();
    std::thread::spawn(move || serve(&at, Content::Memory(vec![0; MIB])));
    while !socket.exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
    socket
}

#[test]
fn our_front_end_reads_what_it_wrote_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let socket = stock_disk(&dir);
    let mut guest = FrontEnd::start(&socket, Shape { inflight: false, ..Shape::default() }).unwrap();
    for i in 0..64 {
        assert_eq!(guest.write(i * 8, &[i as u8; 4096]), 0);
    }
    assert_eq!(guest.flush(), 0);
    guest.wire = None;
    guest.reconnect(&socket, Duration::from_secs(10)).unwrap();
    for i in 0..64 {
        assert_eq!(guest.read(i * 8, 4096), [i as u8; 4096]);
    }
    assert_ne!(guest.write(MIB as u64 / 512, &[1; 512]), 0, "beyond its end");
}

#[test]
fn the_client_of_the_benches_reads_what_it_wrote() {
    let dir = tempfile::tempdir().unwrap();
    let socket = stock_disk(&dir);
    drop(Disk::connect(&socket, 1, MIB).unwrap());
    let mut disk = Disk::connect_within(&socket, 1, MIB, Duration::from_secs(10)).unwrap();
    assert_eq!(disk.capacity_bytes, MIB as u64);
    let queue = &mut disk.queues[0];
    for i in 0..32 {
        queue.fill(i * 4096, &[i as u8 + 1; 4096]);
        queue.write((i * 4096) as u64, i * 4096, 4096, i);
    }
    let mut done = 0;
    while done < 32 {
        done += queue.wait().unwrap().iter().inspect(|d| assert_eq!(d.result, 0)).count();
    }
    queue.read(0, 32 * 4096, 32 * 4096, 0);
    assert!(queue.wait().unwrap().iter().all(|d| d.result == 0));
    let mut bytes = vec![0; 32 * 4096];
    queue.copy_out(32 * 4096, &mut bytes);
    assert!(bytes.chunks(4096).enumerate().all(|(i, b)| b == [i as u8 + 1; 4096]));
}
