//! Opening: the store, then the log, then what the log holds beyond the records. Reads the system area,
//! this host's bitmaps, the VDI records and the log's heads; never the whole store.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::rc::{Rc, Weak};

use super::held::Stranded;
use super::shards::Stranger;
use super::{Engine, EngineOptions, Env, Inner, Peers, Recovery};
use crate::buffer::crc32c;
use crate::device::{DeviceHandle, DeviceLayers};
use crate::error::{Error, ErrorKind, Result};
use crate::executor::TaskLock;
use crate::format::host::HostLog;
use crate::latency::{Latencies, Layer};
use crate::log::{Body, Finding, Log, Record, Scan, Segment, VdiGeneration};
use crate::sabotage::{Bug, Point, crash_point, seeded_bug};
use crate::store::{Need, Run, Store};
use crate::tree::NodeCache;
use crate::units::{BLOCK_SIZE, SegmentSeq, Uuid, VdiId, VdiSeq};
use crate::vdi::content::Staging;
use crate::vdi::{Pressure, Shared};

/// Scans of a log that is to be given up if it cannot be read.
const LAST_SCANS_MAX: usize = 8;
/// Reads of out-of-line data that may not have reached the store, when the device fails, and when it gives other data.
const TAIL_READS_MAX: usize = 8;
const TAIL_MISREADS_MAX: usize = 2;

