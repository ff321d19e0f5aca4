//! What a caller gets when something is refused or fails: a stable code, a message, a hint (RFC 9457 problem details).

use serde::{Deserialize, Serialize};

/// Stable kinds of failure. The text form is part of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// The request is not well-formed.
    BadRequest,
    /// The caller may not ask this.
    Denied,
    /// No such model, version, release or snapshot.
    NotFound,
    /// Not possible in the present state: another release runs, nothing to roll back.
    Conflict,
    /// A check said no: signature, trust, digest, contract, plan, gate.
    Refused,
    /// A limit was reached: size, count, space.
    Limit,
    /// The host failed.
    HostFailure,
    /// The journal cannot be written: nothing is changed, serving goes on.
    JournalUnavailable,
}

impl ErrorCode {
    /// The HTTP status that goes with it.
    pub fn http_status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Denied => 403,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::Refused => 422,
            Self::Limit => 413,
            Self::HostFailure => 500,
            Self::JournalUnavailable => 503,
        }
    }

    /// The exit code of `turnoutctl`: 1 failed, 2 usage, 3 refused by a check or gate, 5 denied.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::BadRequest => 2,
            Self::Denied => 5,
            Self::Refused => 3,
            Self::NotFound | Self::Conflict | Self::Limit | Self::HostFailure | Self::JournalUnavailable => 1,
        }
    }
}

/// A problem as sent (`application/problem+json`) and printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    /// Stable kind.
    pub code: ErrorCode,
    /// What failed on which object, lower case, no full stop.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Every single finding, where there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
}

impl Problem {
    /// A problem without hint.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None, details: Vec::new() }
    }

    /// The same problem with what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}
