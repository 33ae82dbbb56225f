//! What the daemon is told: the command line and the configuration file, and the one step from what was
//! typed to what is meant. The command line wins over the file.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Parser;
use serde::Deserialize;
use vdi_core::limits::{LOG_BYTES_DEFAULT, LOG_BYTES_MIN, SHARDS_MAX};

use crate::control::api::error::{Code, ErrorBody, Result};
use crate::control::api::run_dir::RunDir;
use crate::control::api::{AttachRequest, VdiName, group, size};
use crate::shard::attached_file::Attachment;

/// Serve the virtual disks of a Parallax store to guests on this host, over vhost-user-blk.
#[derive(Parser, Default, Debug)]
#[command(name = "vhost-parallax", version)]
#[command(after_help = "Example:\n  vhost-parallax --store /srv/parallax.store\n\n\
    Then 'parallax create', 'parallax attach' and so on, on the same host.")]
pub struct Typed {
    /// The store: path of the file or block device that 'parallax format' made
    #[arg(long, value_name = "URL")]
    pub store: Option<String>,
    /// The log: a file or block device of this host, or 'store' for extents of the store [default: where the store's log
    /// is when that is in the store, else /var/lib/parallax/STORE-UUID.log; plain user:
    /// $XDG_STATE_HOME/parallax/STORE-UUID.log]
    #[arg(long, value_name = "PATH")]
    pub log: Option<String>,
    /// Size of a new log [default: 1G]
    #[arg(long, value_name = "SIZE")]
    pub log_size: Option<String>,
    /// Where sockets go [default: /run/parallax; plain user: $XDG_RUNTIME_DIR/parallax; env PARALLAX_RUN_DIR]
    #[arg(long, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// Data threads, each with a log of its own beside the first one's (PATH.1 and so on); disks are spread
    /// over them [default: 1]
    #[arg(long, value_name = "N")]
    pub shards: Option<u16>,
    /// Group whose members may connect to VDI sockets [default: kvm where it exists]
    #[arg(long, value_name = "GROUP")]
    pub socket_group: Option<String>,
    /// Group whose members may use the control socket [default: none]
    #[arg(long, value_name = "GROUP")]
    pub control_group: Option<String>,
    /// Configuration file (TOML): the same names as these options, and [[attach]] tables
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Give up a log that is missing, not the store's, or is or was damaged, and everything that only it holds: its
    /// VDIs go back to their last checkpoint, and those held for the damage are let go. A sound log is used as ever, but what a killed daemon had staged for
    /// it is given up, too, if that is not there
    #[arg(long)]
    pub discard_log: bool,
    /// For tests: complete requests in an order drawn from this seed
    #[arg(long, value_name = "SEED", hide = true)]
    pub test_reorder_completions: Option<u64>,
    /// For tests: checkpoint only when the log is nearly full, or when asked
    #[arg(long, hide = true)]
    pub test_late_checkpoints: bool,
    /// For benches: answer every request of every disk at once, and do nothing
    #[arg(long, hide = true)]
    pub test_null_disks: bool,
    /// For benches: neither write nor read data in the store; what was written reads as zeros
    #[arg(long, hide = true)]
    pub test_null_store: bool,
    /// Reserved for QEMU's back-end conventions
    #[arg(long, value_name = "PATH", hide = true)]
    pub socket_path: Option<PathBuf>,
    /// Reserved for QEMU's back-end conventions
    #[arg(long, value_name = "FD", hide = true)]
    pub fd: Option<u32>,
    /// Reserved for QEMU's back-end conventions
    #[arg(long, hide = true)]
    pub print_capabilities: bool,
}

/// The configuration file.
#[derive(Deserialize, Default, Debug)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct FileContent {
    store: Option<String>,
    log: Option<String>,
    log_size: Option<String>,
    run_dir: Option<PathBuf>,
    shards: Option<u16>,
    socket_group: Option<String>,
    control_group: Option<String>,
    #[serde(default)]
    attach: Vec<FileAttach>,
}

/// A permanent attachment.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct FileAttach {
    vdi: String,
    queues: Option<u16>,
    #[serde(default)]
    read_only: bool,
}

/// Where a log is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LogPlace {
    /// In a file or block device of this host.
    File(PathBuf),
    /// In extents of the store.
    Store,
}

