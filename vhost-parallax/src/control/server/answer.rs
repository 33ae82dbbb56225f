//! Errors as HTTP answers.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::control::api::error::ErrorBody;

/// An [`ErrorBody`] on its way to the client.
#[derive(Debug)]
pub struct Failure(pub ErrorBody);

/// What a handler returns.
pub type Answer<T> = std::result::Result<Json<T>, Failure>;

impl From<ErrorBody> for Failure {
    fn from(body: ErrorBody) -> Failure {
        Failure(body)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.http_status()).expect("the codes have valid statuses");
        (status, Json(self.0)).into_response()
    }
}
