//! `parallax format`.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use vdi_core::clock::{Clock, SystemClock};
use vdi_core::device::create::create_sparse;
use vdi_core::format::superblock::Superblock;
use vdi_core::limits::LOG_BYTES_DEFAULT;
use vdi_core::store::{CreateOptions, Store};
use vdi_core::units::BLOCK_BYTES;

use super::store::{Local, random_uuid, superblock};
use super::{Session, parse, table};
use crate::control::api::error::{Code, ErrorBody, Result};
use crate::control::api::log_path::default_log_path;
use crate::control::api::size::human;

/// Make an empty store on a file or block device
///
/// Everything on it is lost, so what is not empty is touched only after a yes, and a Parallax store only with
/// --force too. No daemon may have it open.
#[derive(Args)]
#[command(after_help = "Example:\n  parallax format /srv/parallax.store --size 100G")]
pub struct Format {
    /// The file or block device
    #[arg(value_name = "STORE")]
    store: String,
    /// Make the file first, of this size; it takes space only as it is written
    #[arg(long, value_name = "SIZE", value_parser = parse::bytes)]
    size: Option<u64>,
    /// Size of an extent, 2M to 16G [default: 1G, less on small stores]
    #[arg(long, value_name = "SIZE", value_parser = parse::extent_bits)]
    extent_size: Option<u32>,
    /// Most VDIs the store can ever hold [default: 4000, on stores below 1 GiB 256]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    vdis: Option<u32>,
    /// Make the log here too, instead of leaving it to the daemon's first start; name it to the daemon as well
    #[arg(long, value_name = "PATH")]
    log: Option<PathBuf>,
    /// Size of that log [default: 1G]
    #[arg(long, value_name = "SIZE", requires = "log", value_parser = parse::log_size)]
    log_size: Option<u64>,
    /// Destroy a Parallax store that is there already
    #[arg(long)]
    force: bool,
    /// Only look at what is there
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// What was made.
#[derive(Serialize)]
struct Made {
    store: String,
    uuid: String,
    size_bytes: u64,
    extent_bytes: u64,
    extents: u32,
    system_extents: u32,
    vdis_max: u32,
    log_path: String,
    log_made: bool,
}

/// What a device held before.
enum Found {
    Nothing,
    Store(String),
    Data,
}

impl Format {
    /// Run the verb.
    pub fn run(self, session: &mut Session) -> Result<()> {
        let mut new_files = Vec::new();
        let outcome = self.make_files(&mut new_files).and_then(|()| self.format(session));
        if outcome.is_err() {
            for file in new_files {
                // Ours and still empty: leave nothing behind. The error that counts is the other one.
                let _ = std::fs::remove_file(file);
            }
        }
        outcome
    }

    /// Make the files that `--size` and `--log` ask for, and note them in `new_files`.
    fn make_files(&self, new_files: &mut Vec<PathBuf>) -> Result<()> {
        let store = Path::new(&self.store);
        if self.size.is_none() && store.symlink_metadata().is_err_and(|e| e.kind() == ErrorKind::NotFound) {
            return Err(ErrorBody::new(
                Code::NotFound,
                format!("there is no {}", self.store),
                "name an existing block device or file, or add --size, for example --size 100G",
            ));
        }
        if self.log.as_deref() == Some(Path::new("store")) {
            return Err(ErrorBody::bad_request(
                "a log in the store is made by the daemon",
                "leave --log out here, and start the daemon with --log store; for a file of that name give ./store",
            ));
        }
        let log_bytes = self.log_size.unwrap_or(LOG_BYTES_DEFAULT);
        let wanted = [(Some(store), self.size), (self.log.as_deref(), Some(log_bytes))];
        for (path, bytes) in wanted {
            if let (Some(path), Some(bytes), false) = (path, bytes, self.dry_run) {
                create_sparse(path, bytes)?;
                new_files.push(path.to_owned());
            }
        }
        Ok(())
    }

