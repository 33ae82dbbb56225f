//! The words of the control socket: requests, answers, errors, and the commands they become.
//!
//! Owns the names users see and their rules (VDI names, labels, sizes, snapshot selectors, the paths of
//! the run directory). Two stages, never mixed: the `*Request` structs are what a client typed, the
//! fields of a [`command::Command`] are what it means; the step between them is the only validation.
//!
//! Must never do I/O, nor know the server, the shard or the engine.

pub mod attach;
pub mod command;
pub mod error;
pub mod group;
pub mod latency;
pub mod limits;
pub mod log_path;
pub mod name;
pub mod run_dir;
pub mod size;
pub mod snapshot;
pub mod status;
pub mod tree;
pub mod vdi;

pub use attach::{AttachInfo, AttachRequest};
pub use error::{Code, ErrorBody, Result};
pub use latency::{LatencyReport, LatencyRequest, LayerLatency};
pub use name::{Label, VdiName};
pub use snapshot::{LabelRequest, SnapshotInfo, SnapshotRef, SnapshotRequest, SnapshotSelector};
pub use status::{CollectReport, CollectRequest, Status};
pub use tree::{Tree, TreeNode};
pub use vdi::{CloneRequest, CreateRequest, Origin, ResizeRequest, RollbackRequest, VdiInfo};
