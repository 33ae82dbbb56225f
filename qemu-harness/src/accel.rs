//! Emulation or KVM. A `/dev/kvm` that opens proves nothing (nested or paravirtual ones may not boot a
//! Debian kernel): KVM is used only after a real guest has run a job under it.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use crate::error::Result;
use crate::image::GuestImage;
use crate::machine::{MachineConfig, base_command};
use crate::process::Process;
use crate::scratch::Scratch;
use crate::tools::Tools;
use crate::wait::{Deadline, until};

/// A guest under a KVM that works has booted within this; it takes about one second.
const PROOF_LIMIT: Duration = Duration::from_secs(10);

/// How QEMU runs the guest's instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Accel {
    /// QEMU's own translator: works everywhere.
    Tcg,
    /// The kernel's hypervisor.
    Kvm,
}

impl Accel {
    pub(crate) fn qemu_name(self) -> &'static str {
        match self {
            Accel::Tcg => "tcg",
            Accel::Kvm => "kvm",
        }
    }
    pub(crate) fn qemu_cpu(self) -> &'static str {
        match self {
            Accel::Tcg => "max",
            Accel::Kvm => "host",
        }
    }

    /// What `$PARALLAX_ACCEL` says ("tcg", "kvm"), else KVM where it is proved and TCG elsewhere.
    ///
    /// # Errors
    /// When the proof cannot be carried out (not: when it fails).
    pub fn choose(tools: &Tools) -> Result<Accel> {
        match std::env::var("PARALLAX_ACCEL").as_deref() {
            Ok("tcg") => Ok(Accel::Tcg),
            Ok("kvm") => Ok(Accel::Kvm),
            _ => Ok(if kvm_proved(tools)?.is_ok() { Accel::Kvm } else { Accel::Tcg }),
        }
    }
}

/// Whether a real guest boots under KVM here; the reason when not. Tried once per boot of this machine
/// and kernel of the guest, remembered beside the image.
///
/// # Errors
/// When the proof cannot be carried out.
pub fn kvm_proved(tools: &Tools) -> Result<std::result::Result<(), String>> {
    if let Err(e) = File::options().read(true).write(true).open("/dev/kvm") {
        return Ok(Err(format!("/dev/kvm: {e}")));
    }
    // One proof at a time: two at once would slow each other into a false verdict.
    let lock = File::create(tools.image.dir.join("kvm-proof.lock"));
    let lock = lock.and_then(|file| file.lock().map(|()| file));
    let proof = tools.image.dir.join("kvm-proof");
    let key = proof_key(&tools.image);
    let remembered = std::fs::read_to_string(&proof).unwrap_or_default();
    let works = match remembered.strip_prefix(&key) {
        Some(verdict) => verdict.trim() == "boots",
        None => {
            let works = boots_under_kvm(tools)?;
            // Only a cache: where it cannot be written the proof is made again.
            let _uncached =
                std::fs::write(&proof, format!("{key}{}\n", if works { "boots" } else { "does not boot" }));
            works
        }
    };
    drop(lock);
    let reason = || format!("a Debian guest did not boot under /dev/kvm within {} s", PROOF_LIMIT.as_secs());
    Ok(if works { Ok(()) } else { Err(reason()) })
}

fn proof_key(image: &GuestImage) -> String {
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default().trim().to_string();
    let boot = read(Path::new("/proc/sys/kernel/random/boot_id"));
    format!("{boot} {} ", read(&image.dir.join("initramfs.stamp")))
}

fn boots_under_kvm(tools: &Tools) -> Result<bool> {
    let scratch = Scratch::new("kvm")?;
    let (initramfs, serial) = (scratch.join("initramfs"), scratch.join("serial"));
    tools.image.write_batch_initramfs("true", &initramfs)?;
    let config = MachineConfig::new("kvm-proof").accel(Accel::Kvm);
    let command = base_command(tools, &config, &initramfs, &serial);
    let mut qemu = Process::spawn("QEMU under KVM", command, &scratch.join("qemu"))?;
    let ended = until("a guest under KVM", Deadline::after(PROOF_LIMIT), || qemu.ended());
    let serial = std::fs::read_to_string(&serial).unwrap_or_default();
    Ok(ended.is_ok() && serial.contains("GUEST-JOB-END 0"))
}