    fn format(&self, session: &mut Session) -> Result<()> {
        if self.dry_run && self.size.is_some() {
            let plan = serde_json::json!({"dry_run": true, "store": self.store, "size_bytes": self.size});
            return session.show(&plan, || format!("would make {} and a store on it\n", self.store));
        }
        let mut local = Local::new()?;
        let device = local.open(&self.store, !self.dry_run)?;
        let found = look(&local, &device)?;
        let bytes = device.info().len_bytes;
        let what = match &found {
            Found::Nothing => format!("{} ({}) is empty", self.store, human(bytes)),
            Found::Store(uuid) => format!("{} ({}) holds Parallax store {uuid}", self.store, human(bytes)),
            Found::Data => format!("{} ({}) holds data of something else", self.store, human(bytes)),
        };
        if matches!(found, Found::Store(_)) && !self.force {
            let hint = "give --force to destroy it with all its VDIs and snapshots";
            return Err(ErrorBody::new(Code::Exists, what, hint));
        }
        if self.dry_run {
            let plan = serde_json::json!({"dry_run": true, "store": self.store, "size_bytes": bytes,
                "empty": matches!(found, Found::Nothing)});
            return session.show(&plan, || format!("{what}; would make a store on it\n"));
        }
        if !matches!(found, Found::Nothing) {
            session.confirm(&format!("{what}. Destroy it?"), self.yes)?;
        }
        let (uuid, host) = (random_uuid()?, random_uuid()?);
        let options = CreateOptions { extent_bits: self.extent_size, vdis_max: self.vdis, force: self.force };
        let sb = local
            .run(async move { Store::create(&device, uuid, host, SystemClock.wall_ns(), options).await })?;
        let made = Made::of(&self.store, bytes, &sb, self.log.as_deref());
        session.show(&made, || made.text())
    }
}

/// What lies in the first mebibyte.
fn look(local: &Local, device: &vdi_core::device::DeviceHandle) -> Result<Found> {
    const LOOK_BYTES: u64 = 1 << 20;
    let handle = device.clone();
    let len = device.info().len_bytes.min(LOOK_BYTES) / BLOCK_BYTES * BLOCK_BYTES;
    if len == 0 {
        return Ok(Found::Nothing);
    }
    let start = local.run(async move { handle.read(0, len as usize).await })?;
    if let Some(sb) = superblock(local, device)? {
        return Ok(Found::Store(sb.uuid.to_string()));
    }
    Ok(if start.iter().all(|byte| *byte == 0) { Found::Nothing } else { Found::Data })
}

impl Made {
    fn of(store: &str, size_bytes: u64, sb: &Superblock, log: Option<&Path>) -> Made {
        let uuid = sb.uuid.to_string();
        let is_root = rustix::process::geteuid().is_root();
        let default = || default_log_path(&uuid, |key| std::env::var_os(key), is_root).ok();
        let path = log.map(Path::to_owned).or_else(default);
        Made {
            store: store.to_owned(),
            size_bytes,
            extent_bytes: sb.geometry.extent_bytes(),
            extents: sb.extents,
            system_extents: sb.system_extents,
            vdis_max: sb.registry_entries,
            log_path: path.map(|path| path.display().to_string()).unwrap_or_default(),
            log_made: log.is_some(),
            uuid,
        }
    }

    fn text(&self) -> String {
        let extents = table::count(self.extents.into(), "extent");
        let log = match self.log_path.as_str() {
            "" => "give the daemon --log PATH: there is no default place for this user".to_owned(),
            path if self.log_made => path.to_owned(),
            path => format!("{path} (made by the daemon at its first start; --log chooses another)"),
        };
        let named_log = if self.log_made { format!(" --log {}", self.log_path) } else { String::new() };
        table::facts(&[
            ("store", self.store.clone()),
            ("uuid", self.uuid.clone()),
            ("size", format!("{} in {extents} of {}", human(self.size_bytes), human(self.extent_bytes))),
            (
                "system",
                format!(
                    "{}, room for {} VDIs",
                    table::count(self.system_extents.into(), "extent"),
                    self.vdis_max
                ),
            ),
            ("log", log),
            ("next", format!("vhost-parallax --store {}{named_log}", self.store)),
        ])
    }
}
