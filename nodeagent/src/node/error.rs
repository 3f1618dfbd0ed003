//! Why a call of the node's service failed, by what its caller can do: the status code it becomes.

use tonic::{Code, Status};

use super::library::EnsureError;
use crate::api::{CallError, Failure, FailureKind};

/// A failed call. Its text holds no credential.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct NodeError {
    code: Code,
    message: String,
}

impl NodeError {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, message)
    }

    /// Something of our own went wrong: `what` was tried.
    pub(super) fn internal(what: &str, error: &dyn std::error::Error) -> Self {
        Self::new(Code::Internal, format!("{what}: {}", crate::chain(error)))
    }

    /// It is being worked on; the next equal call finds it.
    pub(super) fn unfinished(what: &str) -> Self {
        let message = format!("{what} is still being worked on: call again");
        Self::new(Code::Aborted, message)
    }

    /// Our own disk.
    pub(super) fn disk(what: &str, error: &std::io::Error) -> Self {
        let code = match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                Code::ResourceExhausted
            }
            _ => Code::Internal,
        };
        Self::new(code, format!("{what}: {error}"))
    }

    pub(super) fn code(&self) -> Code {
        self.code
    }
}

/// What an agent's failure is to a caller of the node.
fn of_agent(kind: FailureKind) -> Code {
    match kind {
        FailureKind::Invalid => Code::InvalidArgument,
        FailureKind::NotFound => Code::NotFound,
        FailureKind::Denied => Code::PermissionDenied,
        FailureKind::Busy => Code::FailedPrecondition,
        FailureKind::Unavailable => Code::Unavailable,
        FailureKind::Timeout => Code::DeadlineExceeded,
        FailureKind::Integrity => Code::DataLoss,
        FailureKind::Exhausted => Code::ResourceExhausted,
        FailureKind::Other => Code::Internal,
    }
}

impl From<Failure> for NodeError {
    fn from(failure: Failure) -> Self {
        Self::new(of_agent(failure.kind), failure.message)
    }
}

impl From<CallError> for NodeError {
    fn from(error: CallError) -> Self {
        let code = match &error {
            CallError::Failed(failure) => of_agent(failure.kind),
            CallError::CannotStart(_) | CallError::NoAgent { .. } | CallError::Broken { .. } => {
                Code::Unavailable
            }
            CallError::Timeout { .. } => Code::DeadlineExceeded,
        };
        Self::new(code, crate::chain(&error))
    }
}

impl From<EnsureError> for NodeError {
    fn from(error: EnsureError) -> Self {
        Self::new(error.kind().code(), crate::chain(&error))
    }
}

impl From<NodeError> for Status {
    fn from(error: NodeError) -> Self {
        Self::new(error.code, error.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::EnsureErrorKind;

    #[test]
    fn every_kind_of_failure_has_the_code_that_the_contract_names() {
        let library = [
            (EnsureErrorKind::InvalidArgument, Code::InvalidArgument),
            (EnsureErrorKind::NotFound, Code::NotFound),
            (EnsureErrorKind::PermissionDenied, Code::PermissionDenied),
            (EnsureErrorKind::Aborted, Code::Aborted),
            (EnsureErrorKind::Unavailable, Code::Unavailable),
            (EnsureErrorKind::DeadlineExceeded, Code::DeadlineExceeded),
            (EnsureErrorKind::DataLoss, Code::DataLoss),
            (EnsureErrorKind::ResourceExhausted, Code::ResourceExhausted),
            (
                EnsureErrorKind::FailedPrecondition,
                Code::FailedPrecondition,
            ),
            (EnsureErrorKind::Internal, Code::Internal),
        ];
        for (kind, code) in library {
            let status = Status::from(NodeError::from(EnsureError::new(kind, "why")));
            assert_eq!((status.code(), status.message()), (code, "why"));
        }
        let agent = [
            (FailureKind::Invalid, Code::InvalidArgument),
            (FailureKind::NotFound, Code::NotFound),
            (FailureKind::Denied, Code::PermissionDenied),
            (FailureKind::Busy, Code::FailedPrecondition),
            (FailureKind::Unavailable, Code::Unavailable),
            (FailureKind::Timeout, Code::DeadlineExceeded),
            (FailureKind::Integrity, Code::DataLoss),
            (FailureKind::Exhausted, Code::ResourceExhausted),
            (FailureKind::Other, Code::Internal),
        ];
        for (kind, code) in agent {
            let message = "why".to_owned();
            let status = Status::from(NodeError::from(Failure { kind, message }));
            assert_eq!((status.code(), status.message()), (code, "why"));
        }
    }
}
