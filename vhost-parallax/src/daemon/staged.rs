//! Before a log is started: what a killed daemon had staged must be here for each of them. A log that is started needs this run directory
//! from then on; one started here beside one that needs another directory could be started in neither.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use vdi_core::format::log_head::{LogHead, SLOT_BYTES, SLOTS, slot_offset_bytes, verify_slot};
use vdi_core::log::check_staged;
use vdi_core::units::{BLOCK_SIZE, Uuid};

use crate::control::api::error::Result;
use crate::shard::staging;

/// Refuse when the log `uuid` on `log` needs what was staged, and `staging` is not where that is.
///
/// # Errors
/// `StagingMissing`; where the kernel does not say which boot this is. What else is wrong with the log its opening tells.
pub(super) fn check(log: &Path, uuid: Uuid, staging: &Path) -> Result<()> {
    let Some(head) = head_of(log, uuid) else { return Ok(()) };
    let (mut header, mut len) = (Vec::new(), 0);
    if let Ok(file) = File::open(staging) {
        len = file.metadata().map_or(0, |m| m.len() as usize);
        // What cannot be read is not there.
        let _short = file.take(BLOCK_SIZE as u64).read_to_end(&mut header);
    }
    let shown = log.display().to_string();
    Ok(check_staged(&shown, staging::boot()?, uuid, head.staged_in, &header, len)?)
}

/// The newest head of the log, if it can be read.
fn head_of(log: &Path, uuid: Uuid) -> Option<LogHead> {
    let file = File::open(log).ok()?;
    let slots = (0..SLOTS).filter_map(|slot| {
        let mut bytes = vec![0; SLOT_BYTES];
        file.read_exact_at(&mut bytes, slot_offset_bytes(slot)).ok()?;
        verify_slot(&bytes, uuid, slot).ok()
    });
    slots.max_by_key(|head| head.generation)
}
