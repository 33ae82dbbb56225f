//! Attachments: a VDI and the socket on this host where front ends find it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::{Code, ErrorBody, Result};
use super::limits::{QUEUES_DEFAULT, QUEUES_MAX};

/// An attached VDI. Kept in `attached.json` too, so that a restarted daemon serves the same sockets.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct AttachInfo {
    /// The VDI.
    pub vdi: String,
    /// Path of its vhost-user socket.
    pub socket: String,
    /// Queues offered to the front end.
    pub num_queues: u16,
    /// Whether the front end may only read.
    pub read_only: bool,
    /// Whether a front end is connected now.
    pub connected: bool,
}

/// Attach a VDI on this host.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"num_queues": 2}))]
pub struct AttachRequest {
    /// Queues to offer, 1 to 64; 1 where nothing is said.
    #[serde(default)]
    pub num_queues: Option<u16>,
    /// Let the front end only read.
    #[serde(default)]
    pub read_only: bool,
}

impl AttachRequest {
    /// The number of queues meant.
    ///
    /// # Errors
    /// `bad_request` for zero, `too_large` above 64.
    pub fn queues(&self) -> Result<u16> {
        let hint = format!("take 1 to {QUEUES_MAX}, at best as many as the guest has CPUs");
        match self.num_queues.unwrap_or(QUEUES_DEFAULT) {
            0 => Err(ErrorBody::bad_request("a VDI cannot be attached with 0 queues", hint)),
            n if n > QUEUES_MAX => {
                Err(ErrorBody::new(Code::TooLarge, format!("{n} queues are more than {QUEUES_MAX}"), hint))
            }
            n => Ok(n),
        }
    }
}

/// Detach a VDI from this host.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"force": false}))]
pub struct DetachRequest {
    /// Detach even while a front end is connected: its guest loses the disk.
    #[serde(default)]
    pub force: bool,
}
