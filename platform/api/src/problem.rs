//! What went wrong, in the form that goes over the wire: a code for programs; what, why and what to do for people.

use std::fmt;

use http::StatusCode;
use serde::{Deserialize, Serialize};

/// Something that was not done. `message` is one line on what failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The kind, for programs.
    pub code: ProblemCode,
    /// What failed, in one line: lower case, no full stop.
    pub message: String,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// The kinds of problems. A client treats an unknown one as [`ProblemCode::Failed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemCode {
    /// The request itself is wrong: not JSON, a bad manifest, a number out of range.
    BadRequest,
    /// What it names does not exist.
    NotFound,
    /// It does not fit what is going on: another command was faster, the request key was used for something else.
    Conflict,
    /// It is understood and not allowed in this state, such as a rollback without an earlier release.
    Refused,
    /// No token was shown, or one that is worth nothing.
    Unauthorised,
    /// The token does not allow it.
    Denied,
    /// It is larger than the limits.
    TooLarge,
    /// It cannot be done now, and could be later: Holm is going down, or too much is under way.
    Unavailable,
    /// It was tried and failed.
    #[serde(other)]
    Failed,
}

impl ProblemCode {
    /// The HTTP status that goes with it.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Conflict => StatusCode::CONFLICT,
            Self::Refused => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Unauthorised => StatusCode::UNAUTHORIZED,
            Self::Denied => StatusCode::FORBIDDEN,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl Problem {
    /// A problem of kind `code` with what failed.
    #[must_use]
    pub fn new(code: ProblemCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), why: None, hint: None }
    }

    /// [`ProblemCode::BadRequest`].
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(ProblemCode::BadRequest, message)
    }

    /// [`ProblemCode::NotFound`].
    #[must_use]
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ProblemCode::NotFound, message)
    }

    /// [`ProblemCode::Conflict`].
    #[must_use]
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(ProblemCode::Conflict, message)
    }

    /// [`ProblemCode::Refused`].
    #[must_use]
    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(ProblemCode::Refused, message)
    }

    /// [`ProblemCode::Unavailable`].
    #[must_use]
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ProblemCode::Unavailable, message)
    }

    /// [`ProblemCode::Failed`].
    #[must_use]
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(ProblemCode::Failed, message)
    }

    /// Adds why.
    #[must_use]
    pub fn because(mut self, why: impl fmt::Display) -> Self {
        self.why = Some(why.to_string());
        self
    }

    /// Adds what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.why {
            Some(why) => write!(f, "{}: {why}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for Problem {}
