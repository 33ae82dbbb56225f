//! `parallax snapshot create`.

use clap::Args;

use crate::cli::{Session, parse};
use crate::control::api::error::Result;
use crate::control::api::{Label, SnapshotInfo, SnapshotRequest, VdiName};

/// Take a snapshot of a VDI
///
/// It holds every write acknowledged before, copies nothing, and does not stop the guest. It survives a crash
/// of the host; until the next checkpoint it is lost with the host's log.
#[derive(Args)]
#[command(after_help = "Example:\n  parallax snapshot create web --label before-upgrade")]
pub struct Create {
    /// The VDI
    #[arg(value_name = "VDI", value_parser = parse::vdi)]
    vdi: VdiName,
    /// A label: as a name, with at least one letter
    #[arg(long, value_name = "LABEL", value_parser = parse::label)]
    label: Option<Label>,
}

impl Create {
    /// Run the verb.
    pub fn run(self, session: &mut Session) -> Result<()> {
        let request = SnapshotRequest { label: self.label.map(|l| l.to_string()) };
        let taken: SnapshotInfo =
            session.daemon()?.post(&format!("/vdis/{}/snapshots", self.vdi), &request)?;
        session.show(&taken, || match &taken.label {
            Some(label) => format!("took snapshot {}@{} ({}@{label})\n", self.vdi, taken.epoch, self.vdi),
            None => format!("took snapshot {}@{}\n", self.vdi, taken.epoch),
        })
    }
}
