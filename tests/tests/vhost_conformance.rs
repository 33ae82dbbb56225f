//! The vhost-user-blk device over a real socket: what a well-behaved front end and guest get.

#![expect(clippy::unwrap_used, reason = "a test: to panic is to fail")]

use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parallax_tests::front_end::{
    DISCARD_REQUEST, Done, FrontEnd, READ_REQUEST, Shape, WRITE_REQUEST, WRITE_ZEROES_REQUEST, Wire, quads,
    request, words,
};
use parallax_tests::ram_disk::{RamDisks, blank};
use rustix::event::{PollFd, PollFlags, Timespec};
use vhost::VhostBackend;
use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserInflight, VhostUserProtocolFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};

const LIMIT: Duration = Duration::from_secs(20);

/// `vhost`'s own front end, negotiated, answering every request.
fn crate_front_end(socket: &Path) -> Frontend {
    let mut f = Frontend::connect(socket, 64).unwrap();
    let features = f.get_features().unwrap();
    f.set_features(features).unwrap();
    let protocol = f.get_protocol_features().unwrap();
    f.set_protocol_features(protocol).unwrap();
    f.set_owner().unwrap();
    f.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    f
}

fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect()
}

#[test]
fn everything_promised_is_offered() {
    let mut disks = RamDisks::new();
    let (socket, _) = disks.attach("web", &blank(1 << 20), false);
    let mut f = crate_front_end(&socket);
    let features = f.get_features().unwrap();
    // SEG_MAX, BLK_SIZE, FLUSH, TOPOLOGY, CONFIG_WCE, MQ, DISCARD, WRITE_ZEROES, INDIRECT, EVENT_IDX,
    // PROTOCOL_FEATURES, VERSION_1
    for bit in [2, 6, 9, 10, 11, 12, 13, 14, 28, 29, 30, 32] {
        assert_ne!(features & (1 << bit), 0, "feature {bit}");
    }
    assert_eq!(features & (1 << 5), 0, "read-only");
    let protocol = f.get_protocol_features().unwrap();
    use VhostUserProtocolFeatures as P;
    for bit in [
        P::MQ,
        P::CONFIG,
        P::REPLY_ACK,
        P::INFLIGHT_SHMFD,
        P::CONFIGURE_MEM_SLOTS,
        P::BACKEND_REQ,
        P::RESET_DEVICE,
    ] {
        assert!(protocol.contains(bit), "{bit:?}");
    }
    assert_eq!(f.get_queue_num().unwrap(), 64);
    assert_eq!(f.get_max_mem_slots().unwrap(), 32);
    let (_, config) = f.get_config(0, 60, VhostUserConfigFlags::empty(), &[0; 60]).unwrap();
    assert_eq!(config[..8], (2048u64).to_le_bytes());
    assert_eq!(config[12..16], 1022u32.to_le_bytes());
    let (_, ro) = disks.attach("ro", &blank(4096), true);
    assert!(ro.read_only());
}

#[test]
fn what_is_written_is_read_back_and_reaches_the_disk() {
    let mut disks = RamDisks::new();
    let bytes = blank(1 << 20);
    let (socket, _) = disks.attach("web", &bytes, false);
    let mut guest = FrontEnd::start(&socket, Shape::default()).unwrap();
    let data = pattern(7, 8192);
    assert_eq!(guest.write(3, &data), 0);
    assert_eq!(guest.flush(), 0);
    assert_eq!(guest.read(3, 8192), data);
    assert_eq!(bytes.lock().unwrap()[3 * 512..3 * 512 + 8192], data);
    let (queue, ram) = guest.queue(0);
    queue.submit_ranges(ram, WRITE_ZEROES_REQUEST, &[(3, 1, 1), (5, 2, 0)]);
    queue.submit_ranges(ram, DISCARD_REQUEST, &[(8, 8, 0)]);
    queue.kick();
    assert!(queue.wait(ram, 2, LIMIT).iter().all(|d| d.status == 0));
    assert_eq!(guest.read(3, 512), [0; 512]);
    assert_eq!(guest.read(4, 512), data[512..1024]);
    let (queue, ram) = guest.queue(0);
    let slot = queue.submit(ram, 8, 0, 20, 1);
    queue.kick();
    assert_eq!(queue.wait(ram, 1, LIMIT), [Done { slot, status: 0, len: 21 }]);
    assert_eq!(ram.read(queue.data_at(slot), 4), *b"web\0");
    // Out of range, unknown.
    let slot = queue.submit(ram, READ_REQUEST, 2048, 512, 1);
    queue.kick();
    assert_eq!(queue.wait(ram, 1, LIMIT), [Done { slot, status: 1, len: 1 }]);
    let slot = queue.submit(ram, 99, 0, 512, 1);
    queue.kick();
    assert_eq!(queue.wait(ram, 1, LIMIT), [Done { slot, status: 2, len: 1 }]);
}

