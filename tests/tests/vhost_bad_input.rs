//! Hostile guests and front ends: each loses its own device or connection, and nothing else.

#![expect(clippy::unwrap_used, reason = "a test: to panic is to fail")]

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parallax_tests::front_end::{
    Descriptor, FrontEnd, INDIRECT, NEXT, NO_STATUS, Queue, READ_REQUEST, Ram, Shape, USER_BASE, WRITE,
    WRITE_REQUEST, Wire, fd, quads, request, words,
};
use parallax_tests::ram_disk::{RamDisks, blank};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use vhost_parallax::vhost::DeviceState;

const LIMIT: Duration = Duration::from_secs(20);

/// A daemon with a disk for the villain and a guest on another one.
struct Scene {
    disks: RamDisks,
    victim: FrontEnd,
    socket: PathBuf,
    device: Arc<DeviceState>,
}

impl Scene {
    fn new() -> Scene {
        let mut disks = RamDisks::new();
        let (other, _) = disks.attach("victim", &blank(1 << 20), false);
        let victim = FrontEnd::start(&other, Shape::default()).unwrap();
        let (socket, device) = disks.attach("villain", &blank(1 << 20), false);
        Scene { disks, victim, socket, device }
    }
    /// The other disk works, and so does this one for the next front end.
    fn everyone_else_is_well(mut self) {
        assert_eq!(self.victim.write(8, &[5; 512]), 0);
        assert_eq!(self.victim.read(8, 512), [5; 512]);
        let mut next = FrontEnd::new(Shape::default());
        next.reconnect(&self.socket, LIMIT).unwrap();
        assert_eq!(next.write(0, &[1; 512]), 0);
        self.disks.close();
    }
    fn wait_until_broken(&self) -> String {
        let end = Instant::now() + LIMIT;
        loop {
            if let Some(e) = self.device.broken() {
                assert!(!e.hint().is_empty());
                return e.message().to_owned();
            }
            assert!(Instant::now() < end, "the device is not broken");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Run a villain on its queue and expect the device to break with `why`.
fn breaks(why: &str, evil: impl FnOnce(&mut Queue, &Ram)) {
    let scene = Scene::new();
    let mut guest = FrontEnd::start(&scene.socket, Shape::default()).unwrap();
    let (queue, ram) = guest.queue(0);
    evil(queue, ram);
    queue.kick();
    let message = scene.wait_until_broken();
    assert!(message.contains(why), "{message}");
    assert!(message.contains("villain"), "{message}");
    // Kicking on does nothing, and costs nothing.
    let (queue, ram) = guest.queue(0);
    queue.kick();
    assert_eq!(queue.wait_at_most(ram, 1, Duration::from_millis(20)).len(), 0);
    assert!(guest.stop_queue(0).is_ok());
    assert!(scene.device.broken().is_none(), "a reset mends it");
    drop(guest);
    scene.everyone_else_is_well();
}

fn chain(queue: &Queue, ram: &Ram, descriptors: &[(u64, u32, u16, u16)]) {
    for (i, (addr, len, flags, next)) in descriptors.iter().enumerate() {
        let d = Descriptor { addr: *addr, len: *len, flags: *flags, next: *next };
        Queue::put_descriptor(ram, queue.place().0, i as u16, d);
    }
}

#[test]
fn a_descriptor_loop_breaks_the_device() {
    breaks("loops", |queue, ram| {
        queue.put_header(ram, 0, READ_REQUEST, 0);
        chain(queue, ram, &[(queue.header_at(0), 16, NEXT, 1), (queue.data_at(0), 512, WRITE | NEXT, 1)]);
        queue.offer(ram, 0);
    });
}

#[test]
fn an_index_jump_breaks_the_device() {
    breaks("disorder", |queue, ram| queue.jump(ram, 1000));
}

#[test]
fn a_head_beyond_the_ring_breaks_the_device() {
    breaks("descriptor 64 of 64", |queue, ram| queue.offer(ram, 64));
}

#[test]
fn a_next_beyond_the_table_breaks_the_device() {
    breaks("beyond the table", |queue, ram| {
        chain(queue, ram, &[(queue.header_at(0), 16, NEXT, 5000)]);
        queue.offer(ram, 0);
    });
}

#[test]
fn a_missing_status_breaks_the_device() {
    breaks("status", |queue, ram| {
        queue.put_header(ram, 0, READ_REQUEST, 0);
        chain(queue, ram, &[(queue.header_at(0), 16, 0, 0)]);
        queue.offer(ram, 0);
    });
}

#[test]
fn a_readable_descriptor_behind_a_writable_one_breaks_the_device() {
    breaks("readable", |queue, ram| {
        chain(queue, ram, &[(queue.status_at(0), 1, NEXT | WRITE, 1), (queue.header_at(0), 16, 0, 0)]);
        queue.offer(ram, 0);
    });
}

#[test]
fn a_buffer_outside_memory_breaks_the_device() {
    breaks("outside", |queue, ram| {
        queue.put_header(ram, 0, READ_REQUEST, 0);
        let far = 1 << 50;
        chain(
            queue,
            ram,
            &[(queue.header_at(0), 16, NEXT, 1), (far, 512, NEXT | WRITE, 2), (far, 1, WRITE, 0)],
        );
        queue.offer(ram, 0);
    });
}

#[test]
fn an_indirect_table_inside_an_indirect_table_breaks_the_device() {
    breaks("indirect", |queue, ram| {
        let table = queue.data_at(0);
        Queue::put_descriptor(ram, table, 0, Descriptor { addr: table, len: 16, flags: INDIRECT, next: 0 });
        chain(queue, ram, &[(table, 16, INDIRECT, 0)]);
        queue.offer(ram, 0);
    });
}

#[test]
fn a_descriptor_offered_twice_breaks_the_device_and_finishes_once() {
    let scene = Scene::new();
    let mut guest = FrontEnd::start(&scene.socket, Shape::default()).unwrap();
    scene.disks.mood.hold.store(true, std::sync::atomic::Ordering::SeqCst);
    let (queue, ram) = guest.queue(0);
    let slot = queue.submit_write(ram, 0, &[1; 512]);
    queue.offer(ram, slot);
    queue.kick();
    assert!(scene.wait_until_broken().contains("still in flight"));
    scene.disks.mood.hold.store(false, std::sync::atomic::Ordering::SeqCst);
    assert!(guest.stop_queue(0).is_ok());
    let (queue, ram) = guest.queue(0);
    assert_eq!(queue.take_done(ram).len(), 1);
    drop(guest);
    scene.everyone_else_is_well();
}

#[test]
fn memory_that_shrinks_breaks_the_device_and_not_the_daemon() {
    let scene = Scene::new();
    let mut guest = FrontEnd::start(&scene.socket, Shape::default()).unwrap();
    let (queue, ram) = guest.queue(0);
    // The data of slot 63 lies at the very end, and goes away before the device can see the request.
    let gone = queue.data_at(63);
    queue.put_header(ram, 0, WRITE_REQUEST, 0);
    let status = queue.status_at(0);
    chain(queue, ram, &[(queue.header_at(0), 16, NEXT, 1), (gone, 512, NEXT, 2), (status, 1, WRITE, 0)]);
    ram.file().set_len((gone & !4095) - 8192).unwrap();
    queue.offer(ram, 0);
    queue.kick();
    assert!(scene.wait_until_broken().contains("went away"));
    drop(guest);
    scene.everyone_else_is_well();
}

/// Say something bad on a fresh connection and expect to be cut off.
fn cut_off(say: impl FnOnce(&Wire)) {
    let scene = Scene::new();
    let wire = Wire::connect(&scene.socket).unwrap();
    say(&wire);
    assert!(wire.is_cut_off());
    drop(wire);
    scene.everyone_else_is_well();
}

fn negotiated(wire: &Wire) {
    let features = wire.ask_u64(request::GET_FEATURES).unwrap();
    wire.send(request::SET_FEATURES, 0, &quads(&[features]), &[]).unwrap();
    let protocol = wire.ask_u64(request::GET_PROTOCOL_FEATURES).unwrap();
    wire.send(request::SET_PROTOCOL_FEATURES, 0, &quads(&[protocol]), &[]).unwrap();
}

#[test]
fn garbage_bytes_end_the_connection() {
    cut_off(|wire| wire.send_bytes(&[&[0xa5; 512]], &[]).unwrap());
    cut_off(|wire| wire.send(request::GET_FEATURES, 0, &[0; 4096], &[]).unwrap());
    cut_off(|wire| wire.send_bytes(&[&words(&[1, 1, u32::MAX])], &[]).unwrap());
    cut_off(|wire| wire.send(4711, 0, &[], &[]).unwrap());
}

#[test]
fn features_that_were_not_offered_end_the_connection() {
    cut_off(|wire| wire.send(request::SET_FEATURES, 0, &quads(&[u64::MAX]), &[]).unwrap());
    cut_off(|wire| {
        let features = wire.ask_u64(request::GET_FEATURES).unwrap();
        wire.send(request::SET_FEATURES, 0, &quads(&[features]), &[]).unwrap();
        wire.send(request::SET_PROTOCOL_FEATURES, 0, &quads(&[u64::MAX]), &[]).unwrap();
    });
}

#[test]
fn ring_sizes_that_cannot_be_end_the_connection() {
    for size in [0, 3, 100, 2048, 65_536, u32::MAX] {
        cut_off(|wire| wire.send(request::SET_VRING_NUM, 0, &words(&[0, size]), &[]).unwrap());
    }
    cut_off(|wire| wire.send(request::SET_VRING_NUM, 0, &words(&[64, 128]), &[]).unwrap());
}

#[test]
fn malformed_memory_tables_end_the_connection() {
    let ram = Ram::new(1 << 20);
    let table = |regions: &[[u64; 4]]| {
        let mut body = words(&[regions.len() as u32, 0]);
        regions.iter().for_each(|r| body.extend(quads(r)));
        body
    };
    let whole = [0, ram.len(), USER_BASE, 0];
    let bad = [
        vec![[0, 2 * ram.len(), USER_BASE, 0]],
        vec![[0, ram.len(), USER_BASE, 4096]],
        vec![[0, ram.len(), USER_BASE, u64::MAX - 4096]],
        vec![[0, 4096, USER_BASE, 1]],
        vec![[0, 0, USER_BASE, 0]],
        vec![[u64::MAX - 4096, ram.len(), USER_BASE, 0]],
        vec![whole, [4096, ram.len(), USER_BASE + (1 << 30), 0]],
    ];
    for regions in bad {
        cut_off(|wire| {
            let fds = vec![fd(ram.file()); regions.len()];
            wire.send(request::SET_MEM_TABLE, 0, &table(&regions), &fds).unwrap();
        });
    }
    cut_off(|wire| wire.send(request::SET_MEM_TABLE, 0, &table(&[whole]), &[]).unwrap());
    cut_off(|wire| wire.send(request::SET_MEM_TABLE, 0, &words(&[1000, 0]), &[]).unwrap());
    let (socket, _) = UnixStream::pair().unwrap();
    use std::os::fd::AsFd;
    cut_off(|wire| wire.send(request::SET_MEM_TABLE, 0, &table(&[whole]), &[socket.as_fd()]).unwrap());
}

#[test]
fn a_ring_outside_memory_ends_the_connection() {
    let ram = Ram::new(1 << 20);
    for place in [USER_BASE + (1 << 20) - 4096, USER_BASE + (1 << 30), 0, u64::MAX - 15] {
        cut_off(|wire| {
            negotiated(wire);
            let mut body = words(&[1, 0]);
            body.extend(quads(&[0, ram.len(), USER_BASE, 0]));
            wire.send(request::SET_MEM_TABLE, 0, &body, &[fd(ram.file())]).unwrap();
            let mut body = words(&[0, 0]);
            body.extend(quads(&[place, USER_BASE + 0x8000, USER_BASE + 0x6000, 0]));
            wire.send(request::SET_VRING_ADDR, 0, &body, &[]).unwrap();
            let queue = Queue::new(0, 64, 512);
            wire.send(request::SET_VRING_KICK, 0, &quads(&[0]), &[fd(queue.kick_file())]).unwrap();
            let _ = wire.send(request::SET_VRING_ENABLE, 0, &words(&[0, 1]), &[]);
        });
    }
}

#[test]
fn a_call_that_is_full_and_made_to_block_later_holds_nobody_up() {
    let scene = Scene::new();
    let mut guest = FrontEnd::start(&scene.socket, Shape::default()).unwrap();
    let call = File::from(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).unwrap());
    guest.wire.as_ref().unwrap().tell(request::SET_VRING_CALL, &quads(&[0]), &[fd(&call)]).unwrap();
    // It may have been rung already.
    while rustix::io::write(&call, &0xffff_ffff_ffff_fffeu64.to_le_bytes()).is_err() {
        let _rung = rustix::io::read(&call, &mut [0; 8]);
    }
    // Both descriptors share it: what the device saw, or chose, is as the front end likes.
    fcntl_setfl(&call, fcntl_getfl(&call).unwrap() - OFlags::NONBLOCK).unwrap();
    // Should it hold up the data thread, that one gets away in the end, so that the test can end too.
    std::thread::spawn(move || {
        std::thread::sleep(LIMIT / 2);
        rustix::io::read(&call, &mut [0; 8]).map(|_| call)
    });
    let begun = Instant::now();
    let (queue, ram) = guest.queue(0);
    queue.submit_write(ram, 0, &[1; 512]);
    queue.kick();
    while queue.used_index(ram) == 0 {
        assert!(begun.elapsed() < LIMIT, "the request does not end");
        std::thread::sleep(Duration::from_millis(2));
    }
    drop(guest);
    scene.everyone_else_is_well();
    assert!(begun.elapsed() < LIMIT / 2, "all were held up for {:?}", begun.elapsed());
}

#[test]
fn a_front_end_that_dies_in_the_middle_of_a_message_is_forgotten() {
    let scene = Scene::new();
    for part in [1, 11, 12, 15] {
        let wire = Wire::connect(&scene.socket).unwrap();
        let message = [words(&[request::SET_FEATURES, 1, 8]), quads(&[0])].concat();
        wire.send_bytes(&[&message[..part]], &[]).unwrap();
        drop(wire);
    }
    scene.everyone_else_is_well();
}

#[test]
fn a_front_end_that_stops_in_the_middle_of_a_message_is_cut_off() {
    cut_off(|wire| wire.send_bytes(&[&words(&[request::SET_FEATURES, 1, 8])], &[]).unwrap());
}

#[test]
fn a_hostile_in_flight_area_breaks_the_device() {
    let scene = Scene::new();
    let mut guest = FrontEnd::start(&scene.socket, Shape::default()).unwrap();
    assert_eq!(guest.write(0, &[1; 512]), 0);
    let area = guest.inflight_file().unwrap().try_clone().unwrap();
    use std::os::unix::fs::FileExt;
    area.write_all_at(&0xffffu16.to_le_bytes(), 12).unwrap();
    area.write_all_at(&0x1234u16.to_le_bytes(), 14).unwrap();
    assert!(guest.connect(&scene.socket).is_err(), "the queue cannot be started");
    drop(guest);
    scene.everyone_else_is_well();
}

#[test]
fn a_read_only_disk_refuses_writes_and_says_so() {
    let mut disks = RamDisks::new();
    let bytes = blank(1 << 20);
    let (socket, _) = disks.attach("ro", &bytes, true);
    let mut guest = FrontEnd::start(&socket, Shape::default()).unwrap();
    assert_eq!(guest.write(0, &[1; 512]), 1);
    assert_eq!(guest.read(0, 512), [0; 512]);
    assert_ne!(NO_STATUS, 1);
}

#[test]
fn a_socket_path_too_long_is_a_clear_error() {
    let long = PathBuf::from(format!("/tmp/{}", "x".repeat(120)));
    let facts = vhost_parallax::vhost::DeviceFacts {
        id: vhost_parallax::vhost::DeviceId(1),
        name: "x".to_owned(),
        size_bytes: 512,
        read_only: false,
        queues: 1,
    };
    let (link, _port) = vhost_parallax::vhost::data_link().unwrap();
    let opened = |path: &Path| {
        let device = Arc::new(DeviceState::new(facts.clone()));
        vhost_parallax::vhost::Endpoint::open(path, Default::default(), device, link.clone())
    };
    let e = opened(&long).err().unwrap();
    assert!(e.message().contains("longer than 107 bytes"), "{e:?}");
    assert!(opened(Path::new("/nowhere/at/all.sock")).is_err());
}
