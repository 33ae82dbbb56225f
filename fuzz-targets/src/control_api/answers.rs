//! What a server may say: answers in HTTP, each with a document or with the one shape of an error.

use serde_json::Value;

/// The answers of one connection.
///
/// # Panics
/// When these bytes are no answers, or any of them has another shape.
pub fn check(said: &[u8]) -> usize {
    let (mut left, mut count) = (said, 0);
    while !left.is_empty() {
        let answer = Answer::parse(left);
        answer.check();
        left = answer.rest;
        count += 1;
    }
    count
}

struct Answer<'s> {
    status: u16,
    body: &'s [u8],
    /// Bytes that the head announces; none of them are there after a HEAD.
    length: usize,
    rest: &'s [u8],
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(400)]).escape_debug().to_string()
}

impl<'s> Answer<'s> {
    fn parse(bytes: &'s [u8]) -> Answer<'s> {
        let end = bytes
            .windows(4)
            .position(|w| w == b"\r\n\r\n")
            .unwrap_or_else(|| panic!("no head: {}", shown(bytes)));
        let head = std::str::from_utf8(&bytes[..end])
            .unwrap_or_else(|_| panic!("a head of no text: {}", shown(bytes)));
        let rest = &bytes[end + 4..];
        let mut lines = head.split("\r\n");
        let mut first = lines.next().unwrap_or_default().splitn(3, ' ');
        let version = first.next().unwrap_or_default();
        assert!(matches!(version, "HTTP/1.1" | "HTTP/1.0"), "no version: {head}");
        let status: u16 =
            first.next().and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("no status: {head}"));
        let field = |name: &str| {
            let named = |line: &'s str| line.split_once(": ").filter(|(n, _)| n.eq_ignore_ascii_case(name));
            head.split("\r\n").find_map(named).map(|(_, value)| value)
        };
        assert!(field("transfer-encoding").is_none(), "every answer is whole: {head}");
        let length: usize = field("content-length").and_then(|n| n.parse().ok()).unwrap_or_default();
        // The answer to a HEAD announces a body and has none; what follows then is the next answer, or nothing.
        let absent = length > 0 && (rest.is_empty() || rest.starts_with(b"HTTP/1."));
        let here = if absent { 0 } else { length };
        assert!(here <= rest.len(), "{here} bytes are announced: {head}");
        if here > 0 {
            assert_eq!(field("content-type"), Some("application/json"), "{head}");
        }
        let (body, rest) = rest.split_at(here);
        Answer { status, body, length, rest }
    }
    fn check(&self) {
        let Answer { status, body, length, rest } = self;
        // Bytes that are no HTTP at all get the library's bare refusal, and nothing after it.
        let bare = matches!(status, 400 | 414 | 431 | 505) && *length == 0 && rest.is_empty();
        // "Go on and send the body": no answer yet.
        if body.is_empty() && (*length > 0 || bare || matches!(status, 100 | 204)) {
            return;
        }
        let document: Value = serde_json::from_slice(body)
            .unwrap_or_else(|e| panic!("status {status} with what is no JSON ({e}): {}", shown(body)));
        if *status < 400 {
            assert!(document.is_object(), "status {status}: {document}");
            return;
        }
        let fields = document.as_object().unwrap_or_else(|| panic!("status {status}: {document}"));
        let said = |name: &str| fields.get(name).and_then(Value::as_str).is_some_and(|s| !s.is_empty());
        let right = fields.len() == 3 && said("code") && said("message") && said("hint");
        assert!(right, "status {status} without the shape of an error: {document}");
    }
}
