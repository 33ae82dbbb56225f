//! The checker against a small store made with the engine's own parts, whole and damaged.

mod engine;
mod forged;
mod repair;

use std::cell::RefCell;
use std::rc::Rc;

use proptest::prelude::*;
use smallvec::smallvec;

use super::*;
use crate::buffer::{AlignedBuf, IoBuf, crc32c};
use crate::device::MemoryDevice;
use crate::device::memory::Media;
use crate::error::ErrorKind;
use crate::executor::{Executor, block_on};
use crate::format::extent::{self, bitmap_sectors};
use crate::format::host::HostLog;
use crate::format::log_head::{SLOT_BYTES, SLOTS, slot_offset_bytes};
use crate::format::registry;
use crate::format::superblock::COPIES;
use crate::format::vdi_record::{self, VdiRecord};
use crate::log::{Body, Log, Origin, Record, StagingMemory, VdiGeneration};
use crate::store::{CreateOptions, ExtentKind, Store};
use crate::tree::snapshots::{Snapshot, SnapshotLog, SnapshotRecord};
use crate::tree::{Change, NodeCache, Root, To, apply};
use crate::units::{
    BLOCK_BYTES, BLOCK_SIZE, BlockAddr, Epoch, Generation, SegmentSeq, Uuid, VdiId, VdiSeq, VirtualBlock,
};

const STORE_BYTES: u64 = 64 << 20;
const LOG_BYTES: u64 = 33 << 20;
const STORE_ID: Uuid = Uuid(0x57);
const LOG_ID: Uuid = Uuid(0x10);

/// A device pair whose bytes outlive the handles.
#[derive(Clone)]
struct World {
    store: Media,
    log: Media,
}

fn open(name: &str, bytes: u64, media: &Media) -> DeviceHandle {
    DeviceHandle::new(Box::new(MemoryDevice::new(name, bytes, media.clone())))
}

impl World {
    fn devices(&self) -> (DeviceHandle, DeviceHandle) {
        (open("store", STORE_BYTES, &self.store), open("log", LOG_BYTES, &self.log))
    }
    fn check_with(&self, logs: bool, data: bool) -> Result<Report> {
        let (store, log) = self.devices();
        let (s, l) = (store.clone(), log.clone());
        block_on(
            &Executor::new(),
            async move {
                let logs = if logs { vec![log] } else { Vec::new() };
                check(&store, &logs, CheckOptions { data }).await
            },
            move || s.poll() | l.poll(),
        )
    }
    fn check(&self) -> Report {
        self.check_with(true, true).unwrap()
    }
    fn fork(&self) -> World {
        World { store: self.store.fork(), log: self.log.fork() }
    }
    fn flip(&self, place: &Place, at: u64, mask: u8) -> World {
        let world = self.fork();
        let media = if place.on_log { &world.log } else { &world.store };
        let mut byte = [0];
        media.read(place.offset + at, &mut byte);
        media.write(place.offset + at, &[byte[0] ^ mask]);
        world
    }
}

/// A structure on disk whose every byte counts.
#[derive(Clone, Debug)]
struct Place {
    what: &'static str,
    offset: u64,
    bytes: u64,
    on_log: bool,
}

/// A VDI as the engine would hold it.
struct Disk {
    name: &'static str,
    slots: [BlockAddr; 2],
    record: VdiRecord,
    snapshots: SnapshotLog,
}

struct Builder {
    store: Store,
    cache: NodeCache,
    places: Vec<Place>,
}

