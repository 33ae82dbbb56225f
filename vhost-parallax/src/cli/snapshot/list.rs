//! `parallax snapshot ls`.

use clap::Args;

use crate::cli::{Session, parse, table, time};
use crate::control::api::VdiName;
use crate::control::api::error::Result;
use crate::control::api::size::human;
use crate::control::api::snapshot::SnapshotList;

/// List the snapshots of a VDI, oldest first
///
/// A pending snapshot is still in the host's log: it survives a crash, not the loss of the log.
#[derive(Args)]
#[command(after_help = "Example:\n  parallax snapshot ls web")]
pub struct List {
    /// The VDI
    #[arg(value_name = "VDI", value_parser = parse::vdi)]
    vdi: VdiName,
}

impl List {
    /// Run the verb.
    pub fn run(self, session: &mut Session) -> Result<()> {
        let list: SnapshotList = session.daemon()?.get(&format!("/vdis/{}/snapshots", self.vdi))?;
        session.show(&list, || {
            if list.snapshots.is_empty() {
                return format!("no snapshots; 'parallax snapshot create {}' takes one\n", self.vdi);
            }
            let row = |s: &crate::control::api::SnapshotInfo| {
                [
                    format!("{}@{}", self.vdi, s.epoch),
                    s.label.clone().unwrap_or_else(|| "-".to_owned()),
                    time::utc(s.time_unix_ms),
                    human(s.size_bytes),
                    if s.pending { "pending" } else { "-" }.to_owned(),
                ]
            };
            let rows: Vec<[String; 5]> = list.snapshots.iter().map(row).collect();
            table::render(["SNAPSHOT", "LABEL", "TAKEN (UTC)", "SIZE", "STATE"], &[3], &rows)
        })
    }
}
