//! Requests that the tape builds: from the words of the API, put together well or badly.

use crate::tape::Tape;

const METHODS: [&str; 10] =
    ["GET", "POST", "DELETE", "PATCH", "PUT", "HEAD", "OPTIONS", "CONNECT", "PRI", "get"];
const PATHS: [&str; 18] = [
    "/vdis",
    "/vdis/web",
    "/vdis/w2",
    "/vdis/web/snapshots",
    "/vdis/web/snapshots/1",
    "/vdis/web/snapshots/first",
    "/vdis/web/clone",
    "/vdis/web/rollback",
    "/vdis/web/attach",
    "/vdis/web/detach",
    "/tree",
    "/status",
    "/collect",
    "/checkpoint",
    "/openapi.json",
    "/vdis/%2e%2e",
    "/vdis//snapshots/",
    "/",
];
const QUERIES: [&str; 7] = ["", "", "", "?recursive=true", "?force=true", "?recursive=%ff&x", "?"];
const FIELDS: [&str; 12] = [
    r#""name": "web""#,
    r#""name": "w2""#,
    r#""size_bytes": 1048576"#,
    r#""size_bytes": 18446744073709551616"#,
    r#""label": "first""#,
    r#""label": null"#,
    r#""snapshot": "first""#,
    r#""snapshot": "1""#,
    r#""num_queues": 3"#,
    r#""read_only": true"#,
    r#""force": true"#,
    r#""dry_run": true"#,
];
const HEADERS: [&str; 10] = [
    "connection: close",
    "connection: upgrade",
    "expect: 100-continue",
    "transfer-encoding: chunked",
    "content-length: 3",
    "content-length: 99999999999999999999",
    "content-type: text/plain",
    "upgrade: h2c",
    "x: \u{1}",
    "",
];

/// One request.
pub fn write_request(out: &mut Vec<u8>, tape: &mut Tape<'_>) {
    let how = tape.u8();
    let method = METHODS[usize::from(tape.u8() % 16) % METHODS.len()];
    let path = *tape.pick(&PATHS);
    let query = *tape.pick(&QUERIES);
    let prefix = if how & 7 == 7 { "" } else { "/api/v1" };
    out.extend(format!("{method} {prefix}{path}").into_bytes());
    if how & 24 == 24 {
        let len = usize::from(tape.u8() % 16);
        out.extend(tape.bytes(len));
    }
    let version = if how & 224 == 224 { "1.0" } else { "1.1" };
    out.extend(format!("{query} HTTP/{version}\r\nhost: p\r\n").into_bytes());
    let body = body(tape);
    let mut announced = false;
    for _ in 0..tape.below(3) {
        let header = *tape.pick(&HEADERS);
        announced |= header.starts_with("content-length") || header.starts_with("transfer");
        out.extend(format!("{header}\r\n").into_bytes());
        if header.is_empty() {
            return;
        }
    }
    if !announced {
        out.extend(format!("content-length: {}\r\n", body.len()).into_bytes());
    }
    out.extend(b"\r\n");
    out.extend(body);
}

fn body(tape: &mut Tape<'_>) -> Vec<u8> {
    match tape.u8() % 8 {
        0 => Vec::new(),
        7 => {
            let len = usize::from(tape.u8());
            tape.bytes(len).to_vec()
        }
        6 => vec![b'['; usize::from(tape.u16())],
        count => {
            let fields: Vec<&str> = (0..count % 4).map(|_| *tape.pick(&FIELDS)).collect();
            format!("{{{}}}", fields.join(", ")).into_bytes()
        }
    }
}
