//! `parallax check`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use vdi_core::check::{CheckOptions, Report, Severity, check, repair_leaks, write_mends};
use vdi_core::device::DeviceHandle;
use vdi_core::limits::SHARDS_MAX;
use vdi_core::units::BLOCK_BYTES;

use super::store::{Local, superblock};
use super::{Session, table};
use crate::control::api::error::Result;
use crate::control::api::log_path::{default_log_path, shard_log_path};
use crate::control::api::size::human;

/// Rounds of repair: a damaged catalogue hides bitmaps, and they hide leaks.
const ROUNDS_MAX: u32 = 4;

/// Check a store, and repair it
///
/// Reads every structure and tree, and the log if it is there. No daemon may have the store open. Changes
/// nothing without -r. Exit code as qemu-img check: 0 clean, 1 not completed, 2 corrupt, 3 leaks only.
#[derive(Args)]
#[command(after_help = "Example:\n  parallax check /srv/parallax.store")]
pub struct Check {
    /// The file or block device
    #[arg(value_name = "STORE")]
    store: String,
    /// A log of the store; may be given several times. Those in the store itself are found [default: those in their default
    /// place]
    #[arg(long, value_name = "PATH")]
    log: Vec<String>,
    /// Read every data block too and compare it with its checksum
    #[arg(long)]
    data: bool,
    /// Repair: 'leaks' gives leaked blocks back; 'all' also writes anew what follows from what is sound: superblocks,
    /// the catalogue, extent headers, bitmaps, slots of VDI records. It shows its plan and asks
    #[arg(short, long, value_name = "WHAT")]
    repair: Option<Repair>,
    /// With -r: only say what would be repaired
    #[arg(short = 'n', long, requires = "repair")]
    dry_run: bool,
    /// With -r all: do not ask
    #[arg(long, requires = "repair")]
    yes: bool,
}

/// What has been repaired.
#[derive(Default)]
struct Repaired {
    anew: Vec<String>,
    blocks: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Repair {
    Leaks,
    All,
}

impl Check {
    /// Run the verb; the exit code is the state of the store.
    pub fn run(self, session: &mut Session) -> Result<u8> {
        let write = self.repair.is_some() && !self.dry_run;
        let mut local = Local::new()?;
        let store = local.open(&self.store, write)?;
        let mut logs = Vec::new();
        for path in self.log_paths(&local, &store)? {
            logs.push(local.open(&path, false)?);
        }
        let options = CheckOptions { data: self.data };
        let again = || examine(&local, &store, &logs, options);
        let mut report = again()?;
        let mut done = Repaired::default();
        for _ in 0..ROUNDS_MAX {
            let plan = report.mend_plan();
            if !write || self.repair != Some(Repair::All) || plan.is_empty() {
                break;
            }
            session.confirm(&question(&self.store, &plan), self.yes)?;
            let (handle, seen) = (store.clone(), report);
            local.run(async move { write_mends(&handle, &seen).await })?;
            done.anew.extend(plan);
            report = again()?;
        }
        if write && report.counts.blocks_leaked > 0 {
            let (handle, seen) = (store.clone(), report);
            done.blocks = local.run(async move { repair_leaks(&handle, &seen).await })?;
            report = again()?;
        }
        let mut plan = Vec::new();
        if self.dry_run {
            plan.extend(report.mend_plan().into_iter().filter(|_| self.repair == Some(Repair::All)));
            plan.extend(report.leak_plan());
        }
        session.show(&as_json(&report, &done, &plan), || text(&self.store, &store, &report, &done, &plan))?;
        Ok(report.exit_code())
    }

