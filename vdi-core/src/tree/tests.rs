//! The laws of trees, against a plain map.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use proptest::prelude::*;

use super::*;
use crate::device::memory::Media;
use crate::device::{DeviceHandle, MemoryDevice};
use crate::error::{ErrorKind, Result};
use crate::executor::{Executor, block_on};
use crate::store::{CreateOptions, Store};
use crate::units::{Epoch, Uuid};

/// Data blocks are only named here, never read: any address will do that no node has.
const DATA_BASE: u64 = 1 << 40;

#[derive(Clone)]
struct World {
    media: Media,
    device: DeviceHandle,
    store: Store,
    cache: Rc<NodeCache>,
}

impl World {
    fn new() -> World {
        let media = Media::default();
        let device = DeviceHandle::new(Box::new(MemoryDevice::new("store", 256 << 20, media.clone())));
        let (d, poll) = (device.clone(), device.clone());
        let store = block_on(
            &Executor::new(),
            async move {
                Store::create(&d, Uuid(1), Uuid(2), 0, CreateOptions::default()).await.unwrap();
                Store::open(d).await.unwrap()
            },
            move || poll.poll(),
        );
        let cache = Rc::new(NodeCache::new(store.clone(), 1 << 20));
        World { media, device, store, cache }
    }
    fn run<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> T {
        let device = self.device.clone();
        block_on(&Executor::new(), future, move || device.poll())
    }
    fn fresh_cache(&self) -> Rc<NodeCache> {
        Rc::new(NodeCache::new(self.store.clone(), 1 << 20))
    }
    fn apply(&self, root: Root, changes: Vec<Change>, epoch: u64, threshold: u64) -> Result<Applied> {
        let cache = Rc::clone(&self.cache);
        self.run(async move { apply(&cache, &root, &changes, Epoch(epoch), Epoch(threshold)).await })
    }
    fn lookup(&self, root: Root, first: u64, blocks: u32) -> Result<Vec<Mapping>> {
        let cache = self.fresh_cache();
        self.run(async move { Ok(lookup(&cache, &root, VirtualBlock(first), blocks).await?.into_vec()) })
    }
    /// Everything that `root` reaches, read from the store itself: births of nodes and of data, and the map.
    fn reach(&self, root: Root) -> Reach {
        let cache = self.fresh_cache();
        self.run(async move {
            let mut reach = Reach::default();
            let mut nodes = BTreeMap::new();
            let mut walk = Walk::new(&root, |p| nodes.insert(p.link.addr, p.link.birth).is_none());
            while let Some(step) = walk
                .next(&*cache, |p| {
                    assert!(nodes.insert(p.link.addr, p.link.birth).is_none(), "one parent per node");
                    true
                })
                .await
            {
                let Step::Leaf(place, node) = step else { panic!("{step:?}") };
                for (i, e) in node.entries() {
                    reach.blocks.insert(e.addr, e.birth);
                    reach.map.insert(place.at.0 + i as u64, (e.addr, e.crc));
                }
            }
            reach.nodes = nodes.len() as u64;
            reach.blocks.append(&mut nodes);
            reach
        })
    }
}

#[derive(Default, Clone)]
struct Reach {
    blocks: BTreeMap<BlockAddr, Epoch>,
    map: BTreeMap<u64, (BlockAddr, u32)>,
    nodes: u64,
}

fn blocks(at: u64, start: u64, count: u64) -> Change {
    let crcs = (0..count).map(|i| (start + i) as u32 ^ 0x5555).collect();
    let to = To::Blocks { start: BlockAddr(DATA_BASE + start), crcs };
    Change { at: VirtualBlock(at), blocks: count, to }
}

fn absent(at: u64, count: u64) -> Change {
    Change { at: VirtualBlock(at), blocks: count, to: To::Absent }
}

fn change_model(model: &mut BTreeMap<u64, (BlockAddr, u32)>, change: &Change) {
    let gone: Vec<u64> = model.range(change.at.0..change.end()).map(|(k, _)| *k).collect();
    for k in gone {
        model.remove(&k);
    }
    if let To::Blocks { start, crcs } = &change.to {
        for (i, crc) in crcs.iter().enumerate() {
            model.insert(change.at.0 + i as u64, (start.plus(i as u64), *crc));
        }
    }
}

fn flatten(mappings: &[Mapping], first: u64, count: u32) -> BTreeMap<u64, (BlockAddr, u32)> {
    let mut map = BTreeMap::new();
    let mut at = first;
    for (i, m) in mappings.iter().enumerate() {
        assert_eq!(m.at.0, at, "no gap");
        assert!(m.blocks > 0);
        if let Some((start, crcs)) = &m.target {
            assert_eq!(crcs.len(), m.blocks as usize);
            for (i, crc) in crcs.iter().enumerate() {
                map.insert(at + i as u64, (start.plus(i as u64), *crc));
            }
        } else if i > 0 {
            assert!(mappings[i - 1].target.is_some(), "absent neighbours are one mapping");
        }
        at += u64::from(m.blocks);
    }
    assert_eq!(at, first + u64::from(count));
    map
}

