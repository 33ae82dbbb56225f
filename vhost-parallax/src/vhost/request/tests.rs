use std::fs::File;
use std::sync::Arc;

use virtio_bindings::virtio_blk::VIRTIO_BLK_F_FLUSH;
use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};

use super::super::device::{DeviceFacts, DeviceId};
use super::super::guest_memory::{Region, RegionPlace};
use super::*;

const NEXT: u16 = VRING_DESC_F_NEXT as u16;
const WRITE: u16 = VRING_DESC_F_WRITE as u16;
const INDIRECT: u16 = VRING_DESC_F_INDIRECT as u16;
const MEMORY_BYTES: u64 = 8 << 20;
const TABLE: u64 = 0;
const HEADER: u64 = 0x1_0000;
const STATUS: u64 = 0x1_1000;
const DATA: u64 = 0x2_0000;
const SECTORS: u64 = 1000;

struct Guest {
    memory: Arc<GuestMemory>,
    device: DeviceState,
}

impl Guest {
    fn new() -> Guest {
        Guest::with(false)
    }
    fn with(read_only: bool) -> Guest {
        let file = File::from(rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        file.set_len(MEMORY_BYTES).unwrap();
        let place = RegionPlace { guest_addr: 0, len_bytes: MEMORY_BYTES, user_addr: 0, file_offset: 0 };
        let memory = GuestMemory::new(vec![Region::map(place, file).unwrap()]).unwrap();
        let device = DeviceState::new(DeviceFacts {
            id: DeviceId(1),
            name: "a-disk-with-a-rather-long-name".to_owned(),
            size_bytes: SECTORS * 512,
            read_only,
            queues: 1,
        });
        device.accept(device.offered());
        Guest { memory, device }
    }
    fn descriptors(&self, table: u64, all: &[(u64, u32, u16, u16)]) {
        for (i, (addr, len, flags, next)) in all.iter().enumerate() {
            let d = Descriptor::new(*addr, *len, *flags, *next);
            self.memory.map().write_obj(d, GuestAddress(table + 16 * i as u64)).unwrap();
        }
    }
    fn header(&self, kind: u32, sector: u64) {
        self.memory.map().write_obj(kind, GuestAddress(HEADER)).unwrap();
        self.memory.map().write_obj(sector, GuestAddress(HEADER + 8)).unwrap();
    }
    fn parse(&self) -> Result<Parsed, Fault> {
        parse(&self.memory, TABLE, 16, 0, Name::default(), &self.device)
    }
    /// Header, one data buffer, status.
    fn simple(&self, kind: u32, sector: u64, len: u32, flags: u16) -> Result<Parsed, Fault> {
        self.header(kind, sector);
        self.descriptors(
            TABLE,
            &[(HEADER, 16, NEXT, 1), (DATA, len, flags | NEXT, 2), (STATUS, 1, WRITE, 0)],
        );
        self.parse()
    }
    fn ranges(&self, kind: u32, all: &[(u64, u32, u32)]) -> Result<Parsed, Fault> {
        for (i, (sector, sectors, flags)) in all.iter().enumerate() {
            let at = DATA + 16 * i as u64;
            self.memory.map().write_obj(*sector, GuestAddress(at)).unwrap();
            self.memory.map().write_obj(*sectors, GuestAddress(at + 8)).unwrap();
            self.memory.map().write_obj(*flags, GuestAddress(at + 12)).unwrap();
        }
        self.simple(kind, 0, 16 * all.len() as u32, 0)
    }
}

fn status(parsed: Result<Parsed, Fault>) -> Status {
    match parsed.unwrap() {
        Parsed::Answer(_, status) => status,
        Parsed::Request(r) => panic!("accepted: {r:?}"),
    }
}

fn operation(parsed: Result<Parsed, Fault>) -> Operation {
    match parsed.unwrap() {
        Parsed::Request(r) => r.operation,
        Parsed::Answer(_, status) => panic!("refused: {status:?}"),
    }
}

#[test]
fn reads_and_writes_inside_the_disk_are_accepted() {
    let g = Guest::new();
    match operation(g.simple(VIRTIO_BLK_T_IN, 8, 4096, WRITE)) {
        Operation::Read { sector: 8, bufs } => assert_eq!(bufs.len(), 4096),
        o => panic!("{o:?}"),
    }
    match operation(g.simple(VIRTIO_BLK_T_OUT, SECTORS - 1, 512, 0)) {
        Operation::Write { sector, bufs } => assert_eq!((sector, bufs.len()), (SECTORS - 1, 512)),
        o => panic!("{o:?}"),
    }
    assert!(matches!(operation(g.simple(VIRTIO_BLK_T_FLUSH, u64::MAX, 0, 0)), Operation::Flush));
}

#[test]
fn a_header_and_status_may_be_split_and_joined_with_data() {
    let g = Guest::new();
    g.header(VIRTIO_BLK_T_OUT, 1);
    g.descriptors(
        TABLE,
        &[
            (HEADER, 5, NEXT, 1),
            (HEADER + 5, 11 + 512, NEXT, 2),
            (STATUS, 0, NEXT | WRITE, 3),
            (STATUS, 1, WRITE, 0),
        ],
    );
    match operation(g.parse()) {
        Operation::Write { sector: 1, bufs } => assert_eq!(bufs.len(), 512),
        o => panic!("{o:?}"),
    }
    g.header(VIRTIO_BLK_T_IN, 1);
    g.descriptors(TABLE, &[(HEADER, 16, NEXT, 1), (DATA, 513, WRITE, 0)]);
    match g.parse().unwrap() {
        Parsed::Request(r) => assert_eq!(r.reply.data_bytes, 512),
        o => panic!("{o:?}"),
    }
}

#[test]
fn ranges_outside_the_disk_get_an_error() {
    let g = Guest::new();
    for (sector, len) in [(SECTORS, 512), (SECTORS - 1, 1024), (u64::MAX, 512), (u64::MAX - 1, 4096)] {
        assert_eq!(status(g.simple(VIRTIO_BLK_T_IN, sector, len, WRITE)), Status::IoError);
        assert_eq!(status(g.simple(VIRTIO_BLK_T_OUT, sector, len, 0)), Status::IoError);
    }
    g.device.resize(10 * 512);
    assert_eq!(status(g.simple(VIRTIO_BLK_T_IN, 10, 512, WRITE)), Status::IoError);
}

#[test]
fn unaligned_and_empty_data_get_an_error() {
    let g = Guest::new();
    for len in [0, 1, 511, 513, 4095] {
        assert_eq!(status(g.simple(VIRTIO_BLK_T_IN, 0, len, WRITE)), Status::IoError, "{len}");
        assert_eq!(status(g.simple(VIRTIO_BLK_T_OUT, 0, len, 0)), Status::IoError, "{len}");
    }
}

#[test]
fn data_in_the_wrong_direction_gets_an_error() {
    let g = Guest::new();
    assert_eq!(status(g.simple(VIRTIO_BLK_T_IN, 0, 512, 0)), Status::IoError);
    assert_eq!(status(g.simple(VIRTIO_BLK_T_OUT, 0, 512, WRITE)), Status::IoError);
    g.header(VIRTIO_BLK_T_OUT, 0);
    g.descriptors(TABLE, &[(HEADER, 16, NEXT | WRITE, 1), (STATUS, 1, WRITE, 0)]);
    assert!(g.parse().unwrap_err().contains("header"));
    g.descriptors(TABLE, &[(STATUS, 1, NEXT | WRITE, 1), (HEADER, 16, 0, 0)]);
    assert!(g.parse().unwrap_err().contains("readable"));
}

#[test]
fn a_chain_that_cannot_be_answered_is_a_fault() {
    let g = Guest::new();
    g.header(VIRTIO_BLK_T_IN, 0);
    for (chain, why) in [
        (vec![(HEADER, 16, 0, 0)], "status"),
        (vec![(HEADER, 15, NEXT, 1), (STATUS, 1, WRITE, 0)], "header"),
        (vec![(HEADER, 16, NEXT, 0)], "loops"),
        (vec![(HEADER, 16, NEXT, 16), (STATUS, 1, WRITE, 0)], "beyond the table"),
        (vec![(HEADER, 16, NEXT, 1), (MEMORY_BYTES, 1, WRITE, 0)], "outside"),
        (vec![(HEADER, 16, NEXT, 1), (MEMORY_BYTES - 512, u32::MAX, WRITE, 0)], "outside"),
        (vec![(HEADER, 16, NEXT, 1), (u64::MAX, 512, WRITE, 0)], "outside"),
        (vec![(DATA, 0, INDIRECT, 0)], "whole descriptors"),
        (vec![(DATA, 17, INDIRECT, 0)], "whole descriptors"),
        (vec![(DATA, 32, INDIRECT | NEXT, 1)], "indirect"),
        (vec![(HEADER, 16, NEXT, 1), (DATA, 32, INDIRECT, 0)], "indirect"),
        (vec![(MEMORY_BYTES, 32, INDIRECT, 0)], "outside"),
        (vec![(u64::MAX - 15, 32, INDIRECT, 0)], ""),
    ] {
        g.descriptors(TABLE, &chain);
        let e = g.parse().unwrap_err();
        assert!(e.contains(why), "{chain:?}: {e}");
    }
    assert!(parse(&g.memory, TABLE, 16, 16, Name::default(), &g.device).is_err());
    assert!(parse(&g.memory, u64::MAX - 15, 16, 1, Name::default(), &g.device).is_err());
}

#[test]
fn an_indirect_table_inside_an_indirect_table_is_a_fault() {
    let g = Guest::new();
    g.descriptors(TABLE, &[(DATA, 32, INDIRECT, 0)]);
    g.descriptors(DATA, &[(DATA, 32, INDIRECT, 0), (0, 0, 0, 0)]);
    assert!(g.parse().is_err());
    g.descriptors(DATA, &[(HEADER, 16, NEXT, 1), (HEADER, 16, NEXT, 0)]);
    assert!(g.parse().unwrap_err().contains("loops"));
}

#[test]
fn a_request_of_256_scattered_pages_arrives_whole() {
    let g = Guest::new();
    g.device.resize(1 << 30);
    g.header(VIRTIO_BLK_T_OUT, 0);
    let mut chain = vec![(HEADER, 16, NEXT, 1)];
    chain.extend((0..256u16).map(|i| (DATA + u64::from(i % 100) * 8192, 4096, NEXT, i + 2)));
    chain.push((STATUS, 1, WRITE, 0));
    let table = 0xe_0000;
    g.descriptors(table, &chain);
    g.descriptors(TABLE, &[(table, 16 * chain.len() as u32, INDIRECT, 0)]);
    match operation(g.parse()) {
        Operation::Write { bufs, .. } => assert_eq!((bufs.len(), bufs.slices().len()), (1 << 20, 256)),
        o => panic!("{o:?}"),
    }
}

#[test]
fn a_request_larger_than_any_guest_makes_gets_an_error() {
    let g = Guest::new();
    g.device.resize(1 << 50);
    // The same memory again and again, and `rest` bytes of it at last.
    let request = |kind, pieces: u16, rest: u32, flags: u16| {
        g.header(kind, 0);
        let mut chain = vec![(HEADER, 16, NEXT, 1)];
        chain.extend((0..pieces).map(|i| (0, MEMORY_BYTES as u32, flags | NEXT, i + 2)));
        chain.push((0, rest, flags | NEXT, pieces + 2));
        chain.push((STATUS, 1, WRITE, 0));
        g.descriptors(TABLE, &[(DATA, 16 * chain.len() as u32, INDIRECT, 0)]);
        g.descriptors(DATA, &chain);
        g.parse()
    };
    let pieces = (GUEST_REQUEST_BYTES_MAX as u64 / MEMORY_BYTES) as u16;
    for (kind, flags) in [(VIRTIO_BLK_T_OUT, 0), (VIRTIO_BLK_T_IN, WRITE)] {
        match operation(request(kind, pieces, 0, flags)) {
            Operation::Read { bufs, .. } | Operation::Write { bufs, .. } => {
                assert_eq!(bufs.len(), GUEST_REQUEST_BYTES_MAX);
            }
            o => panic!("{o:?}"),
        }
        // Beyond 4 GiB too, which the used ring could not count.
        for (pieces, rest) in [(pieces, 512), (SEGMENTS_MAX - 1, 0)] {
            assert_eq!(status(request(kind, pieces, rest, flags)), Status::IoError, "{pieces} and {rest}");
        }
    }
}

#[test]
fn discards_and_zeroes_take_many_ranges_and_check_each() {
    let g = Guest::new();
    match operation(g.ranges(VIRTIO_BLK_T_DISCARD, &[(0, 8, 0), (100, 0, 0), (992, 8, 0)])) {
        Operation::Discard(r) => {
            assert_eq!(r.iter().map(|r| (r.sector, r.sectors)).collect::<Vec<_>>(), [(0, 8), (992, 8)]);
        }
        o => panic!("{o:?}"),
    }
    match operation(g.ranges(VIRTIO_BLK_T_WRITE_ZEROES, &[(0, 8, 1), (8, 8, 0)])) {
        Operation::WriteZeroes(r) => assert_eq!((r[0].unmap, r[1].unmap), (true, false)),
        o => panic!("{o:?}"),
    }
    let discard = VIRTIO_BLK_T_DISCARD;
    assert_eq!(status(g.ranges(discard, &[(0, 8, 1)])), Status::Unsupported, "unmap flag on discard");
    assert_eq!(status(g.ranges(VIRTIO_BLK_T_WRITE_ZEROES, &[(0, 8, 2)])), Status::Unsupported);
    assert_eq!(status(g.ranges(discard, &[(0, 8, 0), (SECTORS, 1, 0)])), Status::IoError);
    assert_eq!(status(g.ranges(discard, &[(u64::MAX, 1, 0)])), Status::IoError);
    assert_eq!(status(g.ranges(discard, &[])), Status::IoError);
    assert_eq!(status(g.ranges(discard, &[(0, 1, 0); 257])), Status::IoError);
    assert_eq!(status(g.simple(discard, 0, 17, 0)), Status::IoError);
    assert_eq!(status(g.simple(discard, 0, 16, WRITE)), Status::IoError);
}

#[test]
fn what_was_not_negotiated_or_is_unknown_is_unsupported() {
    let g = Guest::new();
    g.device.accept(0);
    assert_eq!(status(g.ranges(VIRTIO_BLK_T_DISCARD, &[(0, 8, 0)])), Status::Unsupported);
    assert_eq!(status(g.ranges(VIRTIO_BLK_T_WRITE_ZEROES, &[(0, 8, 0)])), Status::Unsupported);
    for kind in [2, 14, 0x8000_0000, u32::MAX] {
        assert_eq!(status(g.simple(kind, 0, 512, 0)), Status::Unsupported);
    }
}

#[test]
fn a_read_only_disk_refuses_every_change() {
    let g = Guest::with(true);
    assert_eq!(status(g.simple(VIRTIO_BLK_T_OUT, 0, 512, 0)), Status::IoError);
    assert_eq!(status(g.ranges(VIRTIO_BLK_T_DISCARD, &[(0, 8, 0)])), Status::IoError);
    assert_eq!(status(g.ranges(VIRTIO_BLK_T_WRITE_ZEROES, &[(0, 8, 0)])), Status::IoError);
    assert!(matches!(operation(g.simple(VIRTIO_BLK_T_IN, 0, 512, WRITE)), Operation::Read { .. }));
}

#[test]
fn the_serial_is_the_name_cut_to_20_bytes() {
    let g = Guest::new();
    assert_eq!(status(g.simple(VIRTIO_BLK_T_GET_ID, 0, 20, WRITE)), Status::Ok);
    let id: [u8; 20] = g.memory.map().read_obj(GuestAddress(DATA)).unwrap();
    assert_eq!(&id, b"a-disk-with-a-rather");
    assert_eq!(status(g.simple(VIRTIO_BLK_T_GET_ID, 0, 3, WRITE)), Status::Ok);
}

#[test]
fn writes_are_durable_when_the_driver_cannot_flush_or_asked_for_write_through() {
    let g = Guest::new();
    let durable = |g: &Guest| match g.simple(VIRTIO_BLK_T_OUT, 0, 512, 0).unwrap() {
        Parsed::Request(r) => r.durable,
        Parsed::Answer(..) => panic!("refused"),
    };
    assert!(!durable(&g));
    g.device.set_write_back(false);
    assert!(durable(&g));
    g.device.set_write_back(true);
    g.device.accept(g.device.offered() & !(1 << VIRTIO_BLK_F_FLUSH));
    assert!(durable(&g));
}