#[test]
fn many_queues_and_full_depth_work_side_by_side() {
    let mut disks = RamDisks::new();
    let (socket, device) = disks.attach("web", &blank(8 << 20), false);
    let shape = Shape { queues: 4, size: 64, data_bytes: 4096, inflight: true };
    let mut guest = FrontEnd::start(&socket, shape).unwrap();
    assert_eq!(device.rings(), 4);
    for round in 0..8u8 {
        for index in 0..4u64 {
            let (queue, ram) = guest.queue(index as usize);
            for i in 0..64 {
                queue.submit_write(ram, (index * 64 + i) * 8, &pattern(round ^ i as u8, 4096));
            }
            queue.kick();
        }
        for index in 0..4 {
            let (queue, ram) = guest.queue(index);
            assert!(queue.wait(ram, 64, LIMIT).iter().all(|d| d.status == 0));
        }
    }
    for block in 0..256 {
        assert_eq!(guest.read(block * 8, 4096), pattern(7 ^ (block % 64) as u8, 4096));
    }
}

#[test]
fn a_request_of_one_mebibyte_in_scattered_pages_arrives_whole() {
    let mut disks = RamDisks::new();
    let (socket, _) = disks.attach("web", &blank(4 << 20), false);
    let shape = Shape { size: 8, data_bytes: 1 << 20, ..Shape::default() };
    let mut guest = FrontEnd::start(&socket, shape).unwrap();
    let data = pattern(1, 1 << 20);
    let (queue, ram) = guest.queue(0);
    ram.write(queue.data_at(0), &data);
    // 252 pieces of whole sectors: what fits our slot's table; the request tests know 256 and more.
    let len = 252 * 4096;
    let slot = queue.submit(ram, WRITE_REQUEST, 8, len, 252);
    queue.kick();
    assert_eq!(queue.wait(ram, 1, LIMIT), [Done { slot, status: 0, len: 1 }]);
    assert_eq!(disks.mood.executed.load(Ordering::SeqCst), 1);
    assert_eq!(guest.read(8, len as usize), data[..len as usize]);
}

#[test]
fn stopping_a_queue_waits_for_what_is_in_flight_and_returns_where_it_stopped() {
    let mut disks = RamDisks::new();
    let (socket, device) = disks.attach("web", &blank(1 << 20), false);
    let mut guest = FrontEnd::start(&socket, Shape::default()).unwrap();
    disks.mood.hold.store(true, Ordering::SeqCst);
    let (queue, ram) = guest.queue(0);
    for i in 0..10 {
        queue.submit_write(ram, i * 8, &[1; 4096]);
    }
    queue.kick();
    assert_eq!(queue.wait_at_most(ram, 1, Duration::from_millis(50)).len(), 0);
    assert_eq!(guest.stop_queue(0).unwrap(), 10);
    let (queue, ram) = guest.queue(0);
    assert_eq!(queue.take_done(ram).len(), 10, "finished before the queue was given up");
    assert_eq!(device.rings(), 0);
    disks.mood.hold.store(false, Ordering::SeqCst);
    guest.connect(&socket).unwrap();
    assert_eq!(guest.write(0, &[2; 512]), 0);
}

#[test]
fn front_ends_come_and_go_and_a_second_one_is_refused() {
    let mut disks = RamDisks::new();
    let (socket, device) = disks.attach("web", &blank(1 << 20), false);
    let first = Wire::connect(&socket).unwrap();
    assert_ne!(first.ask_u64(request::GET_FEATURES).unwrap(), 0);
    assert!(device.is_connected());
    let second = Wire::connect(&socket).unwrap();
    assert!(second.is_cut_off());
    assert_ne!(first.ask_u64(request::GET_FEATURES).unwrap(), 0, "the first is not disturbed");
    drop(first);
    for i in 0..20 {
        let mut guest = FrontEnd::start(&socket, Shape::default()).unwrap();
        assert_eq!(guest.write(i, &[i as u8; 512]), 0);
        drop(guest);
        // What follows must not be refused as a second one: the old one has hung up.
    }
}

