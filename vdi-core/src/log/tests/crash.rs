//! After any crash a scan returns a prefix of what was appended, with everything flushed, and nothing stale.

use proptest::prelude::*;

use super::*;
use crate::device::simulated::Survival;

#[derive(Clone, Debug)]
enum Step {
    /// Append a record with this many blocks of data.
    Append(u64),
    /// Let this many things happen.
    Progress(u8),
    /// Flush and wait for it.
    Flush,
    /// Ask for a flush and go on.
    AskFlush,
    /// Trim this share of what is there, in 1/8.
    Trim(u64),
    /// Ask for that and go on.
    AskTrim(u64),
    /// Keep the segment of the next record from being trimmed; or let go.
    Pin(bool),
    /// Power fails, or only the process dies; then the same in each recovery after so many device events.
    Crash { power: Option<Survival>, recoveries: Vec<(u8, Option<Survival>)>, cut: bool },
    /// As above, at the n-th device event from now.
    ArmCrash(u8),
}

fn survival() -> impl Strategy<Value = Survival> {
    prop_oneof![
        Just(Survival::Nothing),
        Just(Survival::Everything),
        (0..=1_000_000u32).prop_map(Survival::Writes),
        (0..=1_000_000u32).prop_map(Survival::Sectors),
        Just(Survival::Prefix),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let recovery = (1..12u8, proptest::option::of(survival()));
    prop_oneof![
        12 => (0..=16u64).prop_map(Step::Append),
        6 => (1..40u8).prop_map(Step::Progress),
        2 => Just(Step::Flush),
        2 => Just(Step::AskFlush),
        2 => (0..=8u64).prop_map(Step::Trim),
        1 => (0..=8u64).prop_map(Step::AskTrim),
        1 => any::<bool>().prop_map(Step::Pin),
        1 => (1..20u8).prop_map(Step::ArmCrash),
        1 => (proptest::option::of(survival()), proptest::collection::vec(recovery, 0..4), any::<bool>())
            .prop_map(|(power, recoveries, cut)| Step::Crash { power, recoveries, cut }),
    ]
}

/// What must be there.
#[derive(Default)]
struct Model {
    /// All appended and not dropped by a recovery, with the segment each went to.
    records: Vec<(Record, SegmentSeq)>,
    /// This many are flushed for certain, and this many are in the device's hands.
    flushed: usize,
    written: usize,
    /// Segments below this may be gone.
    trim_before: SegmentSeq,
    life: u64,
}

impl Model {
    fn through(&self, seq: SegmentSeq) -> usize {
        self.records.partition_point(|(_, s)| *s <= seq)
    }
    /// Note how far `log` had come when it died.
    fn learn(&mut self, log: &Log) {
        self.flushed = self.flushed.max(self.through(log.durable_through()));
        self.written = self.flushed.max(self.through(log.0.written.reached()));
    }
    /// Compare with what a scan found; returns how many records the log now has in all.
    fn check(&self, world: &World, scan: &Scan, power_failed: bool) -> usize {
        assert!(scan.findings().is_empty(), "{:?}", scan.findings());
        let trimmed = self.records.partition_point(|(_, s)| *s < self.trim_before);
        let found = found(scan);
        let wanted = if power_failed { self.flushed } else { self.written };
        let Some(first) = found.first() else {
            assert!(wanted <= trimmed, "{wanted} must be there, {trimmed} may be trimmed, none was found");
            return trimmed.max(wanted);
        };
        let from = first.seq.0 as usize - 1;
        assert!(from <= trimmed, "starts at {from}, trimmed below {trimmed}");
        let to = from + found.len();
        assert!(to <= self.records.len() && to >= wanted, "found {from}..{to}, {wanted} must be there");
        for (found, (appended, _)) in found.iter().zip(&self.records[from..to]) {
            assert_eq!(found, appended);
        }
        for (segment, _, record, first_block) in scan.records() {
            if let Some(data) = data_of(record).first() {
                let mut there = vec![0; data.len()];
                world.disk.media().read(segment.block_offset(first_block).unwrap(), &mut there);
                assert!(there == data[..], "data of record {}", record.seq.0);
            }
        }
        to
    }
}

struct Run {
    world: World,
    log: Option<Log>,
    model: Model,
    pin: Option<Rc<Segment>>,
    pin_next: bool,
}

impl Run {
    fn new(seed: u64) -> Run {
        let (world, log) = World::with_log(RING_BYTES, seed);
        world.delays(1000);
        let model = Model { life: 1, ..Model::default() };
        Run { world, log: Some(log), model, pin: None, pin_next: false }
    }
    fn log(&self) -> &Log {
        self.log.as_ref().unwrap()
    }
    fn dead(&self) -> bool {
        self.world.crash.reached()
    }
    fn step(&mut self, step: &Step) {
        match step {
            Step::Append(blocks) => self.append(*blocks),
            Step::Progress(n) => {
                for _ in 0..*n {
                    self.world.step(Some(self.log()));
                }
            }
            Step::Flush => {
                let log = self.log().clone();
                let done = self.world.try_run(Some(self.log()), async move { log.flush().await });
                assert!(self.dead() || matches!(done, Some(Ok(()))));
                if done.is_some() {
                    self.model.flushed = self.model.records.len();
                }
            }
            Step::AskFlush => {
                let log = self.log().clone();
                let _ = self.world.spawn(async move { log.flush().await });
            }
            Step::Trim(eighths) => self.trim(*eighths),
            Step::AskTrim(eighths) => {
                let (log, before) = (self.log().clone(), self.trim_to(*eighths));
                let _ = self.world.spawn(async move { log.trim(before, &[]).await });
            }
            Step::Pin(pin) => {
                self.pin_next = *pin;
                self.pin = None;
            }
            Step::ArmCrash(events) => self.world.crash.arm(u64::from(*events)),
            Step::Crash { power, recoveries, cut } => self.crash(*power, recoveries, *cut),
        }
        if self.dead() {
            self.crash(None, &[], false);
        }
    }
    fn append(&mut self, blocks: u64) {
        if self.log().stats().free_bytes < 3 * self.log().0.ring.segment_bytes_max() {
            self.pin = None;
            self.trim(6);
            if self.dead() {
                return;
            }
        }
        let seq = self.model.records.len() as u64 + 1;
        let record = match blocks {
            0 => Record { lease_epoch: self.model.life, ..discard(seq) },
            _ => write_in_life(seq, blocks, self.model.life),
        };
        let (log, r) = (self.log().clone(), record.clone());
        let appended = self.world.try_run(Some(self.log()), async move {
            let room = log.reserve(r.encoded_bytes(), r.body.inline_blocks()).await?;
            log.append(room, &r, data_of(&r))
        });
        match appended {
            Some(appended) => {
                let segment = appended.unwrap().segment;
                self.model.records.push((record, segment.seq()));
                if std::mem::take(&mut self.pin_next) {
                    self.pin = Some(segment);
                }
            }
            None => assert!(self.dead(), "space comes back after a trim: {:?}", self.log().stats()),
        }
    }
    fn trim(&mut self, eighths: u64) {
        let (log, before) = (self.log().clone(), self.trim_to(eighths));
        let done = self.world.try_run(Some(self.log()), async move { log.trim(before, &[]).await });
        assert!(self.dead() || matches!(done, Some(Ok(()))));
    }
    fn trim_to(&mut self, eighths: u64) -> SegmentSeq {
        let (tail, newest) = (self.log().tail().0, self.log().newest().0 + 1);
        let before = SegmentSeq(tail + newest.saturating_sub(tail) * eighths / 8);
        // What is trimmed was needed no longer before the call.
        self.model.trim_before = self.model.trim_before.max(before);
        before
    }
    fn crash(&mut self, power: Option<Survival>, recoveries: &[(u8, Option<Survival>)], cut: bool) {
        self.pin = None;
        let log = self.log.take().unwrap();
        self.model.learn(&log);
        drop(log);
        self.die(power);
        let mut power_failed = power.is_some();
        for (events, power) in recoveries {
            let scan = self.world.scan().unwrap();
            self.model.check(&self.world, &scan, power_failed);
            self.world.crash.arm(u64::from(*events));
            let executor = self.world.executor.clone();
            let started = self
                .world
                .spawn(async move { scan.start(&executor, &StagingMemory::default()).await.map(drop) });
            while self.world.step(None) {}
            // A start that ended has flushed what it found; one that did not may lose it once more.
            let _ = started;
            self.die(*power);
            power_failed |= power.is_some();
        }
        let mut scan = self.world.scan().unwrap();
        let mut total = self.model.check(&self.world, &scan, power_failed);
        if cut {
            total -= cut_tail(&mut scan);
        }
        self.model.records.truncate(total);
        self.model.flushed = total;
        self.model.life += 1;
        self.log = Some(self.world.start_from(scan));
    }
    fn die(&mut self, power: Option<Survival>) {
        match power {
            Some(survival) => {
                self.world.disk.power_loss(survival);
            }
            None => self.world.disk.kill(),
        }
        self.world.reopen();
    }
}

/// Drop about half of what was never flushed; returns how many records.
fn cut_tail(scan: &mut Scan) -> usize {
    let torn: Vec<_> = scan
        .records()
        .filter(|(segment, ..)| segment.seq() > scan.durable_through())
        .map(|(segment, n, ..)| (segment.seq(), n))
        .collect();
    let keep = torn.len() / 2;
    if let Some((seq, record)) = torn.get(keep) {
        scan.cut(*seq, *record);
    }
    torn.len() - keep
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, max_shrink_iters: 1000, ..ProptestConfig::default() })]
    #[test]
    fn a_scan_after_any_crash_is_a_prefix_with_everything_flushed(
        seed in any::<u64>(),
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let mut run = Run::new(seed);
        for step in &steps {
            run.step(step);
        }
        let power = Some(Survival::Sectors(500_000));
        run.crash(power, &[(3, power), (5, None), (7, power)], false);
    }
}

