//! `/vdis/{vdi}/snapshots`: take, list, label, delete.

use axum::Json;
use axum::http::StatusCode;

use crate::control::api::command::Command;
use crate::control::api::snapshot::SnapshotList;
use crate::control::api::{Label, LabelRequest, SnapshotInfo, SnapshotRequest};
use crate::control::server::answer::{Answer, Failure};
use crate::control::server::extract::{Ask, Body, SnapshotPath, VdiPath};

/// The snapshots of a VDI, oldest first
#[utoipa::path(get, path = "/vdis/{vdi}/snapshots", tag = "Snapshots",
    params(("vdi" = String, Path, description = "The VDI")), responses((status = 200, body = SnapshotList)))]
pub async fn list(VdiPath(vdi): VdiPath, Ask(data): Ask) -> Answer<SnapshotList> {
    let snapshots = data.ask(|reply| Command::Snapshots { vdi, reply }).await?;
    Ok(Json(SnapshotList { snapshots }))
}

/// Take a snapshot
///
/// It holds every write acknowledged before this request, and is durable before the answer.
#[utoipa::path(post, path = "/vdis/{vdi}/snapshots", tag = "Snapshots", request_body = SnapshotRequest,
    params(("vdi" = String, Path, description = "The VDI")),
    responses((status = 201, description = "The snapshot", body = SnapshotInfo)))]
pub async fn create(
    VdiPath(vdi): VdiPath,
    Ask(data): Ask,
    Body(request): Body<SnapshotRequest>,
) -> Result<(StatusCode, Json<SnapshotInfo>), Failure> {
    let label = request.label.as_deref().map(Label::parse).transpose()?;
    let snapshot = data.ask(|reply| Command::Snapshot { vdi, label, reply }).await?;
    Ok((StatusCode::CREATED, Json(snapshot)))
}

/// Change the label of a snapshot
#[utoipa::path(patch, path = "/vdis/{vdi}/snapshots/{snapshot}", tag = "Snapshots", request_body = LabelRequest,
    params(("vdi" = String, Path, description = "The VDI"),
           ("snapshot" = String, Path, description = "Number or label")),
    responses((status = 200, body = SnapshotInfo)))]
pub async fn label(
    SnapshotPath(vdi, snapshot): SnapshotPath,
    Ask(data): Ask,
    Body(request): Body<LabelRequest>,
) -> Answer<SnapshotInfo> {
    let label = request.meaning()?;
    Ok(Json(data.ask(|reply| Command::Label { vdi, snapshot, label, reply }).await?))
}

/// Delete a snapshot
///
/// Clones of it keep what they share with it. Its space comes back with a collection.
#[utoipa::path(delete, path = "/vdis/{vdi}/snapshots/{snapshot}", tag = "Snapshots",
    params(("vdi" = String, Path, description = "The VDI"),
           ("snapshot" = String, Path, description = "Number or label")),
    responses((status = 204, description = "It is gone")))]
pub async fn remove(
    SnapshotPath(vdi, snapshot): SnapshotPath,
    Ask(data): Ask,
) -> Result<StatusCode, Failure> {
    data.ask(|reply| Command::RemoveSnapshot { vdi, snapshot, reply }).await?;
    Ok(StatusCode::NO_CONTENT)
}
