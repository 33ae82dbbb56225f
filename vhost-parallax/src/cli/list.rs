//! `parallax ls`.

use clap::Args;

use super::{Session, table};
use crate::control::api::VdiInfo;
use crate::control::api::error::Result;
use crate::control::api::size::human;
use crate::control::api::vdi::VdiList;

/// List the VDIs of the store
///
/// DATA is what the store holds for a VDI and its snapshots, what it shares with clones included. What a
/// collection takes of removed snapshots is not subtracted.
#[derive(Args)]
#[command(after_help = "Example:\n  parallax ls --json")]
pub struct List {}

impl List {
    /// Run the verb.
    pub fn run(self, session: &mut Session) -> Result<()> {
        let list: VdiList = session.daemon()?.get("/vdis")?;
        session.show(&list, || {
            if list.vdis.is_empty() {
                return "no VDIs; 'parallax create NAME SIZE' makes one\n".to_owned();
            }
            let rows: Vec<[String; 6]> = list.vdis.iter().map(row).collect();
            table::render(["NAME", "SIZE", "DATA", "SNAPSHOTS", "ORIGIN", "STATE"], &[1, 2, 3], &rows)
        })
    }
}

fn row(vdi: &VdiInfo) -> [String; 6] {
    [
        vdi.name.clone(),
        human(vdi.size_bytes),
        human(vdi.mapped_bytes),
        vdi.snapshots.to_string(),
        origin(vdi).unwrap_or_else(|| "-".to_owned()),
        state(vdi),
    ]
}

/// `web@17`, the snapshot a VDI was cloned from.
pub fn origin(vdi: &VdiInfo) -> Option<String> {
    let origin = vdi.origin.as_ref()?;
    Some(format!("{}@{}", origin.vdi.as_deref().unwrap_or("(deleted)"), origin.epoch))
}

/// Attached, connected, held, or nothing of these.
pub fn state(vdi: &VdiInfo) -> String {
    match (&vdi.held, &vdi.attached) {
        (Some(why), _) => format!("held: {why}"),
        (None, Some(at)) if at.connected => "connected".to_owned(),
        (None, Some(_)) => "attached".to_owned(),
        (None, None) => "-".to_owned(),
    }
}
