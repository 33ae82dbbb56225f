//! Taking, executing and giving back, with the checks at every step.

use std::ops::Range;

use vhost_parallax::vhost::{Next, Request};

use super::reading::{self, Chain, Effect, OK};
use super::scene::{Flying, Scene};
use crate::guest::{Copied, pieces};
use crate::tape::Tape;

/// Requests taken in one go at most: a guest that writes over its own available ring may offer for ever.
const TAKES_MAX: usize = 100;
/// Requests side by side at most.
const TOGETHER_MAX: u64 = 8;

/// What the ring must give next.
enum Expected {
    /// Nothing.
    Nothing,
    /// The device breaks off.
    Break,
    /// This.
    Chain(u16, Chain),
    /// Something that was in flight when the daemon was killed; or the memory is gone.
    Unknown,
}

/// What it gave.
enum Taken {
    Nothing,
    Answered,
    Request(Box<Request>, Chain),
}

impl Scene {
    fn expected(&self, before: &Copied) -> Expected {
        if self.cut {
            return Expected::Unknown;
        }
        if self.device.is_broken() {
            return Expected::Nothing;
        }
        if !self.behind.is_empty() {
            return Expected::Unknown;
        }
        let (rings, next) = (self.rings, self.next_available);
        let load = |at: u64| before.u16_at(at).expect("the ring was checked to be inside the memory");
        match load(rings.available + 2).wrapping_sub(next) {
            0 => return Expected::Nothing,
            waiting if waiting > rings.size => return Expected::Break,
            _ => {}
        }
        let head = load(rings.available + 4 + 2 * u64::from(next % rings.size));
        if head >= rings.size || self.flying.iter().any(|f| f.head == head) {
            return Expected::Break;
        }
        match reading::chain(before, rings.table, rings.size, head, self.disk) {
            Some(chain) => Expected::Chain(head, chain),
            None => Expected::Break,
        }
    }
    fn take(&mut self, before: &Copied) -> Taken {
        let expected = self.expected(before);
        let Some(ring) = &mut self.ring else { return Taken::Nothing };
        match ring.take() {
            Next::Empty => {
                self.nothing_was_taken(before, &expected);
                Taken::Nothing
            }
            Next::Answered => {
                self.answered(before, expected);
                Taken::Answered
            }
            Next::Request(request) if self.cut => {
                let chain = Chain { writable: Vec::new(), effect: Effect::None, status: OK, written: 0 };
                Taken::Request(Box::new(request), chain)
            }
            Next::Request(request) => {
                let chain = self.taken(before, expected, &request);
                Taken::Request(Box::new(request), chain)
            }
        }
    }
    fn nothing_was_taken(&mut self, before: &Copied, expected: &Expected) {
        let broken = self.device.broken();
        match expected {
            Expected::Nothing => {}
            Expected::Break => assert!(broken.is_some(), "a chain without sense is passed over"),
            Expected::Chain(head, _) => panic!("the request at descriptor {head} is not taken: {broken:?}"),
            Expected::Unknown => assert!(self.cut || broken.is_some(), "what was in flight is not taken up"),
        }
        let Some(ring) = self.ring.as_mut().filter(|_| !self.cut) else { return };
        if broken.is_none() {
            assert!(!ring.has_work() && !ring.rearm(), "a ring that gives nothing says that it has work");
        }
        self.only_these_changed(before, &[]);
    }
    fn answered(&mut self, before: &Copied, expected: Expected) {
        if self.cut {
            return;
        }
        let (head, chain) = match expected {
            Expected::Chain(head, chain) => {
                self.next_available = self.next_available.wrapping_add(1);
                (head, chain)
            }
            Expected::Unknown => {
                let after = self.guest.copy();
                let entry = self.rings.used + 4 + 8 * u64::from(self.next_used % self.rings.size);
                let head = after.u16_at(entry).expect("the used ring is inside the memory");
                assert!(self.behind.remove(&head), "descriptor {head} is given back, and was not in flight");
                let chain = reading::chain(before, self.rings.table, self.rings.size, head, self.disk);
                (head, chain.expect("what is answered makes sense"))
            }
            Expected::Nothing | Expected::Break => panic!("an answer to nothing"),
        };
        let on_the_spot = chain.status != OK || matches!(chain.effect, Effect::Say(_));
        assert!(on_the_spot, "a sound request is answered without being executed");
        self.given_back(before, head, &chain);
    }
    fn taken(&mut self, before: &Copied, expected: Expected, request: &Request) -> Chain {
        let head = request.reply.head();
        if request.name.again {
            assert!(self.behind.remove(&head), "descriptor {head} is taken up, and was not in flight");
            let chain = reading::chain(before, self.rings.table, self.rings.size, head, self.disk);
            return chain.expect("what is executed makes sense");
        }
        let Expected::Chain(wanted, chain) = expected else { panic!("descriptor {head} out of nothing") };
        assert_eq!(head, wanted, "another descriptor than the one whose turn it is");
        let refused = chain.status != OK || matches!(chain.effect, Effect::Say(_));
        assert!(!refused, "what must be refused is executed: {:?}", request.operation);
        self.next_available = self.next_available.wrapping_add(1);
        chain
    }
    /// Serve until nothing waits, one request after the other.
    pub(super) fn serve_alone(&mut self) {
        let mut waiting = None;
        for turn in 0..TAKES_MAX {
            let before = self.guest.copy();
            let index = before.u16_at(self.rings.available + 2);
            if waiting.is_none_or(|(of, _)| of != index) {
                waiting = Some((index, turn + usize::from(self.rings.size) + self.behind.len()));
            }
            let endless = waiting.is_some_and(|(_, last)| turn > last) && !self.cut;
            assert!(!endless, "more requests than the ring has entries");
            match self.take(&before) {
                Taken::Nothing => return,
                Taken::Answered => {}
                Taken::Request(request, chain) => self.execute_alone(&before, *request, &chain),
            }
        }
    }
    fn execute_alone(&mut self, before: &Copied, request: Request, chain: &Chain) {
        let (head, again) = (request.reply.head(), request.name.again);
        let Some(life) = &self.life else { return };
        if again {
            // In part it may have been done before, from other bytes.
            self.model.forget(&chain.effect);
        }
        for (reply, status) in life.execute(vec![request]) {
            let right = status as u8 == chain.status || self.cut;
            assert!(right, "descriptor {head} ends with {status:?}, not {}", chain.status);
            self.call.clear();
            let ring = self.ring.as_mut().expect("it gave the request");
            ring.complete(reply, status);
            ring.notify();
        }
        if self.cut {
            return;
        }
        self.is_told();
        if !again {
            self.model.apply(&chain.effect);
        }
        self.given_back(before, head, chain);
    }
    /// A guest that did not ask for silence has been interrupted.
    fn is_told(&self) {
        let flags = self.guest.copy().u16_at(self.rings.available).expect("inside the memory");
        if !self.event_index && flags & 1 == 0 {
            let mut count = [0; 8];
            assert!(rustix::io::read(&self.call, &mut count).is_ok(), "the guest is not told");
        }
    }
    /// Several requests at once; some of them stay in flight.
    pub(super) fn serve_together(&mut self, tape: &mut Tape<'_>) {
        let mut requests = Vec::new();
        for _ in 0..=tape.below(TOGETHER_MAX) {
            let before = self.guest.copy();
            match self.take(&before) {
                Taken::Nothing => break,
                Taken::Answered => {}
                Taken::Request(request, chain) => {
                    self.model.forget(&chain.effect);
                    self.flying.push(Flying { head: request.reply.head(), chain });
                    requests.push(*request);
                }
            }
        }
        if tape.coin() {
            self.scribble(tape);
        }
        let before = self.guest.copy();
        let Some(life) = &self.life else { return };
        let ended = life.execute(requests);
        if !self.cut {
            let all: Vec<_> = self.flying.iter().flat_map(|f| f.chain.writable.clone()).collect();
            self.only_these_changed(&before, &all);
            let bad = ended.iter().find(|(_, status)| *status as u8 != OK);
            assert!(bad.is_none(), "a sound request fails: {bad:?}");
        }
        self.ended.extend(ended);
        if tape.coin() {
            self.ended.reverse();
        }
        self.give_back(tape.below(1 + TOGETHER_MAX) as usize);
    }
    /// Put the first `count` of what has ended into the used ring.
    pub(super) fn give_back(&mut self, count: usize) {
        let Some(ring) = &mut self.ring else { return };
        let mut heads = Vec::new();
        let before = self.guest.copy();
        for (reply, status) in self.ended.drain(..count.min(self.ended.len())) {
            heads.push(reply.head());
            ring.complete(reply, status);
        }
        ring.notify();
        let (back, still): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.flying).into_iter().partition(|f| heads.contains(&f.head));
        self.flying = still;
        if self.cut {
            return;
        }
        let statuses: Vec<_> = back.iter().flat_map(|f| f.chain.writable.clone()).collect();
        self.only_these_changed(&before, &statuses);
        assert_eq!(back.len(), heads.len(), "each descriptor was in flight once");
        self.next_used = self.next_used.wrapping_add(heads.len() as u16);
        assert_eq!(usize::from(ring_in_flight(self)), self.flying.len(), "what is in flight");
    }
    /// The used ring, the status and the data of one request are right, and nothing else has changed.
    fn given_back(&mut self, before: &Copied, head: u16, chain: &Chain) {
        let after = self.only_these_changed(before, &chain.writable);
        let entry = self.rings.used + 4 + 8 * u64::from(self.next_used % self.rings.size);
        self.next_used = self.next_used.wrapping_add(1);
        if !self.is_plain(&chain.writable) {
            return;
        }
        let index = after.u16_at(self.rings.used + 2);
        assert_eq!(index, Some(self.next_used), "the used index after descriptor {head}");
        let wanted = [u32::from(head).to_le_bytes(), chain.written.to_le_bytes()].concat();
        assert_eq!(after.at(entry, 8), Some(wanted), "the used entry of descriptor {head}");
        let mut data = after.gather(&chain.writable);
        let status = data.pop().expect("a chain has a status byte");
        assert_eq!(status, chain.status, "the status of descriptor {head}");
        match &chain.effect {
            Effect::Read(sector) => self.model.compare(*sector, &data),
            Effect::Say(said) => assert!(data.starts_with(said), "descriptor {head} is told {data:x?}"),
            _ => {}
        }
    }
    /// The memory now; only these pieces of the file and the used ring differ from `before`.
    fn only_these_changed(&self, before: &Copied, writable: &[Range<usize>]) -> Copied {
        let after = self.guest.copy();
        let mut allowed = self.used_ring();
        allowed.extend_from_slice(writable);
        if let Some(at) = after.stray_change(before, &allowed) {
            panic!("byte {at:#x} of the guest's memory has changed, which no request names");
        }
        after
    }
    fn used_ring(&self) -> Vec<Range<usize>> {
        let whole = pieces(self.rings.used, 6 + 8 * usize::from(self.rings.size));
        whole.expect("the used ring was checked to be inside the memory")
    }
    /// Whether no byte is named twice, nor lies in the used ring.
    fn is_plain(&self, writable: &[Range<usize>]) -> bool {
        let mut all = self.used_ring();
        all.extend(writable.iter().filter(|r| !r.is_empty()).cloned());
        all.sort_by_key(|r| r.start);
        all.windows(2).all(|w| w[0].end <= w[1].start)
    }
}

fn ring_in_flight(scene: &Scene) -> u16 {
    scene.ring.as_ref().map_or(0, vhost_parallax::vhost::Ring::in_flight)
}
