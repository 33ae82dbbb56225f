//! The control plane: what administrators and tools ask of the daemon, and the socket they ask on.
//!
//! `api` holds plain types and knows nobody; `server` carries them over HTTP/1.1 on a Unix socket in a
//! thread of its own and never touches a disk: every operation is a [`api::command::Command`] sent to the
//! data thread through one bounded channel.

pub mod api;
pub mod server;
