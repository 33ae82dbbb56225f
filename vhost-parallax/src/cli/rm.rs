//! `parallax rm`.

use clap::Args;
use serde_json::json;

use super::{Session, parse, table};
use crate::control::api::error::{Code, ErrorBody, Result};
use crate::control::api::size::human;
use crate::control::api::{VdiInfo, VdiName};

/// Delete a VDI
///
/// Refused while it is attached, or when it has snapshots and -r is not given. Clones made from it keep what
/// they share with it. Its space comes back with 'parallax collect'.
#[derive(Args)]
#[command(after_help = "Example:\n  parallax rm -r web-test")]
pub struct Remove {
    /// The VDI
    #[arg(value_name = "VDI", value_parser = parse::vdi)]
    vdi: VdiName,
    /// Delete its snapshots too
    #[arg(short, long)]
    recursive: bool,
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
        let daemon = session.daemon()?;
        let vdi: VdiInfo = daemon.get(&format!("/vdis/{}", self.vdi))?;
        let what = describe(&vdi);
        if self.dry_run {
            self.refuse_as_the_daemon_would(&vdi)?;
            let plan = json!({"dry_run": true, "vdi": vdi.name, "snapshots": vdi.snapshots});
            return session.show(&plan, || format!("would delete {what}\n"));
        }
        // What cannot be done anyway is not worth a question.
        self.refuse_as_the_daemon_would(&vdi)?;
        session.confirm(&format!("Delete {what}?"), self.yes)?;
        daemon.delete(&format!("/vdis/{}?recursive={}", self.vdi, self.recursive))?;
        let done = json!({"dry_run": false, "vdi": vdi.name, "snapshots": vdi.snapshots});
        session.show(&done, || format!("deleted {what}\n"))
    }

    fn refuse_as_the_daemon_would(&self, vdi: &VdiInfo) -> Result<()> {
        let name = &vdi.name;
        if vdi.attached.is_some() {
            let hint = format!("stop the guest, then 'parallax detach {name}'");
            return Err(ErrorBody::new(Code::Busy, format!("VDI '{name}' is attached"), hint));
        }
        if vdi.snapshots > 0 && !self.recursive {
            let message = format!("VDI '{name}' has {}", table::count(vdi.snapshots, "snapshot"));
            return Err(ErrorBody::new(Code::Busy, message, "delete them too with -r"));
        }
        Ok(())
    }
}

fn describe(vdi: &VdiInfo) -> String {
    let size = human(vdi.size_bytes);
    match vdi.snapshots {
        0 => format!("VDI {} ({size})", vdi.name),
        n => format!("VDI {} ({size}) and its {}", vdi.name, table::count(n, "snapshot")),
    }
}
