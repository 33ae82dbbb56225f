//! `qemu-harness`: guests from the command line.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use qemu_harness::accel::{Accel, kvm_proved};
use qemu_harness::cloud_hypervisor::CloudHypervisor;
use qemu_harness::storage_daemon::StorageDaemon;
use qemu_harness::{Disk, Error, Machine, MachineConfig, Result, Scratch, Tools, demo};

/// Boot real guests on vhost-user-blk disks.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Say what this machine can run, and why not the rest.
    Doctor,
    /// The main job on a real guest, told as it happens (4 minutes at most).
    Demo {
        /// Where the files 'store' and 'log' go; removed first and last
        #[arg(long, default_value = "target/demo")]
        dir: PathBuf,
    },
    /// Boot a guest, run a shell script in it, print its output.
    ///
    /// Example: qemu-harness run --disk /run/parallax/vdi/web.sock 'dd if=/dev/vda of=/dev/null bs=1M count=64'
    Run {
        /// vhost-user-blk sockets; the guest calls them vda, vdb, ...
        #[arg(long = "disk", value_name = "SOCKET")]
        disks: Vec<PathBuf>,
        /// One more disk, of this many MiB, from QEMU's own storage daemon.
        #[arg(long, value_name = "MIB")]
        reference: Option<u64>,
        /// Queues of each disk, and CPUs.
        #[arg(long, default_value_t = 1)]
        queues: u16,
        /// Seconds the script may take.
        #[arg(long, default_value_t = 300)]
        limit: u64,
        /// The script.
        script: String,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().verb {
        Verb::Doctor => doctor(),
        Verb::Demo { dir } => find_tools().and_then(|tools| demo::run(tools, &dir)),
        Verb::Run { disks, reference, queues, limit, script } => {
            run(&disks, reference, queues, Duration::from_secs(limit), &script)
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("qemu-harness: {e}\nhint: {}", e.hint());
            ExitCode::FAILURE
        }
    }
}

fn find_tools() -> Result<Tools> {
    Tools::find().map_err(|missing| Error::new(missing.to_string(), "run 'make setup'"))
}

fn doctor() -> Result<()> {
    let tools = find_tools()?;
    println!("QEMU               {} {}.{}", tools.qemu.display(), tools.qemu_version.0, tools.qemu_version.1);
    println!("guest image        {}", tools.image.dir.display());
    match kvm_proved(&tools)? {
        Ok(()) => println!("KVM                boots guests"),
        Err(reason) => println!("KVM                not used: {reason}"),
    }
    match CloudHypervisor::find(&tools) {
        Ok(_) => println!("cloud-hypervisor   runs"),
        Err(reason) => println!("cloud-hypervisor   not used: {reason}"),
    }
    Ok(())
}

fn run(disks: &[PathBuf], reference: Option<u64>, queues: u16, limit: Duration, script: &str) -> Result<()> {
    let tools = find_tools()?;
    let scratch = Scratch::new("run")?;
    let mut config = MachineConfig::new("guest").cpus(queues).accel(Accel::choose(&tools)?);
    for (i, socket) in disks.iter().enumerate() {
        config = config.disk(Disk::new(&format!("disk{i}"), socket).queues(queues));
    }
    let daemon = reference.map(|mib| StorageDaemon::start(scratch.path(), mib << 20, queues)).transpose()?;
    if let Some(daemon) = &daemon {
        config = config.disk(Disk::new("reference", daemon.socket()).queues(queues));
    }
    let mut machine = Machine::boot(&tools, config, scratch.path())?;
    eprintln!("booted in {:.1} s", machine.boot_time().as_secs_f64());
    print!("{}", machine.run(script, limit)?);
    machine.power_off()
}
