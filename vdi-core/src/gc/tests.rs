use std::collections::BTreeSet;
use std::rc::Rc;

use proptest::prelude::*;

use super::*;
use crate::device::memory::Media;
use crate::device::{DeviceHandle, MemoryDevice};
use crate::error::ErrorKind;
use crate::executor::{Executor, block_on};
use crate::store::{CreateOptions, ExtentKind, Store};
use crate::tree::{Change, NodeCache, To, apply};
use crate::units::{Epoch, Uuid, VirtualBlock};

struct World {
    media: Media,
    device: DeviceHandle,
    store: Store,
    cache: Rc<NodeCache>,
}

fn run<T: 'static>(device: &DeviceHandle, future: impl Future<Output = T> + 'static) -> T {
    let poll = device.clone();
    block_on(&Executor::new(), future, move || poll.poll())
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
        let cache = Rc::new(NodeCache::new(store.clone(), 1 << 20));
        World { media, device, store, cache }
    }
    /// Write `count` blocks at `at`; nothing is ever freed.
    fn write(&self, root: Root, epoch: u64, at: u64, count: u32) -> Root {
        let (store, cache) = (self.store.clone(), Rc::clone(&self.cache));
        run(&self.device, async move {
            let data = store.allocate(ExtentKind::Data, count).await.unwrap();
            let crcs = (0..data.blocks).collect();
            let to = To::Blocks { start: data.start, crcs };
            let change = Change { at: VirtualBlock(at), blocks: u64::from(data.blocks), to };
            apply(&cache, &root, &[change], Epoch(epoch), Epoch(epoch - 1)).await.unwrap().root
        })
    }
    fn extents(&self) -> u32 {
        self.store.superblock().extents
    }
    fn reach(&self, roots: Vec<Root>) -> Result<(BlockSet, u64)> {
        let cache = Rc::new(NodeCache::new(self.store.clone(), 1 << 20));
        let mut mark = Mark::new(self.store.geometry(), self.extents());
        run(&self.device, async move {
            for root in &roots {
                mark.root(&*cache, root).await?;
            }
            Ok((mark.reached, cache.misses()))
        })
    }
    fn bits_of(&self, number: u32) -> Vec<RegionBits> {
        let g = self.store.geometry();
        let mut set = BlockSet::new(g, self.extents());
        for block in 0..g.extent_blocks() as u32 {
            let addr = g.addr(ExtentNumber(number), block);
            if self.store.is_used(addr) {
                set.insert(addr);
            }
        }
        set.extent(ExtentNumber(number)).map(<[_]>::to_vec).unwrap_or_default()
    }
}

fn addrs(set: &BlockSet, extents: u32, g: Geometry) -> BTreeSet<BlockAddr> {
    let all =
        (0..extents).flat_map(|e| (0..g.extent_blocks() as u32).map(move |b| g.addr(ExtentNumber(e), b)));
    all.filter(|a| set.contains(*a)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn a_sweep_frees_exactly_what_no_kept_root_reaches(
        writes in proptest::collection::vec((0u64..3000, 1u32..40, any::<bool>()), 1..14),
    ) {
        let world = World::new();
        let (g, extents) = (world.store.geometry(), world.extents());
        let mut root = Root::empty(2);
        let (mut all, mut kept) = (Vec::new(), Vec::new());
        for (i, (at, count, keep)) in writes.iter().enumerate() {
            root = world.write(root, i as u64 + 1, *at, *count);
            all.push(root);
            if *keep {
                kept.push(root);
            }
        }
        let (everything, _) = world.reach(all).unwrap();
        let (alive, reads) = world.reach(kept).unwrap();
        prop_assert!(reads <= alive.len(), "shared subtrees are read once");
        let mut dead = BTreeSet::new();
        for number in everything.extents() {
            // Claimed and unused blocks count as used too; here they are told from dead ones by `everything`.
            for run in sweep(g, number, &world.bits_of(number.0), &alive) {
                for nth in 0..u64::from(run.blocks) {
                    prop_assert!(dead.insert(run.start.plus(nth)), "planned once");
                }
                prop_assert_eq!(g.block(run.start) / REGION_BLOCKS, (g.block(run.start) + run.blocks - 1) / REGION_BLOCKS);
            }
        }
        dead.retain(|a| everything.contains(*a));
        let mut expected = addrs(&everything, extents, g);
        expected.retain(|a| !alive.contains(*a));
        prop_assert_eq!(dead, expected);
    }
}

#[test]
fn header_and_bitmap_of_an_extent_are_never_swept() {
    let g = Geometry { extent_bits: 12 };
    let used = vec![[u64::MAX; 8]; 8];
    let runs = sweep(g, ExtentNumber(3), &used, &BlockSet::new(g, 4));
    assert_eq!(runs[0].start, g.addr(ExtentNumber(3), overhead_blocks(g)));
    let total: u64 = runs.iter().map(|r| u64::from(r.blocks)).sum();
    assert_eq!(total, g.extent_blocks() - u64::from(overhead_blocks(g)));
}

#[test]
fn a_mark_that_cannot_read_a_node_or_leaves_the_store_fails() {
    let world = World::new();
    let root = world.write(Root::empty(2), 1, 0, 4);
    assert!(world.reach(vec![root]).is_ok());
    let outside = Root { addr: BlockAddr(1 << 40), ..root };
    assert_eq!(world.reach(vec![outside]).err().unwrap().kind(), ErrorKind::Corrupt);
    world.media.write(world.store.offset_bytes(root.addr, 1).unwrap(), &[0xff; 8]);
    assert_eq!(world.reach(vec![root]).err().unwrap().kind(), ErrorKind::Corrupt);
    let mut mark = Mark::new(world.store.geometry(), world.extents());
    assert!(mark.keep(Run { start: BlockAddr(1 << 40), blocks: 1 }).is_err());
}
