//! Nonsense under good checksums: whoever wrote it, nothing panics, and nothing in use is handed out.

use super::*;
use crate::format::catalogue::{self, ENTRIES_PER_SECTOR};
use crate::format::extent::overhead_blocks;
use crate::format::host::Claim;
use crate::store::host::host_offset;

/// A store with an extent of each kind, and what its superblock says.
fn with_extents() -> (Media, Superblock) {
    let media = formatted();
    let sb = with_store(&media, |s| async move {
        s.allocate(ExtentKind::Data, 5).await.unwrap();
        s.allocate(ExtentKind::Metadata, 5).await.unwrap();
        s.write_host_record().await.unwrap();
        s.flush().await.unwrap();
        *s.superblock()
    });
    (media, sb)
}

/// Let the newest host record say what `change` makes of it.
fn change_host_record(media: &Media, sb: &Superblock, change: impl FnOnce(&mut HostRecord)) {
    let copies = [0, 1].map(|copy| {
        let mut block = [0; BLOCK_SIZE];
        media.read(host_offset(sb, HOME_SLOT, copy), &mut block);
        HostRecord::verify(&block, HOME_SLOT, copy, sb.uuid).ok()
    });
    let mut newest = copies.into_iter().flatten().max_by_key(|r| r.generation).unwrap();
    change(&mut newest);
    let copy = newest.generation.0 % 2;
    media.write(host_offset(sb, HOME_SLOT, copy), &newest.encode(HOME_SLOT, copy, sb.uuid));
}

/// Everything that can be allocated is, and none of it is a header or bitmap.
fn fill(media: &Media) -> usize {
    with_store(media, |s| async move {
        let g = s.geometry();
        for kind in [ExtentKind::Data, ExtentKind::Metadata] {
            while let Ok(run) = s.allocate(kind, 512).await {
                assert!(g.block(run.start) >= overhead_blocks(g), "{run:?} is an extent's own");
            }
        }
        s.warnings().len()
    })
}

#[test]
fn a_claim_of_what_nobody_can_claim_gives_nothing_away() {
    let changes: [fn(&mut Claim); 3] = [
        |c| c.start.0 |= 1 << 47,
        |c| c.kind = if c.kind == ExtentKind::Data { ExtentKind::Metadata } else { ExtentKind::Data },
        // With the extent's own blocks, the first of its region.
        |c| (c.used_through, c.mask) = (0, [u64::MAX; 8]),
    ];
    let (media, sb) = with_extents();
    for change in changes {
        let media = media.fork();
        let mut claims = 0;
        change_host_record(&media, &sb, |r| {
            r.claims.iter_mut().for_each(change);
            claims = r.claims.len();
        });
        assert!(claims > 1);
        assert_eq!(fill(&media), claims, "each is warned of");
    }
}

#[test]
fn a_lease_that_nobody_can_have_counted_to_is_damage_of_its_sector() {
    let (media, sb) = with_extents();
    let offset = u64::from(sb.catalogue_start) * BLOCK_BYTES;
    let mut sector = [0; catalogue::SECTOR_SIZE];
    media.read(offset, &mut sector);
    let (mut entries, generation) = catalogue::decode(&sector, 0, ENTRIES_PER_SECTOR, sb.uuid).unwrap();
    entries.iter_mut().for_each(|e| e.lease_generation = u64::MAX);
    media.write(offset, &catalogue::encode(0, &entries, sb.uuid, generation));
    assert_eq!(fill(&media), 1);
}

#[test]
fn an_address_beyond_every_store_is_in_no_extent() {
    let (media, _) = with_extents();
    with_store(&media, |s| async move {
        let run = s.allocate(ExtentKind::Data, 1).await.unwrap();
        for bit in [41, 47, 50, 63] {
            let beyond = BlockAddr(run.start.0 | 1 << bit);
            assert!(s.offset_bytes(beyond, 1).is_err(), "{beyond}");
            assert!(s.mark_used(Run { start: beyond, blocks: 1 }).is_err());
        }
        assert!(s.mark_used(Run { start: BlockAddr(u64::MAX), blocks: 2 }).is_err());
    });
}

#[test]
fn a_sector_of_the_catalogue_that_was_made_from_headers_is_what_later_starts_read() {
    let (media, sb) = with_extents();
    let at = u64::from(sb.catalogue_start) * BLOCK_BYTES;
    let entries = || {
        let mut sector = [0; catalogue::SECTOR_SIZE];
        media.read(at, &mut sector);
        let count = ENTRIES_PER_SECTOR.min(sb.extents as usize);
        catalogue::decode(&sector, 0, count, sb.uuid).map(|(entries, _)| entries)
    };
    let was = entries().unwrap();
    media.write(at, &[0x5a; catalogue::SECTOR_SIZE]);
    assert!(entries().is_err());
    with_store(&media, |s| async move { assert_eq!(s.warnings().len(), 1) });
    assert_eq!(entries().unwrap(), was);
}
