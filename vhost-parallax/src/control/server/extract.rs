//! Reading a request: path, query and body become the plain types of `api`, or an error in the one shape.

use std::time::Duration;

use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body as _;
use serde::de::DeserializeOwned;

use super::answer::Failure;
use super::router::Context;
use crate::control::api::command::CommandSender;
use crate::control::api::error::{Code, ErrorBody, Result};
use crate::control::api::limits::BODY_BYTES_MAX;
use crate::control::api::{SnapshotSelector, VdiName};

const SEE: &str = "GET /api/v1/openapi.json describes every request";

/// The way to the data thread, for a request that takes no query.
pub struct Ask(pub CommandSender);

impl FromRequestParts<Context> for Ask {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, context: &Context) -> std::result::Result<Ask, Failure> {
        match parts.uri.query() {
            None | Some("") => Ok(Ask(context.commands.clone())),
            Some(_) => Err(ErrorBody::bad_request("this request takes no query parameters", SEE).into()),
        }
    }
}

/// The way to the data thread, and the query.
pub struct AskWith<Q>(pub CommandSender, pub Q);

impl<Q: DeserializeOwned + Send> FromRequestParts<Context> for AskWith<Q> {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, context: &Context) -> std::result::Result<Self, Failure> {
        let query = axum::extract::Query::<Q>::try_from_uri(&parts.uri)
            .map_err(|e| ErrorBody::bad_request(format!("query: {}", e.body_text()), SEE))?;
        Ok(AskWith(context.commands.clone(), query.0))
    }
}

/// `{vdi}` of the path.
pub struct VdiPath(pub VdiName);

impl FromRequestParts<Context> for VdiPath {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, context: &Context) -> std::result::Result<Self, Failure> {
        let path = Path::<String>::from_request_parts(parts, context).await;
        let Path(vdi) = path.map_err(|e| ErrorBody::bad_request(e.body_text(), SEE))?;
        Ok(VdiPath(VdiName::parse(&vdi)?))
    }
}

/// `{vdi}` and `{snapshot}` of the path.
pub struct SnapshotPath(pub VdiName, pub SnapshotSelector);

impl FromRequestParts<Context> for SnapshotPath {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, context: &Context) -> std::result::Result<Self, Failure> {
        let path = Path::<(String, String)>::from_request_parts(parts, context).await;
        let Path((vdi, snapshot)) = path.map_err(|e| ErrorBody::bad_request(e.body_text(), SEE))?;
        Ok(SnapshotPath(VdiName::parse(&vdi)?, SnapshotSelector::parse(&snapshot)?))
    }
}

/// The body, whatever its content type. No body at all is `{}`.
pub struct Body<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Context> for Body<T> {
    type Rejection = Failure;
    async fn from_request(request: Request, context: &Context) -> std::result::Result<Self, Failure> {
        Ok(Body(parse(&read(request, context.body_deadline).await?)?))
    }
}

async fn read(request: Request, deadline: Duration) -> Result<Vec<u8>> {
    let too_large = || {
        ErrorBody::new(
            Code::TooLarge,
            format!("the request body is larger than {BODY_BYTES_MAX} bytes"),
            "no request needs that much; check what the client sends",
        )
    };
    let body = request.into_body();
    if body.size_hint().lower() > BODY_BYTES_MAX as u64 {
        return Err(too_large());
    }
    match tokio::time::timeout(deadline, Limited::new(body, BODY_BYTES_MAX).collect()).await {
        Ok(Ok(all)) => Ok(all.to_bytes().into()),
        Ok(Err(e)) if e.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(e)) => Err(ErrorBody::bad_request(format!("the request body broke off: {e}"), SEE)),
        Err(_late) => Err(ErrorBody::bad_request(
            format!("the request body did not arrive within {deadline:?}"),
            "send all the bytes that Content-Length announces",
        )),
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    let bytes = if bytes.trim_ascii().is_empty() { b"{}" } else { bytes };
    // serde would also take an array of the fields in order, which no document promises.
    if bytes.trim_ascii().first() != Some(&b'{') {
        return Err(ErrorBody::bad_request("the request body is not a JSON object", SEE));
    }
    serde_json::from_slice(bytes).map_err(|e| ErrorBody::bad_request(format!("the request body: {e}"), SEE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::api::{CreateRequest, SnapshotRequest};

    #[test]
    fn a_body_is_one_object_with_known_fields() {
        assert_eq!(parse::<SnapshotRequest>(b" ").unwrap(), SnapshotRequest::default());
        for (bad, says) in [
            (&b"[\"web\", 512]"[..], "not a JSON object"),
            (b"{\"name\": \"web\"}", "missing field `size_bytes`"),
            (b"{\"name\": \"web\", \"size_bytes\": 512, \"colour\": 1}", "unknown field `colour`"),
            (b"{\"name\": \"web\", \"size_bytes\": -1}", "invalid value"),
            (b"{\"name\": \"web\", \"size_bytes\": 512, \"name\": \"w\"}", "duplicate field"),
            (b"{\"name\": \"web\", \"size_bytes\": 512} x", "trailing characters"),
            (b"{\"name\": \"we", "EOF"),
            (b"{\"name\": \"\xff\"}", "invalid unicode"),
        ] {
            let e = parse::<CreateRequest>(bad).unwrap_err();
            assert!(e.message.contains(says), "{}", e.message);
            assert_eq!(e.code, Code::BadRequest);
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = format!("{{\"label\": {}", "[".repeat(60_000));
        parse::<SnapshotRequest>(deep.as_bytes()).unwrap_err();
        let e = parse::<serde_json::Value>(deep.as_bytes()).unwrap_err();
        assert!(e.message.contains("recursion limit"), "{}", e.message);
    }
}
