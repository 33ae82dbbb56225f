//! The oracle must find what it is there to find, and nothing else.

use super::*;

fn write(h: &mut History, stamp: Stamp, sectors: Range<u64>, issued: Tick, ended: Tick) {
    let id = h.begin(stamp, sectors, issued);
    if ended != NEVER {
        h.end(id, ended, true, false);
    }
}

fn seen(blocks: &[(u64, BlockStamps)]) -> BTreeMap<u64, BlockStamps> {
    blocks.iter().copied().collect()
}

fn ok(h: &History, blocks: &[(u64, BlockStamps)], bound: Tick) -> bool {
    h.check(&seen(blocks), bound, Look::Recovered).is_ok()
}

#[test]
fn a_flushed_write_is_never_lost_and_an_unflushed_one_may_be() {
    let mut h = History::default();
    write(&mut h, 1, 0..8, 1, 2);
    assert!(ok(&h, &[(0, [0; 8])], 2));
    assert!(!ok(&h, &[(0, [0; 8])], 3));
    assert!(ok(&h, &[(0, [1; 8])], 3));
    assert!(!ok(&h, &[(0, [9; 8])], 0), "data from nowhere");
}

#[test]
fn a_later_write_that_is_there_proves_all_acknowledged_before_it() {
    let mut h = History::default();
    write(&mut h, 1, 0..8, 1, 2);
    write(&mut h, 2, 8..16, 3, NEVER);
    assert!(ok(&h, &[(0, [1; 8]), (1, [2; 8])], 0));
    assert!(ok(&h, &[(0, [1; 8]), (1, [0; 8])], 0));
    assert!(!ok(&h, &[(0, [0; 8]), (1, [2; 8])], 0), "not a prefix");
    let mut h = History::default();
    write(&mut h, 1, 0..8, 1, 4);
    write(&mut h, 2, 8..16, 3, 5);
    assert!(ok(&h, &[(0, [0; 8]), (1, [2; 8])], 0), "concurrent writes have no order");
}

#[test]
fn an_older_version_never_comes_back_over_a_certain_one() {
    let mut h = History::default();
    write(&mut h, 1, 0..8, 1, 2);
    write(&mut h, 2, 0..8, 3, 4);
    assert!(ok(&h, &[(0, [1; 8])], 4));
    assert!(!ok(&h, &[(0, [1; 8])], 5));
    assert!(!ok(&h, &[(0, [0; 8])], 3));
}

#[test]
fn a_block_is_old_or_new_and_never_a_mixture() {
    let mut h = History::default();
    write(&mut h, 1, 0..16, 1, NEVER);
    assert!(ok(&h, &[(0, [1; 8]), (1, [0; 8])], 0), "each block for itself");
    assert!(!ok(&h, &[(0, [1, 1, 0, 1, 1, 1, 1, 1]), (1, [0; 8])], 0));
    let mut h = History::default();
    write(&mut h, 1, 0..4, 1, NEVER);
    write(&mut h, 2, 2..8, 2, NEVER);
    assert!(ok(&h, &[(0, [1, 1, 2, 2, 2, 2, 2, 2])], 0));
    assert!(ok(&h, &[(0, [1, 1, 1, 1, 2, 2, 2, 2])], 0), "either order");
    assert!(!ok(&h, &[(0, [1, 1, 0, 2, 2, 2, 2, 2])], 0));
}

#[test]
fn zeros_may_come_from_a_discard_or_from_before() {
    let mut h = History::default();
    write(&mut h, 1, 0..8, 1, 2);
    write(&mut h, ZEROS, 0..8, 3, 4);
    write(&mut h, 3, 8..16, 5, 6);
    assert!(ok(&h, &[(0, [0; 8]), (1, [0; 8])], 0));
    assert!(!ok(&h, &[(0, [1; 8]), (1, [3; 8])], 0), "the discard came before what is there");
    assert!(ok(&h, &[(0, [0; 8]), (1, [3; 8])], 7));
}

