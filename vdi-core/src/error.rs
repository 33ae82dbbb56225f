//! The one error type: what kind (to match on), what and where (to read), what to do (the hint).

use std::fmt;

/// Result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Small and stable: callers match on this, never on text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorKind {
    /// The request itself makes no sense (name, size, range, option).
    BadRequest,
    /// No such VDI or snapshot.
    NotFound,
    /// The name is taken.
    Exists,
    /// Held by someone: attached, locked, in use, being checkpointed.
    Busy,
    /// No room in the store, even after a checkpoint.
    NoSpace,
    /// Beyond a stated limit.
    TooLarge,
    /// Not permitted (read-only, permissions).
    Denied,
    /// The device answered with this errno.
    Io(i32),
    /// Bytes read from the store or log are not what was written.
    Corrupt,
    /// A valid structure that this version does not know.
    Unsupported,
    /// A store, log or device that is not the expected one, or none at all.
    WrongStore,
    /// The log is not there, or is not the one the store names.
    LogMissing,
    /// Acknowledged writes may be in a staging memory that is not there.
    StagingMissing,
    /// An earlier failure made further progress unsafe; a restart recovers.
    Poisoned,
}

struct Inner {
    kind: ErrorKind,
    message: String,
    hint: &'static str,
    source: Option<Box<dyn std::error::Error + Send + Sync + 'static>>,
}

/// An error with what and where (`message`) and what to do about it (`hint`).
pub struct Error(Box<Inner>);

impl Error {
    /// A new error; `message` says what and where, `hint` what the user can do.
    pub fn new(kind: ErrorKind, message: impl Into<String>, hint: &'static str) -> Error {
        Error(Box::new(Inner { kind, message: message.into(), hint, source: None }))
    }
    /// A corruption error for the structure `what` at `place`.
    pub fn corrupt(what: &str, place: impl fmt::Display, detail: impl fmt::Display) -> Error {
        Error::new(
            ErrorKind::Corrupt,
            format!("{what} at {place} is corrupt: {detail}"),
            "run 'parallax check' on the store to see what is hurt; restore the named VDIs from a snapshot or backup",
        )
    }
    /// A device error with its errno.
    pub fn io(what: impl fmt::Display, errno: i32) -> Error {
        let os = std::io::Error::from_raw_os_error(errno);
        let hint = match errno {
            libc::ENOSPC => "free space on the file system that holds the file",
            libc::EACCES | libc::EPERM => "check the permissions of the file or device, or run as its owner",
            libc::ENOENT => "check the path",
            _ => "check the device and the kernel log; the daemon retries nothing silently",
        };
        Error::new(ErrorKind::Io(errno), format!("{what}: {os}"), hint)
    }
    /// The kind to match on.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }
    /// What and where.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        self.0.hint
    }
    /// The same error seen from further out: `what` goes in front of the message.
    #[must_use]
    pub fn context(mut self, what: impl fmt::Display) -> Error {
        self.0.message = format!("{what}: {}", self.0.message);
        self
    }
    /// Attach the underlying cause.
    #[must_use]
    pub fn caused_by(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Error {
        self.0.source = Some(Box::new(source));
        self
    }
    /// A copy without the cause (several waiters may get the same failure).
    #[must_use]
    pub fn duplicate(&self) -> Error {
        Error::new(self.0.kind, self.0.message.clone(), self.0.hint)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {} (hint: {})", self.0.kind, self.0.message, self.0.hint)
    }
}
impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|e| e as &(dyn std::error::Error + 'static))
    }
}
