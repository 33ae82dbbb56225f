//! What a user may set through the environment; `benches/README.md` lists them.

/// The variable `name` as a number, or `default`. Panics when it is no number.
#[must_use]
pub fn number(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).unwrap_or_default();
    if text.is_empty() {
        return default;
    }
    text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}"))
}

/// The words of the variable `name`, or of `default`.
#[must_use]
pub fn words(name: &str, default: &str) -> Vec<String> {
    let value = std::env::var(name).unwrap_or_else(|_| default.to_owned());
    value.split_whitespace().map(str::to_owned).collect()
}