impl Engine {
    /// Open the store and recover what the log holds. The caller holds the locks of both devices, so no
    /// earlier daemon can still write to them.
    pub async fn open(
        env: Env,
        store: DeviceHandle,
        log: DeviceHandle,
        options: EngineOptions,
    ) -> Result<Engine> {
        let store = Store::open(store).await?;
        if let Some(shard) = store.other_shards().await?.first() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("shard {shard} has a part of this store, and a log of its own"),
                "let the daemon open it, which knows all shards",
            ));
        }
        let engine = Engine::open_on(env, store, log, options, None).await?;
        engine.settle().await?;
        Ok(engine)
    }
    /// Open the engine of one of several shards, or of the only one; [`Engine::settle`] follows.
    pub(super) async fn open_on(
        env: Env,
        store: Store,
        log: DeviceHandle,
        options: EngineOptions,
        peers: Option<Peers>,
    ) -> Result<Engine> {
        let started = env.clock.now_ns();
        // What was just read may sit in a volatile cache: nothing is trimmed or reused before this.
        store.flush().await?;
        if options.null_store {
            store.keep_no_data();
        }
        let mut scan = find_log(&env, &store, &log, options.discard_log).await?;
        if let Some(e) = scan.given_up() {
            store.warn(e.duplicate().context("acknowledged writes were given up".to_owned()));
        }
        let records = countable(&store, &mut scan).await?;
        let found = scan.segments().len() as u64;
        let generations = scan.generations().to_vec();
        let may_have = generations.iter().filter(|g| store.may_have(g.vdi));
        let remembered = may_have.map(|g| (g.vdi, (g.lease_epoch, g.generation))).collect();
        let strangers = generations.iter().filter(|g| store.find_vdi_id(g.vdi).is_none());
        let strangers = strangers.map(|g| (g.vdi, Stranger::remembered(*g))).collect();
        let findings = scan.findings().to_vec();
        let log = scan.start(&env.executor, &env.staging).await?;
        let shared = shared_by_vdis(&env, store, log, &options);
        let engine = Engine(Rc::new(Inner {
            env: env.clone(),
            shared,
            options,
            peers,
            joined: RefCell::default(),
            between: TaskLock::default(),
            paused: RefCell::default(),
            away: RefCell::default(),
            named: RefCell::new(records.iter().flat_map(Logged::runs).collect()),
            vdis: RefCell::default(),
            opening: TaskLock::default(),
            round: TaskLock::default(),
            remembered: RefCell::new(remembered),
            strangers: RefCell::new(strangers),
            stranded: RefCell::default(),
            copies: RefCell::default(),
            failed_rounds: Cell::new(0),
            poisoned: RefCell::default(),
            stats: Cell::default(),
            closing: Cell::new(false),
            recovery: Cell::default(),
            reclaimable: Cell::new(None),
            tidying: RefCell::default(),
        }));
        let mut newer = Vec::new();
        let (records, last) = engine.replay(records, &mut newer).await;
        engine.hold_hurt(&findings, &last, &mut newer).await;
        if !newer.is_empty() {
            engine.0.shared.log.trim(SegmentSeq(0), &newer).await?;
        }
        crash_point(Point::Replayed);
        // Returned claims reach the disk before a host record that no longer lists them: nothing leaks.
        engine.store().write_dirty_bitmaps().await?;
        engine.store().flush().await?;
        let ns = env.clock.now_ns() - started;
        let recovery = Recovery { segments: found, records, findings: findings.len() as u64, ns };
        engine.0.recovery.set(recovery);
        Ok(engine)
    }
    /// Everything recovered can be relied on: the work begins.
    pub(super) async fn recovered(&self) -> Result<()> {
        self.0.shared.log.begin_staging().await?;
        self.0.named.take();
        self.0.env.executor.spawn(self.clone().checkpoint_for_ever());
        if self.0.options.tidy_when_idle {
            self.0.env.executor.spawn(self.clone().tidy_for_ever());
        }
        Ok(())
    }
    /// Returns how many records were put back into overlays, and for each VDI the segment of its last one. Each VDI's
    /// records are taken by their numbers: copies lie further on than what follows them.
    async fn replay(
        &self,
        logged: Vec<Logged>,
        newer: &mut Vec<VdiGeneration>,
    ) -> (u64, BTreeMap<VdiId, SegmentSeq>) {
        let mut replayed = 0;
        let mut last: BTreeMap<VdiId, SegmentSeq> = BTreeMap::new();
        for (id, records) in by_vdi(logged) {
            let Some(entry) = self.store().find_vdi_id(id) else {
                // Deleted after this was written, or another shard's by now, or the registry's entry is damaged.
                if let Some(last) = records.keys().next_back() {
                    let mut strangers = self.0.strangers.borrow_mut();
                    strangers.entry(id).or_insert_with(|| Stranger::logged(id)).last = *last;
                }
                if let Err(e) = self.store().check_knows_all_vdis() {
                    self.strand(id, format!("{id} (its registry entry is damaged)"), e, records.values());
                }
                continue;
            };
            let vdi = match self.open_at_start(&entry, newer).await {
                Ok(vdi) => vdi,
                Err(e) => {
                    self.strand(id, entry.name, e, records.values());
                    continue;
                }
            };
            if let (true, Some(why)) = (vdi.is_superseded(), vdi.held()) {
                // They may follow the newer record, should the device show that again.
                self.strand(id, entry.name, why, records.values());
                continue;
            }
            for Logged { segment, record, first_block, original } in records.into_values() {
                match vdi.replay(&record, &segment, first_block) {
                    Ok(taken) => replayed += u64::from(taken),
                    Err(e) => {
                        vdi.hold(e);
                        self.note_lost(id);
                        last.remove(&id);
                        break;
                    }
                }
                if let Some(seq) = original {
                    last.insert(id, seq);
                }
            }
        }
        (replayed, last)
    }
    /// The VDI cannot be opened, perhaps just now: what the log holds of it stays for the next start.
    fn strand<'a>(&self, id: VdiId, name: String, why: Error, records: impl Iterator<Item = &'a Logged>) {
        let mut oldest: Option<SegmentSeq> = None;
        let mut reserved = Need::default();
        for l in records {
            let seq = l.segment.seq();
            reserved.data += u64::from(l.record.body.inline_blocks());
            oldest = Some(oldest.map_or(seq, |o| o.min(seq)));
            for run in Run::named_by(&l.record.body) {
                // An address outside the store is found when the record is replayed.
                let _ = self.store().mark_used(run);
            }
        }
        if let Some(oldest) = oldest {
            self.store().reserve_again(reserved);
            self.0.stranded.borrow_mut().insert(id, Stranded { name, oldest, reserved, why });
        }
    }
    /// Corruption in the durable part of the log: every VDI is held but those of which a later record
    /// continues their own sequence, and those whose trees have all that was ever in that part. What the damaged bytes
    /// themselves name is no more than a guess.
    async fn hold_hurt(
        &self,
        findings: &[Finding],
        last: &BTreeMap<VdiId, SegmentSeq>,
        newer: &mut Vec<VdiGeneration>,
    ) {
        for finding in findings {
            for entry in self.store().vdis() {
                let clear = last.get(&entry.id).is_some_and(|seq| *seq > finding.to);
                if clear {
                    continue;
                }
                if let Ok(vdi) = self.open_at_start(&entry, newer).await {
                    let applied = vdi.record().applied;
                    if applied.log == self.0.shared.log.uuid() && applied.segment >= finding.to {
                        continue;
                    }
                    vdi.hold(finding.error());
                }
                self.note_lost(entry.id);
            }
        }
    }
}

