//! Repairs, of leaks and of structures that have a second copy or one flipped bit.

use super::*;

/// Repair as `-r all` does, and check again; returns what was written, and the last report.
fn mend(world: &World) -> (Vec<String>, Report) {
    let mut done = Vec::new();
    for _ in 0..4 {
        let report = world.check();
        if report.mend_plan().is_empty() {
            return (done, report);
        }
        done.extend(report.mend_plan());
        let (device, _) = world.devices();
        let poll = device.clone();
        let write = async move { write_mends(&device, &report).await.unwrap() };
        block_on(&Executor::new(), write, move || poll.poll());
    }
    panic!("no end: {done:?}");
}

#[test]
fn whatever_structure_with_a_second_copy_or_one_flipped_bit_is_mended_and_the_store_clean_again() {
    let (world, places) = &*built();
    let mut seen = std::collections::BTreeSet::new();
    let mut beyond_repair = 0;
    for (i, place) in places.iter().enumerate().filter(|(_, p)| seen.insert(p.offset)) {
        let at = (i as u64 * 97) % place.bytes;
        let damaged = world.flip(place, at, 1 << (i % 8));
        let (done, report) = mend(&damaged);
        match place.what {
            "superblock" | "catalogue" | "extent header" | "bitmap" | "registry" | "VDI record" => {
                assert_eq!((done.len(), &report.findings), (1, &vec![]), "{place:?} byte {at}: {done:?}");
            }
            _ => assert!(done.is_empty() && !report.findings.is_empty(), "{place:?}: {done:?}"),
        }
    }
    // More than one bit, where there is no second copy.
    for (i, place) in places.iter().enumerate().filter(|(_, p)| ["registry", "VDI record"].contains(&p.what))
    {
        let damaged = world.flip(place, (i as u64 * 97) % place.bytes, 3);
        let (done, report) = mend(&damaged);
        if done.is_empty() {
            assert!(report.is_corrupt() && report.incomplete, "{report:?}");
            beyond_repair += 1;
        }
    }
    let entries = places.iter().filter(|p| p.what == "registry").count();
    assert_eq!(beyond_repair, entries + 2, "the newest slot of each disk");
}

#[test]
fn damage_behind_damage_is_mended_in_rounds() {
    let (world, places) = &*built();
    let first = |what: &str| places.iter().find(|p| p.what == what).unwrap();
    let mut damaged = world.fork();
    for what in ["superblock", "catalogue", "bitmap"] {
        damaged = damaged.flip(first(what), 70, 1);
    }
    let (done, report) = mend(&damaged);
    assert_eq!((done.len(), &report.findings), (3, &vec![]), "{done:?}");
    // Both tell what the other would be made from.
    let lost = world.flip(first("catalogue"), 70, 1).flip(first("extent header"), 70, 1);
    assert!(mend(&lost).1.is_corrupt());
}

#[test]
fn a_mend_is_refused_when_the_store_moved_on() {
    let (world, places) = &*built();
    let damaged = world.flip(&places[0], 70, 1);
    let report = damaged.check();
    let (device, _) = damaged.flip(&places[0], 71, 1).devices();
    let poll = device.clone();
    let refused =
        block_on(&Executor::new(), async move { write_mends(&device, &report).await }, move || poll.poll());
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Busy);
}

#[test]
fn leaked_blocks_are_counted_and_repair_gives_them_back() {
    let world = built().0.fork();
    with_store(&world, |store, _| async move {
        for kind in [ExtentKind::Data, ExtentKind::Metadata] {
            let mut left = 7;
            while left > 0 {
                left -= store.allocate(kind, left).await.unwrap().blocks;
            }
        }
        store.write_host_record().await.unwrap();
        store.flush().await.unwrap();
    });
    let report = world.check();
    assert_eq!((report.exit_code(), report.counts.blocks_leaked), (3, 14), "{report:?}");
    assert_eq!(report.leak_plan().len(), 2);
    let (device, _) = world.devices();
    let poll = device.clone();
    let cleared =
        block_on(&Executor::new(), async move { repair_leaks(&device, &report).await.unwrap() }, move || {
            poll.poll()
        });
    assert_eq!(cleared, 14);
    assert_eq!(world.check().findings, []);
    with_store(&world, |store, _| async move {
        store.allocate(ExtentKind::Data, 5).await.unwrap();
    });
}

#[test]
fn repair_is_refused_when_references_could_not_be_read_or_the_store_moved_on() {
    let world = built().0.fork();
    let without_log = world.check_with(false, false).unwrap();
    assert_eq!(without_log.exit_code(), 0, "{without_log:?}");
    assert!(without_log.incomplete && !without_log.findings.is_empty());
    let repair = |world: &World, report: Report| {
        let (device, _) = world.devices();
        let poll = device.clone();
        block_on(&Executor::new(), async move { repair_leaks(&device, &report).await }, move || poll.poll())
    };
    assert_eq!(repair(&world, without_log).unwrap_err().kind(), ErrorKind::Denied);
    with_store(&world, |store, _| async move {
        store.allocate(ExtentKind::Data, 5).await.unwrap();
        store.write_host_record().await.unwrap();
        store.flush().await.unwrap();
    });
    let report = world.check();
    repair(&world, world.check()).unwrap();
    assert_eq!(repair(&world, report).unwrap_err().kind(), ErrorKind::Busy);
}

#[test]
fn nothing_that_was_handed_out_twice_is_emptied_or_freed() {
    let world = built().0.fork();
    // The older slot of the clone's record is where the root of web's tree lies.
    let (index, entry, root) = with_store(&world, |store, _| async move {
        let web =
            store.read_record(&store.find_vdi("web").unwrap(), (0, Generation(0))).await.unwrap().record;
        let mut entry = store.find_vdi("clone").unwrap();
        let clone = store.read_record(&entry, (0, Generation(0))).await.unwrap().record;
        entry.slots[((clone.generation.0 + 1) % 2) as usize] = web.root;
        let start = u64::from(store.superblock().registry_start) * BLOCK_BYTES;
        (start + 512, registry::encode(1, Some(&entry), STORE_ID, Generation(9)), web.root)
    });
    world.store.write(index, &entry);
    let report = world.check();
    assert!(report.findings.iter().any(|f| f.message.contains(&root.to_string())), "{report:?}");
    assert_eq!(report.mend_plan(), Vec::<String>::new());
    assert!(report.incomplete && report.leaks.is_none(), "{report:?}");
}

#[test]
fn an_extent_whose_header_is_lost_is_not_called_free_while_its_bitmap_is_there() {
    let (world, places) = &*built();
    let first = |what: &str| places.iter().find(|p| p.what == what).unwrap();
    let damaged = world.flip(first("catalogue"), 70, 1);
    let header = first("extent header");
    damaged.store.write(header.offset, &vec![0; header.bytes as usize]);
    let (done, report) = mend(&damaged);
    assert!(done.is_empty() && report.is_corrupt() && report.incomplete, "{done:?}");
}
