//! `parallax checkpoint`.

use clap::Args;
use serde_json::json;

use super::Session;
use crate::control::api::error::Result;

/// Bring everything written so far from the log to the store
///
/// The daemon does this by itself in the background. Afterwards the store alone holds every write and snapshot
/// made before.
#[derive(Args)]
#[command(after_help = "Example:\n  parallax checkpoint")]
pub struct Checkpoint {}

impl Checkpoint {
    /// Run the verb.
    pub fn run(self, session: &mut Session) -> Result<()> {
        session.daemon()?.post::<()>("/checkpoint", &json!({}))?;
        session.show(&json!({}), || "everything written before is in the store\n".to_owned())
    }
}