    /// The logs named, else those in their default place.
    fn log_paths(&self, local: &Local, store: &DeviceHandle) -> Result<Vec<String>> {
        if !self.log.is_empty() {
            // Those in the store the check finds.
            return Ok(self.log.iter().filter(|log| *log != "store").cloned().collect());
        }
        let Some(sb) = superblock(local, store)? else { return Ok(Vec::new()) };
        let is_root = rustix::process::geteuid().is_root();
        let path = default_log_path(&sb.uuid.to_string(), |key| std::env::var_os(key), is_root);
        let paths = path.iter().flat_map(|first| (0..SHARDS_MAX).map(|shard| shard_log_path(first, shard)));
        let there = paths.filter(|path| path.exists());
        Ok(there.map(PathBuf::into_os_string).filter_map(|p| p.into_string().ok()).collect())
    }
}

fn question(store: &str, plan: &[String]) -> String {
    let lines: String = plan.iter().map(|line| format!("  {line}\n")).collect();
    format!("What can be repaired on {store}:\n{lines}A copy of the store is the safer place to try. Do it?")
}

fn examine(
    local: &Local,
    store: &DeviceHandle,
    logs: &[DeviceHandle],
    options: CheckOptions,
) -> Result<Report> {
    let (store, logs) = (store.clone(), logs.to_vec());
    Ok(local.run(async move { check(&store, &logs, options).await })?)
}

fn severity(of: Severity) -> &'static str {
    match of {
        Severity::Note => "note",
        Severity::Leak => "leak",
        Severity::Corrupt => "corrupt",
    }
}

fn result(report: &Report) -> &'static str {
    match report.exit_code() {
        0 => "clean",
        3 => "leaks",
        _ => "corrupt",
    }
}

fn as_json(report: &Report, done: &Repaired, plan: &[String]) -> Value {
    let c = &report.counts;
    let findings: Vec<Value> = report
        .findings
        .iter()
        .map(|f| {
            let hurt: Vec<Value> = f
                .hurt
                .iter()
                .map(|h| {
                    let (offset_bytes, len_bytes) = h.bytes();
                    json!({"vdi": h.vdi, "snapshot": h.snapshot.map(|e| e.0),
                        "offset_bytes": offset_bytes, "len_bytes": len_bytes})
                })
                .collect();
            json!({"severity": severity(f.severity), "message": f.message, "hint": f.hint, "hurt": hurt})
        })
        .collect();
    json!({
        "result": result(report),
        "incomplete": report.incomplete,
        "findings": findings,
        "findings_dropped": report.findings_dropped,
        "repaired": done.anew,
        "repaired_bytes": done.blocks * BLOCK_BYTES,
        "would_repair": plan,
        "counts": {
            "vdis": c.vdis, "snapshots": c.snapshots, "nodes": c.nodes, "extents": c.extents,
            "log_segments": c.segments, "data_bytes": c.data_blocks * BLOCK_BYTES,
            "data_verified_bytes": c.data_blocks_verified * BLOCK_BYTES,
            "used_bytes": c.blocks_used * BLOCK_BYTES, "claimed_bytes": c.blocks_claimed * BLOCK_BYTES,
            "leaked_bytes": c.blocks_leaked * BLOCK_BYTES,
        },
    })
}

fn text(url: &str, store: &DeviceHandle, report: &Report, done: &Repaired, plan: &[String]) -> String {
    let c = &report.counts;
    let bytes = |blocks: u64| human(blocks * BLOCK_BYTES);
    let mut out = format!(
        "{url} ({}): {}, {}, {}, {} of data, {}\n",
        human(store.info().len_bytes),
        table::count(c.vdis, "VDI"),
        table::count(c.snapshots, "snapshot"),
        table::count(c.nodes, "node"),
        bytes(c.data_blocks),
        table::count(c.segments, "log segment"),
    );
    if c.data_blocks_verified > 0 {
        out.push_str(&format!(
            "{} of data read and compared with checksums\n",
            bytes(c.data_blocks_verified)
        ));
    }
    for f in &report.findings {
        out.push_str(&format!("{}: {}\n", severity(f.severity), f.message));
        for hurt in &f.hurt {
            out.push_str(&format!("  hurts {hurt}\n"));
        }
        if !f.hint.is_empty() {
            out.push_str(&format!("  hint: {}\n", f.hint));
        }
    }
    if report.findings_dropped > 0 {
        out.push_str(&format!("... and {} more\n", report.findings_dropped));
    }
    for line in &done.anew {
        out.push_str(&format!("repaired: {line}\n"));
    }
    if done.blocks > 0 {
        out.push_str(&format!("repaired: {} given back\n", bytes(done.blocks)));
    }
    for line in plan {
        out.push_str(&format!("would {line}\n"));
    }
    out.push_str(match report.exit_code() {
        0 => "result: clean\n",
        3 => "result: leaks; nothing is lost, 'parallax check -r leaks' gives the space back\n",
        _ => "result: corrupt\n",
    });
    out
}
