//! The logs: every segment that counts, what it names in the store, and which VDI records it remembers.

use std::collections::BTreeSet;

use super::reader::Reader;
use super::{Check, Severity};
use crate::device::DeviceHandle;
use crate::error::{Error, ErrorKind};
use crate::format::catalogue::ExtentKind;
use crate::format::extent::log_stretch;
use crate::format::host::HostLog;
use crate::format::log_head::{SLOT_BYTES, SLOTS, slot_offset_bytes, verify_slot};
use crate::format::record::Body;
use crate::limits::COUNTER_MAX;
use crate::log::{Log, Scan};

const LOST: &str = "writes in these segments are lost; the daemon holds the VDIs they name until they are \
                    rolled back, restored, or opened with --discard-log";
const SLOT: &str = "the other slot serves; the daemon writes this one anew when it next trims the log";
const UNKNOWN: &str = "if it was given up with --discard-log, name the logs that serve now with --log; if not, the store has lost \
                       writes that it had called durable: restore it from a backup";
const ABSENT: &str = "give the log with --log: without it, blocks it names look like leaks. One in the store is found once its \
                      catalogue is whole ('parallax check -r all')";
const UNUSED: &str = "the daemon uses or returns them at its next start";

impl Check {
    /// Scan every log that a host record names, on whichever of `devices` it is.
    pub(super) async fn logs(&mut self, devices: &[DeviceHandle]) {
        for log in self.system.logs.clone() {
            if let Some((device, scan)) = self.find_log(&log, devices).await {
                self.take_in(&scan);
                self.scans.push((device, scan));
            }
        }
        let in_store: Vec<DeviceHandle> =
            self.log_slots().into_iter().filter_map(|slot| self.inside(slot)).collect();
        for device in devices.iter().chain(&in_store) {
            self.unknown_log(device).await;
        }
        for slot in self.log_slots() {
            if !self.system.logs.iter().any(|log| log.shard == slot) {
                let message = format!("extents are leased for a log of shard {slot}, which has none");
                self.report.add(Severity::Note, message, UNUSED);
            }
        }
    }
    /// The shards that have log extents, as far as the catalogue can be read.
    fn log_slots(&self) -> BTreeSet<u16> {
        let entries = self.reader.catalogue.iter().flatten();
        entries.filter(|e| e.kind == ExtentKind::Log).map(|e| e.host).collect()
    }
    /// What a log holds that the store does not know any more nobody replays, and what it names looks like leaks.
    async fn unknown_log(&mut self, device: &DeviceHandle) {
        let in_use = Log::in_use(device, self.reader.superblock.uuid).await;
        let Ok(Some(uuid)) = in_use else { return };
        if !self.system.logs.iter().any(|log| log.uuid == uuid) {
            let detail = format!(
                "{} holds the log {uuid} of this store, which no host record names",
                device.info().name
            );
            self.report.blind(&Error::corrupt("log", uuid, detail), UNKNOWN);
        }
    }
    async fn find_log(&mut self, log: &HostLog, devices: &[DeviceHandle]) -> Option<(DeviceHandle, Scan)> {
        let inside = self.inside(log.shard);
        for device in devices.iter().chain(&inside) {
            match Log::scan(device, log.uuid, self.reader.superblock.uuid).await {
                Ok(scan) => {
                    self.head_slots(device, log).await;
                    return Some((device.clone(), scan));
                }
                Err(e) if matches!(e.kind(), ErrorKind::LogMissing | ErrorKind::WrongStore) => {}
                Err(e) => {
                    self.report.blind(&e, LOST);
                    return None;
                }
            }
        }
        self.report.incomplete = true;
        let message = format!("log {} is not at hand: what it holds was not checked", log.uuid);
        self.report.add(Severity::Note, message, ABSENT);
        None
    }
    /// The log extents of the shard, if it has any: its log may be there. None while one of them may be unknown, for then
    /// everything behind it would lie elsewhere.
    fn inside(&self, slot: u16) -> Option<DeviceHandle> {
        let Reader { device, superblock, catalogue } = &self.reader;
        let theirs = catalogue.iter().flatten().filter(|e| e.kind == ExtentKind::Log && e.host == slot);
        let stretches: Vec<_> = theirs.map(|e| log_stretch(e, superblock.geometry)).collect();
        let name = format!("the log extents of shard {slot}");
        let known = catalogue.iter().all(Option::is_some);
        (known && !stretches.is_empty()).then(|| device.joined(name, stretches))
    }
    /// One slot of the head is enough; a write in progress at a crash leaves one that does not verify.
    async fn head_slots(&mut self, device: &DeviceHandle, log: &HostLog) {
        for slot in 0..SLOTS {
            let bytes = device.read_pieces(slot_offset_bytes(slot), SLOT_BYTES).await;
            match verify_slot(bytes.prefix(), log.uuid, slot) {
                Ok(head) => {
                    let remembered = head.vdis.iter().filter(|v| !v.is_lost()).map(|v| v.generation);
                    let most = remembered.map(|g| g.0).max().unwrap_or(0);
                    let counts = [most, head.generation.0, head.incarnation.0, head.tail_seq.0];
                    let count = counts.into_iter().max().unwrap_or(0);
                    self.report.near_its_end("log head", format!("slot {slot}"), count, COUNTER_MAX);
                }
                Err(e) => {
                    let e = bytes.unread().unwrap_or(&e);
                    self.report.add(Severity::Note, e.message().to_owned(), SLOT);
                }
            }
        }
    }
    fn take_in(&mut self, scan: &Scan) {
        self.report.counts.segments += scan.segments().len() as u64;
        self.remembered.extend_from_slice(scan.generations());
        for finding in scan.findings() {
            let names: Vec<&str> = finding.vdis.iter().filter_map(|id| self.vdi_name(*id)).collect();
            let error = match names.is_empty() {
                true => finding.error(),
                false => finding.error().context(format!("writes to {}", names.join(", "))),
            };
            self.report.blind(&error, LOST);
        }
        for (_, _, record, _) in scan.records() {
            let Body::WriteOut { runs, .. } = &record.body else { continue };
            for (start, blocks) in runs {
                let outside = (0..u64::from(*blocks)).any(|n| self.logged.insert(start.plus(n)).is_none());
                if outside {
                    let detail = format!("a log record of VDI {} names {blocks} blocks there", record.vdi);
                    self.report.corrupt(&Error::corrupt("block address", start, detail), LOST);
                }
            }
        }
    }
    fn vdi_name(&self, id: crate::units::VdiId) -> Option<&str> {
        self.system.vdis.iter().find(|v| v.id == id).map(|v| v.name.as_str())
    }
}
