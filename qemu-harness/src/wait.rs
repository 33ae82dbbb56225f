//! Deadlines: no wait in this crate is without one.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// How often a condition without an event of its own is looked at.
const POLL: Duration = Duration::from_millis(10);

/// A moment by which something must have happened.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    started: Instant,
    limit: Duration,
}

impl Deadline {
    /// `limit` from now.
    #[must_use]
    pub fn after(limit: Duration) -> Deadline {
        Deadline { started: Instant::now(), limit }
    }
    /// `seconds` from now.
    #[must_use]
    pub fn seconds(seconds: u64) -> Deadline {
        Deadline::after(Duration::from_secs(seconds))
    }
    /// Time left; zero when it has passed.
    #[must_use]
    pub fn left(&self) -> Duration {
        self.limit.saturating_sub(self.started.elapsed())
    }
    /// An error that names `what` once the deadline has passed.
    ///
    /// # Errors
    /// When the deadline has passed.
    pub fn check(&self, what: &str) -> Result<()> {
        if self.left().is_zero() {
            return Err(Error::new(
                format!("{what}: nothing after {} s", self.limit.as_secs()),
                "look at the evidence; on a busy machine run it again with nothing else going on",
            ));
        }
        Ok(())
    }
}

/// Call `look` until it gives a value or an error, or `deadline` passes.
///
/// # Errors
/// What `look` fails with; a timeout that names `what`.
pub fn until<T>(what: &str, deadline: Deadline, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        deadline.check(what)?;
        std::thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_with_its_deadline_and_names_what_it_waited_for() {
        let e = until::<()>("the moon", Deadline::after(Duration::from_millis(30)), || Ok(None)).unwrap_err();
        assert!(e.to_string().contains("the moon"), "{e}");
    }
}
