//! Structures that no daemon writes, under good checksums: what an engine cannot use is damage.

use super::*;
use crate::format::forge;

const GENERATION_AT: usize = 24;

/// `world` with `places` changed and sealed anew.
fn forged<'a>(
    world: &World,
    places: impl IntoIterator<Item = &'a Place>,
    change: impl Fn(&mut [u8]),
) -> World {
    let world = world.fork();
    for place in places {
        assert!(!place.on_log);
        let mut bytes = vec![0; place.bytes as usize];
        world.store.read(place.offset, &mut bytes);
        change(&mut bytes);
        let _nothing_there = forge::reseal(&mut bytes);
        world.store.write(place.offset, &bytes);
    }
    world
}

fn set(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

#[test]
fn what_is_sealed_and_cannot_be_is_found() {
    let (world, places) = &*built();
    let all = |what: &'static str| places.iter().filter(move |p| p.what == what);
    let first = |what: &'static str| all(what).take(1);
    let again = forged(world, places.iter().filter(|p| !p.on_log && p.bytes <= 512), |_| {});
    assert_eq!(again.check().findings, []);
    for (what, world, word) in [
        (
            "both copies of the home host record are empty",
            forged(world, all("host record"), |b| b.fill(0)),
            "host",
        ),
        (
            "none names the log",
            forged(world, all("host record"), |b| b[80..].fill(0)),
            "which no host record names",
        ),
        ("a VDI of shard 7", forged(world, first("registry"), |b| b[66] = 7), "shard 7"),
        (
            "the system area elsewhere",
            forged(world, first("catalogue"), |b| set(b, 64 + 8, 1 << 12)),
            "system area",
        ),
        (
            "a registry entry counted",
            forged(world, first("registry"), |b| set(b, GENERATION_AT, 1 << 62)),
            "nobody",
        ),
        (
            "a catalogue counted",
            forged(world, first("catalogue"), |b| set(b, GENERATION_AT, 1 << 62)),
            "nobody",
        ),
        ("a bitmap counted", forged(world, first("bitmap"), |b| set(b, GENERATION_AT, 1 << 62)), "nobody"),
        (
            "a host record counted",
            forged(world, first("host record"), |b| set(b, GENERATION_AT, 1 << 62)),
            "nobody",
        ),
    ] {
        let report = world.check();
        assert!(report.findings.iter().any(|f| f.message.contains(word)), "{what}: {report:?}");
        assert!(report.is_corrupt(), "{what}: {report:?}");
    }
}

#[test]
fn a_range_beyond_every_disk_can_be_shown() {
    let hurt = Hurt { vdi: "web".to_owned(), snapshot: None, first: VirtualBlock(u64::MAX), blocks: 2 };
    assert_eq!(hurt.to_string(), format!("web: 8192 bytes at offset {}", u64::MAX));
}