/// What the open VDIs share; the log flushes the store's out-of-line data before itself.
fn shared_by_vdis(env: &Env, store: Store, log: Log, options: &EngineOptions) -> Rc<Shared> {
    let latencies = Latencies::new(Rc::clone(&env.clock));
    let of_store =
        DeviceLayers { read: Some(Layer::StoreRead), write: Layer::StoreWrite, flush: Layer::StoreFlush };
    store.device().time(latencies.clone(), of_store);
    log.device()
        .time(latencies.clone(), DeviceLayers { read: None, write: Layer::LogWrite, flush: Layer::LogFlush });
    if log.device().is_beside(store.device()) {
        let whole = store.clone();
        log.device().flush_by(Rc::new(move || {
            let store = whole.clone();
            Box::pin(async move { store.flush().await })
        }));
    }
    let shared = Rc::new(Shared {
        latencies,
        executor: env.executor.clone(),
        clock: Rc::clone(&env.clock),
        cache: NodeCache::new(store.clone(), options.cache_bytes),
        staging: Staging::new(options.staging_bytes),
        pressure: Pressure::default(),
        late_checkpoints: options.late_checkpoints,
        out_of_line_bytes: options.out_of_line_bytes,
        placing: crate::vdi::placing::Placing::default(),
        asked: Cell::new(0),
        under_way: Cell::new(0),
        placed_written: Cell::new(0),
        placed_flushed: Cell::new(0),
        store,
        log,
    });
    let weak: Weak<Shared> = Rc::downgrade(&shared);
    shared.log.set_barrier(Rc::new(move || {
        let shared = weak.upgrade();
        Box::pin(async move {
            match shared {
                Some(s) => s.flush_placed().await,
                None => Ok(()),
            }
        })
    }));
    shared
}

/// A record that counts.
struct Logged {
    segment: Rc<Segment>,
    record: Record,
    first_block: u32,
    /// Where the record was first written; None when only a copy is left. Only that proves that nothing of the
    /// VDI is missing in between.
    original: Option<SegmentSeq>,
}

/// The records of each VDI by their numbers; of a record and its copies the last one.
fn by_vdi(logged: Vec<Logged>) -> BTreeMap<VdiId, BTreeMap<VdiSeq, Logged>> {
    let mut out: BTreeMap<VdiId, BTreeMap<VdiSeq, Logged>> = BTreeMap::new();
    for mut new in logged {
        let records = out.entry(new.record.vdi).or_default();
        match records.entry(new.record.seq) {
            Entry::Vacant(v) => {
                v.insert(new);
            }
            Entry::Occupied(mut o) if new.record.copy => {
                new.original = o.get().original;
                o.insert(new);
            }
            Entry::Occupied(_) => {}
        }
    }
    out
}

impl Logged {
    /// Blocks of the store that it names.
    fn runs(&self) -> Vec<Run> {
        Run::named_by(&self.record.body)
    }
}

/// The records that count. Above what is known durable, out-of-line data may not have reached the store:
/// the log ends at the first record whose data is not there.
async fn countable(store: &Store, scan: &mut Scan) -> Result<Vec<Logged>> {
    let mut out = Vec::new();
    let mut end = None;
    for (segment, index, record, first_block) in scan.records() {
        let certain = segment.seq() <= scan.durable_through()
            || is_known(&out, record)
            || seeded_bug(Bug::TornDataCounts);
        if !certain && !data_is_there(store, record).await? {
            end = Some((segment.seq(), index));
            break;
        }
        let original = (!record.copy).then(|| segment.seq());
        out.push(Logged { segment: Rc::clone(segment), record: record.clone(), first_block, original });
    }
    if let Some((seq, index)) = end {
        scan.cut(seq, index);
    }
    Ok(out)
}