impl Builder {
    fn root(record: &VdiRecord) -> Root {
        Root { addr: record.root, crc: record.root_crc, birth: record.root_birth, depth: record.depth }
    }
    async fn data(&self, at: u64, blocks: u32, seed: u8) -> Change {
        let run = self.store.allocate(ExtentKind::Data, blocks).await.unwrap();
        let mut buf = AlignedBuf::zeroed(run.blocks as usize * BLOCK_SIZE);
        buf.chunks_exact_mut(BLOCK_SIZE).zip(seed..).for_each(|(b, n)| b.fill(n | 1));
        let crcs = buf.chunks_exact(BLOCK_SIZE).map(crc32c).collect();
        self.store.write_blocks(run.start, smallvec![IoBuf::Owned(buf)]).await.unwrap();
        let to = To::Blocks { start: run.start, crcs };
        Change { at: VirtualBlock(at), blocks: u64::from(run.blocks), to }
    }
    async fn create(&self, id: u128, name: &'static str, parent: Option<(&Disk, Root)>) -> Disk {
        let (slots, generation) = self.store.allocate_record().await.unwrap();
        let root = parent.map_or(Root::empty(3), |(_, root)| root);
        let threshold = parent.map_or(Epoch(0), |(p, _)| p.record.threshold);
        let record = VdiRecord {
            id: VdiId(id),
            lease_epoch: 1,
            generation,
            size_bytes: 1 << 33,
            root: root.addr,
            root_crc: root.crc,
            depth: root.depth,
            root_birth: root.birth,
            epoch: threshold.next(),
            threshold,
            snapshots: Default::default(),
            applied: Default::default(),
            parent: None,
            data_blocks: 0,
            host_generation: Generation(0),
        };
        let disk = Disk { name, slots, record, snapshots: SnapshotLog::empty(VdiId(id)) };
        self.swing(&disk).await;
        self.store.add_vdi(disk.record.id, name, slots, 0).await.unwrap();
        disk
    }
    /// The end of a checkpoint.
    async fn swing(&self, disk: &Disk) {
        self.store.write_host_record().await.unwrap();
        self.store.flush().await.unwrap();
        self.store.write_record(disk.slots, &disk.record).await.unwrap();
        self.store.flush().await.unwrap();
    }
    async fn write(&self, disk: &mut Disk, writes: &[(u64, u32)], records: Vec<SnapshotRecord>) {
        let mut changes = Vec::new();
        for (i, (at, blocks)) in writes.iter().enumerate() {
            changes.push(self.data(*at, *blocks, i as u8 * 16).await);
        }
        let r = &mut disk.record;
        let applied = apply(&self.cache, &Builder::root(r), &changes, r.epoch, r.threshold).await.unwrap();
        let root = applied.root;
        (r.root, r.root_crc, r.root_birth, r.depth) = (root.addr, root.crc, root.birth, root.depth);
        let appended = disk.snapshots.append(&self.store, records, r.epoch, |_| {}).await.unwrap();
        r.snapshots = appended.head;
        r.generation = Generation(r.generation.0 + 1);
        self.swing(disk).await;
        let mut freed = applied.freed;
        freed.merge(appended.freed.into_iter().collect());
        self.store.quarantine(freed, SegmentSeq(0));
        assert!(self.store.give_back(self.store.release(SegmentSeq(1))).is_empty());
        self.store.write_dirty_bitmaps().await.unwrap();
        self.store.flush().await.unwrap();
    }
    async fn snapshot(&self, disk: &mut Disk, label: &str) -> Root {
        let root = Builder::root(&disk.record);
        let epoch = disk.record.epoch;
        let taken =
            Snapshot { epoch, wall_ns: 1, root, size_bytes: disk.record.size_bytes, label: label.to_owned() };
        disk.record.threshold = epoch;
        disk.record.epoch = epoch.next();
        self.write(disk, &[], vec![SnapshotRecord::Taken(taken)]).await;
        root
    }
    fn place(&mut self, what: &'static str, offset: u64, bytes: u64) {
        self.places.push(Place { what, offset, bytes, on_log: false });
    }
    fn system_places(&mut self) {
        let sb = *self.store.superblock();
        for copy in COPIES {
            self.place("superblock", copy * BLOCK_BYTES, BLOCK_BYTES);
        }
        for copy in 0..2 {
            self.place("host record", (u64::from(sb.hosts_start) + copy) * BLOCK_BYTES, BLOCK_BYTES);
        }
        let sectors = |start: u32, count: u32| {
            (0..count).map(move |i| u64::from(start) * BLOCK_BYTES + u64::from(i) * 512)
        };
        for offset in sectors(sb.catalogue_start, sb.catalogue_sectors) {
            self.place("catalogue", offset, 512);
        }
        for offset in sectors(sb.registry_start, sb.registry_entries.min(6)) {
            self.place("registry", offset, 512);
        }
    }
    async fn extent_places(&mut self, addrs: &[BlockAddr]) {
        let g = self.store.geometry();
        let mut extents: Vec<_> = addrs.iter().map(|a| g.extent(*a)).collect();
        extents.sort_unstable();
        extents.dedup();
        for number in extents {
            let last = g.extent_blocks() as u32 - 1;
            let start =
                self.store.offset_bytes(g.addr(number, last), 1).unwrap() - u64::from(last) * BLOCK_BYTES;
            self.place("extent header", start, 512);
            for index in 0..bitmap_sectors(g) {
                self.place("bitmap", start + extent::sector_offset(index), 512);
            }
        }
    }
    fn block_place(&mut self, what: &'static str, addr: BlockAddr, bytes: usize) {
        let offset = self.store.offset_bytes(addr, 1).unwrap();
        self.place(what, offset, bytes as u64);
    }
    async fn tree_places(&mut self, roots: &[Root]) -> Vec<BlockAddr> {
        use crate::tree::walk::{Step, Walk};
        let mut all = Vec::new();
        for root in roots {
            let mut nodes = Vec::new();
            let mut data = Vec::new();
            let mut walk = Walk::new(root, |p| {
                nodes.push(p.link.addr);
                true
            });
            while let Some(step) = walk
                .next(&self.cache, |p| {
                    nodes.push(p.link.addr);
                    true
                })
                .await
            {
                let Step::Leaf(_, leaf) = step else { panic!("{step:?}") };
                data.extend(leaf.entries().map(|(_, e)| e.addr));
            }
            nodes.iter().for_each(|a| self.block_place("node", *a, BLOCK_SIZE));
            data.iter().for_each(|a| self.block_place("data", *a, BLOCK_SIZE));
            all.extend(nodes);
            all.extend(data);
        }
        all
    }
}

