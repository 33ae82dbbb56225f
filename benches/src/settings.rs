//! Numbers a user may set through the environment; `benches/README.md` lists them.

/// The variable `name` as a number, or `default`.
#[must_use]
pub fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}
