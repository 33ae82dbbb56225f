//! The OpenAPI document is true: its paths are the routes, its schemas fit what the server answers.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::schema::mismatch;
use super::{Fixture, assert_error};
use crate::control::server::openapi_json;

const METHODS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];

fn document() -> Value {
    serde_json::from_str(&openapi_json()).unwrap()
}

fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            all.push((method.to_uppercase(), path.clone(), operation.clone()));
        }
    }
    all
}

/// `/vdis/{vdi}` with something in place of the variables.
fn filled(path: &str) -> String {
    path.replace("{vdi}", "no-such-vdi").replace("{snapshot}", "17")
}

#[test]
fn the_served_document_is_the_generated_one() {
    let f = Fixture::new();
    assert_eq!(f.get("/api/v1/openapi.json"), (200, document()));
}

#[test]
fn every_documented_operation_is_routed_and_no_other() {
    let f = Fixture::new();
    let document = document();
    let documented: BTreeSet<(String, String)> =
        operations(&document).into_iter().map(|(method, path, _)| (method, path)).collect();
    for path in document["paths"].as_object().unwrap().keys() {
        for method in METHODS {
            let (status, body) = f.call(method, &filled(path), "");
            if documented.contains(&(method.to_owned(), path.clone())) {
                assert_ne!(status, 405, "{method} {path} is in the document but not routed");
                let message = body["message"].as_str().unwrap_or_default();
                assert!(!message.starts_with("there is nothing at"), "{method} {path}: {message}");
            } else {
                assert_eq!(status, 405, "{method} {path} is routed but not in the document");
                assert_error((status, body), "bad_request");
            }
        }
    }
}

/// Routes come from handlers' attributes only, and every handler with one is in the list.
#[test]
fn no_route_bypasses_the_document() {
    let sources = [
        include_str!("../routes/vdis.rs"),
        include_str!("../routes/attachments.rs"),
        include_str!("../routes/snapshots.rs"),
        include_str!("../routes/store.rs"),
    ];
    let handlers: usize = sources.iter().map(|s| s.matches("#[utoipa::path(").count()).sum();
    assert_eq!(handlers, operations(&document()).len());
    let router = include_str!("../router.rs");
    for bypass in [".route(", ".nest_service(", ".route_service(", ".merge("] {
        assert!(!router.contains(bypass), "router.rs uses {bypass}");
    }
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/control/server/routes");
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), sources.len() + 1, "a file is not looked at here");
}

#[test]
fn every_operation_promises_the_error_shape() {
    for (method, path, operation) in operations(&document()) {
        let schema = operation.pointer("/responses/default/content/application~1json/schema").cloned();
        assert_eq!(schema, Some(json!({"$ref": "#/components/schemas/ErrorBody"})), "{method} {path}");
        assert!(operation["summary"].as_str().is_some_and(|s| !s.is_empty()), "{method} {path}");
        assert!(operation["operationId"].is_string(), "{method} {path}");
    }
}

#[test]
fn every_example_fits_its_schema() {
    let document = document();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let mut examples = 0;
    for (name, schema) in schemas {
        if let Some(example) = schema.get("example") {
            mismatch(&document, schema, example).unwrap_or_else(|e| panic!("{name}: {e}"));
            examples += 1;
        }
        // What the server takes is strict, and says so; what it answers may grow.
        if name.ends_with("Request") {
            assert_eq!(schema["additionalProperties"], json!(false), "{name}");
            assert!(schema.get("example").is_some(), "{name} has no example");
        }
    }
    assert!(examples >= 8);
}

/// Make every request of the document, in an order in which each succeeds; check each answer.
#[test]
fn every_answer_fits_the_document() {
    let f = Fixture::new();
    let document = document();
    let mut left: BTreeSet<(String, String)> =
        operations(&document).into_iter().map(|(method, path, _)| (method, path)).collect();
    let life = [
        ("POST", "/vdis", json!({"name": "web", "size_bytes": 1 << 30})),
        ("POST", "/vdis/{vdi}/attach", json!({})),
        ("POST", "/vdis/{vdi}/snapshots", json!({"label": "first"})),
        ("PATCH", "/vdis/{vdi}/snapshots/{snapshot}", json!({"label": "golden"})),
        ("POST", "/vdis/{vdi}/clone", json!({"name": "w2", "snapshot": "1"})),
        ("PATCH", "/vdis/{vdi}", json!({"size_bytes": 2_u64 << 30})),
        ("GET", "/vdis", json!(null)),
        ("GET", "/vdis/{vdi}", json!(null)),
        ("GET", "/vdis/{vdi}/snapshots", json!(null)),
        ("GET", "/tree", json!(null)),
        ("GET", "/status", json!(null)),
        ("PATCH", "/latency", json!({"enabled": true})),
        ("GET", "/latency", json!(null)),
        ("GET", "/openapi.json", json!(null)),
        ("POST", "/collect", json!({"dry_run": true})),
        ("POST", "/checkpoint", json!(null)),
        ("POST", "/vdis/{vdi}/detach", json!({"force": true})),
        ("POST", "/vdis/{vdi}/rollback", json!({"snapshot": "golden"})),
        ("DELETE", "/vdis/{vdi}/snapshots/{snapshot}", json!(null)),
        ("DELETE", "/vdis/{vdi}", json!(null)),
    ];
    for (method, path, body) in life {
        let path = format!("/api/v1{path}");
        let mut url = path.replace("{vdi}", "web").replace("{snapshot}", "1");
        if (method, url.as_str()) == ("DELETE", "/api/v1/vdis/web") {
            url.push_str("?recursive=true");
        }
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let (status, answer) = f.call(method, &url, &text);
        let operation = &document["paths"][&path][method.to_lowercase()];
        let documented = &operation["responses"][status.to_string()];
        assert!(documented.is_object(), "{method} {path} answered {status} {answer}");
        match documented.pointer("/content/application~1json/schema") {
            Some(schema) => {
                mismatch(&document, schema, &answer).unwrap_or_else(|e| panic!("{method} {path}: {e}"))
            }
            None => assert_eq!(answer, Value::Null, "{method} {path}"),
        }
        if let Some(schema) = operation.pointer("/requestBody/content/application~1json/schema") {
            mismatch(&document, schema, &body).unwrap_or_else(|e| panic!("{method} {path}: {e}"));
        }
        left.remove(&(method.to_owned(), path));
    }
    assert!(left.is_empty(), "not tried: {left:?}");
    let (_, error) = f.get("/api/v1/vdis/web");
    mismatch(&document, &document["components"]["schemas"]["ErrorBody"], &error).unwrap();
}
