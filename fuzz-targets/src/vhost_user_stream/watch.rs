//! What a process shows of itself: its descriptors, and whether its data thread rests.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What is to be given back is given back by then.
const WAIT: Duration = Duration::from_secs(10);
/// A thread with nothing to do is seen at rest in one of this many looks.
const LOOKS: u32 = 60;
const LOOK: Duration = Duration::from_millis(5);

/// How many descriptors the process had.
pub struct Descriptors(usize);

impl Descriptors {
    /// How many it has.
    #[must_use]
    pub fn now() -> Descriptors {
        Descriptors(count())
    }
    /// Threads that have nothing left to do but end are waited for.
    ///
    /// # Panics
    /// When there are more than there were.
    pub fn are_all_there_are(&self) {
        let start = Instant::now();
        while count() > self.0 {
            assert!(start.elapsed() < WAIT, "{} descriptors, and {} before: {:#?}", count(), self.0, names());
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

fn count() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("the process can look at itself").count()
}

fn names() -> Vec<PathBuf> {
    let entries = std::fs::read_dir("/proc/self/fd").expect("the process can look at itself");
    entries.flatten().filter_map(|e| std::fs::read_link(e.path()).ok()).collect()
}

/// Counts the rounds of a data thread: one that has nothing to do sleeps in its first.
#[derive(Clone, Default)]
pub struct Rounds(Arc<AtomicU64>);

impl Rounds {
    /// One more.
    pub fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    /// The thread sleeps within a moment, when nobody asks anything of it.
    ///
    /// # Panics
    /// When it goes on and on.
    pub fn come_to_rest(&self) {
        let goes_on = |_| {
            let before = self.0.load(Ordering::Relaxed);
            std::thread::sleep(LOOK);
            self.0.load(Ordering::Relaxed) > before + 1
        };
        assert!(!(0..LOOKS).all(goes_on), "the data thread spins");
    }
}
