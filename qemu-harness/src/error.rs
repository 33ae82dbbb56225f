//! What went wrong, where, and what to do about it.

use std::fmt;

/// Result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// A failure of the harness or of what it drives, with the evidence in the message.
pub struct Error {
    message: String,
    hint: &'static str,
}

impl Error {
    /// A new error; `message` says what and where, `hint` what to do.
    pub fn new(message: impl Into<String>, hint: &'static str) -> Error {
        Error { message: message.into(), hint }
    }
    /// A system call that failed while doing `what`.
    pub fn io(what: impl fmt::Display, e: &std::io::Error) -> Error {
        Error::new(format!("{what}: {e}"), "check the path, the permissions and the free space")
    }
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        self.hint
    }
    /// The same error with `evidence` (the end of a log) under its message.
    #[must_use]
    pub fn with_evidence(mut self, title: &str, evidence: &str) -> Error {
        if !evidence.is_empty() {
            self.message = format!("{}\n--- {title}:\n{}\n---", self.message, evidence.trim_end());
        }
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\nhint: {}", self.message, self.hint)
    }
}
impl std::error::Error for Error {}

/// The last `lines` lines of `text`.
#[must_use]
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
