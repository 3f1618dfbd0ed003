//! Failures of the cluster and its nodes, by what the exit code says of them.
//!
//! A refusal names the verb and the resource that the person needs a right to: kubectl users can act on that,
//! and on nothing else.

use tonic::{Code, Status};

/// Why a verb could not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    pub(crate) message: String,
}

/// What a failure means for the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Usage,
    NotFound,
    Denied,
    Unavailable,
    Timeout,
    Integrity,
    Exhausted,
    Other,
}

impl Fault {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Kind::Unavailable, message)
    }
}

/// The API server's failure at `verb` (`list`, `get`, …) of `resource` (`pods`, `secrets lamina-client-tls`, …).
pub(crate) fn of_api(verb: &str, resource: &str, error: &kube::Error) -> Fault {
    use kube::Error as E;
    match error {
        E::Api(status) => of_answer(verb, resource, status.code, &status.message),
        E::UpgradeConnection(kube::client::UpgradeConnectionError::ProtocolSwitch(code)) => {
            of_answer(verb, resource, code.as_u16(), &error.to_string())
        }
        E::HyperError(_) | E::Service(_) | E::UpgradeConnection(_) | E::ReadEvents(_) => {
            Fault::unavailable(format!(
                "{verb} {resource}: the API server cannot be reached: {}",
                chain(error)
            ))
        }
        E::Auth(_) => Fault::new(
            Kind::Denied,
            format!(
                "the kubeconfig's credentials cannot be used: {}",
                chain(error)
            ),
        ),
        _ => Fault::new(Kind::Other, format!("{verb} {resource}: {}", chain(error))),
    }
}

fn of_answer(verb: &str, resource: &str, code: u16, message: &str) -> Fault {
    match code {
        401 => Fault::new(
            Kind::Denied,
            "the API server does not accept the kubeconfig's credentials; log in again",
        ),
        403 => Fault::new(
            Kind::Denied,
            format!(
                "you may not {verb} {resource}; ask a cluster administrator for that permission"
            ),
        ),
        404 => Fault::new(
            Kind::NotFound,
            format!("{verb} {resource}: {}", or(message, "there is none")),
        ),
        408 | 504 => Fault::new(Kind::Timeout, format!("{verb} {resource}: {message}")),
        429 | 500.. => Fault::unavailable(format!("{verb} {resource}: {message}")),
        400 | 422 => Fault::new(Kind::Usage, format!("{verb} {resource}: {message}")),
        _ => Fault::new(Kind::Other, format!("{verb} {resource}: {message}")),
    }
}

fn or<'a>(text: &'a str, otherwise: &'a str) -> &'a str {
    if text.is_empty() { otherwise } else { text }
}

/// What the code of one of our services means.
pub(crate) fn kind_of(code: Code) -> Kind {
    match code {
        Code::InvalidArgument => Kind::Usage,
        Code::NotFound => Kind::NotFound,
        Code::PermissionDenied | Code::Unauthenticated => Kind::Denied,
        Code::Unavailable => Kind::Unavailable,
        Code::DeadlineExceeded | Code::Aborted | Code::Cancelled => Kind::Timeout,
        Code::DataLoss => Kind::Integrity,
        Code::ResourceExhausted => Kind::Exhausted,
        _ => Kind::Other,
    }
}

/// A node's failure at `what`.
pub(crate) fn of_node(node: &str, what: &str, status: &Status) -> Fault {
    let kind = kind_of(status.code());
    let said = match status.code() {
        Code::Unimplemented => "its version of Lamina cannot do that".to_owned(),
        Code::Aborted => format!("{}; it goes on, ask again", status.message()),
        _ => status.message().to_owned(),
    };
    Fault::new(kind, format!("node {node} could not {what}: {said}"))
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let said = inner.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_missing_permission() {
        let status = kube::core::Status::failure("no", "Forbidden").with_code(403);
        let fault = of_api(
            "get",
            "secrets lamina-client-tls in lamina-system",
            &kube::Error::Api(Box::new(status)),
        );
        assert_eq!(fault.kind, Kind::Denied);
        assert_eq!(
            fault.message,
            "you may not get secrets lamina-client-tls in lamina-system; ask a cluster administrator for that permission"
        );
    }

    #[test]
    fn answers_of_nodes_keep_their_kind() {
        for (code, kind) in [
            (Code::InvalidArgument, Kind::Usage),
            (Code::NotFound, Kind::NotFound),
            (Code::PermissionDenied, Kind::Denied),
            (Code::Unavailable, Kind::Unavailable),
            (Code::Aborted, Kind::Timeout),
            (Code::DataLoss, Kind::Integrity),
            (Code::ResourceExhausted, Kind::Exhausted),
            (Code::Internal, Kind::Other),
        ] {
            let fault = of_node("n1", "read", &Status::new(code, "because"));
            assert_eq!(fault.kind, kind, "{code:?}");
            assert!(fault.message.starts_with("node n1 could not read: because"));
        }
    }
}
