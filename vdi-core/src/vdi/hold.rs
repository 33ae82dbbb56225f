//! A held VDI takes no writes. Either its checkpoint fails (a block under its tree cannot be read, its device is away):
//! then it can be read, is tried again now and then, and let go when it succeeds. Or an error left open what is on the
//! disk: what memory has of it is certain and can be read, and a restart finds out. Or what is known of it contradicts
//! itself: it may have gone back to an earlier state, so it is not shown to a guest, and only a restart looks again.

use std::cell::{Cell, RefCell};

use super::Vdi;
use crate::error::{Error, ErrorKind, Result};
use crate::sabotage::{Bug, seeded_bug};

/// Checkpoints that may fail one after the other before the VDI takes no more writes.
const FAILURES_MAX: u32 = 3;
/// How long after a failed checkpoint a held VDI is tried again on its own, ns.
const RETRY_NS: u64 = 60_000_000_000;

struct Hold {
    why: Error,
    kind: Kind,
}

/// In the order of what can be relied on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Its checkpoint fails: one that succeeds ends the hold.
    Stuck,
    /// What it holds is certain; what is on its way to the store is not.
    Blocked,
    /// It may have gone back to an earlier state.
    Uncertain,
}

/// What is wrong with a VDI.
#[derive(Default)]
pub(super) struct Trouble {
    hold: RefCell<Option<Hold>>,
    failures: Cell<u32>,
    /// Not tried before this.
    retry_ns: Cell<u64>,
    /// Why its records keep the log from being trimmed.
    unmovable: RefCell<Option<Error>>,
}

impl Vdi {
    /// Why the VDI takes no writes, if so.
    #[must_use]
    pub fn held(&self) -> Option<Error> {
        self.0.trouble.hold.borrow().as_ref().map(|h| h.why.duplicate())
    }
    /// Take no writes until a restart, and show nothing to a guest: it may be older than it was.
    pub fn hold(&self, why: Error) {
        self.hold_as(why, Kind::Uncertain);
    }
    /// Take no writes until a restart finds out what of the last ones is on the store. What was read can still be read.
    pub fn hold_until_restart(&self, why: Error) {
        self.hold_as(why, Kind::Blocked);
    }
    /// As [`Vdi::hold`], because there was a newer record once, which may be there still.
    pub fn hold_as_superseded(&self, why: Error) {
        self.0.superseded.set(true);
        self.hold(why);
    }
    /// Whether there was a newer record once.
    #[must_use]
    pub fn is_superseded(&self) -> bool {
        self.0.superseded.get()
    }
    /// An error when blocks may be in use that nothing in memory names: those of a newer record, or of snapshots.
    pub fn check_marks_all(&self) -> Result<()> {
        self.check_snapshots()?;
        if !self.0.superseded.get() || seeded_bug(Bug::MarkMissesNewest) {
            return Ok(());
        }
        Err(Error::corrupt(
            "VDI record",
            format!("VDI '{}'", self.name()),
            "there was a newer one, and what it names cannot be told from what nobody needs",
        ))
    }
    /// Take no writes until a checkpoint of it succeeds.
    pub fn hold_until_checkpointed(&self, why: Error) {
        self.hold_as(why, Kind::Stuck);
    }
    fn hold_as(&self, why: Error, kind: Kind) {
        let mut hold = self.0.trouble.hold.borrow_mut();
        if hold.as_ref().is_none_or(|h| h.kind < kind || h.kind == Kind::Stuck) {
            *hold = Some(Hold { why, kind });
        }
        drop(hold);
        self.0.shared.pressure.refused.notify();
    }
    /// True when it is held because its checkpoint fails.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.0.trouble.hold.borrow().as_ref().is_some_and(|h| h.kind == Kind::Stuck)
    }
    /// Its checkpoint failed: damage holds it at once, other errors when they go on. True when it is held now.
    pub fn checkpoint_failed(&self, why: &Error) -> bool {
        let t = &self.0.trouble;
        t.failures.set(t.failures.get() + 1);
        t.retry_ns.set(self.0.shared.executor.now_ns() + RETRY_NS);
        let damage = why.kind() == ErrorKind::Corrupt;
        if damage || (t.failures.get() >= FAILURES_MAX && why.kind() != ErrorKind::NoSpace) {
            self.hold_as(why.duplicate(), Kind::Stuck);
        }
        self.held().is_some()
    }
    /// Whether its last checkpoint failed.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.0.trouble.failures.get() > 0
    }
    /// Whether a checkpoint round should try it now: always, unless it is held. Because that fails: when its time has come.
    /// Because it is not certain: never, for its record must not look newer than what is certain.
    #[must_use]
    pub fn is_due(&self) -> bool {
        match self.0.trouble.hold.borrow().as_ref() {
            None => true,
            Some(hold) if hold.kind == Kind::Stuck => {
                self.0.shared.executor.now_ns() >= self.0.trouble.retry_ns.get()
            }
            Some(_) => seeded_bug(Bug::LossForgotten),
        }
    }
    /// Try its checkpoint with the next round.
    pub fn retry_soon(&self) {
        self.0.trouble.retry_ns.set(0);
    }
    /// Its checkpoint succeeded.
    pub(super) fn checkpoint_succeeded(&self) {
        let t = &self.0.trouble;
        t.failures.set(0);
        t.unmovable.take();
        if self.is_stuck() {
            t.hold.take();
        }
    }
    /// Note why its records cannot be moved on in the log (None: they were).
    pub fn note_unmovable(&self, why: Option<Error>) {
        *self.0.trouble.unmovable.borrow_mut() = why;
    }
    /// Why it is held and what to do, for people.
    #[must_use]
    pub fn held_reason(&self) -> Option<String> {
        let why = self.held()?;
        let mut text = why.message().to_owned();
        text += if self.is_stuck() {
            "; once the device is whole again 'parallax checkpoint' (or a restart of the daemon) tries it again; \
             nothing acknowledged is lost until then"
        } else {
            "; a restart of the daemon looks again"
        };
        if let Some(why) = self.0.trouble.unmovable.borrow().as_ref() {
            text += "; its records keep the log from being trimmed, and when that is full all disks wait: ";
            text += why.message();
        }
        Some(text)
    }
    /// An error when the VDI may have gone back to an earlier state.
    pub(super) fn check_certain(&self) -> Result<()> {
        match &*self.0.trouble.hold.borrow() {
            Some(Hold { why, kind: Kind::Uncertain }) => Err(Error::new(
                why.kind(),
                format!("VDI '{}' is held and may be older than it was: {}", self.name(), why.message()),
                "attach it with --read-only to look at what is left; roll back or restore what its guest needs",
            )),
            _ => Ok(()),
        }
    }
    pub(super) fn check_writable(&self) -> Result<()> {
        if self.0.deleted.get() {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("VDI '{}' was deleted", self.name()),
                "detach it; its data is gone",
            ));
        }
        if self.0.standstill.get() && !seeded_bug(Bug::LoggedWhileRolledBack) {
            return Err(Error::new(
                ErrorKind::Busy,
                format!("VDI '{}' is being rolled back", self.name()),
                "try again in a moment",
            ));
        }
        match self.held() {
            Some(e) => Err(e.context(format!("VDI '{}' is held", self.name()))),
            None => Ok(()),
        }
    }
}