#[derive(Clone, Debug)]
enum Act {
    /// Changes, each (where, how many, maps), made disjoint by the runner.
    Batch(Vec<(u64, u64, bool)>),
    Snapshot,
    Grow,
}

/// Blocks that are interesting in a tree of any depth: near zero, near subtree edges, anywhere.
fn place() -> impl Strategy<Value = u64> {
    let edge = (1u32..5, 0u64..8).prop_map(|(level, off)| (1u64 << (8 * level)) + off - 4);
    prop_oneof![0u64..600, edge, any::<u64>()]
}

fn act() -> impl Strategy<Value = Act> {
    let length = prop_oneof![4 => 1u64..6, 2 => 200u64..700, 1 => 1u64 << 16..1 << 41];
    let change = (place(), length, proptest::bool::weighted(0.7));
    prop_oneof![
        6 => proptest::collection::vec(change, 1..12).prop_map(Act::Batch),
        2 => Just(Act::Snapshot),
        1 => Just(Act::Grow),
    ]
}

struct Run {
    world: World,
    root: Root,
    model: BTreeMap<u64, (BlockAddr, u32)>,
    epoch: u64,
    threshold: u64,
    snapshots: Vec<(Root, Reach)>,
    next_data: u64,
    ever_freed: BTreeSet<BlockAddr>,
}

impl Run {
    fn new(depth: u8) -> Run {
        Run {
            world: World::new(),
            root: Root::empty(depth),
            model: BTreeMap::new(),
            epoch: 1,
            threshold: 0,
            snapshots: Vec::new(),
            next_data: 0,
            ever_freed: BTreeSet::new(),
        }
    }
    fn batch(&mut self, wanted: &[(u64, u64, bool)]) -> Vec<Change> {
        let capacity = self.root.capacity_blocks();
        let mut wanted: Vec<_> = wanted.iter().map(|(at, n, maps)| (at % capacity, *n, *maps)).collect();
        wanted.sort_unstable();
        let mut changes: Vec<Change> = Vec::new();
        for (i, (at, count, maps)) in wanted.iter().enumerate() {
            let at = changes.last().map_or(*at, |c| c.end().max(*at));
            let end = wanted.get(i + 1).map_or(capacity, |next| next.0).max(at);
            let count = (*count).min(end - at).min(if *maps { 700 } else { u64::MAX });
            if count == 0 {
                continue;
            }
            changes.push(if *maps {
                self.next_data += count + 1;
                blocks(at, self.next_data - count, count)
            } else {
                absent(at, count)
            });
        }
        changes
    }
    fn step(&mut self, act: &Act) {
        match act {
            Act::Snapshot => {
                self.snapshots.push((self.root, self.world.reach(self.root)));
                self.threshold = self.epoch;
                self.epoch += 1;
            }
            Act::Grow if self.root.depth < 5 => {
                let (cache, root, epoch) = (Rc::clone(&self.world.cache), self.root, Epoch(self.epoch));
                let grown = self.world.run(async move { grow(&cache, &root, root.depth + 1, epoch).await });
                self.root = grown.unwrap().root;
            }
            Act::Grow => {}
            Act::Batch(wanted) => {
                let changes = self.batch(wanted);
                changes.iter().for_each(|c| change_model(&mut self.model, c));
                let old = self.world.reach(self.root);
                let applied =
                    self.world.apply(self.root, changes.clone(), self.epoch, self.threshold).unwrap();
                self.root = applied.root;
                self.check_freed(&old, &applied);
                self.check_lookups(&changes);
            }
        }
        assert_eq!(self.world.reach(self.root).map, self.model);
    }
    fn check_freed(&mut self, old: &Reach, applied: &Applied) {
        let new = self.world.reach(self.root);
        let mut expected: BTreeSet<BlockAddr> = old.blocks.keys().copied().collect();
        expected.retain(|a| !new.blocks.contains_key(a));
        for (_, reach) in &self.snapshots {
            expected.retain(|a| !reach.blocks.contains_key(a));
        }
        let freed = addresses(&applied.freed);
        assert_eq!(freed, expected, "freed is what nobody reaches any more");
        for addr in &freed {
            assert!(old.blocks[addr] > Epoch(self.threshold));
            assert!(self.ever_freed.insert(*addr), "{addr} freed twice");
        }
        let data = |r: &Reach| r.blocks.keys().filter(|a| a.0 >= DATA_BASE).count() as i64;
        let gained =
            new.blocks.keys().filter(|a| a.0 >= DATA_BASE && !old.blocks.contains_key(a)).count() as i64;
        let freed_data = freed.iter().filter(|a| a.0 >= DATA_BASE).count() as i64;
        assert_eq!(applied.data_blocks_delta, gained - freed_data, "{} {}", data(old), data(&new));
        let fresh = new.blocks.iter().filter(|(a, _)| a.0 < DATA_BASE && !old.blocks.contains_key(a));
        assert_eq!(applied.nodes_written, fresh.count() as u64, "no node is written in vain");
    }
    fn check_lookups(&self, changes: &[Change]) {
        let edges = changes.iter().flat_map(|c| [c.at.0, c.end()]);
        for edge in edges {
            let first = edge.saturating_sub(300);
            let found = self.world.lookup(self.root, first, 600).unwrap();
            let expected = self.model.range(first..first + 600).map(|(k, v)| (*k, *v)).collect();
            assert_eq!(flatten(&found, first, 600), expected, "around {edge}");
        }
    }
    fn check_snapshots(&self) {
        for (root, then) in &self.snapshots {
            let now = self.world.reach(*root);
            assert_eq!(now.map, then.map, "a snapshot reads as it did");
            assert_eq!(now.blocks, then.blocks);
            assert!(then.blocks.keys().all(|a| !self.ever_freed.contains(a)), "a snapshot's block was freed");
        }
    }
}

