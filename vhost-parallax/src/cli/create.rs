//! `parallax create`.

use clap::Args;

use super::{Session, parse};
use crate::control::api::error::Result;
use crate::control::api::size::human;
use crate::control::api::{CreateRequest, VdiInfo, VdiName};

/// Create a VDI
///
/// It is thin: it takes space in the store as the guest writes, not before. The same name with the same
/// size once more is a success.
#[derive(Args)]
#[command(after_help = "Example:\n  parallax create web 20G")]
pub struct Create {
    /// Its name: letters, digits, '.', '_', '-'
    #[arg(value_name = "NAME", value_parser = parse::vdi)]
    name: VdiName,
    /// The size the guest sees, for example 20G (suffixes K, M, G, T, P: powers of 1024)
    #[arg(value_name = "SIZE", value_parser = parse::vdi_size)]
    size: u64,
}

impl Create {
    /// Run the verb.
    pub fn run(self, session: &mut Session) -> Result<()> {
        let request = CreateRequest { name: self.name.to_string(), size_bytes: self.size };
        let vdi: VdiInfo = session.daemon()?.post("/vdis", &request)?;
        session.show(&vdi, || format!("VDI {} has {}\n", vdi.name, human(vdi.size_bytes)))
    }
}
