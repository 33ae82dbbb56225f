//! `parallax resize`.

use clap::Args;
use serde_json::json;

use super::{Session, parse};
use crate::control::api::error::{ErrorBody, Result};
use crate::control::api::size::human;
use crate::control::api::{ResizeRequest, VdiInfo, VdiName};

/// Change the size of a VDI
///
/// A connected guest sees the new size at once. Making a VDI smaller loses what lies beyond the new end
/// (its snapshots keep it) and needs --force.
#[derive(Args)]
#[command(after_help = "Example:\n  parallax resize web 40G")]
pub struct Resize {
    /// The VDI
    #[arg(value_name = "VDI", value_parser = parse::vdi)]
    vdi: VdiName,
    /// Its new size, for example 40G
    #[arg(value_name = "SIZE", value_parser = parse::vdi_size)]
    size: u64,
    /// Allow it to become smaller
    #[arg(long)]
    force: bool,
    /// Only say what would change
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Do not ask before making it smaller
    #[arg(long)]
    yes: bool,
}

impl Resize {
    /// Run the verb.
    pub fn run(self, session: &mut Session) -> Result<()> {
        let daemon = session.daemon()?;
        let path = format!("/vdis/{}", self.vdi);
        let before: VdiInfo = daemon.get(&path)?;
        let (old, new) = (human(before.size_bytes), human(self.size));
        let lost = before.size_bytes.saturating_sub(self.size);
        if lost > 0 && !self.force {
            return Err(ErrorBody::bad_request(
                format!("VDI '{}' has {old}; {new} would cut off its last {}", self.vdi, human(lost)),
                "shrink the file system in the guest first, then add --force",
            ));
        }
        if self.dry_run {
            let plan = json!({"dry_run": true, "vdi": before.name, "from_bytes": before.size_bytes,
                "to_bytes": self.size});
            return session.show(&plan, || format!("would resize {} from {old} to {new}\n", self.vdi));
        }
        if lost > 0 {
            let question = format!("Cut the last {} off VDI {} ({old})?", human(lost), self.vdi);
            session.confirm(&question, self.yes)?;
        }
        let request = ResizeRequest { size_bytes: self.size, force: self.force };
        let after: VdiInfo = daemon.patch(&path, &request)?;
        session.show(&after, || format!("resized {} from {old} to {}\n", after.name, human(after.size_bytes)))
    }
}