/// A store with two VDIs, one a clone of the other's first snapshot, and a log.
fn build() -> (World, Vec<Place>) {
    let world = World { store: Media::default(), log: Media::default() };
    let (device, log) = world.devices();
    let (d, l) = (device.clone(), log.clone());
    let executor = Executor::new();
    let ex = executor.clone();
    let running: Rc<RefCell<Option<Log>>> = Rc::default();
    let kick = Rc::clone(&running);
    let places = block_on(
        &executor,
        async move {
            Store::create(&device, STORE_ID, Uuid(2), 0, CreateOptions::default()).await.unwrap();
            let store = Store::open(device).await.unwrap();
            Log::create_on_prewritten(&log, LOG_ID, STORE_ID).await.unwrap();
            store.set_log(Some(HostLog { uuid: LOG_ID, bytes: LOG_BYTES, shard: 0 })).await.unwrap();
            let cache = NodeCache::new(store.clone(), 1 << 20);
            let mut b = Builder { store, cache, places: Vec::new() };
            let mut web = b.create(1, "web", None).await;
            b.write(&mut web, &[(0, 5), (700, 40), (1 << 20, 3)], Vec::new()).await;
            b.write(&mut web, &[(2, 2), (710, 3)], Vec::new()).await;
            let first = b.snapshot(&mut web, "first").await;
            b.write(&mut web, &[(1, 2), (70_000, 1)], Vec::new()).await;
            let second = b.snapshot(&mut web, "").await;
            let mut clone = b.create(2, "clone", Some((&web, first))).await;
            b.write(&mut clone, &[(0, 1), (300, 2)], Vec::new()).await;
            b.write(&mut web, &[(0, 1)], Vec::new()).await;
            b.system_places();
            let roots = [Builder::root(&web.record), first, second, Builder::root(&clone.record)];
            let mut addrs = b.tree_places(&roots).await;
            for disk in [&web, &clone] {
                for slot in disk.slots {
                    b.block_place("VDI record", slot, vdi_record::BYTES);
                    addrs.push(slot);
                }
                disk.snapshots.blocks().iter().for_each(|a| b.block_place("snapshot log", *a, BLOCK_SIZE));
                assert!(!disk.name.is_empty());
            }
            b.extent_places(&addrs).await;
            let log = Log::scan(&log, LOG_ID, STORE_ID)
                .await
                .unwrap()
                .start(&ex, &StagingMemory::default())
                .await
                .unwrap();
            *running.borrow_mut() = Some(log.clone());
            let newest = [&web, &clone].map(|d| VdiGeneration {
                vdi: d.record.id,
                lease_epoch: d.record.lease_epoch,
                generation: d.record.generation,
            });
            log.trim(SegmentSeq(0), &newest).await.unwrap();
            b.places
        },
        move || {
            let kicked = kick.borrow().as_ref().is_some_and(Log::kick);
            d.poll() | l.poll() | kicked
        },
    );
    executor.abandon_all();
    (world, places)
}