/// A copy of a record that counts, with the data where they were: damage there since does not end the log.
fn is_known(logged: &[Logged], record: &Record) -> bool {
    record.copy
        && logged
            .iter()
            .rev()
            .any(|l| (l.record.vdi, l.record.seq) == (record.vdi, record.seq) && l.record.body == record.body)
}

async fn data_is_there(store: &Store, record: &Record) -> Result<bool> {
    let Body::WriteOut { runs, crcs, .. } = &record.body else { return Ok(true) };
    let mut crcs = crcs.as_slice();
    for (start, blocks) in runs {
        let Some((of_run, rest)) = crcs.split_at_checked(*blocks as usize) else { return Ok(false) };
        if !run_is_there(store, Run { start: *start, blocks: *blocks }, of_run).await? {
            return Ok(false);
        }
        crcs = rest;
    }
    Ok(crcs.is_empty())
}

/// What ends a log was not misread, and is not what just could not be read.
async fn run_is_there(store: &Store, run: Run, crcs: &[u32]) -> Result<bool> {
    let mut misread = 0;
    for _ in 0..TAIL_READS_MAX {
        let data = match store.read_blocks(run.start, run.blocks).await {
            Ok(data) => data,
            Err(e) if e.kind() == ErrorKind::Corrupt => return Ok(false),
            Err(e) if matches!(e.kind(), ErrorKind::Io(_)) => continue,
            Err(e) => return Err(e),
        };
        if data.chunks_exact(BLOCK_SIZE).map(crc32c).eq(crcs.iter().copied()) {
            return Ok(true);
        }
        misread += 1;
        if misread == TAIL_MISREADS_MAX {
            return Ok(false);
        }
    }
    // Whether it is there is not known: the record counts, and who reads it hears of the error.
    Ok(true)
}

/// The log that the store names, scanned; a store without one gets this device as its log. With `discard` also one
/// whose log is not this, or is or was damaged where it was durable.
async fn find_log(env: &Env, store: &Store, device: &DeviceHandle, discard: bool) -> Result<Scan> {
    if let Some(uuid) = store.log().map(|l| l.uuid) {
        let mut scanned = Log::scan_staged(device, uuid, store.uuid(), &env.staging).await;
        for _ in 1..LAST_SCANS_MAX {
            // What could not be read just now is not lost.
            if !discard || !scanned.as_ref().is_err_and(|e| matches!(e.kind(), ErrorKind::Io(_))) {
                break;
            }
            scanned = Log::scan_staged(device, uuid, store.uuid(), &env.staging).await;
        }
        let is_lost = |e: &Error| {
            matches!(
                e.kind(),
                ErrorKind::WrongStore | ErrorKind::LogMissing | ErrorKind::Corrupt | ErrorKind::Io(_)
            )
        };
        match scanned {
            Ok(scan) if !discard || !has_lost(store, &scan) => {
                return scan.adopt(&env.staging, discard).await;
            }
            Err(e) if !discard || !is_lost(&e) => return Err(named_log_error(uuid, e)),
            _ => {}
        }
    }
    let in_use = if discard { None } else { Log::in_use(device, store.uuid()).await? };
    if let Some(uuid) = in_use {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!(
                "{} holds the log {uuid} of this store, which the store does not know any more",
                device.info().name
            ),
            "the store has lost writes that it had called durable; check it with all its logs. --discard-log overwrites \
             the log, and what only it holds is lost",
        ));
    }
    let uuid = env.uuid();
    Log::create(device, uuid, store.uuid()).await?;
    let log = HostLog { uuid, bytes: device.info().len_bytes, shard: store.slot() };
    store.set_log(Some(log)).await?;
    Log::scan(device, uuid, store.uuid()).await
}

/// Whether something that was durable is lost, now or since an earlier start, of a VDI that is still there.
fn has_lost(store: &Store, scan: &Scan) -> bool {
    let lost = |g: &VdiGeneration| g.is_lost() && store.may_have(g.vdi);
    !scan.findings().is_empty() || scan.generations().iter().any(lost)
}

fn named_log_error(uuid: Uuid, e: Error) -> Error {
    match e.kind() {
        ErrorKind::WrongStore | ErrorKind::LogMissing => Error::new(
            ErrorKind::LogMissing,
            format!("the store expects log {uuid}: {}", e.message()),
            "point --log at the right file; --discard-log gives up what only that log holds, and the VDIs go back to their last checkpoint",
        ),
        _ => e,
    }
}
