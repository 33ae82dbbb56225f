//! `parallax detach`.

use clap::Args;
use serde_json::json;

use super::{Session, parse};
use crate::control::api::attach::DetachRequest;
use crate::control::api::error::Result;
use crate::control::api::{VdiInfo, VdiName};

/// Stop serving a VDI
///
/// Refused while a guest is connected; with --force the guest loses the disk.
#[derive(Args)]
#[command(after_help = "Example:\n  parallax detach web")]
pub struct Detach {
    /// The VDI
    #[arg(value_name = "VDI", value_parser = parse::vdi)]
    vdi: VdiName,
    /// Even while a guest is connected
    #[arg(long)]
    force: bool,
    /// Do not ask before taking the disk from a guest
    #[arg(long)]
    yes: bool,
}

impl Detach {
    /// Run the verb.
    pub fn run(self, session: &mut Session) -> Result<()> {
        let daemon = session.daemon()?;
        let path = format!("/vdis/{}", self.vdi);
        if self.force {
            let vdi: VdiInfo = daemon.get(&path)?;
            if vdi.attached.is_some_and(|at| at.connected) {
                session.confirm(&format!("Take VDI {} from the guest that uses it?", self.vdi), self.yes)?;
            }
        }
        daemon.post::<()>(&format!("{path}/detach"), &DetachRequest { force: self.force })?;
        session
            .show(&json!({"vdi": self.vdi.as_str()}), || format!("VDI {} is not served any more\n", self.vdi))
    }
}