type Built = Rc<(World, Vec<Place>)>;

thread_local! {
    static BUILT: RefCell<Option<Built>> = const { RefCell::new(None) };
}

fn built() -> Built {
    BUILT.with(|b| Rc::clone(b.borrow_mut().get_or_insert_with(|| Rc::new(build()))))
}

#[test]
fn a_whole_store_has_no_findings_and_everything_is_counted() {
    let (world, _) = &*built();
    let report = world.check();
    assert_eq!(report.findings, [], "{report:?}");
    assert_eq!(report.exit_code(), 0);
    let c = report.counts;
    assert_eq!((c.vdis, c.snapshots), (2, 2));
    assert_eq!(c.data_blocks, c.data_blocks_verified);
    assert!(c.nodes > 6 && c.data_blocks > 50 && c.extents == 2, "{c:?}");
    assert_eq!(c.blocks_leaked, 0);
    assert!(c.blocks_claimed > 0, "the open claims");
}

#[test]
fn every_kind_of_metadata_is_found_damaged_wherever_it_is_damaged() {
    let (world, places) = &*built();
    // One byte in each structure, at a place that moves on: all of them in turn.
    for (i, place) in places.iter().enumerate() {
        let at = (i as u64 * 97) % place.bytes;
        let report = world.flip(place, at, 1 << (i % 8)).check();
        assert!(!report.findings.is_empty(), "{place:?} byte {at}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn no_flipped_byte_goes_unnoticed(which in any::<prop::sample::Index>(), at in any::<u64>(), mask in 1u8..) {
        let (world, places) = &*built();
        let place = which.get(places);
        match world.flip(place, at % place.bytes, mask).check_with(true, true) {
            Ok(report) => prop_assert!(!report.findings.is_empty(), "{:?}", place),
            Err(e) => prop_assert_eq!((place.what, e.kind()), ("superblock", ErrorKind::Unsupported)),
        }
    }
    /// Valid checksums around nonsense: what a hostile or buggy writer leaves. Nothing may panic or hang.
    #[test]
    fn overwritten_blocks_never_make_the_checker_panic(
        hits in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..4),
    ) {
        let (world, places) = &*built();
        let world = world.fork();
        for (from, to) in hits {
            let (from, to) = (from.get(places), to.get(places));
            let mut bytes = vec![0; from.bytes as usize];
            world.store.read(from.offset, &mut bytes);
            world.store.write(to.offset, &bytes);
        }
        let _ = world.check_with(true, true);
    }
}

