//! The requests being executed: who needs them out of the way waits for them.

use std::cell::Cell;

use super::Vdi;
use crate::executor::Signal;

/// Requests being executed. Those that began before and after somebody began to wait are counted apart.
#[derive(Default)]
pub(super) struct Requests {
    active: [Cell<usize>; 2],
    /// Which count those that begin now go to.
    now: Cell<usize>,
    /// A count came to zero.
    idle: Signal,
}

/// A request being executed.
pub(super) struct Active {
    vdi: Vdi,
    count: usize,
    /// A guest waits for it.
    asked: bool,
}

impl Drop for Active {
    fn drop(&mut self) {
        let under_way = &self.vdi.0.shared.under_way;
        under_way.set(under_way.get() - u64::from(self.asked));
        let requests = &self.vdi.0.requests;
        let active = &requests.active[self.count];
        active.set(active.get() - 1);
        if active.get() == 0 {
            requests.idle.notify();
        }
    }
}

impl Requests {
    async fn wait_for(&self, count: usize) {
        while self.active[count].get() > 0 {
            self.idle.wait().await;
        }
    }
}

impl Vdi {
    pub(super) fn enter(&self) -> Active {
        let shared = &self.0.shared;
        shared.asked.set(shared.asked.get() + 1);
        shared.under_way.set(shared.under_way.get() + 1);
        let mut active = self.enter_unasked();
        active.asked = true;
        active
    }
    /// As [`Vdi::enter`], for work that no guest asked for.
    pub(super) fn enter_unasked(&self) -> Active {
        let requests = &self.0.requests;
        let count = requests.now.get();
        requests.active[count].set(requests.active[count].get() + 1);
        Active { vdi: self.clone(), count, asked: false }
    }
    /// Wait until no request is being executed.
    pub async fn quiesce(&self) {
        while self.active() > 0 {
            self.0.requests.idle.wait().await;
        }
    }
    /// Wait for the requests that began before this call, not for others; one caller at a time.
    pub(super) async fn wait_for_earlier_requests(&self) {
        let requests = &self.0.requests;
        let count = requests.now.get();
        // Of a call that was given up.
        requests.wait_for(1 - count).await;
        requests.now.set(1 - count);
        requests.wait_for(count).await;
    }
    /// Requests being executed.
    #[must_use]
    pub fn active(&self) -> usize {
        self.0.requests.active.iter().map(Cell::get).sum()
    }
}
