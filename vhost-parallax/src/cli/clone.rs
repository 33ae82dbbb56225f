//! `parallax clone`.

use clap::Args;

use super::parse::{self, Source};
use super::{Session, list};
use crate::control::api::error::Result;
use crate::control::api::size::human;
use crate::control::api::{CloneRequest, VdiInfo, VdiName};

/// Make a writable clone of a snapshot, or of a VDI as it is now
///
/// Copies nothing and takes no time. A VDI named without a snapshot is snapshotted first.
#[derive(Args)]
#[command(after_help = "Example:\n  parallax clone web@before-upgrade web-test")]
pub struct CloneVdi {
    /// The source: VDI@NUMBER, VDI@LABEL or VDI
    #[arg(value_name = "SOURCE", value_parser = parse::source)]
    source: Source,
    /// Name of the clone
    #[arg(value_name = "NEW", value_parser = parse::vdi)]
    new: VdiName,
}

impl CloneVdi {
    /// Run the verb.
    pub fn run(self, session: &mut Session) -> Result<()> {
        let (vdi, snapshot) = match &self.source {
            Source::Vdi(vdi) => (vdi, None),
            Source::Snapshot(named) => (&named.vdi, Some(named.snapshot.to_string())),
        };
        let request = CloneRequest { name: self.new.to_string(), snapshot };
        let clone: VdiInfo = session.daemon()?.post(&format!("/vdis/{vdi}/clone"), &request)?;
        session.show(&clone, || {
            let from = list::origin(&clone).unwrap_or_else(|| vdi.to_string());
            format!("VDI {} ({}) is a clone of {from}\n", clone.name, human(clone.size_bytes))
        })
    }
}
