//! `/vdis/{vdi}/attach` and `/detach`.

use axum::Json;
use axum::http::StatusCode;

use crate::control::api::attach::DetachRequest;
use crate::control::api::command::Command;
use crate::control::api::{AttachInfo, AttachRequest};
use crate::control::server::answer::{Answer, Failure};
use crate::control::server::extract::{Ask, Body, VdiPath};

/// Serve a VDI to front ends of this host
///
/// Kept until it is detached or the host reboots, over restarts of the daemon too. Once more with the same
/// arguments is a success, with other arguments `busy`.
#[utoipa::path(post, path = "/vdis/{vdi}/attach", tag = "Attachments", request_body = AttachRequest,
    params(("vdi" = String, Path, description = "Its name")), responses((status = 200, body = AttachInfo)))]
pub async fn attach(
    VdiPath(vdi): VdiPath,
    Ask(data): Ask,
    Body(request): Body<AttachRequest>,
) -> Answer<AttachInfo> {
    let num_queues = request.queues()?;
    let read_only = request.read_only;
    Ok(Json(data.ask(|reply| Command::Attach { vdi, num_queues, read_only, reply }).await?))
}

/// Stop serving a VDI
///
/// `busy` while a front end is connected and `force` is not set.
#[utoipa::path(post, path = "/vdis/{vdi}/detach", tag = "Attachments", request_body = DetachRequest,
    params(("vdi" = String, Path, description = "Its name")),
    responses((status = 204, description = "It is not served any more")))]
pub async fn detach(
    VdiPath(vdi): VdiPath,
    Ask(data): Ask,
    Body(request): Body<DetachRequest>,
) -> Result<StatusCode, Failure> {
    data.ask(|reply| Command::Detach { vdi, force: request.force, reply }).await?;
    Ok(StatusCode::NO_CONTENT)
}
