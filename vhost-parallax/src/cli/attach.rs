//! `parallax attach`.

use std::fmt::Write;

use clap::Args;

use super::{Session, parse, table};
use crate::control::api::error::Result;
use crate::control::api::limits::QUEUES_MAX;
use crate::control::api::{AttachInfo, AttachRequest, VdiName};

/// Serve a VDI to guests of this host
///
/// Prints the arguments for QEMU and cloud-hypervisor, ready to paste. An attachment stays over restarts of
/// the daemon, until 'parallax detach' or a reboot of the host. Once more with the same arguments prints them
/// again.
#[derive(Args)]
#[command(after_help = "Example:\n  parallax attach web --queues 2")]
pub struct Attach {
    /// The VDI
    #[arg(value_name = "VDI", value_parser = parse::vdi)]
    vdi: VdiName,
    /// Queues, at best as many as the guest has CPUs [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(QUEUES_MAX)))]
    queues: Option<u16>,
    /// Let the guest only read
    #[arg(long)]
    read_only: bool,
}

impl Attach {
    /// Run the verb.
    pub fn run(self, session: &mut Session) -> Result<()> {
        let request = AttachRequest { num_queues: self.queues, read_only: self.read_only };
        let at: AttachInfo = session.daemon()?.post(&format!("/vdis/{}/attach", self.vdi), &request)?;
        session.show(&at, || text(&at))
    }
}

fn text(at: &AttachInfo) -> String {
    let access = if at.read_only { ", read only" } else { "" };
    let queues = table::count(at.num_queues.into(), "queue");
    let mut out = format!("VDI {} is served at {} ({queues}{access})\n", at.vdi, at.socket);
    for (title, reconnect) in [("9.2 and later", "reconnect-ms=1000"), ("up to 9.1", "reconnect=1")] {
        write!(out, "\nQEMU {title}:\n{}", qemu(at, reconnect)).expect("a string takes everything");
    }
    write!(out, "\ncloud-hypervisor:\n{}", cloud_hypervisor(at)).expect("a string takes everything");
    out
}

fn qemu(at: &AttachInfo, reconnect: &str) -> String {
    // An id must begin with a letter, a VDI name need not.
    let id = format!("vdi-{}", at.vdi);
    let chardev = format!("socket,id={id},path={},{reconnect}", at.socket.replace(',', ",,"));
    let device = format!("vhost-user-blk-pci,chardev={id},num-queues={}", at.num_queues);
    format!(
        "  -m 4G -object memory-backend-memfd,id=mem,size=4G,share=on -machine memory-backend=mem \\\n\
         \x20 -chardev {} \\\n  -device {device}\n",
        shell(&chardev)
    )
}

fn cloud_hypervisor(at: &AttachInfo) -> String {
    let read_only = if at.read_only { ",readonly=on" } else { "" };
    let disk = format!("vhost_user=true,socket={},num_queues={}{read_only}", at.socket, at.num_queues);
    format!("  --memory size=4G,shared=on \\\n  --disk {}\n", shell(&disk))
}

/// Quoted for a shell where it must be.
fn shell(word: &str) -> String {
    let plain = word.chars().all(|c| c.is_ascii_alphanumeric() || "-_=+,./:@%".contains(c));
    if plain { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_paths_survive_qemu_and_the_shell() {
        let at = AttachInfo {
            vdi: "1st".into(),
            socket: "/run/my disks,old/it's/1st.sock".into(),
            num_queues: 1,
            read_only: false,
            connected: false,
        };
        let line = r"-chardev 'socket,id=vdi-1st,path=/run/my disks,,old/it'\''s/1st.sock,reconnect=1' \";
        assert!(qemu(&at, "reconnect=1").contains(line), "{}", qemu(&at, "reconnect=1"));
    }
}