fn addresses(freed: &Freed) -> BTreeSet<BlockAddr> {
    freed.runs().flat_map(|run| (0..u64::from(run.blocks)).map(move |i| run.start.plus(i))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]
    #[test]
    fn a_tree_is_its_map_and_snapshots_stay_as_they_were(
        depth in 1u8..=5,
        acts in proptest::collection::vec(act(), 1..14),
    ) {
        let mut run = Run::new(depth);
        for act in &acts {
            run.step(act);
        }
        run.check_snapshots();
    }
}

#[test]
fn emptying_a_tree_frees_everything_and_leaves_no_node() {
    let w = World::new();
    let a = w.apply(Root::empty(3), vec![blocks(5, 0, 600), blocks(1 << 20, 1000, 10)], 1, 0).unwrap();
    let all = w.reach(a.root);
    assert_eq!(a.nodes_written, all.nodes);
    let b = w.apply(a.root, vec![absent(0, 1 << 24)], 1, 0).unwrap();
    assert_eq!(b.root, Root::empty(3));
    assert_eq!(b.data_blocks_delta, -610);
    assert_eq!(addresses(&b.freed), all.blocks.keys().copied().collect());
}

#[test]
fn a_discard_of_16_tib_touches_only_the_path_when_nothing_below_is_exclusive() {
    let w = World::new();
    let spread = (0..200u64).map(|i| blocks(i << 24, i * 2, 1)).collect();
    let a = w.apply(Root::empty(5), spread, 1, 0).unwrap();
    let cache = w.fresh_cache();
    let w2 = World { cache: Rc::clone(&cache), ..w };
    let b = w2.apply(a.root, vec![absent(3, (1 << 32) - 3)], 2, 1).unwrap();
    assert!(b.freed.is_empty());
    assert!(cache.misses() <= 5, "{} nodes read", cache.misses());
    assert!(b.nodes_written <= 5, "{} nodes written", b.nodes_written);
    assert_eq!(w2.reach(b.root).map.len(), 1);
}

#[test]
fn a_corrupt_node_is_named_and_neighbours_still_read() {
    let w = World::new();
    let a = w.apply(Root::empty(2), vec![blocks(0, 0, 1), blocks(300, 10, 1)], 1, 0).unwrap();
    let leaf = {
        let cache = w.fresh_cache();
        w.run(async move { cache.node(a.root.entry().unwrap(), 1).await.unwrap().entry(1).unwrap() })
    };
    let mut byte = [0];
    let offset = w.store.offset_bytes(leaf.addr, 1).unwrap() + 17;
    w.media.read(offset, &mut byte);
    w.media.write(offset, &[byte[0] ^ 4]);
    let error = w.lookup(a.root, 300, 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.message().contains(&leaf.addr.to_string()), "{error}");
    assert_eq!(w.lookup(a.root, 0, 1).unwrap()[0].blocks, 1);
    let fresh = World { cache: w.fresh_cache(), ..w.clone() };
    let error = fresh.apply(a.root, vec![blocks(301, 20, 1)], 1, 0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[test]
fn applying_a_record_twice_is_refused() {
    let w = World::new();
    let a = w.apply(Root::empty(1), vec![blocks(7, 70, 3)], 1, 0).unwrap();
    let error = w.apply(a.root, vec![blocks(7, 70, 3)], 1, 0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[test]
fn adjacent_blocks_are_one_mapping_and_the_cache_is_bounded() {
    let w = World::new();
    let batch = (0..64u64).map(|i| blocks(i * 256, i * 256, 256)).collect();
    let a = w.apply(Root::empty(3), batch, 1, 0).unwrap();
    let found = w.lookup(a.root, 100, 16000).unwrap();
    let per_extent = 1 << w.store.geometry().extent_bits;
    assert_eq!(found.len() as u64, 16100u64.div_ceil(per_extent), "one mapping for each extent");
    assert_eq!(found[0].target.as_ref().unwrap().0, BlockAddr(DATA_BASE + 100));
    let cache = Rc::new(NodeCache::new(w.store.clone(), 20 * 4096));
    let c = Rc::clone(&cache);
    w.run(async move { lookup(&c, &a.root, VirtualBlock(0), 16384).await.unwrap() });
    assert!(cache.len() <= 32, "{} nodes held", cache.len());
    assert!(cache.hits() > 0 && cache.misses() >= 64);
}
