//! What the daemon says of itself, and what a collection found.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The daemon, its store, its log and its cache.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// The daemon.
    pub daemon: DaemonStatus,
    /// The store.
    pub store: StoreStatus,
    /// The log.
    pub log: LogStatus,
    /// The logs of the second shard and so on, if there are several.
    #[serde(default)]
    pub other_logs: Vec<LogStatus>,
    /// The node cache.
    pub cache: CacheStatus,
    /// The VDIs in numbers.
    pub vdis: VdiCounts,
}

/// The daemon.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct DaemonStatus {
    /// Its version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Seconds since it began to serve.
    pub uptime_s: u64,
    /// Its shards.
    pub shards: u32,
}

/// The store. Sizes in bytes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct StoreStatus {
    /// Where it is: the path or URL the daemon was given.
    pub url: String,
    /// Its identity.
    pub uuid: String,
    /// All of it.
    pub size_bytes: u64,
    /// Space for data and tree nodes that is taken, reclaimable space included.
    pub used_bytes: u64,
    /// Space that can still be written.
    pub free_bytes: u64,
    /// Space that is leased for logs in the store.
    #[serde(default)]
    pub log_bytes: u64,
    /// Of the used space: what deleted VDIs and snapshots left for `collect`, as the last one or a dry run counted it.
    /// Null when something was deleted since, or nothing counted since the daemon started: counting reads all
    /// trees, so `status` does not.
    pub reclaimable_bytes: Option<u64>,
    /// When that was counted, in ms since 1970.
    pub reclaimable_unix_ms: Option<u64>,
    /// How its device is driven ("io_uring, O_DIRECT").
    pub io_mode: String,
}

/// The log.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct LogStatus {
    /// Where it is.
    pub path: String,
    /// Its identity.
    pub uuid: String,
    /// Size of its ring, bytes.
    pub size_bytes: u64,
    /// Bytes of the ring that are not trimmed yet: what a restart reads.
    pub used_bytes: u64,
    /// Which life of the log this is: each recovery opens the next one.
    pub incarnation: u64,
    /// Checkpoints since the daemon started.
    pub checkpoints: u64,
    /// Segments written since the daemon started.
    pub segments_written: u64,
    /// How its device is driven.
    pub io_mode: String,
    /// The file in memory in which a write of a write-back guest is staged when it is acknowledged; none where it is
    /// acknowledged when it is in the log.
    pub staged_in: Option<String>,
    /// Why there is no such file.
    pub not_staged: Option<String>,
}

/// The node cache.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct CacheStatus {
    /// Nodes in it, bytes.
    pub used_bytes: u64,
    /// Its bound, bytes.
    pub size_bytes: u64,
    /// Lookups answered by it.
    pub hits: u64,
    /// Lookups that went to the store.
    pub misses: u64,
}

/// The VDIs in numbers.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct VdiCounts {
    /// VDIs in the store.
    pub total: u64,
    /// Snapshots of all of them.
    pub snapshots: u64,
    /// Attached on this host.
    pub attached: u64,
    /// With a front end connected.
    pub connected: u64,
    /// Held: they take no I/O.
    pub held: u64,
}

/// Collect dead blocks.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"dry_run": true}))]
pub struct CollectRequest {
    /// Count only.
    #[serde(default)]
    pub dry_run: bool,
}

/// What a collection found, and gave back unless it was a dry run.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct CollectReport {
    /// Whether it only counted.
    pub dry_run: bool,
    /// Space that no VDI or snapshot uses, bytes: given back unless `dry_run`.
    pub freed_bytes: u64,
    /// Space in use, bytes.
    pub live_bytes: u64,
}
