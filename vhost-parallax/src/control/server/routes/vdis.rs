//! `/vdis`: create, list, show, delete, resize, clone, roll back.

use axum::Json;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::control::api::command::Command;
use crate::control::api::size::check_vdi_bytes;
use crate::control::api::vdi::VdiList;
use crate::control::api::{
    CloneRequest, CreateRequest, ResizeRequest, RollbackRequest, SnapshotInfo, SnapshotSelector, VdiInfo,
    VdiName,
};
use crate::control::server::answer::{Answer, Failure};
use crate::control::server::extract::{Ask, AskWith, Body, VdiPath};

/// All VDIs, by name
#[utoipa::path(get, path = "/vdis", tag = "VDIs", responses((status = 200, body = VdiList)))]
pub async fn list(Ask(data): Ask) -> Answer<VdiList> {
    let vdis = data.ask(|reply| Command::List { reply }).await?;
    Ok(Json(VdiList { vdis }))
}

/// Create a VDI
///
/// Thin: it takes space as it is written. The same name with the same size once more is a success.
#[utoipa::path(post, path = "/vdis", tag = "VDIs", request_body = CreateRequest,
    responses((status = 201, description = "It exists", body = VdiInfo)))]
pub async fn create(
    Ask(data): Ask,
    Body(request): Body<CreateRequest>,
) -> Result<(StatusCode, Json<VdiInfo>), Failure> {
    let name = VdiName::parse(&request.name)?;
    let size_bytes = check_vdi_bytes(request.size_bytes)?;
    let vdi = data.ask(|reply| Command::Create { name, size_bytes, reply }).await?;
    Ok((StatusCode::CREATED, Json(vdi)))
}

/// One VDI
#[utoipa::path(get, path = "/vdis/{vdi}", tag = "VDIs", params(("vdi" = String, Path, description = "Its name")),
    responses((status = 200, body = VdiInfo)))]
pub async fn show(VdiPath(vdi): VdiPath, Ask(data): Ask) -> Answer<VdiInfo> {
    Ok(Json(data.ask(|reply| Command::Show { vdi, reply }).await?))
}

/// The query of [`delete`].
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct DeleteQuery {
    /// Its snapshots too.
    #[serde(default)]
    recursive: bool,
}

/// Delete a VDI
///
/// `busy` while it is attached, or when it has snapshots and `recursive` is not set. Clones keep what they
/// share with it. Its space comes back with a collection.
#[utoipa::path(delete, path = "/vdis/{vdi}", tag = "VDIs",
    params(("vdi" = String, Path, description = "Its name"), DeleteQuery),
    responses((status = 204, description = "It is gone")))]
pub async fn delete(
    VdiPath(vdi): VdiPath,
    AskWith(data, query): AskWith<DeleteQuery>,
) -> Result<StatusCode, Failure> {
    data.ask(|reply| Command::Delete { vdi, recursive: query.recursive, reply }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Change the size of a VDI
///
/// A connected guest sees the new size at once. Smaller only with `force`.
#[utoipa::path(patch, path = "/vdis/{vdi}", tag = "VDIs", request_body = ResizeRequest,
    params(("vdi" = String, Path, description = "Its name")), responses((status = 200, body = VdiInfo)))]
pub async fn resize(
    VdiPath(vdi): VdiPath,
    Ask(data): Ask,
    Body(request): Body<ResizeRequest>,
) -> Answer<VdiInfo> {
    let size_bytes = check_vdi_bytes(request.size_bytes)?;
    let force = request.force;
    Ok(Json(data.ask(|reply| Command::Resize { vdi, size_bytes, force, reply }).await?))
}

/// Make a writable clone
///
/// Of a snapshot, or of the present state, which is then snapshotted first. Copies nothing.
#[utoipa::path(post, path = "/vdis/{vdi}/clone", tag = "VDIs", request_body = CloneRequest,
    params(("vdi" = String, Path, description = "The source")),
    responses((status = 201, description = "The clone", body = VdiInfo)))]
pub async fn clone(
    VdiPath(source): VdiPath,
    Ask(data): Ask,
    Body(request): Body<CloneRequest>,
) -> Result<(StatusCode, Json<VdiInfo>), Failure> {
    let name = VdiName::parse(&request.name)?;
    let snapshot = request.snapshot.as_deref().map(SnapshotSelector::parse).transpose()?;
    let vdi = data.ask(|reply| Command::Clone { source, snapshot, name, reply }).await?;
    Ok((StatusCode::CREATED, Json(vdi)))
}

/// Return a VDI to one of its snapshots
///
/// `busy` while a front end is connected. The present state is snapshotted first (that snapshot is the
/// answer), and later snapshots stay.
#[utoipa::path(post, path = "/vdis/{vdi}/rollback", tag = "VDIs", request_body = RollbackRequest,
    params(("vdi" = String, Path, description = "Its name")), responses((status = 200, body = SnapshotInfo)))]
pub async fn rollback(
    VdiPath(vdi): VdiPath,
    Ask(data): Ask,
    Body(request): Body<RollbackRequest>,
) -> Answer<SnapshotInfo> {
    let snapshot = SnapshotSelector::parse(&request.snapshot)?;
    Ok(Json(data.ask(|reply| Command::Rollback { vdi, snapshot, reply }).await?))
}