impl LogPlace {
    fn of(typed: String) -> LogPlace {
        match typed.as_str() {
            "store" => LogPlace::Store,
            _ => LogPlace::File(typed.into()),
        }
    }
}

/// What is meant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// The store.
    pub store: String,
    /// The log, if named: that of the first shard.
    pub log: Option<LogPlace>,
    /// Data threads.
    pub shards: u16,
    /// Size of a new log, bytes.
    pub log_bytes: u64,
    /// Where sockets go.
    pub run_dir: RunDir,
    /// Number of the group of VDI sockets; none leaves the process's own.
    pub socket_group: Option<u32>,
    /// Group of the control socket: number and name.
    pub control_group: Option<(u32, String)>,
    /// Attachments that the configuration file names.
    pub attach: Vec<Attachment>,
    /// Give up a missing or foreign log.
    pub discard_log: bool,
    /// Complete requests in an order drawn from this seed.
    pub reorder_seed: Option<u64>,
    /// For tests: no checkpoint before the log is nearly full.
    pub late_checkpoints: bool,
    /// For benches: requests are answered and not carried out.
    pub null_disks: bool,
    /// For benches: the store keeps no data.
    pub null_store: bool,
}

/// Where the process runs: what defaults depend on.
pub struct Place<'a> {
    /// Environment variables.
    pub env: &'a dyn Fn(&str) -> Option<OsString>,
    /// Whether the process is root's.
    pub is_root: bool,
    /// The text of `/etc/group`.
    pub groups: &'a str,
}

impl Typed {
    /// What was typed, together with the configuration file if there is one.
    ///
    /// # Errors
    /// `bad_request`, `not_found`, `too_large`, `unsupported`: each says which option.
    pub fn meaning(self, place: &Place<'_>) -> Result<Config> {
        if self.socket_path.is_some() || self.fd.is_some() || self.print_capabilities {
            return Err(ErrorBody::new(
                Code::Unsupported,
                "--socket-path, --fd and --print-capabilities are reserved and do nothing yet",
                "start the daemon with --store and attach VDIs with 'parallax attach'",
            ));
        }
        let file = self.config.as_deref().map(read_file).transpose()?.unwrap_or_default();
        let store = self.store.or(file.store).ok_or_else(|| {
            ErrorBody::bad_request(
                "no store is named",
                "give --store PATH; 'parallax format PATH' makes a store",
            )
        })?;
        let log = self.log.or(file.log);
        let socket_group = self.socket_group.or(file.socket_group);
        let control_group = self.control_group.or(file.control_group);
        Ok(Config {
            store,
            log: log.map(LogPlace::of),
            shards: shards(self.shards.or(file.shards))?,
            log_bytes: log_bytes(self.log_size.or(file.log_size))?,
            run_dir: RunDir::choose(self.run_dir.or(file.run_dir), place.env, place.is_root)?,
            socket_group: socket_gid(socket_group.as_deref(), place)?,
            control_group: control_group.map(|g| find_group(&g, place)).transpose()?,
            attach: file.attach.iter().map(attachment).collect::<Result<_>>()?,
            discard_log: self.discard_log,
            reorder_seed: self.test_reorder_completions,
            late_checkpoints: self.test_late_checkpoints,
            null_disks: self.test_null_disks,
            null_store: self.test_null_store,
        })
    }
}

fn read_file(path: &Path) -> Result<FileContent> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|e| {
        ErrorBody::bad_request(
            format!("configuration file {shown}: {e}"),
            "check the path given with --config",
        )
    })?;
    toml::from_str(&text).map_err(|e| {
        let what = format!("configuration file {shown}: {}", e.to_string().trim_end());
        ErrorBody::bad_request(
            what,
            "'vhost-parallax --help' lists the names; [[attach]] takes vdi, queues, read-only",
        )
    })
}

fn shards(typed: Option<u16>) -> Result<u16> {
    let shards = typed.unwrap_or(1);
    if (1..=SHARDS_MAX).contains(&shards) {
        return Ok(shards);
    }
    Err(ErrorBody::bad_request(
        format!("{shards} shards are not possible"),
        format!("give 1 (as without --shards) to {SHARDS_MAX}, at most one per core"),
    ))
}

