//! The Parallax engine. One shard's world is an `engine::Engine`: a write-back log, copy-on-write
//! radix trees and the open virtual disks, over completion-based devices and an injected clock.
//!
//! Modules by rank (each may import lower ranks only; `ARCHITECTURE.md` has the table):
//! `units limits error sabotage` < `clock buffer executor` < `latency` < `format device` < `store` < `tree log` <
//! `vdi gc check` < `engine` < `sim`.

pub mod buffer;
pub mod check;
pub mod clock;
pub mod device;
pub mod engine;
pub mod error;
pub mod executor;
pub mod format;
pub mod gc;
pub mod latency;
pub mod limits;
pub mod log;
pub mod peers;
pub mod sabotage;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
pub mod store;
pub mod tree;
pub mod units;
pub mod vdi;

pub use error::{Error, ErrorKind, Result};
