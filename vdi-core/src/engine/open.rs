//! Opening: the store, then the log, then what the log holds beyond the records. Reads the system area,
//! this host's bitmaps, the log's heads and the records of the VDIs it names; never the whole store.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::{Rc, Weak};

use super::{Engine, EngineOptions, Env, Inner, Recovery};
use crate::buffer::crc32c;
use crate::device::DeviceHandle;
use crate::error::{Error, ErrorKind, Result};
use crate::executor::TaskLock;
use crate::format::host::HostLog;
use crate::log::{Body, Finding, Log, Record, Scan, Segment};
use crate::sabotage::{Bug, Point, crash_point, seeded_bug};
use crate::store::{Run, Store};
use crate::tree::NodeCache;
use crate::units::{BLOCK_SIZE, SegmentSeq, VdiId};
use crate::vdi::content::Staging;
use crate::vdi::{Pressure, Shared};

impl Engine {
    /// Open the store and recover what the log holds. The caller holds the locks of both devices, so no
    /// earlier daemon can still write to them.
    pub async fn open(
        env: Env,
        store: DeviceHandle,
        log: DeviceHandle,
        options: EngineOptions,
    ) -> Result<Engine> {
        let started = env.clock.now_ns();
        let store = Store::open(store).await?;
        // What was just read may sit in a volatile cache: nothing is trimmed or reused before this.
        store.flush().await?;
        let mut scan = find_log(&env, &store, &log, options.discard_log).await?;
        let records = countable(&store, &mut scan).await?;
        let found = scan.segments().len() as u64;
        let remembered = scan.generations().iter().map(|g| (g.vdi, (g.lease_epoch, g.generation))).collect();
        let findings = scan.findings().to_vec();
        let log = scan.start(&env.executor).await?;
        let shared = Rc::new(Shared {
            executor: env.executor.clone(),
            clock: Rc::clone(&env.clock),
            cache: NodeCache::new(store.clone(), options.cache_bytes),
            staging: Staging::new(options.staging_bytes),
            pressure: Pressure::default(),
            late_checkpoints: options.late_checkpoints,
            out_of_line_bytes: options.out_of_line_bytes,
            placing: crate::vdi::placing::Placing::default(),
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
        let engine = Engine(Rc::new(Inner {
            env: env.clone(),
            shared,
            options,
            vdis: RefCell::default(),
            opening: TaskLock::default(),
            round: TaskLock::default(),
            remembered: RefCell::new(remembered),
            failed_rounds: Cell::new(0),
            poisoned: RefCell::default(),
            stats: Cell::default(),
            closing: Cell::new(false),
            recovery: Cell::default(),
            reclaimable_bytes: Cell::new(None),
        }));
        let named = records.iter().flat_map(Logged::runs).collect();
        let (records, last) = engine.replay(records).await;
        engine.hold_hurt(&findings, &last).await;
        crash_point(Point::Replayed);
        // With a tree that cannot be read nothing is known to be dead, and the checkpoint will say what is wrong.
        let _ = engine.reclaim_leaks(named).await;
        // Returned claims reach the disk before a host record that no longer lists them: nothing leaks.
        engine.store().write_dirty_bitmaps().await?;
        engine.store().flush().await?;
        let ns = env.clock.now_ns() - started;
        let recovery = Recovery { segments: found, records, findings: findings.len() as u64, ns };
        engine.0.recovery.set(recovery);
        env.executor.spawn(engine.clone().checkpoint_for_ever());
        Ok(engine)
    }
    /// Returns how many records count, and for each VDI the segment of its last one.
    async fn replay(&self, logged: Vec<Logged>) -> (u64, BTreeMap<VdiId, SegmentSeq>) {
        let mut replayed = 0;
        let mut last = BTreeMap::new();
        let mut failed: BTreeSet<VdiId> = BTreeSet::new();
        for Logged { segment, record, first_block } in logged {
            if failed.contains(&record.vdi) {
                continue;
            }
            // A VDI that is not in the registry was deleted after this was written.
            let Some(entry) = self.store().find_vdi_id(record.vdi) else { continue };
            let result = match self.open_entry(&entry).await {
                Ok(vdi) => vdi.replay(&record, &segment, first_block).map_err(|e| vdi.hold(e)),
                // Its record cannot be read: its requests fail when someone opens it.
                Err(_) => Err(()),
            };
            match result {
                Ok(()) => {
                    replayed += 1;
                    last.insert(record.vdi, segment.seq());
                }
                Err(()) => {
                    failed.insert(record.vdi);
                    last.remove(&record.vdi);
                }
            }
        }
        (replayed, last)
    }
    /// Corruption in the durable part of the log: every VDI is held but those of which a later record
    /// continues their own sequence. What the damaged bytes themselves name is no more than a guess.
    async fn hold_hurt(&self, findings: &[Finding], last: &BTreeMap<VdiId, SegmentSeq>) {
        for finding in findings {
            for entry in self.store().vdis() {
                let clear = last.get(&entry.id).is_some_and(|seq| *seq > finding.to);
                if !clear && let Ok(vdi) = self.open_entry(&entry).await {
                    vdi.hold(finding.error());
                }
            }
        }
    }
}

/// A record that counts.
struct Logged {
    segment: Rc<Segment>,
    record: Record,
    first_block: u32,
}

impl Logged {
    /// Blocks of the store that it names.
    fn runs(&self) -> Vec<Run> {
        let Body::WriteOut { runs, .. } = &self.record.body else { return Vec::new() };
        runs.iter().map(|(start, blocks)| Run { start: *start, blocks: *blocks }).collect()
    }
}

/// The records that count. Above what is known durable, out-of-line data may not have reached the store:
/// the log ends at the first record whose data is not there.
async fn countable(store: &Store, scan: &mut Scan) -> Result<Vec<Logged>> {
    let mut out = Vec::new();
    let mut end = None;
    for (segment, index, record, first_block) in scan.records() {
        let certain = segment.seq() <= scan.durable_through() || seeded_bug(Bug::TornDataCounts);
        if !certain && !data_is_there(store, record).await? {
            end = Some((segment.seq(), index));
            break;
        }
        out.push(Logged { segment: Rc::clone(segment), record: record.clone(), first_block });
    }
    if let Some((seq, index)) = end {
        scan.cut(seq, index);
    }
    Ok(out)
}

async fn data_is_there(store: &Store, record: &Record) -> Result<bool> {
    let Body::WriteOut { runs, crcs, .. } = &record.body else { return Ok(true) };
    let mut crcs = crcs.iter();
    for (start, blocks) in runs {
        let data = match store.read_blocks(*start, *blocks).await {
            Ok(data) => data,
            Err(e) if e.kind() == ErrorKind::Corrupt => return Ok(false),
            Err(e) => return Err(e),
        };
        for block in data.chunks_exact(BLOCK_SIZE) {
            if crcs.next() != Some(&crc32c(block)) {
                return Ok(false);
            }
        }
    }
    Ok(crcs.next().is_none())
}

/// The log that the store names, scanned; a store without one gets this device as its log.
async fn find_log(env: &Env, store: &Store, device: &DeviceHandle, discard: bool) -> Result<Scan> {
    let named = store.logs().first().map(|l| l.uuid);
    if let Some(uuid) = named.filter(|_| !discard) {
        return Log::scan(device, uuid, store.uuid()).await.map_err(|e| match e.kind() {
            ErrorKind::WrongStore | ErrorKind::LogMissing => Error::new(
                ErrorKind::LogMissing,
                format!("the store expects log {uuid}: {}", e.message()),
                "point --log at the right file; --discard-log gives up what only that log holds, and the VDIs go back to their last checkpoint",
            ),
            _ => e,
        });
    }
    let uuid = env.uuid();
    Log::create(device, uuid, store.uuid()).await?;
    store.set_logs(vec![HostLog { uuid, bytes: device.info().len_bytes, shard: 0 }]).await?;
    Log::scan(device, uuid, store.uuid()).await
}
