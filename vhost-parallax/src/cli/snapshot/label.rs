//! `parallax snapshot label`.

use clap::Args;

use crate::cli::{Session, parse};
use crate::control::api::error::Result;
use crate::control::api::{Label, LabelRequest, SnapshotInfo, SnapshotRef};

/// Give a snapshot a label, another label, or none
#[derive(Args)]
#[command(after_help = "Example:\n  parallax snapshot label web@17 golden")]
pub struct Relabel {
    /// The snapshot: VDI@NUMBER or VDI@LABEL
    #[arg(value_name = "SNAPSHOT", value_parser = parse::snapshot)]
    snapshot: SnapshotRef,
    /// The new label; without it the snapshot loses its label
    #[arg(value_name = "LABEL", value_parser = parse::label)]
    label: Option<Label>,
}

impl Relabel {
    /// Run the verb.
    pub fn run(self, session: &mut Session) -> Result<()> {
        let SnapshotRef { vdi, snapshot } = &self.snapshot;
        let request = LabelRequest { label: self.label.map(|l| l.to_string()).unwrap_or_default() };
        let now: SnapshotInfo =
            session.daemon()?.patch(&format!("/vdis/{vdi}/snapshots/{snapshot}"), &request)?;
        session.show(&now, || match &now.label {
            Some(label) => format!("snapshot {vdi}@{} is {vdi}@{label}\n", now.epoch),
            None => format!("snapshot {vdi}@{} has no label\n", now.epoch),
        })
    }
}
