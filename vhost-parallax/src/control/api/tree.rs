//! The forest of VDIs and their snapshots (thesis, figure 3.4), flat: each node names its parent, so
//! that a thousand generations of clones do not nest.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::snapshot::SnapshotInfo;
use super::vdi::Origin;

/// Every VDI with its snapshots and the snapshot it hangs on.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Tree {
    /// The VDIs, by name.
    pub nodes: Vec<TreeNode>,
}

/// One VDI of the forest.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct TreeNode {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub id: String,
    /// The size the guest sees, bytes.
    pub size_bytes: u64,
    /// Whether it is attached on this host.
    pub attached: bool,
    /// The snapshot it was cloned from; null for a root of the forest.
    pub origin: Option<Origin>,
    /// Its snapshots, oldest first.
    pub snapshots: Vec<SnapshotInfo>,
}