#[test]
fn damage_names_every_disk_and_snapshot_it_hurts() {
    let (world, places) = &*built();
    // A data block of the first write: web's two snapshots, web itself and the clone share it.
    let data: Vec<_> = places.iter().filter(|p| p.what == "data").collect();
    let shared = data.iter().find(|p| data.iter().filter(|q| q.offset == p.offset).count() == 4).unwrap();
    let report = world.flip(shared, 7, 1).check();
    assert_eq!(report.exit_code(), 2);
    assert_eq!(report.findings.len(), 1, "{report:?}");
    let hurt = &report.findings[0].hurt;
    let names: Vec<_> = hurt.iter().map(|h| (h.vdi.as_str(), h.snapshot.map(|e| e.0))).collect();
    assert_eq!(names, [("web", None), ("web", Some(1)), ("web", Some(2)), ("clone", None)], "{hurt:?}");
    assert!(hurt.iter().all(|h| h.blocks == 1));
    assert!(
        world.flip(shared, 7, 1).check_with(true, false).unwrap().findings.is_empty(),
        "only with --data"
    );
    // A shared leaf: 256 blocks of all that share it.
    let nodes: Vec<_> = places.iter().filter(|p| p.what == "node").collect();
    let leaf =
        nodes.iter().rev().find(|p| nodes.iter().filter(|q| q.offset == p.offset).count() == 4).unwrap();
    let report = world.flip(leaf, 7, 1).check();
    assert!(report.incomplete && report.leaks.is_none(), "below it anything may be in use");
    let hurt = &report.findings[0].hurt;
    assert_eq!(hurt.len(), 4, "{report:?}");
    assert!(hurt.iter().all(|h| h.blocks >= 256 && h.to_string().contains("bytes at offset")));
}

#[test]
fn damage_side_by_side_is_one_finding_that_names_every_block() {
    let (world, places) = &*built();
    let all = places.iter().filter(|p| p.what == "data");
    let blocks: std::collections::BTreeMap<u64, &Place> = all.clone().map(|p| (p.offset, p)).collect();
    let damaged = world.fork();
    for place in blocks.values() {
        damaged.store.write(place.offset + 7, &[0xa5; 3]);
    }
    let report = damaged.check();
    assert!(report.findings.len() < blocks.len() / 3, "{} {report:?}", report.findings.len());
    let hurt: u64 = report.findings.iter().flat_map(|f| &f.hurt).map(|h| h.blocks).sum();
    assert_eq!(hurt, all.count() as u64, "each block of each disk and snapshot");
}

#[test]
fn a_damaged_sector_of_the_catalogue_hides_nothing_that_the_extents_tell_of_themselves() {
    let (world, places) = &*built();
    let sector = places.iter().find(|p| p.what == "catalogue").unwrap();
    let report = world.flip(sector, 70, 1).check();
    assert!(report.findings.len() == 1 && report.incomplete, "{report:?}");
    assert_eq!(report.counts, world.check().counts);
}

/// Run `f` on the opened store.
fn with_store<T: 'static, F: Future<Output = T> + 'static>(
    world: &World,
    f: impl FnOnce(Store, DeviceHandle) -> F + 'static,
) -> T {
    let (store, log) = world.devices();
    let (s, l) = (store.clone(), log.clone());
    let open = async move { f(Store::open(store).await.unwrap(), log).await };
    block_on(&Executor::new(), open, move || s.poll() | l.poll())
}

