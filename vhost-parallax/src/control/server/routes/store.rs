//! The store as a whole: tree, status, latency, collect, checkpoint; and the document.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;

use crate::control::api::command::Command;
use crate::control::api::{CollectReport, CollectRequest, LatencyReport, LatencyRequest, Status, Tree};
use crate::control::server::answer::{Answer, Failure};
use crate::control::server::extract::{Ask, Body};
use crate::control::server::router::Context;

/// The forest of VDIs and snapshots
#[utoipa::path(get, path = "/tree", tag = "Store", responses((status = 200, body = Tree)))]
pub async fn tree(Ask(data): Ask) -> Answer<Tree> {
    Ok(Json(data.ask(|reply| Command::Tree { reply }).await?))
}

/// The daemon, its store, its log and its cache
#[utoipa::path(get, path = "/status", tag = "Store", responses((status = 200, body = Status)))]
pub async fn status(Ask(data): Ask) -> Answer<Status> {
    Ok(Json(data.ask(|reply| Command::Status { reply }).await?))
}

/// How long things take, layer by layer
#[utoipa::path(get, path = "/latency", tag = "Store", responses((status = 200, body = LatencyReport)))]
pub async fn latency(Ask(data): Ask) -> Answer<LatencyReport> {
    Ok(Json(data.ask(|reply| Command::Latency { enable: None, reply }).await?))
}

/// Begin to measure how long things take, or end it
#[utoipa::path(patch, path = "/latency", tag = "Store", request_body = LatencyRequest,
    responses((status = 200, body = LatencyReport)))]
pub async fn measure(Ask(data): Ask, Body(request): Body<LatencyRequest>) -> Answer<LatencyReport> {
    let enable = Some(request.enabled);
    Ok(Json(data.ask(|reply| Command::Latency { enable, reply }).await?))
}

/// Give back the blocks that no VDI or snapshot uses
#[utoipa::path(post, path = "/collect", tag = "Store", request_body = CollectRequest,
    responses((status = 200, body = CollectReport)))]
pub async fn collect(Ask(data): Ask, Body(request): Body<CollectRequest>) -> Answer<CollectReport> {
    let dry_run = request.dry_run;
    Ok(Json(data.ask(|reply| Command::Collect { dry_run, reply }).await?))
}

/// Bring everything acknowledged so far from the log to the store
#[utoipa::path(post, path = "/checkpoint", tag = "Store",
    responses((status = 204, description = "It is in the store")))]
pub async fn checkpoint(Ask(data): Ask) -> Result<StatusCode, Failure> {
    data.ask(|reply| Command::Checkpoint { reply }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// This document
#[utoipa::path(get, path = "/openapi.json", tag = "Store",
    responses((status = 200, description = "OpenAPI 3.1", body = serde_json::Value)))]
pub async fn openapi(_: Ask, State(context): State<Context>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], context.openapi.to_string())
}
