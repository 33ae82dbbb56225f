//! VDIs: how they are shown, and what is asked of them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::attach::AttachInfo;

/// One virtual disk image.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct VdiInfo {
    /// Its name, unique in the store.
    pub name: String,
    /// Its identity, never reused.
    pub id: String,
    /// The size the guest sees, bytes.
    pub size_bytes: u64,
    /// When it was created by the host's clock, milliseconds since 1970 (UTC).
    pub created_unix_ms: u64,
    /// Data the store holds for it and its snapshots, what it shares with clones included, as of the last
    /// checkpoint, bytes. What a collection takes of removed snapshots is not subtracted.
    pub mapped_bytes: u64,
    /// The number its next snapshot gets.
    pub epoch: u64,
    /// How many snapshots it has.
    pub snapshots: u64,
    /// What it is a clone of.
    pub origin: Option<Origin>,
    /// How it is attached on this host; null when it is not.
    pub attached: Option<AttachInfo>,
    /// Why it takes no I/O (damage, a missing log); null when it is well.
    pub held: Option<String>,
}

/// All VDIs, by name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct VdiList {
    /// The VDIs, by name.
    pub vdis: Vec<VdiInfo>,
}

/// The snapshot a clone was made from. It may be gone by now.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Origin {
    /// Identity of the source VDI.
    pub id: String,
    /// Name of the source VDI; null when it was deleted.
    pub vdi: Option<String>,
    /// Number of the snapshot.
    pub epoch: u64,
}

/// Create a VDI.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "web", "size_bytes": 21_474_836_480_u64}))]
pub struct CreateRequest {
    /// Its name: 1 to 63 letters, digits, '.', '_', '-'.
    pub name: String,
    /// The size the guest sees, bytes: a multiple of 512, at most 4 PiB.
    pub size_bytes: u64,
}

/// Change the size of a VDI.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"size_bytes": 42_949_672_960_u64}))]
pub struct ResizeRequest {
    /// The new size, bytes.
    pub size_bytes: u64,
    /// Allow it to become smaller: what lies beyond the new end is lost (snapshots keep it).
    #[serde(default)]
    pub force: bool,
}

/// Make a writable clone.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "web-test", "snapshot": "before-upgrade"}))]
pub struct CloneRequest {
    /// Name of the new VDI.
    pub name: String,
    /// Number or label of the source's snapshot; without one the source is snapshotted first.
    #[serde(default)]
    pub snapshot: Option<String>,
}

/// Return a VDI to one of its snapshots.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"snapshot": "before-upgrade"}))]
pub struct RollbackRequest {
    /// Number or label of the snapshot.
    pub snapshot: String,
}
