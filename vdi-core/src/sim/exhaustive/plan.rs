//! The sequences in their order, so that a number names one.

use super::operation::{Operation, Verb};
use super::outline::Outline;
use super::sequence::Sequence;
use super::start::Beginning;

/// Numbered sequences, each with where it begins.
pub struct Plan(Vec<(Beginning, Sequence)>);

impl Plan {
    /// What runs with every test run: of two operations all but those on a resized store, of three those of the core
    /// verbs on a fresh one whose daemon acknowledges what its log's device has.
    #[must_use]
    pub fn slice() -> Plan {
        let mut plan = Plan(Vec::new());
        for beginning in [Beginning::Fresh, Beginning::LivedIn, Beginning::Resized, Beginning::Staged] {
            plan.add(beginning, &Verb::ALL, 0..2, |_| true);
        }
        for beginning in [Beginning::Fresh, Beginning::LivedIn, Beginning::Staged] {
            plan.add(beginning, &Verb::ALL, 2..3, |_| true);
        }
        plan.add(Beginning::Fresh, &Verb::ALL[..Verb::CORE], 3..4, |_| true);
        plan
    }
    /// The slice, then all that is left of three operations, and three core operations from a store that was lived in and
    /// for a daemon that acknowledges what is staged.
    #[must_use]
    pub fn whole() -> Plan {
        let core = &Verb::ALL[..Verb::CORE];
        let mut plan = Plan::slice();
        plan.add(Beginning::Resized, &Verb::ALL, 2..3, |_| true);
        let known = |s: &Sequence| s.0.iter().all(|o| core.contains(&o.verb));
        plan.add(Beginning::Fresh, &Verb::ALL, 3..4, |s| !known(s));
        plan.add(Beginning::LivedIn, core, 3..4, |_| true);
        plan.add(Beginning::Staged, core, 3..4, |_| true);
        plan
    }
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.len() as u64
    }
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    pub(super) fn get(&self, number: u64) -> &(Beginning, Sequence) {
        &self.0[number as usize]
    }
    fn add(
        &mut self,
        beginning: Beginning,
        verbs: &[Verb],
        lengths: std::ops::Range<usize>,
        wanted: impl Fn(&Sequence) -> bool,
    ) {
        let outline = beginning.operations().iter().fold(Outline::fresh(), |outline, o| outline.after(*o));
        let mut longest = vec![(Vec::<Operation>::new(), outline)];
        for length in 0..lengths.end {
            let found = longest.iter().map(|(operations, _)| Sequence(operations.clone()));
            if lengths.contains(&length) {
                self.0.extend(found.filter(|s| wanted(s)).map(|s| (beginning, s)));
            }
            let longer = longest.iter().flat_map(|(operations, outline)| {
                outline.operations(verbs).into_iter().map(|next| {
                    let all = operations.iter().copied().chain([next]).collect();
                    (all, outline.after(next))
                })
            });
            longest = longer.collect();
        }
    }
}
