//! `parallax show`.

use clap::Args;

use super::list::{origin, state};
use super::{Session, parse, table, time};
use crate::control::api::error::Result;
use crate::control::api::size::human;
use crate::control::api::{VdiInfo, VdiName};

/// Show one VDI
#[derive(Args)]
#[command(after_help = "Example:\n  parallax show web")]
pub struct Show {
    /// The VDI
    #[arg(value_name = "VDI", value_parser = parse::vdi)]
    vdi: VdiName,
}

impl Show {
    /// Run the verb.
    pub fn run(self, session: &mut Session) -> Result<()> {
        let vdi: VdiInfo = session.daemon()?.get(&format!("/vdis/{}", self.vdi))?;
        session.show(&vdi, || facts(&vdi))
    }
}

fn facts(vdi: &VdiInfo) -> String {
    let mut rows = vec![
        ("name", vdi.name.clone()),
        ("id", vdi.id.clone()),
        ("size", format!("{} ({} bytes)", human(vdi.size_bytes), vdi.size_bytes)),
        ("data", format!("{} at the last checkpoint", human(vdi.mapped_bytes))),
        ("created", format!("{} UTC", time::utc(vdi.created_unix_ms))),
        ("snapshots", vdi.snapshots.to_string()),
        ("next", format!("{}@{}", vdi.name, vdi.epoch)),
    ];
    rows.extend(origin(vdi).map(|from| ("clone of", from)));
    rows.push(("state", state(vdi)));
    if let Some(at) = &vdi.attached {
        rows.push(("socket", at.socket.clone()));
        rows.push(("queues", at.num_queues.to_string()));
        rows.push(("access", if at.read_only { "read only" } else { "read and write" }.to_owned()));
    }
    table::facts(&rows)
}
