//! What happens next: requests and orders drawn by the dice from what the model says is possible.

use std::ops::Range;

use super::admin::Order;
use super::guest::Request;
use super::model::{AREAS, Disk, Model};
use super::options::{Options, Verb};
use crate::device::simulated::Random;
use crate::units::{BLOCK_BYTES, SECTORS_PER_BLOCK};

/// Snapshots of a disk at most.
const SNAPSHOTS_MAX: usize = 12;

/// Something to do next.
#[derive(Clone, Debug)]
pub enum Action {
    /// A request of the guest of this disk.
    Guest(String, Request),
    /// An order of the administrator.
    Admin(Order),
}

/// The next action, or None when what the dice say is not possible now.
pub fn draw(model: &mut Model, options: &Options, random: &mut Random) -> Option<Action> {
    let verb = options.draw_verb(random);
    match verb {
        Verb::Write | Verb::Read | Verb::Discard | Verb::WriteZeroes | Verb::Flush => {
            let names: Vec<&String> =
                model.disks.iter().filter(|(_, d)| !d.exclusive).map(|(n, _)| n).collect();
            let name = names.get(random.below(names.len() as u64) as usize)?.to_string();
            let request = draw_request(verb, &model.disks[&name], options, random);
            Some(Action::Guest(name, request))
        }
        Verb::Create => {
            let name = new_name(model, options)?;
            Some(Action::Admin(Order::Create(name, draw_size(options, random))))
        }
        Verb::Checkpoint => Some(Action::Admin(Order::Checkpoint)),
        Verb::Tidy => Some(Action::Admin(Order::Tidy)),
        Verb::LeaveStaging => Some(Action::Admin(Order::LeaveStaging)),
        Verb::Collect => Some(Action::Admin(Order::Collect(random.below(4) == 0))),
        _ => draw_order(verb, model, options, random).map(Action::Admin),
    }
}

/// Size of a disk, bytes.
pub fn draw_size(options: &Options, random: &mut Random) -> u64 {
    if options.full {
        return random.within(700..1500) * BLOCK_BYTES;
    }
    let small = random.within(1..AREAS[0].end + 100);
    let blocks = match random.below(if options.large { 4 } else { 2 }) {
        2 => AREAS[1].start + random.below(200),
        3 => AREAS[2].start + random.below(100),
        _ => small,
    };
    blocks * BLOCK_BYTES
}

fn new_name(model: &mut Model, options: &Options) -> Option<String> {
    let room = model.disks.len() + model.pending.len() < options.disks_max;
    room.then(|| format!("disk{}", model.number()))
}

fn draw_order(verb: Verb, model: &mut Model, options: &Options, random: &mut Random) -> Option<Order> {
    let free: Vec<&String> = model.disks.iter().filter(|(_, d)| !d.claimed).map(|(n, _)| n).collect();
    let name = free.get(random.below(free.len() as u64) as usize)?.to_string();
    let disk = &model.disks[&name];
    let epochs: Vec<u64> = disk.snapshots.keys().copied().collect();
    let quiet = disk.requests == 0;
    let several = free.len() > 1;
    let epoch = (!epochs.is_empty()).then(|| *random.pick(&epochs));
    match verb {
        Verb::Snapshot if epochs.len() < SNAPSHOTS_MAX => {
            let label = random.coin().then(|| format!("label{}", model.number()));
            Some(Order::Snapshot(name, label))
        }
        Verb::Label => Some(Order::Label(name, epoch?, format!("label{}", model.number()))),
        Verb::RemoveSnapshot => Some(Order::RemoveSnapshot(name, epoch?)),
        Verb::Clone => {
            let of = if random.coin() { epoch } else { None };
            Some(Order::Clone(name, of, new_name(model, options)?))
        }
        Verb::RollBack if quiet => Some(Order::RollBack(name, epoch?)),
        Verb::Delete if quiet && several => Some(Order::Delete(name)),
        Verb::Move if quiet && model.shards > 1 => {
            Some(Order::Move(name, random.below(u64::from(model.shards)) as u16))
        }
        Verb::Resize if quiet => Some(Order::Resize(name, draw_size(options, random))),
        _ => None,
    }
}

fn draw_request(verb: Verb, disk: &Disk, options: &Options, random: &mut Random) -> Request {
    match verb {
        Verb::Flush => Request::Flush,
        Verb::Discard if random.below(8) == 0 => Request::Discard(0..disk.sectors()),
        Verb::Discard if random.below(8) == 0 => Request::Discard(draw_wide(disk, random)),
        Verb::Discard => Request::Discard(draw_range(disk, options, random)),
        Verb::WriteZeroes if random.below(16) == 0 => {
            Request::WriteZeroes(draw_wide(disk, random), random.coin())
        }
        Verb::WriteZeroes => Request::WriteZeroes(draw_range(disk, options, random), random.coin()),
        Verb::Read => Request::Read(draw_range(disk, options, random)),
        _ => {
            let range = draw_range(disk, options, random);
            let pieces = draw_pieces(range.end - range.start, random);
            Request::Write(range, pieces)
        }
    }
}

/// Any part of the disk.
fn draw_wide(disk: &Disk, random: &mut Random) -> Range<u64> {
    let first = random.below(disk.sectors());
    first..first + 1 + random.below(disk.sectors() - first)
}

/// A few sectors, most often in one of the disk's areas, often the same; now and then anywhere.
fn draw_range(disk: &Disk, options: &Options, random: &mut Random) -> Range<u64> {
    let first_block = draw_block(disk, options, random);
    let first = first_block * SECTORS_PER_BLOCK;
    let (first, len) = match random.below(10) {
        // Within a block.
        0 | 1 => {
            let at = random.below(SECTORS_PER_BLOCK);
            (first + at, random.within(1..SECTORS_PER_BLOCK - at + 1))
        }
        // Unaligned at both ends.
        2 => (first + random.below(SECTORS_PER_BLOCK), random.within(1..100)),
        // Large enough to go out of line.
        3 => (first, random.within(8..33) * SECTORS_PER_BLOCK),
        5 | 6 if options.heavy => (first, random.within(100..257) * SECTORS_PER_BLOCK),
        4 if options.heavy || random.below(4) == 0 => (first, random.within(33..257) * SECTORS_PER_BLOCK),
        _ => (first, random.within(1..5) * SECTORS_PER_BLOCK),
    };
    let limit = (first_block + options.write_blocks_max) * SECTORS_PER_BLOCK;
    first..(first + len).min(limit).min(disk.sectors())
}

fn draw_block(disk: &Disk, options: &Options, random: &mut Random) -> u64 {
    if options.full || random.below(16) == 0 {
        return random.below(disk.sectors() / SECTORS_PER_BLOCK);
    }
    let areas = disk.areas();
    let area = &areas[if random.below(3) == 0 { random.below(areas.len() as u64) as usize } else { 0 }];
    let blocks = area.end - area.start;
    let hot = if random.below(8) == 0 { blocks } else { options.hot_blocks.min(blocks) };
    area.start + random.below(hot)
}

/// How a request's memory is split.
fn draw_pieces(sectors: u64, random: &mut Random) -> Vec<u64> {
    let mut pieces = Vec::new();
    let mut left = sectors;
    while left > 0 {
        let piece = if random.coin() { left } else { random.within(1..left + 1) };
        pieces.push(piece);
        left -= piece;
    }
    pieces
}
