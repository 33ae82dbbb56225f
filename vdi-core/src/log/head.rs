//! The head on the device: read both slots, write both slots in turn.

use super::Log;
use crate::buffer::is_zero;
use crate::device::DeviceHandle;
use crate::error::{Error, ErrorKind, Result};
use crate::format::log_head::{
    LogHead, SLOT_BYTES, SLOTS, StagedIn, encode, identify, slot_offset_bytes, verify_slot,
};
use crate::sabotage::{Point, crash_point};
use crate::units::{Generation, Uuid};

/// The newest head, and the order in which the next one goes to the slots: never over the only good one.
#[derive(Debug)]
pub(super) struct FoundHead {
    pub head: LogHead,
    pub order: [u64; 2],
}

/// Read both slots. One that cannot be read may hold the newer head, and an older one may lead to ring space that has
/// been written again since. Only of slot 0 is it certain that nothing happened that it does not know: a trim writes
/// slot 0 first and frees space after that, and a new incarnation writes no segment before both slots have it. So
/// slot 0 serves without slot 1, and slot 1 not without slot 0.
///
/// [`ErrorKind::Io`] when the slot that is needed cannot be read, [`ErrorKind::LogMissing`] when they hold no log or another one,
/// [`ErrorKind::WrongStore`] when the log belongs to another store, [`ErrorKind::Corrupt`] when they hold
/// something unreadable.
pub(super) async fn read(device: &DeviceHandle, log: Uuid, store: Uuid) -> Result<FoundHead> {
    let name = &device.info().name;
    if device.info().len_bytes < SLOTS * SLOT_BYTES as u64 {
        return Err(missing(format!("{name} is too short to hold a log")));
    }
    let mut found = Vec::new();
    let mut failure = None;
    let mut blank = true;
    for slot in 0..SLOTS {
        let read = device.read_pieces(slot_offset_bytes(slot), SLOT_BYTES).await;
        // A head need not fill its slot.
        let bytes = read.prefix();
        blank &= is_zero(bytes);
        match verify_slot(bytes, log, slot) {
            Ok(head) => found.push((slot, head)),
            Err(e) if e.kind() == ErrorKind::Unsupported => return Err(e.context(name)),
            Err(e) => {
                if let Some(unread) = read.unread().filter(|_| found.is_empty()) {
                    return Err(unread.duplicate());
                }
                if let Some((other, _)) = identify(bytes, slot).filter(|(other, _)| *other != log) {
                    failure = Some(missing(format!("{name} holds the log {other}, not {log}")));
                }
                failure.get_or_insert_with(|| e.context(name));
            }
        }
    }
    found.sort_by_key(|(_, head)| head.generation);
    let Some((newest, head)) = found.pop() else {
        if blank {
            return Err(missing(format!("{name} holds no log (it is empty)")));
        }
        return Err(failure.unwrap_or_else(|| missing(format!("{name} holds no log"))));
    };
    if head.store != store {
        return Err(Error::new(
            ErrorKind::WrongStore,
            format!("the log on {name} belongs to the store {}, not to {store}", head.store),
            "give the daemon the log that belongs to its store (--log)",
        ));
    }
    Ok(FoundHead { head, order: [1 - newest, newest] })
}

impl Log {
    /// The log on `device` that daemons of the store `store` have used and not retired, if there is one.
    ///
    /// [`ErrorKind::Io`] when nobody can tell.
    pub async fn in_use(device: &DeviceHandle, store: Uuid) -> Result<Option<Uuid>> {
        if device.info().len_bytes < SLOTS * SLOT_BYTES as u64 {
            return Ok(None);
        }
        for slot in 0..SLOTS {
            let bytes = device.read(slot_offset_bytes(slot), SLOT_BYTES).await?;
            let Some((log, _)) = identify(&bytes, slot).filter(|(_, of)| *of == store) else { continue };
            if verify_slot(&bytes, log, slot).is_ok_and(|head| head.incarnation.0 > 0 && !head.retired) {
                return Ok(Some(log));
            }
        }
        Ok(None)
    }
    /// Nothing in it is needed any more: another log may take its place.
    pub async fn retire(&self) -> Result<()> {
        self.0.retired.set(true);
        self.move_tail(true).await
    }
}

fn missing(what: String) -> Error {
    Error::new(
        ErrorKind::LogMissing,
        what,
        "give the daemon the log it used last (--log); without it, writes that were not checkpointed are lost",
    )
}

/// Make `head` durable in the first slot of `order`; then [`write_second`] makes it so in the other.
pub(super) async fn write_first(device: &DeviceHandle, head: &LogHead, order: [u64; 2]) -> Result<()> {
    write_slot(device, head, order[0]).await
}

/// The copy that lets one slot rot. Durable before it returns: the next head overwrites the first slot.
pub(super) async fn write_second(device: &DeviceHandle, head: &LogHead, order: [u64; 2]) -> Result<()> {
    crash_point(Point::HeadFirstSlot);
    write_slot(device, head, order[1]).await
}

async fn write_slot(device: &DeviceHandle, head: &LogHead, slot: u64) -> Result<()> {
    device.write(slot_offset_bytes(slot), encode(head, slot)).await?;
    crash_point(Point::HeadWritten);
    device.flush().await
}

impl Log {
    /// What the head shall say next: `change` applied to the present one.
    pub(super) fn next_head(&self, change: impl FnOnce(&mut LogHead)) -> LogHead {
        let mut head = self.0.head.borrow().clone();
        head.generation = Generation(head.generation.0 + 1);
        head.durable_through = self.0.durable.reached();
        let bound = self.0.bound_to_staging.get();
        head.staged_in = if bound { self.0.staged_in } else { StagedIn::default() };
        head.retired = self.0.retired.get();
        change(&mut head);
        head
    }
}