#[test]
fn a_front_end_whose_old_socket_a_child_keeps_for_a_moment_can_come_back() {
    let mut disks = RamDisks::new();
    let (socket, _device) = disks.attach("web", &blank(1 << 20), false);
    let first = Wire::connect(&socket).unwrap();
    first.ask_u64(request::GET_FEATURES).unwrap();
    // Between fork and exec a child has all descriptors of its parent, those that exec closes too.
    let inherited = first.stream().try_clone().unwrap();
    drop(first);
    let again = Wire::connect(&socket).unwrap();
    let child = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        drop(inherited);
    });
    assert_ne!(again.ask_u64(request::GET_FEATURES).unwrap(), 0);
    child.join().unwrap();
}

#[test]
fn a_reset_starts_anew_with_write_back_caching() {
    let mut disks = RamDisks::new();
    let (socket, device) = disks.attach("web", &blank(1 << 20), false);
    let guest = FrontEnd::start(&socket, Shape::default()).unwrap();
    let wire = guest.wire.as_ref().unwrap();
    assert!(!device.writes_through());
    let mut body = words(&[32, 1, 0]);
    body.push(0);
    wire.tell(request::SET_CONFIG, &body, &[]).unwrap();
    assert!(device.writes_through());
    wire.tell(request::RESET_DEVICE, &[], &[]).unwrap();
    assert_eq!(device.rings(), 0);
    let mut asked = words(&[32, 1, 0]);
    asked.push(9);
    let (config, _) = wire.ask(request::GET_CONFIG, &asked, &[]).unwrap();
    assert_eq!(config[12], 1, "write back");
    // Only the cache mode can be written.
    let mut body = words(&[0, 1, 0]);
    body.push(0);
    assert!(wire.tell(request::SET_CONFIG, &body, &[]).is_err());
}

#[test]
fn the_cache_mode_comes_back_with_the_in_flight_area() {
    let mut disks = RamDisks::new();
    let (socket, device) = disks.attach("web", &blank(1 << 20), false);
    let mut guest = FrontEnd::start(&socket, Shape::default()).unwrap();
    let mut body = words(&[32, 1, 0]);
    body.push(0);
    guest.wire.as_ref().unwrap().tell(request::SET_CONFIG, &body, &[]).unwrap();
    guest.connect(&socket).unwrap();
    assert!(device.writes_through());
}

#[test]
fn a_guest_that_is_paused_and_resumed_keeps_its_cache_mode() {
    let mut disks = RamDisks::new();
    for inflight in [true, false] {
        let (socket, device) = disks.attach(&format!("web-{inflight}"), &blank(1 << 20), false);
        let guest = FrontEnd::start(&socket, Shape { queues: 2, inflight, ..Shape::default() }).unwrap();
        let wire = guest.wire.as_ref().unwrap();
        let mode = |mode: u8| [words(&[32, 1, 0]), vec![mode]].concat();
        let is_write_through = || {
            let (config, _) = wire.ask(request::GET_CONFIG, &mode(9), &[]).unwrap();
            assert_eq!(config[12] == 0, device.writes_through());
            device.writes_through()
        };
        wire.tell(request::SET_CONFIG, &mode(0), &[]).unwrap();
        for enable in [0, 1] {
            for index in 0..2 {
                wire.tell(request::SET_VRING_ENABLE, &words(&[index, enable]), &[]).unwrap();
            }
            assert_eq!(device.rings(), 2 * enable as u16);
            assert!(is_write_through(), "enable {enable}, in-flight area: {inflight}");
        }
        // With its rings given up the driver is gone, unless the in-flight area it ran on is used further.
        for index in 0..2 {
            wire.tell(request::SET_VRING_ENABLE, &words(&[index, 0]), &[]).unwrap();
            guest.stop_queue(index).unwrap();
        }
        assert!(!is_write_through());
        guest.restart_queue(0).unwrap();
        assert_eq!(is_write_through(), inflight);
    }
}

