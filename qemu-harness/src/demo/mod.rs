//! `make demo`: the main job on real input, told as it happens.
//!
//! A store, a daemon, a 20 GiB thin disk; a guest that makes ext4 on it and runs fio with verify while
//! 100 snapshots are taken and the daemon is killed; a second guest on a clone; a roll-back; a check.
//! Nothing here is asserted by eye: every step that goes wrong ends the demo with an error.

mod guests;
mod narrator;
mod numbers;

use std::path::Path;
use std::time::{Duration, Instant};

use crate::accel::Accel;
use crate::control::Control;
use crate::daemon::Daemon;
use crate::error::{Error, Result};
use crate::machine::Machine;
use crate::scratch::Scratch;
use crate::tools::Tools;

use narrator::Narrator;
use numbers::{Latencies, human};

/// Snapshots taken while fio runs.
const SNAPSHOTS: u32 = 100;
/// The daemon is killed after this many of them.
const KILL_AFTER: u32 = 50;
/// How long they may take, on a machine however busy.
const SNAPSHOTS_WITHIN: Duration = Duration::from_secs(150);
/// Between two snapshots.
const PAUSE: Duration = Duration::from_millis(200);
/// Size of the store file; it is sparse.
const STORE_SIZE: &str = "16G";
/// Size of the log.
const LOG_SIZE: &str = "256M";

struct Demo {
    tools: Tools,
    accel: Accel,
    scratch: Scratch,
    daemon: Daemon,
    narrator: Narrator,
}

/// Run it, with the store's files in `dir`.
///
/// # Errors
/// When anything does not go as told.
pub fn run(tools: Tools, dir: &Path) -> Result<()> {
    let mut narrator = Narrator::new();
    narrator.title("Parallax: thin disks with snapshots, under a real guest");
    let scratch = Scratch::new("demo")?;
    std::fs::create_dir_all(dir).map_err(|e| Error::io(dir.display(), &e))?;
    let accel = Accel::choose(&tools)?;
    narrator.say(&match accel {
        Accel::Kvm => {
            format!("Guests run under KVM, QEMU {}.{}.", tools.qemu_version.0, tools.qemu_version.1)
        }
        Accel::Tcg => "Guests are emulated (no KVM that boots them here): slow CPUs, real disks.".to_string(),
    });

    narrator.step("A store: one sparse file that stands for the shared LUN. The log is a local file.");
    let daemon = Daemon::new(dir, scratch.path(), LOG_SIZE);
    daemon.remove_files()?;
    let mut demo = Demo { tools, accel, scratch, daemon, narrator };
    demo.parallax(&demo.daemon.format_arguments(STORE_SIZE))?;

    demo.narrator.step("The daemon, and a 20 GiB disk that takes no space yet.");
    let start = format!("vhost-parallax {} &", demo.daemon.start_arguments().join(" "));
    demo.narrator.command(&start);
    let took = demo.daemon.start()?;
    demo.narrator.say(&format!("vhost-parallax answers after {} ms.", took.as_millis()));
    demo.parallax(&["create", "web", "20G"])?;
    demo.narrator.say("Attached, it has a socket; what a front end needs is ready to paste:");
    demo.parallax(&["attach", "web", "--queues", "2"])?;

    let (mut web, latencies, middle) = demo.snapshots_under_fire()?;
    demo.second_guest_on_a_clone(middle)?;
    demo.narrator.say("The first guest knows nothing of it:");
    demo.verify_golden(&mut web)?;
    web.power_off()?;
    demo.roll_back()?;
    demo.sum_up(&latencies)?;
    demo.daemon.remove_files()
}

impl Demo {
    fn snapshots_under_fire(&mut self) -> Result<(Machine, Latencies, u64)> {
        self.narrator.step("A guest makes ext4 on it and writes files it can check later.");
        let mut web = self.boot("web", 2)?;
        self.make_golden(&mut web)?;
        self.parallax(&["snapshot", "create", "web", "--label", "golden"])?;

        self.narrator.step("fio writes and verifies in the guest; meanwhile 100 snapshots, and a kill -9.");
        let fio = web.start(guests::FIO)?;
        std::thread::sleep(Duration::from_secs(1));
        let (latencies, middle) = self.snapshots()?;
        let report = web.finish(fio, Duration::from_secs(180))?;
        self.narrator.say("fio has written everything and read it back, each block's checksum right:");
        self.narrator.output(&report);
        let complaints = web.io_complaints()?;
        if !complaints.is_empty() {
            return Err(Error::new("the guest saw I/O errors", "this must never happen: report it")
                .with_evidence("kernel of the guest", &complaints));
        }
        self.narrator.say("The guest's kernel has seen no I/O error.");
        Ok((web, latencies, middle))
    }

