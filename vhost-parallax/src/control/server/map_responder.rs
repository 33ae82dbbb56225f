//! A data thread for tests and fuzzing: answers commands from a map, with the rules users see and no disk.

use std::collections::BTreeMap;
use std::thread::JoinHandle;

use crate::control::api::command::{Command, CommandReceiver, CommandSender, channel};
use crate::control::api::error::{Code, ErrorBody, Result};
use crate::control::api::status::{CacheStatus, DaemonStatus, LogStatus, StoreStatus, VdiCounts};
use crate::control::api::{
    AttachInfo, CollectReport, Label, LatencyReport, LayerLatency, Origin, SnapshotInfo, SnapshotSelector,
    Status, Tree, TreeNode, VdiInfo, VdiName,
};

/// 2026-11-20 13:40:00 UTC; each new thing is a minute younger.
const FIRST_UNIX_MS: u64 = 1_795_182_000_000;

struct Disk {
    info: VdiInfo,
    snapshots: Vec<SnapshotInfo>,
}

#[derive(Default)]
struct Map {
    disks: BTreeMap<String, Disk>,
    minutes: u64,
}

/// Start the thread; it ends when the last sender is gone.
#[must_use]
pub fn start() -> (CommandSender, JoinHandle<()>) {
    let (sender, receiver) = channel(|| {});
    (sender, std::thread::spawn(move || run(receiver)))
}

fn run(mut receiver: CommandReceiver) {
    let mut map = Map::default();
    while let Some(command) = receiver.wait() {
        map.execute(command);
    }
}

fn no_vdi(vdi: &VdiName) -> ErrorBody {
    let message = format!("there is no VDI '{vdi}'");
    ErrorBody::new(Code::NotFound, message, "'parallax ls' lists the VDIs of this store")
}

fn busy(message: String, hint: &str) -> ErrorBody {
    ErrorBody::new(Code::Busy, message, hint)
}

impl Map {
    fn execute(&mut self, command: Command) {
        match command {
            Command::Create { name, size_bytes, reply } => reply.answer(self.create(&name, size_bytes, None)),
            Command::Delete { vdi, recursive, reply } => reply.answer(self.delete(&vdi, recursive)),
            Command::List { reply } => {
                reply.answer::<ErrorBody>(Ok(self.disks.values().map(|d| d.info.clone()).collect()))
            }
            Command::Show { vdi, reply } => reply.answer(self.disk(&vdi).map(|d| d.info.clone())),
            Command::Attach { vdi, num_queues, read_only, reply } => {
                reply.answer(self.attach(&vdi, num_queues, read_only))
            }
            Command::Detach { vdi, reply, .. } => {
                reply.answer(self.disk(&vdi).map(|d| d.info.attached = None));
            }
            Command::Snapshot { vdi, label, reply } => reply.answer(self.snapshot(&vdi, label)),
            Command::Snapshots { vdi, reply } => reply.answer(self.disk(&vdi).map(|d| d.snapshots.clone())),
            Command::Label { vdi, snapshot, label, reply } => {
                reply.answer(self.label(&vdi, &snapshot, label))
            }
            Command::RemoveSnapshot { vdi, snapshot, reply } => {
                reply.answer(self.remove_snapshot(&vdi, &snapshot))
            }
            Command::Clone { source, snapshot, name, reply } => {
                reply.answer(self.clone_vdi(&source, snapshot, &name));
            }
            Command::Rollback { vdi, snapshot, reply } => reply.answer(self.rollback(&vdi, &snapshot)),
            Command::Resize { vdi, size_bytes, force, reply } => {
                reply.answer(self.resize(&vdi, size_bytes, force))
            }
            Command::Tree { reply } => reply.answer::<ErrorBody>(Ok(self.tree())),
            Command::Status { reply } => reply.answer::<ErrorBody>(Ok(self.status())),
            Command::Latency { enable, reply } => {
                let layer = LayerLatency {
                    layer: "write".into(),
                    count: 4711,
                    mean_ns: 11_800,
                    p50_ns: 9_600,
                    p99_ns: 41_000,
                    p999_ns: 230_000,
                    max_ns: 1_400_000,
                };
                let enabled = enable.unwrap_or(true);
                let report = LatencyReport { enabled, lasted_ms: 61_000, layers: vec![layer] };
                reply.answer::<ErrorBody>(Ok(report));
            }
            Command::Collect { dry_run, reply } => {
                let report = CollectReport { dry_run, freed_bytes: 3 << 20, live_bytes: 5 << 30 };
                reply.answer::<ErrorBody>(Ok(report));
            }
            Command::Checkpoint { reply } => reply.answer::<ErrorBody>(Ok(())),
        }
    }