#[test]
fn a_driver_that_starts_anew_on_a_fresh_in_flight_area_begins_as_write_back() {
    let mut disks = RamDisks::new();
    let (socket, device) = disks.attach("web", &blank(1 << 20), false);
    let guest = FrontEnd::start(&socket, Shape::default()).unwrap();
    let wire = guest.wire.as_ref().unwrap();
    wire.tell(request::SET_CONFIG, &[words(&[32, 1, 0]), vec![0]].concat(), &[]).unwrap();
    // As QEMU has it: disabled first, then given up.
    wire.tell(request::SET_VRING_ENABLE, &words(&[0, 0]), &[]).unwrap();
    guest.stop_queue(0).unwrap();
    let asked =
        [quads(&[0, 0]), 1u16.to_le_bytes().to_vec(), 64u16.to_le_bytes().to_vec(), vec![0; 4]].concat();
    let (area, fds) = wire.ask(request::GET_INFLIGHT_FD, &asked, &[]).unwrap();
    wire.tell(request::SET_INFLIGHT_FD, &area, &[fds[0].as_fd()]).unwrap();
    guest.restart_queue(0).unwrap();
    assert!(!device.writes_through());
}

#[test]
fn requests_in_flight_at_a_kill_are_taken_up_once_in_order_of_arrival() {
    let bytes = blank(1 << 20);
    let mut disks = RamDisks::new();
    let (socket, _) = disks.attach("web", &bytes, false);
    let mut guest = FrontEnd::start(&socket, Shape::default()).unwrap();
    // Out of order first: five requests, of which the third to fifth complete.
    let (queue, ram) = guest.queue(0);
    for i in 0..3 {
        queue.submit_write(ram, 100 + i, &[9; 512]);
    }
    queue.kick();
    queue.wait(ram, 3, LIMIT);
    disks.mood.hold.store(true, Ordering::SeqCst);
    // All to one sector: the last to arrive must win, wherever its descriptor lies.
    let (queue, ram) = guest.queue(0);
    for i in 0..40 {
        queue.submit_write(ram, 7, &[i; 512]);
    }
    queue.kick();
    assert_eq!(queue.wait_at_most(ram, 1, Duration::from_millis(100)).len(), 0);
    let socket = socket.clone();
    disks.kill();
    assert_eq!(guest.queue(0).0.in_flight().len(), 40);

    let dir = tempfile::tempdir().unwrap();
    let again = dir.path().join("again.sock");
    let mut disks = RamDisks::new();
    disks.attach_at(&again, "web", &bytes, false);
    assert!(!socket.exists());
    guest.reconnect(&again, LIMIT).unwrap();
    let (queue, ram) = guest.queue(0);
    let done = queue.wait(ram, 40, LIMIT);
    assert_eq!(done.len(), 40);
    assert!(done.iter().all(|d| d.status == 0));
    assert_eq!(disks.mood.executed.load(Ordering::SeqCst), 40, "each once");
    assert_eq!(bytes.lock().unwrap()[7 * 512], 39, "in order of arrival");
    assert_eq!(guest.write(0, &[1; 512]), 0, "and it goes on");
}

/// `VHOST_USER_SET_BACKEND_REQ_FD`.
const SET_BACK_CHANNEL: u32 = 21;

/// The next message on the back channel is a config change.
fn hears_of_a_change(channel: &UnixStream) {
    let mut message = [0; 12];
    std::io::Read::read_exact(&mut &*channel, &mut message).unwrap();
    assert_eq!(message, *words(&[2, 1, 0]));
}