#[test]
fn three_crashes_deep_in_recovery_change_nothing() {
    let torn = Some(Survival::Sectors(500_000));
    for events in 1..14 {
        for seed in 0..8 {
            let mut run = Run::new(seed * 100 + u64::from(events));
            for n in 0..30 {
                run.step(&Step::Append(n % 9));
                run.step(&Step::Progress(n as u8 % 5));
            }
            run.step(&Step::Flush);
            run.step(&Step::Append(3));
            run.step(&Step::Progress(3));
            let recoveries = vec![(events, torn), (events, None), (events, torn)];
            let power = if seed < 4 { torn } else { None };
            run.step(&Step::Crash { power, recoveries, cut: seed % 2 == 0 });
            for n in 0..10 {
                run.step(&Step::Append(n));
            }
            run.step(&Step::Flush);
            let recoveries = vec![(events, torn)];
            run.step(&Step::Crash { power: Some(Survival::Nothing), recoveries, cut: false });
        }
    }
}

#[test]
fn what_a_recovery_keeps_is_durable_before_its_head_says_so() {
    // The process dies with everything in a volatile cache; power fails while its successor starts, and of
    // what is not flushed any write may be the only one that survives.
    for seed in 0..60 {
        for events in 1..8 {
            let mut run = Run::new(seed);
            for n in 0..6 {
                run.step(&Step::Append(n + 1));
                run.step(&Step::Progress(30));
            }
            let recoveries = vec![(events, Some(Survival::Writes(500_000)))];
            run.step(&Step::Crash { power: None, recoveries, cut: false });
        }
    }
}
