//! Before a log is started: what a killed daemon had staged must be here for each of them. A log that is started needs this run directory
//! from then on; one started here beside one that needs another directory could be started in neither.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use vdi_core::device::DeviceHandle;
use vdi_core::format::log_head::{LogHead, SLOT_BYTES, SLOTS, slot_offset_bytes, verify_slot};
use vdi_core::log::check_staged;
use vdi_core::units::Uuid;

use crate::control::api::error::Result;
use crate::shard::staging;

/// Refuse when the log `uuid`, called `shown`, needs what was staged, and `staging` is not where that is. Without its head
/// nothing is known.
///
/// # Errors
/// `StagingMissing`. What else is wrong with the log its opening tells.
pub(super) fn check(shown: &str, uuid: Uuid, head: Option<LogHead>, staging: &Path) -> Result<()> {
    let Some(head) = head else { return Ok(()) };
    // What cannot be read is not there.
    let (header, len) = staging::header(staging).unwrap_or_default();
    Ok(check_staged(shown, staging::boot(), uuid, head.staged_in, &header, len)?)
}

/// The newest head of the log in a file, if it can be read.
pub(super) fn head_of_file(log: &Path, uuid: Uuid) -> Option<LogHead> {
    let file = File::open(log).ok()?;
    let slots = (0..SLOTS).filter_map(|slot| {
        let mut bytes = vec![0; SLOT_BYTES];
        file.read_exact_at(&mut bytes, slot_offset_bytes(slot)).ok()?;
        verify_slot(&bytes, uuid, slot).ok()
    });
    slots.max_by_key(|head| head.generation)
}

/// The newest head of the log on a device, if it can be read.
pub(super) async fn head_of_device(log: &DeviceHandle, uuid: Uuid) -> Option<LogHead> {
    let mut newest: Option<LogHead> = None;
    for slot in 0..SLOTS {
        let Ok(bytes) = log.read(slot_offset_bytes(slot), SLOT_BYTES).await else { continue };
        let head = verify_slot(&bytes, uuid, slot).ok();
        newest = newest.into_iter().chain(head).max_by_key(|head| head.generation);
    }
    newest
}
