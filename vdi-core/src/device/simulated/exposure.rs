//! What a crash at this moment could leave of a disk, told to whoever wants to try it.

use std::rc::Rc;

use super::disk::PendingWrite;
use crate::device::memory::Media;

/// What lies on a disk for certain, and what may or may not.
#[derive(Clone, Default)]
pub struct Exposure {
    /// What survives a power loss.
    pub durable: Media,
    /// Completed writes that no flush has covered, oldest first: a killed process leaves them, a power loss may not.
    pub unflushed: Vec<Rc<PendingWrite>>,
    /// Writes under way: they may happen or not.
    pub in_flight: Vec<Rc<PendingWrite>>,
}

/// Hears of every change. It must not call the disk.
pub(super) type Watcher = Rc<dyn Fn(Exposure)>;
