//! The one error shape: a code to match on, a message that says what and where, a hint that says what to do.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use vdi_core::ErrorKind;

/// Result with an [`ErrorBody`].
pub type Result<T> = std::result::Result<T, ErrorBody>;

/// What kind of failure; each code has one HTTP status.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The request itself makes no sense.
    BadRequest,
    /// The caller may not.
    Denied,
    /// No such VDI, snapshot or path.
    NotFound,
    /// Held by someone: attached, connected, has snapshots.
    Busy,
    /// The name or label is taken.
    Exists,
    /// Beyond a stated limit.
    TooLarge,
    /// The device under the store or the log answered with an error.
    Io,
    /// Bytes on the store or the log are not what was written.
    Corrupt,
    /// A structure or feature this version does not know.
    Unsupported,
    /// The store is not the expected one, or none at all.
    WrongStore,
    /// The log is not there, or not the one the store names.
    LogMissing,
    /// The daemon does not answer, or takes no more requests now.
    Unavailable,
    /// No room in the store.
    NoSpace,
}

impl Code {
    /// Every code.
    pub const ALL: [Code; 13] = [
        Code::BadRequest,
        Code::Denied,
        Code::NotFound,
        Code::Busy,
        Code::Exists,
        Code::TooLarge,
        Code::Io,
        Code::Corrupt,
        Code::Unsupported,
        Code::WrongStore,
        Code::LogMissing,
        Code::Unavailable,
        Code::NoSpace,
    ];

    /// The HTTP status that goes with the code.
    #[must_use]
    pub const fn http_status(self) -> u16 {
        match self {
            Code::BadRequest => 400,
            Code::Denied => 403,
            Code::NotFound => 404,
            Code::Busy | Code::Exists => 409,
            Code::TooLarge => 413,
            Code::Io | Code::Corrupt | Code::WrongStore | Code::LogMissing => 500,
            Code::Unsupported => 501,
            Code::Unavailable => 503,
            Code::NoSpace => 507,
        }
    }
}

impl From<ErrorKind> for Code {
    fn from(kind: ErrorKind) -> Code {
        match kind {
            ErrorKind::BadRequest => Code::BadRequest,
            ErrorKind::NotFound => Code::NotFound,
            ErrorKind::Exists => Code::Exists,
            ErrorKind::Busy => Code::Busy,
            ErrorKind::NoSpace => Code::NoSpace,
            ErrorKind::TooLarge => Code::TooLarge,
            ErrorKind::Denied => Code::Denied,
            ErrorKind::Io(_) => Code::Io,
            ErrorKind::Corrupt => Code::Corrupt,
            ErrorKind::Unsupported => Code::Unsupported,
            ErrorKind::WrongStore => Code::WrongStore,
            ErrorKind::LogMissing | ErrorKind::StagingMissing => Code::LogMissing,
            ErrorKind::Poisoned => Code::Unavailable,
        }
    }
}

/// The body of every answer that is not a success.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"code": "not_found", "message": "there is no VDI 'web'", "hint": "'parallax ls' lists the VDIs of this store"}))]
pub struct ErrorBody {
    /// To match on.
    pub code: Code,
    /// What went wrong, and where.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

impl ErrorBody {
    /// An error of `code`: `message` says what and where, `hint` what the user can do.
    pub fn new(code: Code, message: impl Into<String>, hint: impl Into<String>) -> ErrorBody {
        ErrorBody { code, message: message.into(), hint: hint.into() }
    }
    /// A request that makes no sense.
    pub fn bad_request(message: impl Into<String>, hint: impl Into<String>) -> ErrorBody {
        ErrorBody::new(Code::BadRequest, message, hint)
    }
}

impl From<&vdi_core::Error> for ErrorBody {
    fn from(e: &vdi_core::Error) -> ErrorBody {
        ErrorBody::new(e.kind().into(), e.message(), e.hint())
    }
}

impl From<vdi_core::Error> for ErrorBody {
    fn from(e: vdi_core::Error) -> ErrorBody {
        ErrorBody::from(&e)
    }
}

impl std::fmt::Display for ErrorBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ErrorBody {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_listed_and_named_in_snake_case() {
        let names: Vec<String> =
            Code::ALL.iter().map(|c| serde_json::to_string(c).unwrap().replace('"', "")).collect();
        assert_eq!(
            names,
            [
                "bad_request",
                "denied",
                "not_found",
                "busy",
                "exists",
                "too_large",
                "io",
                "corrupt",
                "unsupported",
                "wrong_store",
                "log_missing",
                "unavailable",
                "no_space"
            ]
        );
    }

    #[test]
    fn an_engine_error_keeps_its_message_and_hint() {
        let e = vdi_core::Error::new(ErrorKind::NoSpace, "store is full", "run 'parallax collect'");
        let body = ErrorBody::from(e);
        assert_eq!((body.code, body.code.http_status()), (Code::NoSpace, 507));
        assert_eq!((body.message.as_str(), body.hint.as_str()), ("store is full", "run 'parallax collect'"));
    }
}
