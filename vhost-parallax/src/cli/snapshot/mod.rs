//! `parallax snapshot`: one verb per file here too.

mod create;
mod label;
mod list;
mod rm;

use clap::Subcommand;

use super::Session;
use crate::control::api::error::Result;

/// Take, list, label and delete snapshots
#[derive(Subcommand)]
#[command(after_help = "Example:\n  parallax snapshot create web --label before-upgrade")]
pub enum Snapshot {
    /// Take a snapshot.
    Create(create::Create),
    /// List.
    Ls(list::List),
    /// Label.
    Label(label::Relabel),
    /// Delete.
    Rm(rm::Remove),
}

impl Snapshot {
    /// Run the verb.
    pub fn run(self, session: &mut Session) -> Result<()> {
        match self {
            Snapshot::Create(verb) => verb.run(session),
            Snapshot::Ls(verb) => verb.run(session),
            Snapshot::Label(verb) => verb.run(session),
            Snapshot::Rm(verb) => verb.run(session),
        }
    }
}
