use proptest::prelude::*;

use super::*;
use crate::device::memory::Media;
use crate::device::{DeviceHandle, MemoryDevice};
use crate::executor::{Executor, block_on};
use crate::store::CreateOptions;
use crate::tree::Root;
use crate::units::Uuid;

const VDI: VdiId = VdiId(9);

struct World {
    media: Media,
    device: DeviceHandle,
    store: Store,
}

impl World {
    fn new() -> World {
        let media = Media::default();
        let device = DeviceHandle::new(Box::new(MemoryDevice::new("store", 64 << 20, media.clone())));
        let d = device.clone();
        let store = run(&device, async move {
            Store::create(&d, Uuid(1), Uuid(2), 0, CreateOptions::default()).await.unwrap();
            Store::open(d).await.unwrap()
        });
        World { media, device, store }
    }
    fn append(&self, mut log: SnapshotLog, records: Vec<SnapshotRecord>) -> (SnapshotLog, AppendedSnapshots) {
        let store = self.store.clone();
        run(&self.device, async move {
            let appended = log.append(&store, records, Epoch(1000)).await.unwrap();
            (log, appended)
        })
    }
    fn load(&self, head: SnapshotLogHead) -> Result<SnapshotLog> {
        let store = self.store.clone();
        run(&self.device, async move { SnapshotLog::load(&store, VDI, head).await })
    }
}

fn run<T: 'static>(device: &DeviceHandle, future: impl Future<Output = T> + 'static) -> T {
    let poll = device.clone();
    block_on(&Executor::new(), future, move || poll.poll())
}

fn taken(epoch: u64, label: &str) -> SnapshotRecord {
    let root = Root { addr: BlockAddr(epoch + 7), crc: 3, birth: Epoch(epoch), depth: 2 };
    let (wall_ns, size_bytes, label) = (epoch * 10, 1 << 20, label.to_owned());
    SnapshotRecord::Taken(Snapshot { epoch: Epoch(epoch), wall_ns, root, size_bytes, label })
}

#[derive(Clone, Debug)]
enum Act {
    Take(usize),
    Label(prop::sample::Index, String),
    Remove(prop::sample::Index),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (1usize..120).prop_map(Act::Take),
        2 => (any::<prop::sample::Index>(), "[a-z]{1,63}").prop_map(|(i, l)| Act::Label(i, l)),
        4 => any::<prop::sample::Index>().prop_map(Act::Remove),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn a_loaded_list_is_what_was_appended_and_replaced_blocks_are_freed_once(
        acts in proptest::collection::vec(proptest::collection::vec(act(), 1..4), 1..20),
    ) {
        let world = World::new();
        let mut log = SnapshotLog::empty(VDI);
        let mut model = SnapshotList::default();
        let mut next = 1;
        for batch in &acts {
            let mut records = Vec::new();
            for act in batch {
                let live: Vec<Epoch> = model.iter().map(|s| s.epoch).collect();
                let some: Vec<SnapshotRecord> = match act {
                    Act::Take(n) => (0..*n as u64).map(|i| taken(next + i, "")).collect(),
                    _ if live.is_empty() => continue,
                    Act::Label(i, label) => {
                        vec![SnapshotRecord::Labelled { snapshot: *i.get(&live), label: label.clone() }]
                    }
                    Act::Remove(i) => vec![SnapshotRecord::Removed { snapshot: *i.get(&live) }],
                };
                next += 200;
                some.iter().for_each(|r| model.apply(r.clone()).unwrap());
                records.extend(some);
            }
            let before = log.blocks().to_vec();
            let (after, appended) = world.append(log, records);
            log = after;
            let kept: Vec<_> = before.iter().filter(|b| log.blocks().contains(b)).copied().collect();
            let gone: Vec<_> = before.iter().filter(|b| !kept.contains(b)).copied().collect();
            prop_assert_eq!(&appended.freed, &gone);
            prop_assert_eq!((log.blocks().len() - kept.len()) as u64, appended.blocks_written);
            prop_assert_eq!(appended.head, log.head());
            let loaded = world.load(log.head()).unwrap();
            prop_assert!(loaded.list().iter().eq(model.iter()));
            prop_assert!(log.list().iter().eq(model.iter()));
            prop_assert_eq!(loaded.blocks(), log.blocks());
            prop_assert!(u64::from(log.head().count) <= 2 * model.len() as u64 + SLACK_RECORDS + 400);
        }
    }
}

#[test]
fn eighty_snapshots_share_a_block() {
    let world = World::new();
    let mut log = SnapshotLog::empty(VDI);
    for epoch in 1..=80 {
        let (after, appended) = world.append(log, vec![taken(epoch, "")]);
        assert_eq!((appended.blocks_written, appended.freed.len()), (1, usize::from(epoch > 1)));
        log = after;
    }
    assert_eq!(log.blocks().len(), 1);
}

#[test]
fn a_list_without_snapshots_gives_all_its_blocks_back() {
    let world = World::new();
    let (log, _) = world.append(SnapshotLog::empty(VDI), (1..=300).map(|e| taken(e, "x")).collect());
    let blocks = log.blocks().to_vec();
    assert!(blocks.len() > 1);
    let removals = (1..=300).map(|e| SnapshotRecord::Removed { snapshot: Epoch(e) }).collect();
    let (log, appended) = world.append(log, removals);
    assert_eq!(appended.freed, blocks);
    assert_eq!(log.head(), SnapshotLogHead::default());
    assert!(world.load(log.head()).unwrap().list().is_empty());
}

#[test]
fn any_damage_to_a_chain_is_corruption_and_names_the_block() {
    let world = World::new();
    let (log, _) = world.append(SnapshotLog::empty(VDI), (1..=200).map(|e| taken(e, "label")).collect());
    let head = log.head();
    for wrong in [
        SnapshotLogHead { count: head.count - 1, ..head },
        SnapshotLogHead { count: 0, ..head },
        SnapshotLogHead { count: u32::MAX, ..head },
        SnapshotLogHead { crc: head.crc ^ 1, ..head },
        SnapshotLogHead { addr: log.blocks()[0], ..head },
        SnapshotLogHead { addr: BlockAddr(1), ..head },
    ] {
        assert_eq!(world.load(wrong).unwrap_err().kind(), ErrorKind::Corrupt, "{wrong:?}");
    }
    for block in log.blocks() {
        let offset = world.store.offset_bytes(*block, 1).unwrap() + 500;
        let mut byte = [0];
        world.media.read(offset, &mut byte);
        world.media.write(offset, &[byte[0] ^ 1]);
        let error = world.load(head).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        world.media.write(offset, &byte);
    }
    assert!(world.load(head).is_ok());
}
