//! What is fuzzed. Each target is a function of a byte string that must return, whatever the bytes are: a panic is
//! a finding. libFuzzer drives them from `fuzz/` (`make fuzz`); the committed corpus runs with every test run.
//!
//! A target's bytes are decisions ([`tape`]): what to damage in an image that the engine made itself, which segment
//! to append, what to do then. Checksums are put right after the damage ([`image`]), or nothing behind them would
//! ever be reached. Time is simulated, devices are memory, and every run is bounded in steps.
#![cfg(feature = "sim")]

#[cfg(feature = "front-end")]
pub mod control_api;
#[cfg(feature = "front-end")]
pub mod disks;
#[cfg(feature = "front-end")]
pub mod guest;
pub mod image;
#[cfg(feature = "front-end")]
pub mod inflight;
pub mod log_image;
pub mod operations;
#[cfg(feature = "front-end")]
pub mod request_path;
pub mod stage;
pub mod store_image;
pub mod tape;
#[cfg(feature = "front-end")]
pub mod vhost_user_stream;

/// A target: its name, as in `make fuzz FUZZ=name`, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[
    ("store-image", store_image::run),
    ("log-image", log_image::run),
    ("operations", operations::run),
    #[cfg(feature = "front-end")]
    ("inflight", inflight::run),
    #[cfg(feature = "front-end")]
    ("request-path", request_path::run),
    #[cfg(feature = "front-end")]
    ("vhost-user-stream", vhost_user_stream::run),
    #[cfg(feature = "front-end")]
    ("control-api", control_api::run),
];

/// The body of the target called `name`.
#[must_use]
pub fn target(name: &str) -> Option<fn(&[u8])> {
    TARGETS.iter().find(|(n, _)| *n == name).map(|(_, body)| *body)
}
