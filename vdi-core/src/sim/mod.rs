//! A seeded world: the real engine on simulated disks, guests that do everything a guest may, an administrator
//! who snapshots, clones, rolls back and deletes meanwhile, and crashes at any moment, also during recovery.
//! A plain model beside it says after each crash what the disks may hold.

pub mod content;
pub mod history;
