//! `parallax snapshot rm`.

use clap::Args;
use serde_json::json;

use crate::cli::{Session, parse, time};
use crate::control::api::SnapshotRef;
use crate::control::api::error::Result;
use crate::control::api::snapshot::SnapshotList;

/// Delete a snapshot
///
/// Clones made from it keep what they share with it. Its space comes back with 'parallax collect'.
#[derive(Args)]
#[command(after_help = "Example:\n  parallax snapshot rm web@17")]
pub struct Remove {
    /// The snapshot: VDI@NUMBER or VDI@LABEL
    #[arg(value_name = "SNAPSHOT", value_parser = parse::snapshot)]
    snapshot: SnapshotRef,
    /// Only say what would be deleted
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

impl Remove {
    /// Run the verb.
    pub fn run(self, session: &mut Session) -> Result<()> {
        let SnapshotRef { vdi, snapshot } = &self.snapshot;
        let daemon = session.daemon()?;
        let all: SnapshotList = daemon.get(&format!("/vdis/{vdi}/snapshots"))?;
        let epoch = snapshot.resolve(vdi, &all.snapshots)?.0;
        let found = all.snapshots.iter().find(|s| s.epoch == epoch).expect("just resolved");
        let label = found.label.as_ref().map_or(String::new(), |l| format!("{l}, "));
        let what = format!("snapshot {vdi}@{epoch} ({label}taken {} UTC)", time::utc(found.time_unix_ms));
        let report = json!({"dry_run": self.dry_run, "vdi": vdi.as_str(), "epoch": epoch});
        if self.dry_run {
            return session.show(&report, || format!("would delete {what}\n"));
        }
        session.confirm(&format!("Delete {what}?"), self.yes)?;
        daemon.delete(&format!("/vdis/{vdi}/snapshots/{epoch}"))?;
        session.show(&report, || format!("deleted {what}\n"))
    }
}