#[test]
fn a_snapshot_holds_what_was_acknowledged_before_it_and_perhaps_what_went_on() {
    let mut h = History::default();
    write(&mut h, 1, 0..8, 1, 2);
    let open = h.begin(2, 8..16, 3);
    let frozen = h.freeze(4, 5);
    h.end(open, 6, true, false);
    write(&mut h, 3, 0..8, 7, 8);
    assert!(ok(&frozen, &[(0, [1; 8]), (1, [0; 8])], 0));
    assert!(ok(&frozen, &[(0, [1; 8]), (1, [2; 8])], 0));
    assert!(!ok(&frozen, &[(0, [0; 8]), (1, [2; 8])], 0));
    assert!(!ok(&frozen, &[(0, [3; 8]), (1, [2; 8])], 0), "written after the snapshot");
}

#[test]
fn a_live_read_sees_the_last_acknowledged_write() {
    let mut h = History::default();
    write(&mut h, 1, 0..8, 1, 2);
    write(&mut h, 2, 0..2, 3, NEVER);
    let live = |s: BlockStamps| h.check(&seen(&[(0, s)]), 5, Look::Live).is_ok();
    assert!(live([1; 8]));
    assert!(live([2, 2, 1, 1, 1, 1, 1, 1]));
    assert!(!live([0; 8]));
}

#[test]
fn a_live_read_may_miss_a_durable_write_that_ended_after_it_began() {
    let mut h = History::default();
    let id = h.begin(1, 0..8, 1);
    h.end(id, 5, true, true);
    assert!(h.check(&seen(&[(0, [0; 8])]), 3, Look::Live).is_ok());
    assert!(h.check(&seen(&[(0, [0; 8])]), 6, Look::Live).is_err());
    assert!(!ok(&h, &[(0, [0; 8])], 3), "after a crash it is there");
}

#[test]
fn a_failed_write_may_be_there_but_never_over_a_later_one() {
    let mut h = History::default();
    let failed = h.begin(1, 0..8, 1);
    h.end(failed, 2, false, false);
    assert!(ok(&h, &[(0, [0; 8])], 9) && ok(&h, &[(0, [1; 8])], 9));
    write(&mut h, 2, 0..8, 3, 4);
    assert!(!ok(&h, &[(0, [1; 8])], 9));
    assert!(ok(&h, &[(0, [2; 8])], 9));
}

#[test]
fn a_settled_state_is_certain() {
    let h = History::settled(&seen(&[(0, [1; 8]), (1, [0; 8]), (2, [0; 8])]), &BTreeSet::from([0, 1]));
    assert_eq!(h.known(), BTreeSet::from([0, 1]), "a block that was written once is looked at again");
    assert!(ok(&h, &[(0, [1; 8]), (1, [0; 8])], 0));
    assert!(!ok(&h, &[(0, [0; 8])], 0));
}

#[test]
fn a_wide_discard_counts_for_blocks_written_before_and_after_it_began() {
    let mut h = History::default();
    write(&mut h, 1, 0..8, 1, 2);
    let wide = h.begin(ZEROS, 0..1 << 40, 3);
    write(&mut h, 2, 8 << 20..(8 << 20) + 8, 4, 6);
    h.end(wide, 5, true, false);
    let at = 1 << 20;
    assert!(!ok(&h, &[(0, [1; 8])], 6), "the discard was acknowledged before the flush");
    assert!(ok(&h, &[(0, [0; 8]), (at, [2; 8])], 9));
    assert!(ok(&h, &[(0, [0; 8]), (at, [0; 8])], 9), "the discard may have come after the write");
    assert_eq!(h.known(), BTreeSet::from([0, at]));
    write(&mut h, 3, 16 << 20..(16 << 20) + 8, 10, 11);
    assert!(!ok(&h, &[(2 << 20, [0; 8])], 12), "the discard ended before this write began");
}
