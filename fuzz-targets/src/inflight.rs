//! Target `inflight`: the area that says what an earlier daemon had taken, full of anything.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs::MemfdFlags;
use vhost_parallax::vhost::inflight::{InflightArea, InflightQueue};

use crate::tape::Tape;

/// Steps of one run at most.
const STEPS_MAX: u64 = 64;

/// The area's shape, what lies in it, then descriptors taken and given back, files cut short, and restarts.
///
/// # Panics
/// When a hostile area makes the code do so, or an area that was accepted loses or doubles a descriptor.
pub fn run(bytes: &[u8]) {
    let mut tape = Tape::new(bytes);
    let (queues, queue_size) = (1 + tape.u16() % 3, 1 << (tape.u8() % 5));
    let stride = (16 + 16 * u64::from(queue_size)).next_multiple_of(64);
    let len_bytes = stride * u64::from(queues) + *tape.pick(&[64, 0, 8, 200]);
    let Ok(fd) = rustix::fs::memfd_create("fuzz-inflight", MemfdFlags::CLOEXEC) else { return };
    let file = File::from(fd);
    let content_bytes = usize::from(tape.u16()) % (len_bytes as usize + 1);
    let content = tape.bytes(content_bytes);
    let written = file.set_len(len_bytes).and_then(|()| file.write_all_at(content, 0));
    written.expect("a memory file takes a few kilobytes");
    let shape = Shape { file, len_bytes, queues, queue_size };
    let mut used: Vec<u16> = (0..queues).map(|_| tape.u16()).collect();
    for _ in 0..4 {
        match shape.live(&mut used, &mut tape) {
            Some(()) if !tape.is_over() => {}
            _ => return,
        }
    }
}

struct Shape {
    file: File,
    len_bytes: u64,
    queues: u16,
    queue_size: u16,
}

/// One queue and what the model knows of it.
struct Queue {
    part: InflightQueue,
    flying: BTreeSet<u16>,
}

impl Shape {
    fn open(&self) -> Option<Arc<InflightArea>> {
        let file = self.file.try_clone().expect("a descriptor is to be had");
        InflightArea::open(file, self.len_bytes, 0, self.queues, self.queue_size).ok()
    }
    /// One daemon's life, up to a kill at any step; None when the area is of no use any more.
    fn live(&self, used: &mut [u16], tape: &mut Tape<'_>) -> Option<()> {
        let area = self.open()?;
        let _ = (area.is_used(), area.write_back(), area.describe());
        assert!(area.queue(self.queues).is_none(), "a queue beyond the area");
        let mut queues = Vec::new();
        for (index, used) in used.iter().enumerate() {
            let mut part = area.queue(index as u16)?;
            let taken = part.recover(*used).ok()?.unwrap_or_default();
            let flying: BTreeSet<u16> = taken.iter().map(|t| t.head).collect();
            assert_eq!(flying.len(), taken.len(), "a descriptor is taken up twice: {taken:?}");
            assert!(flying.iter().all(|h| *h < part.len()), "a descriptor beyond the area: {taken:?}");
            queues.push(Queue { part, flying });
        }
        let mut ending = None;
        for _ in 0..tape.below(STEPS_MAX) {
            let index = tape.below(u64::from(self.queues)) as usize;
            match tape.u8() % 16 {
                14 => area.set_write_back(tape.coin()),
                15 => {
                    let _ = self.file.set_len(tape.below(self.len_bytes + 1));
                    let _ = (area.is_used(), area.is_hurt());
                    return Some(());
                }
                how => ending = queues[index].step(&mut used[index], how, tape).map(|head| (index, head)),
            }
            if ending.is_some() {
                break;
            }
        }
        let wanted: Vec<BTreeSet<u16>> = queues.into_iter().map(|q| q.flying).collect();
        self.restart(&wanted, used, area.is_hurt())
    }
    /// After the kill: what flew flies on, and nothing else.
    fn restart(&self, wanted: &[BTreeSet<u16>], used: &[u16], hurt: bool) -> Option<()> {
        let area = self.open()?;
        for (index, wanted) in wanted.iter().enumerate() {
            let again = area.queue(index as u16)?.recover(used[index]);
            if hurt || area.is_hurt() {
                return None;
            }
            let again = again.expect("our own area is in order").expect("it is in use");
            let found: BTreeSet<u16> = again.iter().map(|t| t.head).collect();
            assert_eq!(found, *wanted, "queue {index} after a restart at used index {}", used[index]);
        }
        Some(())
    }
}

impl Queue {
    /// Take a descriptor, or give one back; perhaps the kill comes on the way.
    fn step(&mut self, used: &mut u16, how: u8, tape: &mut Tape<'_>) -> Option<u16> {
        let head = tape.u16() % self.part.len();
        if !self.flying.contains(&head) {
            self.part.taken(head);
            self.flying.insert(head);
            return None;
        }
        self.part.before_used(head);
        if how == 0 {
            // Killed before the used index moved: it is still in flight.
            return Some(head);
        }
        *used = used.wrapping_add(1);
        self.flying.remove(&head);
        if how == 1 {
            // Killed after it moved, before that was noted: it has ended.
            return Some(head);
        }
        self.part.after_used(head, *used);
        None
    }
}
