//! Why a run was refused, or ended without a result: by what its caller can do, which is the status code.

use std::error::Error;

use tonic::{Code, Status};

/// A refusal or failure. Its text holds no credential.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct RunError {
    code: Code,
    message: String,
}

impl RunError {
    /// With any code.
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// The caller's mistake.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, message)
    }

    /// Something of this node went wrong while `what` was tried.
    pub(crate) fn internal(what: &str, error: &dyn Error) -> Self {
        Self::new(Code::Internal, format!("{what}: {}", chain(error)))
    }

    /// A part of this node does not answer.
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Code::Unavailable, message)
    }

    /// Nobody wants it any more.
    pub(crate) fn cancelled() -> Self {
        Self::new(Code::Cancelled, "the client is gone")
    }

    /// Its code.
    pub(crate) fn code(&self) -> Code {
        self.code
    }
}

impl From<RunError> for Status {
    fn from(error: RunError) -> Self {
        Self::new(error.code, error.message)
    }
}

/// An error and what it came from, in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}
