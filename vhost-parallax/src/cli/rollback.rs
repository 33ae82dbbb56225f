//! `parallax rollback`.

use clap::Args;
use serde_json::json;

use super::{Session, parse};
use crate::control::api::error::{Code, ErrorBody, Result};
use crate::control::api::snapshot::SnapshotList;
use crate::control::api::{RollbackRequest, SnapshotInfo, SnapshotRef, VdiInfo};

/// Return a VDI to one of its snapshots
///
/// Refused while a guest is connected. The present state is snapshotted first, so that nothing is lost, and
/// later snapshots stay.
#[derive(Args)]
#[command(after_help = "Example:\n  parallax rollback web@before-upgrade")]
pub struct Rollback {
    /// The snapshot: VDI@NUMBER or VDI@LABEL
    #[arg(value_name = "SNAPSHOT", value_parser = parse::snapshot)]
    snapshot: SnapshotRef,
    /// Only say what would happen
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

impl Rollback {
    /// Run the verb.
    pub fn run(self, session: &mut Session) -> Result<()> {
        let daemon = session.daemon()?;
        let path = format!("/vdis/{}", self.snapshot.vdi);
        let vdi: VdiInfo = daemon.get(&path)?;
        let all: SnapshotList = daemon.get(&format!("{path}/snapshots"))?;
        self.snapshot.snapshot.resolve(&self.snapshot.vdi, &all.snapshots)?;
        let name = &vdi.name;
        if vdi.attached.is_some_and(|at| at.connected) {
            let message = format!("a guest is connected to VDI '{name}'");
            return Err(ErrorBody::new(Code::Busy, message, "stop the guest first"));
        }
        let to = &self.snapshot;
        if self.dry_run {
            let plan = json!({"dry_run": true, "vdi": name, "snapshot": to.snapshot.to_string()});
            return session.show(&plan, || format!("would snapshot {name} as it is and return it to {to}\n"));
        }
        session.confirm(
            &format!("Return VDI {name} to {to}? Its present state becomes a snapshot."),
            self.yes,
        )?;
        let request = RollbackRequest { snapshot: to.snapshot.to_string() };
        let saved: SnapshotInfo = daemon.post(&format!("{path}/rollback"), &request)?;
        session.show(&saved, || {
            format!("{name} is as at {to} again; its state before is {name}@{}\n", saved.epoch)
        })
    }
}
