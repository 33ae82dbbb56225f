//! Parallax on one host: the daemon's parts and the administrator's command.
//!
//! Modules by rank (each may import lower ranks only; `ARCHITECTURE.md` has the table):
//! `control::api` < `vhost` < `shard` < `control::server` < `config` < `daemon`; `cli` knows
//! `control::api` only.

pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod shard;
pub mod vhost;