fn log_bytes(typed: Option<String>) -> Result<u64> {
    let Some(text) = typed else { return Ok(LOG_BYTES_DEFAULT) };
    let bytes = size::parse(&text)?;
    if bytes < LOG_BYTES_MIN || !bytes.is_multiple_of(vdi_core::units::BLOCK_BYTES) {
        let least = size::human(LOG_BYTES_MIN);
        return Err(ErrorBody::bad_request(
            format!("a log of {text} is not possible"),
            format!("take {least} or more, in whole blocks of 4 KiB"),
        ));
    }
    Ok(bytes)
}

fn find_group(text: &str, place: &Place<'_>) -> Result<(u32, String)> {
    group::find(place.groups, text).ok_or_else(|| {
        ErrorBody::new(
            Code::NotFound,
            format!("there is no group '{}' in /etc/group", text.escape_debug()),
            "make it with 'groupadd', or give the number of a group kept elsewhere",
        )
    })
}

/// Only root can give a socket to any group: others get one only when they ask.
fn socket_gid(typed: Option<&str>, place: &Place<'_>) -> Result<Option<u32>> {
    match typed {
        Some(text) => find_group(text, place).map(|(gid, _)| Some(gid)),
        None if place.is_root => Ok(group::find(place.groups, "kvm").map(|(gid, _)| gid)),
        None => Ok(None),
    }
}

fn attachment(a: &FileAttach) -> Result<Attachment> {
    let name = VdiName::parse(&a.vdi)?;
    let request = AttachRequest { num_queues: a.queues, read_only: a.read_only };
    Ok(Attachment { vdi: name.as_str().to_owned(), num_queues: request.queues()?, read_only: a.read_only })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(args: &[&str]) -> Result<Config> {
        let env = |key: &str| (key == "XDG_RUNTIME_DIR").then(|| OsString::from("/run/user/7"));
        let place = Place { env: &env, is_root: false, groups: "kvm:x:104:\nparallax:x:105:\n" };
        let args = std::iter::once("vhost-parallax").chain(args.iter().copied());
        Typed::try_parse_from(args).unwrap().meaning(&place)
    }

    #[test]
    fn the_store_alone_is_enough() {
        let c = meaning(&["--store", "/s"]).unwrap();
        assert_eq!(c.run_dir.path(), Path::new("/run/user/7/parallax"));
        assert_eq!((c.log, c.log_bytes, c.socket_group, c.control_group), (None, 1 << 30, None, None));
    }

    #[test]
    fn the_command_line_wins_over_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.toml");
        let text = "store = '/from-file'\nlog-size = '64M'\nrun-dir = '/r'\nsocket-group = 'kvm'\n\
                    [[attach]]\nvdi = 'web'\nqueues = 4\n[[attach]]\nvdi = 'iso'\nread-only = true\n";
        std::fs::write(&path, text).unwrap();
        let c = meaning(&["--config", path.to_str().unwrap(), "--store", "/typed"]).unwrap();
        assert_eq!((c.store.as_str(), c.log_bytes, c.socket_group), ("/typed", 64 << 20, Some(104)));
        let attach: Vec<_> = c.attach.iter().map(|a| (a.vdi.as_str(), a.num_queues, a.read_only)).collect();
        assert_eq!(attach, [("web", 4, false), ("iso", 1, true)]);
    }

    #[test]
    fn each_bad_option_is_an_error_with_a_hint() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bad.toml");
        std::fs::write(&path, "stor = 'x'").unwrap();
        let file = path.to_str().unwrap();
        for (args, says) in [
            (vec![], "no store"),
            (vec!["--store", "/s", "--shards", "17"], "17 shards"),
            (vec!["--store", "/s", "--shards", "0"], "0 shards"),
            (vec!["--store", "/s", "--log-size", "1M"], "not possible"),
            (vec!["--store", "/s", "--log-size", "much"], "much"),
            (vec!["--store", "/s", "--socket-group", "nobody-here"], "nobody-here"),
            (vec!["--store", "/s", "--control-group", "nobody-here"], "nobody-here"),
            (vec!["--config", "/nowhere/p.toml"], "/nowhere"),
            (vec!["--config", file], "stor"),
            (vec!["--print-capabilities"], "reserved"),
        ] {
            let e = meaning(&args).unwrap_err();
            assert!(e.message.contains(says), "{args:?}: {}", e.message);
            assert!(!e.hint.is_empty());
        }
    }
}