#[test]
fn a_new_size_is_told_to_the_front_end_once_it_listens() {
    let mut disks = RamDisks::new();
    let (socket, device) = disks.attach("web", &blank(1 << 20), false);
    let mut guest = FrontEnd::start(&socket, Shape::default()).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
    guest.wire.as_ref().unwrap().tell(SET_BACK_CHANNEL, &[], &[theirs.as_fd()]).unwrap();
    drop(theirs);
    device.resize(2 << 20);
    hears_of_a_change(&ours);
    let (config, _) = guest
        .wire
        .as_ref()
        .unwrap()
        .ask(request::GET_CONFIG, &[words(&[0, 8, 0]), vec![0; 8]].concat(), &[])
        .unwrap();
    assert_eq!(config[12..20], 4096u64.to_le_bytes());
    // With no queue running QEMU would not listen: it hears of it when one does.
    guest.stop_queue(0).unwrap();
    device.resize(3 << 20);
    assert!(std::io::Read::read(&mut &ours, &mut [0; 12]).is_err(), "too early");
    guest.restart_queue(0).unwrap();
    ours.set_read_timeout(Some(LIMIT)).unwrap();
    hears_of_a_change(&ours);
    // A guest that runs on over a reconnect is told, since nobody knows what it believes.
    guest.connect(&socket).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(LIMIT)).unwrap();
    guest.wire.as_ref().unwrap().tell(SET_BACK_CHANNEL, &[], &[theirs.as_fd()]).unwrap();
    hears_of_a_change(&ours);
    // Without a channel, or with one that nobody reads, nothing goes wrong.
    drop((ours, theirs));
    device.resize(4 << 20);
    assert_eq!(guest.write(0, &[1; 512]), 0);
    drop(guest);
    device.resize(5 << 20);
}

#[test]
fn an_in_flight_area_goes_out_and_comes_back() {
    let mut disks = RamDisks::new();
    let (socket, _) = disks.attach("web", &blank(1 << 20), false);
    let mut f = crate_front_end(&socket);
    let (got, file) = f.get_inflight_fd(&VhostUserInflight::new(0, 0, 2, 128)).unwrap();
    assert!(got.mmap_size >= 2 * (16 + 16 * 128));
    assert_eq!((got.num_queues, got.queue_size, got.mmap_offset), (2, 128, 0));
    assert_eq!(file.metadata().unwrap().len(), got.mmap_size);
    f.set_inflight_fd(&got, file.as_raw_fd()).unwrap();
    assert!(file.set_len(0).is_err(), "sealed");
    let mut too_many = got;
    too_many.num_queues = 3;
    assert!(f.set_inflight_fd(&too_many, file.as_raw_fd()).is_err());
}

#[test]
fn memory_can_be_added_and_removed_while_queues_run() {
    let mut disks = RamDisks::new();
    let (socket, _) = disks.attach("web", &blank(1 << 20), false);
    let mut guest = FrontEnd::start(&socket, Shape::default()).unwrap();
    let more = FrontEnd::new(Shape { size: 2, ..Shape::default() });
    let place = |at: u64| {
        let mut body = quads(&[0]);
        body.extend(quads(&[at, more.ram.len(), 0x6000_0000_0000 + at, 0]));
        body
    };
    let wire = guest.wire.as_ref().unwrap();
    let fds = [parallax_tests::front_end::fd(more.ram.file())];
    for i in 0..31 {
        wire.tell(37, &place((1 << 40) + (i << 30)), &fds).unwrap();
    }
    assert_eq!(guest.write(0, &[1; 512]), 0);
    for i in 0..31 {
        guest.wire.as_ref().unwrap().tell(38, &place((1 << 40) + (i << 30)), &[]).unwrap();
    }
    assert_eq!(guest.write(0, &[2; 512]), 0);
    assert_eq!(guest.read(0, 512), [2; 512]);
}

#[test]
fn a_ring_that_starts_tells_what_ended_while_nobody_listened() {
    let mut disks = RamDisks::new();
    let (socket, _) = disks.attach("web", &blank(1 << 20), false);
    let mut guest = FrontEnd::start(&socket, Shape::default()).unwrap();
    let (queue, ram) = guest.queue(0);
    queue.submit_write(ram, 0, &[1; 512]);
    queue.kick();
    while queue.used_index(ram) == 0 {
        std::thread::yield_now();
    }
    // QEMU takes its end of the call away as soon as the connection ends: what is rung after that is lost.
    std::thread::sleep(Duration::from_millis(20));
    guest.wire = None;
    let _lost = rustix::io::read(guest.queues[0].call_file(), &mut [0; 8]);
    guest.reconnect(&socket, LIMIT).unwrap();
    let mut fds = [PollFd::new(guest.queues[0].call_file(), PollFlags::IN)];
    let limit = Timespec { tv_sec: 20, tv_nsec: 0 };
    assert_eq!(rustix::event::poll(&mut fds, Some(&limit)), Ok(1), "the guest waits for ever");
}