    fn disk(&mut self, vdi: &VdiName) -> Result<&mut Disk> {
        self.disks.get_mut(vdi.as_str()).ok_or_else(|| no_vdi(vdi))
    }

    fn now(&mut self) -> u64 {
        self.minutes += 1;
        FIRST_UNIX_MS + (self.minutes - 1) * 60_000
    }

    fn create(&mut self, name: &VdiName, size_bytes: u64, origin: Option<Origin>) -> Result<VdiInfo> {
        if let Some(there) = self.disks.get(name.as_str()) {
            if there.info.size_bytes == size_bytes && origin.is_none() {
                return Ok(there.info.clone());
            }
            let message = format!("a VDI '{name}' exists already");
            return Err(ErrorBody::new(Code::Exists, message, "choose another name"));
        }
        let created_unix_ms = self.now();
        let info = VdiInfo {
            name: name.to_string(),
            id: format!("00000000-0000-4000-8000-{:012x}", self.minutes),
            size_bytes,
            created_unix_ms,
            mapped_bytes: 0,
            epoch: origin.as_ref().map_or(1, |o| o.epoch + 1),
            snapshots: 0,
            origin,
            attached: None,
            held: None,
        };
        self.disks.insert(name.to_string(), Disk { info: info.clone(), snapshots: Vec::new() });
        Ok(info)
    }

    fn delete(&mut self, vdi: &VdiName, recursive: bool) -> Result<()> {
        let disk = self.disk(vdi)?;
        if disk.info.attached.is_some() {
            return Err(busy(format!("VDI '{vdi}' is attached"), "detach it first"));
        }
        if !disk.snapshots.is_empty() && !recursive {
            return Err(busy(format!("VDI '{vdi}' has snapshots"), "delete them too with -r"));
        }
        let gone = disk.info.id.clone();
        self.disks.remove(vdi.as_str());
        for origin in self.disks.values_mut().filter_map(|d| d.info.origin.as_mut()) {
            origin.vdi = origin.vdi.take().filter(|_| origin.id != gone);
        }
        Ok(())
    }

    fn attach(&mut self, vdi: &VdiName, num_queues: u16, read_only: bool) -> Result<AttachInfo> {
        let disk = self.disk(vdi)?;
        let wanted = AttachInfo {
            vdi: vdi.to_string(),
            socket: format!("/run/parallax/vdi/{vdi}.sock"),
            num_queues,
            read_only,
            connected: false,
        };
        match &disk.info.attached {
            Some(there) if *there != wanted => {
                Err(busy(format!("VDI '{vdi}' is attached otherwise"), "detach it first"))
            }
            _ => Ok(disk.info.attached.insert(wanted).clone()),
        }
    }

    fn snapshot(&mut self, vdi: &VdiName, label: Option<Label>) -> Result<SnapshotInfo> {
        let time_unix_ms = self.now();
        let disk = self.disk(vdi)?;
        let label = label.map(|l| l.to_string());
        if label.is_some() && disk.snapshots.iter().any(|s| s.label == label) {
            let message = format!("VDI '{vdi}' has a snapshot of this label already");
            return Err(ErrorBody::new(Code::Exists, message, "choose another label"));
        }
        let (epoch, size_bytes) = (disk.info.epoch, disk.info.size_bytes);
        let info = SnapshotInfo { epoch, label, time_unix_ms, size_bytes, pending: true };
        disk.snapshots.push(info.clone());
        disk.info.epoch += 1;
        disk.info.snapshots += 1;
        Ok(info)
    }