#[test]
fn blocks_that_a_live_log_record_names_are_claimed_not_leaked() {
    let world = built().0.fork();
    let executor = Executor::new();
    let (store, log) = world.devices();
    let (s, l) = (store.clone(), log.clone());
    let running: Rc<RefCell<Option<Log>>> = Rc::default();
    let kick = Rc::clone(&running);
    let ex = executor.clone();
    block_on(
        &executor,
        async move {
            let store = Store::open(store).await.unwrap();
            let run = store.allocate(ExtentKind::Data, 4).await.unwrap();
            let zeros = IoBuf::Owned(AlignedBuf::zeroed(run.blocks as usize * BLOCK_SIZE));
            store.write_blocks(run.start, smallvec![zeros]).await.unwrap();
            store.write_host_record().await.unwrap();
            store.flush().await.unwrap();
            let log = Log::scan(&log, LOG_ID, STORE_ID)
                .await
                .unwrap()
                .start(&ex, &StagingMemory::default())
                .await
                .unwrap();
            *running.borrow_mut() = Some(log.clone());
            let body = Body::WriteOut {
                at: VirtualBlock(0),
                runs: smallvec![(run.start, run.blocks)],
                crcs: (0..run.blocks).map(|_| crc32c(&[0; BLOCK_SIZE])).collect(),
            };
            let (vdi, seq) = (VdiId(1), VdiSeq(1));
            let record = Record {
                vdi,
                seq,
                lease_epoch: 1,
                epoch: Epoch(3),
                origin: Origin::default(),
                copy: false,
                body,
            };
            let reservation = log.reserve(record.encoded_bytes(), 0).await.unwrap();
            log.append(reservation, &record, smallvec![]).unwrap();
            log.flush().await.unwrap();
            let old = [VdiGeneration { vdi: VdiId(1), lease_epoch: 1, generation: Generation(1000) }];
            log.trim(SegmentSeq(1), &old).await.unwrap();
        },
        move || {
            let kicked = kick.borrow().as_ref().is_some_and(Log::kick);
            s.poll() | l.poll() | kicked
        },
    );
    executor.abandon_all();
    let report = world.check();
    assert_eq!(report.counts.blocks_leaked, 0, "{report:?}");
    assert_eq!(report.counts.segments, 1);
    // The head remembers a generation of web's record that is not there.
    assert_eq!(report.findings.len(), 1);
    assert!(report.is_corrupt() && report.findings[0].message.contains("older than 1000"), "{report:?}");
}

#[test]
fn a_log_head_slot_that_does_not_verify_is_noted() {
    let (world, _) = &*built();
    for slot in 0..SLOTS {
        let offset = slot_offset_bytes(slot);
        let place = Place { what: "log head", offset, bytes: SLOT_BYTES as u64, on_log: true };
        let report = world.flip(&place, 100, 1).check();
        assert_eq!((report.findings.len(), report.exit_code()), (1, 0), "{report:?}");
    }
}

#[test]
fn a_block_in_use_that_its_bitmap_calls_free_is_corruption() {
    let world = built().0.fork();
    let slot = with_store(&world, |store, _| async move {
        let entry = store.find_vdi("web").unwrap();
        let record = store.read_record(&entry, (0, Generation(0))).await.unwrap().record;
        store.quarantine([record.root].into_iter().collect(), SegmentSeq(0));
        assert!(store.give_back(store.release(SegmentSeq(1))).is_empty());
        store.write_dirty_bitmaps().await.unwrap();
        store.flush().await.unwrap();
        record.root
    });
    let report = world.check();
    assert_eq!(report.exit_code(), 2);
    assert!(report.findings[0].message.contains(&slot.to_string()), "{report:?}");
}

#[test]
fn a_block_with_two_owners_that_may_free_it_is_corruption() {
    let world = built().0.fork();
    // The clone's record names web's present root: both would free what was born after their thresholds.
    with_store(&world, |store, _| async move {
        let web =
            store.read_record(&store.find_vdi("web").unwrap(), (0, Generation(0))).await.unwrap().record;
        let entry = store.find_vdi("clone").unwrap();
        let mut clone = store.read_record(&entry, (0, Generation(0))).await.unwrap().record;
        (clone.root, clone.root_crc, clone.root_birth) = (web.root, web.root_crc, web.root_birth);
        (clone.epoch, clone.threshold) = (web.epoch, web.threshold);
        clone.generation = Generation(clone.generation.0 + 1);
        store.write_record(entry.slots, &clone).await.unwrap();
        store.flush().await.unwrap();
    });
    let report = world.check();
    assert!(report.is_corrupt());
    assert!(report.findings[0].message.contains("used twice"), "{report:?}");
}

#[test]
fn a_store_that_is_none_or_too_new_is_an_error_with_a_hint() {
    let empty = World { store: Media::default(), log: Media::default() };
    let error = empty.check_with(false, false).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongStore);
    assert!(error.hint().contains("parallax format"));
}
