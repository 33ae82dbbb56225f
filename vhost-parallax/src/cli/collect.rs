//! `parallax collect`.

use clap::Args;

use super::Session;
use crate::control::api::error::Result;
use crate::control::api::size::human;
use crate::control::api::{CollectReport, CollectRequest};

/// Give back the space of deleted VDIs and snapshots
///
/// Marks what VDIs and snapshots use and frees the rest. Destroys nothing that can still be reached.
#[derive(Args)]
#[command(after_help = "Example:\n  parallax collect --dry-run")]
pub struct Collect {
    /// Only count
    #[arg(short = 'n', long)]
    dry_run: bool,
}

impl Collect {
    /// Run the verb.
    pub fn run(self, session: &mut Session) -> Result<()> {
        let request = CollectRequest { dry_run: self.dry_run };
        let report: CollectReport = session.daemon()?.post("/collect", &request)?;
        session.show(&report, || {
            let (dead, live) = (human(report.freed_bytes), human(report.live_bytes));
            if report.dry_run {
                format!("would free {dead}; {live} are in use\n")
            } else {
                format!("freed {dead}; {live} are in use\n")
            }
        })
    }
}