    fn label(
        &mut self,
        vdi: &VdiName,
        which: &SnapshotSelector,
        label: Option<Label>,
    ) -> Result<SnapshotInfo> {
        let disk = self.disk(vdi)?;
        let epoch = which.resolve(vdi, &disk.snapshots)?;
        let snapshot = disk.snapshots.iter_mut().find(|s| s.epoch == epoch.0).expect("just resolved");
        snapshot.label = label.map(|l| l.to_string());
        Ok(snapshot.clone())
    }

    fn remove_snapshot(&mut self, vdi: &VdiName, which: &SnapshotSelector) -> Result<()> {
        let disk = self.disk(vdi)?;
        let epoch = which.resolve(vdi, &disk.snapshots)?;
        disk.snapshots.retain(|s| s.epoch != epoch.0);
        disk.info.snapshots -= 1;
        Ok(())
    }

    fn clone_vdi(
        &mut self,
        source: &VdiName,
        snapshot: Option<SnapshotSelector>,
        name: &VdiName,
    ) -> Result<VdiInfo> {
        let epoch = match snapshot {
            Some(which) => which.resolve(source, &self.disk(source)?.snapshots)?.0,
            None => self.snapshot(source, None)?.epoch,
        };
        let from = &self.disk(source)?.info;
        let origin = Origin { id: from.id.clone(), vdi: Some(from.name.clone()), epoch };
        let size_bytes = from.size_bytes;
        self.create(name, size_bytes, Some(origin))
    }

    fn rollback(&mut self, vdi: &VdiName, which: &SnapshotSelector) -> Result<SnapshotInfo> {
        which.resolve(vdi, &self.disk(vdi)?.snapshots)?;
        self.snapshot(vdi, None)
    }

    fn resize(&mut self, vdi: &VdiName, size_bytes: u64, force: bool) -> Result<VdiInfo> {
        let disk = self.disk(vdi)?;
        if size_bytes < disk.info.size_bytes && !force {
            let message = format!("VDI '{vdi}' would become smaller");
            return Err(ErrorBody::bad_request(message, "what lies beyond the new end is lost; use force"));
        }
        disk.info.size_bytes = size_bytes;
        Ok(disk.info.clone())
    }

    fn tree(&self) -> Tree {
        let node = |d: &Disk| TreeNode {
            name: d.info.name.clone(),
            id: d.info.id.clone(),
            size_bytes: d.info.size_bytes,
            attached: d.info.attached.is_some(),
            origin: d.info.origin.clone(),
            snapshots: d.snapshots.clone(),
        };
        Tree { nodes: self.disks.values().map(node).collect() }
    }

    fn status(&self) -> Status {
        let daemon = DaemonStatus { version: "0.1.0".into(), pid: 4711, uptime_s: 93_784, shards: 1 };
        let store = StoreStatus {
            url: "/var/lib/parallax/store".into(),
            uuid: "6ba7b810-9dad-41d1-80b4-00c04fd430c8".into(),
            size_bytes: 100 << 30,
            used_bytes: 30 << 30,
            free_bytes: 70 << 30,
            log_bytes: 0,
            reclaimable_bytes: Some(3 << 20),
            reclaimable_unix_ms: Some(1_795_182_000_000),
            io_mode: "io_uring, O_DIRECT".into(),
        };
        let mut vdis = VdiCounts { total: self.disks.len() as u64, ..VdiCounts::default() };
        vdis.snapshots = self.disks.values().map(|d| d.info.snapshots).sum();
        vdis.attached = self.disks.values().filter(|d| d.info.attached.is_some()).count() as u64;
        let log = LogStatus {
            path: "/var/lib/parallax/6ba7b810-9dad-41d1-80b4-00c04fd430c8.log".into(),
            uuid: "7d444840-9dc0-41d1-b245-5ffdce74fad2".into(),
            size_bytes: 1 << 30,
            used_bytes: 120 << 20,
            incarnation: 3,
            checkpoints: 17,
            segments_written: 4711,
            io_mode: "pread, buffered".into(),
            staged_in: Some("/run/parallax/staging/6ba7b810-9dad-41d1-80b4-00c04fd430c8.0".into()),
            not_staged: None,
        };
        let cache = CacheStatus { used_bytes: 12 << 20, size_bytes: 64 << 20, hits: 991, misses: 9 };
        Status { daemon, store, log, other_logs: Vec::new(), cache, vdis }
    }
}
