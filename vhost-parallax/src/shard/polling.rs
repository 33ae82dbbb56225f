//! How long to poll before sleeping. Sleeping and being woken costs more than a short wait, so the loop
//! polls on when the last waits were short; an idle daemon uses no CPU. The rule is that of KVM's
//! halt polling (Linux, `virt/kvm/kvm_main.c`).

/// Never poll for longer than this, ns.
const POLL_NS_MAX: u64 = 50_000;
/// The shortest time worth polling for, ns.
const POLL_NS_MIN: u64 = 5_000;

/// The present limit and when polling began.
#[derive(Default)]
pub(super) struct Polling {
    limit_ns: u64,
    since_ns: Option<u64>,
}

impl Polling {
    /// Something happened: the next wait begins afresh.
    pub(super) fn busy(&mut self) {
        self.since_ns = None;
    }
    /// Nothing happened in this turn. True to look again, false to sleep.
    pub(super) fn goes_on(&mut self, now_ns: u64) -> bool {
        let since = *self.since_ns.get_or_insert(now_ns);
        now_ns.saturating_sub(since) < self.limit_ns
    }
    /// A sleep of `slept_ns` has ended: poll longer next time if that would have caught it, not at all if
    /// it was long.
    pub(super) fn slept(&mut self, slept_ns: u64) {
        if slept_ns < POLL_NS_MAX {
            self.limit_ns = (self.limit_ns * 2).clamp(POLL_NS_MIN, POLL_NS_MAX);
        } else if slept_ns > 4 * POLL_NS_MAX {
            self.limit_ns = 0;
        }
        self.since_ns = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_waits_are_polled_and_long_ones_slept_through() {
        let mut p = Polling::default();
        assert!(!p.goes_on(0), "an idle daemon sleeps at once");
        (0..10).for_each(|_| p.slept(10_000));
        assert!(p.goes_on(1_000));
        assert!(p.goes_on(1_000 + POLL_NS_MAX - 1));
        assert!(!p.goes_on(1_000 + POLL_NS_MAX), "never longer than the bound");
        p.slept(1_000_000);
        assert!(!p.goes_on(5_000_000));
    }
}
