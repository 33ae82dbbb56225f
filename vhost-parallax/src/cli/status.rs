//! `parallax status`.

use clap::Args;

use super::{Session, table, time};
use crate::control::api::Status;
use crate::control::api::error::Result;
use crate::control::api::size::human;
use crate::control::api::status::{LogStatus, StoreStatus};

/// Show the daemon, its store, its log and its cache
#[derive(Args)]
#[command(after_help = "Example:\n  parallax status --json")]
pub struct ShowStatus {}

impl ShowStatus {
    /// Run the verb.
    pub fn run(self, session: &mut Session) -> Result<()> {
        let status: Status = session.daemon()?.get("/status")?;
        session.show(&status, || text(&status))
    }
}

fn of_log(log: &LogStatus) -> [(&'static str, String); 5] {
    let not_trimmed = format!(
        "{}: {} not trimmed ({}), incarnation {}",
        human(log.size_bytes),
        human(log.used_bytes),
        percent(log.used_bytes, log.size_bytes),
        log.incarnation
    );
    let written = format!(
        "{}, {} written",
        table::count(log.checkpoints, "checkpoint"),
        table::count(log.segments_written, "segment")
    );
    [
        ("log", format!("{} ({})", log.path, log.uuid)),
        ("", not_trimmed),
        ("", written),
        ("", log.io_mode.clone()),
        ("", acknowledged(log)),
    ]
}

fn acknowledged(log: &LogStatus) -> String {
    match (&log.staged_in, &log.not_staged) {
        (Some(path), _) => format!("writes acknowledged when staged in {path}"),
        (None, Some(why)) => format!("writes acknowledged when in the log: {why}"),
        (None, None) => "writes acknowledged when in the log".to_owned(),
    }
}

fn text(status: &Status) -> String {
    let Status { daemon, store, log, other_logs, cache, vdis } = status;
    let shards = table::count(daemon.shards.into(), "shard");
    let up = time::span(daemon.uptime_s);
    let lookups = cache.hits.saturating_add(cache.misses);
    let mut rows = vec![
        ("daemon", format!("version {}, pid {}, up {up}, {shards}", daemon.version, daemon.pid)),
        ("store", format!("{} ({})", store.url, store.uuid)),
        (
            "",
            format!(
                "{}: {} used ({}), {} free",
                human(store.size_bytes),
                human(store.used_bytes),
                percent(store.used_bytes, store.size_bytes),
                human(store.free_bytes),
            ),
        ),
        ("", reclaimable(store)),
        ("", store.io_mode.clone()),
    ];
    if store.log_bytes > 0 {
        rows.push(("", format!("{} for logs", human(store.log_bytes))));
    }
    rows.extend(std::iter::once(log).chain(other_logs).flat_map(of_log));
    rows.extend([
        (
            "cache",
            format!(
                "{} of {} filled, {} of {lookups} lookups hit",
                human(cache.used_bytes),
                human(cache.size_bytes),
                percent(cache.hits, lookups)
            ),
        ),
        (
            "VDIs",
            format!(
                "{} with {}, {} attached, {} connected",
                vdis.total,
                table::count(vdis.snapshots, "snapshot"),
                vdis.attached,
                vdis.connected
            ),
        ),
    ]);
    if vdis.held > 0 {
        rows.push(("", format!("{} held: 'parallax ls' says why", vdis.held)));
    }
    rows.retain(|(name, value)| !(name.is_empty() && value.is_empty()));
    table::facts(&rows)
}

fn reclaimable(store: &StoreStatus) -> String {
    match (store.reclaimable_bytes, store.reclaimable_unix_ms) {
        (Some(bytes), Some(at)) => format!("{} reclaimable as of {} UTC", human(bytes), time::utc(at)),
        _ => "reclaimable unknown: 'parallax collect --dry-run' counts it".to_owned(),
    }
}

fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "0 %".to_owned() } else { format!("{:.1} %", part as f64 * 100.0 / whole as f64) }
}
