//! How long things take, layer by layer.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Begin to measure, or end it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"enabled": true}))]
pub struct LatencyRequest {
    /// True begins anew: what was measured before is forgotten. False ends it; what was measured can still be read.
    pub enabled: bool,
}

/// What was measured, of all shards together.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct LatencyReport {
    /// Measuring goes on.
    pub enabled: bool,
    /// How long it has gone on, or went on, ms.
    pub lasted_ms: u64,
    /// One for each layer, from the guest down; none before the first measurement.
    pub layers: Vec<LayerLatency>,
}

/// The times of one layer, from when a thing was asked for to when it was done, to 1 %.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct LayerLatency {
    /// Which: `read`, `write`, `flush`, `discard` (a guest's requests, from the ring to the ring); `log-room` (writes that waited
    /// for room in the log), `log-write`, `log-flush`, `store-read`, `store-write`, `store-flush` (the devices); `checkpoint`.
    pub layer: String,
    /// How many.
    pub count: u64,
    /// Mean, ns.
    pub mean_ns: u64,
    /// Half took no longer, ns.
    pub p50_ns: u64,
    /// 99 of 100 took no longer, ns.
    pub p99_ns: u64,
    /// 999 of 1,000 took no longer, ns.
    pub p999_ns: u64,
    /// The longest, ns.
    pub max_ns: u64,
}
