//! What keeps an object from being ready, as its condition says it.

use std::time::Duration;

use tonic::{Code, Status};

/// A failure with a word for programs and a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Fault {
    /// One CamelCase word.
    pub(crate) reason: &'static str,
    /// A sentence.
    pub(crate) message: String,
    /// When to look again.
    pub(crate) again: Again,
}

/// When to look again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    /// With a growing pause.
    Backoff,
    /// Work goes on elsewhere: after this time, not counted as a failure.
    Soon(Duration),
}

impl Fault {
    pub(crate) fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            again: Again::Backoff,
        }
    }

    /// Work that goes on elsewhere.
    pub(crate) fn working(message: impl Into<String>) -> Self {
        Self {
            reason: "Working",
            message: message.into(),
            again: Again::Soon(Duration::from_secs(2)),
        }
    }

    /// No node can be asked now: nodes come, and nobody tells when.
    pub(crate) fn no_node(labels: bool) -> Self {
        Self {
            reason: "NoNode",
            message: match labels {
                true => {
                    "no node with a ready lamina-node pod has the labels of nodeSelector".to_owned()
                }
                false => "no node runs a ready lamina-node pod".to_owned(),
            },
            again: Again::Soon(Duration::from_secs(5)),
        }
    }

    pub(crate) fn is_work(&self) -> bool {
        matches!(self.again, Again::Soon(_))
    }
}

impl From<kube::Error> for Fault {
    fn from(error: kube::Error) -> Self {
        if is_conflict(&error) {
            return Self {
                again: Again::Soon(Duration::from_secs(1)),
                ..Self::new(
                    "Working",
                    "somebody else changed the object meanwhile; it is looked at again",
                )
            };
        }
        Self::new("ApiServer", format!("the API server refused: {error}"))
    }
}

/// Whether what was written is not of the latest version: read again, it can be written again.
fn is_conflict(error: &kube::Error) -> bool {
    // What is there already has the same code, and stays there.
    matches!(error, kube::Error::Api(status) if status.code == 409 && status.reason == "Conflict")
}

/// A node's answer, as a fault. `node` and `what` are for the message.
pub(crate) fn from_status(node: &str, what: &str, status: &Status) -> Fault {
    let message = format!("node {node} could not {what}: {}", status.message());
    match status.code() {
        Code::Aborted | Code::DeadlineExceeded | Code::Cancelled => {
            Fault::working(format!("node {node} is still at it: {what}"))
        }
        Code::NotFound => Fault::new("NotFound", message),
        Code::PermissionDenied | Code::Unauthenticated => Fault::new("AccessDenied", message),
        Code::InvalidArgument => Fault::new("InvalidSource", message),
        Code::DataLoss => Fault::new("DamagedData", message),
        Code::ResourceExhausted => Fault::new("NoSpace", message),
        Code::FailedPrecondition => Fault::new("InUse", message),
        Code::Unavailable => Fault::new("Unavailable", message),
        Code::Unimplemented => Fault::new(
            "NodeTooOld",
            format!("node {node} runs a version of Lamina that cannot {what}"),
        ),
        _ => Fault::new("NodeFailed", message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conflict_of_writers_is_work_and_no_failure() {
        let refused = |reason: &str| {
            let status = kube::core::Status::failure("no", reason).with_code(409);
            Fault::from(kube::Error::Api(Box::new(status)))
        };
        assert!(refused("Conflict").is_work());
        assert_eq!(refused("AlreadyExists").reason, "ApiServer");
    }

    #[test]
    fn every_answer_of_a_node_has_its_reason() {
        let table = [
            (Code::NotFound, "NotFound"),
            (Code::PermissionDenied, "AccessDenied"),
            (Code::Unauthenticated, "AccessDenied"),
            (Code::InvalidArgument, "InvalidSource"),
            (Code::DataLoss, "DamagedData"),
            (Code::ResourceExhausted, "NoSpace"),
            (Code::FailedPrecondition, "InUse"),
            (Code::Unavailable, "Unavailable"),
            (Code::Unimplemented, "NodeTooOld"),
            (Code::Internal, "NodeFailed"),
            (Code::Aborted, "Working"),
            (Code::DeadlineExceeded, "Working"),
        ];
        for (code, reason) in table {
            let fault = from_status("a", "convert it", &Status::new(code, "why"));
            assert_eq!(fault.reason, reason, "{code:?}");
            assert_eq!(fault.is_work(), reason == "Working");
        }
    }
}
