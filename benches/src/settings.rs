//! What a user may set through the environment; `benches/README.md` lists them.

/// The variable `name` as a number, or `default`.
#[must_use]
pub fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

/// The words of the variable `name`, or of `default`.
#[must_use]
pub fn words(name: &str, default: &str) -> Vec<String> {
    let value = std::env::var(name).unwrap_or_else(|_| default.to_owned());
    value.split_whitespace().map(str::to_owned).collect()
}