    /// Take the snapshots; their latencies, and the last one before the kill.
    fn snapshots(&mut self) -> Result<(Latencies, u64)> {
        let mut latencies = Latencies::new();
        let (mut taken, mut middle, mut last) = (0, 0, 0);
        let mut control = self.daemon.control()?;
        // A snapshot of a disk not written since the last one is that one by a second name: on a slow
        // machine the guest may need a while for its next write.
        let begun = Instant::now();
        while begun.elapsed() < SNAPSHOTS_WITHIN {
            let (epoch, took) = control.snapshot("web")?;
            latencies.add(took);
            if epoch != last {
                (taken, last) = (taken + 1, epoch);
                if taken == KILL_AFTER {
                    middle = epoch;
                    control = self.kill_and_restart()?;
                }
            }
            if taken == SNAPSHOTS {
                self.narrator.say(&format!("{SNAPSHOTS} snapshots taken: {latencies}."));
                return Ok((latencies, middle));
            }
            std::thread::sleep(PAUSE);
        }
        Err(Error::new(
            format!("the guest wrote so slowly that only {taken} snapshots differ"),
            "run the demo on a less busy machine",
        ))
    }

    fn kill_and_restart(&mut self) -> Result<Control> {
        self.narrator
            .say(&format!("{KILL_AFTER} taken. Now kill -9 the daemon, while fio has writes in flight."));
        self.daemon.kill();
        std::thread::sleep(Duration::from_secs(1));
        let took = self.daemon.start()?;
        self.narrator.say(&format!(
            "Started again; it recovered its log and answers after {} ms. QEMU reconnects by itself.",
            took.as_millis()
        ));
        self.daemon.control()
    }

    fn second_guest_on_a_clone(&mut self, middle: u64) -> Result<()> {
        self.narrator.step("A clone of the snapshot taken just before the kill, and a second guest on it.");
        self.parallax(&["clone", &format!("web@{middle}"), "web-test"])?;
        let mut test = self.boot("web-test", 1)?;
        self.narrator.say("Its file system was in use when the snapshot was taken, so its journal is replayed, then checked:");
        let report = test.run(guests::RECOVER_AND_CHECK, guests::LIMIT)?;
        self.narrator.output(&report);
        self.verify_golden(&mut test)?;
        self.narrator.say("And it can be written without the original noticing.");
        test.run(guests::SPOIL, guests::LIMIT)?;
        test.power_off()
    }

    fn roll_back(&mut self) -> Result<()> {
        self.narrator.step("Roll web back to the snapshot from before fio.");
        self.parallax(&["rollback", "web@golden", "--yes"])?;
        let mut web = self.boot("web", 2)?;
        let files = web.run(guests::CHECK_AND_LIST, guests::LIMIT)?;
        self.narrator.output(&files);
        if files.contains("fio.data") {
            return Err(Error::new("fio's file is still there after the roll-back", "report this"));
        }
        self.verify_golden(&mut web)?;
        web.power_off()
    }

    fn sum_up(&mut self, latencies: &Latencies) -> Result<()> {
        self.narrator.step("What there is now.");
        let tree = self.parallax_quietly(&["tree"])?;
        self.narrator.command("parallax tree");
        self.narrator.shortened(&tree, 12);
        self.parallax(&["status"])?;
        let used = self.daemon.used_bytes()?;
        self.narrator.say(&format!("Snapshots through the control socket, under load: {latencies}."));
        self.narrator.say(&format!(
            "{SNAPSHOTS} snapshots of a 20 GiB disk, a clone and a roll-back take {} in the store.",
            human(used)
        ));
        self.narrator.step("Collect what the kill and the roll-back left unused; stop; check every block.");
        self.parallax(&["collect"])?;
        self.daemon.stop()?;
        self.parallax(&[self.daemon.check_arguments(), vec!["--data".into()]].concat())?;
        self.narrator.done();
        Ok(())
    }

    /// Run `parallax` and show both the command and what it prints.
    fn parallax<S: AsRef<str>>(&mut self, arguments: &[S]) -> Result<()> {
        let words: Vec<&str> = arguments.iter().map(AsRef::as_ref).collect();
        self.narrator.command(&format!("parallax {}", words.join(" ")));
        let output = self.daemon.parallax(&words)?;
        self.narrator.output(&output);
        Ok(())
    }

    fn parallax_quietly(&self, arguments: &[&str]) -> Result<String> {
        self.daemon.parallax(arguments)
    }
}
