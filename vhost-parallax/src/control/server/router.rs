//! The routes and the document that describes them, from one list: a handler's attribute is both.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use utoipa::OpenApi;
use utoipa::openapi::{OpenApi as Document, Ref, RefOr, Response as Documented};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::Failure;
use super::routes::{attachments, snapshots, store, vdis};
use crate::control::api::command::CommandSender;
use crate::control::api::error::{Code, ErrorBody};

/// Where every path of this version begins.
pub const PREFIX: &str = "/api/v1";

/// What handlers share.
#[derive(Clone)]
pub struct Context {
    /// The way to the data thread.
    pub commands: CommandSender,
    /// The document, as served.
    pub openapi: Arc<str>,
    /// How long a body may take.
    pub body_deadline: Duration,
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Parallax control API",
        version = "1",
        description = "Virtual disk images of one store, served on this host. HTTP/1.1 over the Unix socket \
                       control.sock of the run directory. Sizes are bytes. Every answer that is not a success \
                       has the shape of ErrorBody."
    ),
    components(schemas(ErrorBody))
)]
struct Head;

fn routes() -> OpenApiRouter<Context> {
    OpenApiRouter::new()
        .routes(routes!(vdis::list, vdis::create))
        .routes(routes!(vdis::show, vdis::delete, vdis::resize))
        .routes(routes!(vdis::clone))
        .routes(routes!(vdis::rollback))
        .routes(routes!(attachments::attach))
        .routes(routes!(attachments::detach))
        .routes(routes!(snapshots::list, snapshots::create))
        .routes(routes!(snapshots::label, snapshots::remove))
        .routes(routes!(store::tree))
        .routes(routes!(store::status))
        .routes(routes!(store::latency, store::measure))
        .routes(routes!(store::collect))
        .routes(routes!(store::checkpoint))
        .routes(routes!(store::openapi))
}

fn parts() -> (Router<Context>, Document) {
    let nested = OpenApiRouter::with_openapi(Head::openapi()).nest(PREFIX, routes());
    let (router, mut document) = nested.split_for_parts();
    add_error_shape(&mut document);
    (router, document)
}

/// Every operation may fail, in one shape.
fn add_error_shape(document: &mut Document) {
    let paths = document.paths.paths.values_mut();
    let operations = paths.flat_map(|item| {
        [&mut item.get, &mut item.post, &mut item.patch, &mut item.delete, &mut item.put]
            .into_iter()
            .filter_map(Option::as_mut)
    });
    let content = utoipa::openapi::content::ContentBuilder::new()
        .schema(Some(RefOr::Ref(Ref::from_schema_name("ErrorBody"))))
        .build();
    for operation in operations {
        let mut failure = Documented::new("It failed: what, where, and what to do about it");
        failure.content.insert("application/json".to_owned(), content.clone());
        operation.responses.responses.insert("default".to_owned(), RefOr::T(failure));
    }
}

/// The OpenAPI document, as served at `/api/v1/openapi.json`.
#[must_use]
pub fn openapi_json() -> String {
    parts().1.to_pretty_json().expect("the document is made of strings and numbers")
}

/// The service behind every connection.
pub fn service(commands: CommandSender, body_deadline: Duration) -> Router {
    let (router, document) = parts();
    let openapi = document.to_pretty_json().expect("the document is made of strings and numbers").into();
    router.method_not_allowed_fallback(wrong_method).fallback(wrong_path).with_state(Context {
        commands,
        openapi,
        body_deadline,
    })
}

async fn wrong_path(uri: Uri) -> Failure {
    let path: String = uri.path().chars().take(200).collect();
    let hint = if path.starts_with(PREFIX) {
        "GET /api/v1/openapi.json lists the paths"
    } else {
        "this daemon speaks /api/v1 only; GET /api/v1/openapi.json lists the paths"
    };
    Failure(ErrorBody::new(Code::NotFound, format!("there is nothing at {}", path.escape_debug()), hint))
}

async fn wrong_method(method: Method, uri: Uri) -> Response {
    let message = format!("{method} is not possible on {}", uri.path());
    let hint = "the Allow header of this answer lists what is; GET /api/v1/openapi.json tells more";
    let mut answer = Failure(ErrorBody::bad_request(message, hint)).into_response();
    *answer.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    answer
}
