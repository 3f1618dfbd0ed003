//! Who may call what: by the names in the caller's certificate, which the authority gave it.
//!
//! ```text
//! user.lamina.internal     people and programs that have commands run: runs, and the status
//! client.lamina.internal   the operator, and people with its certificate: everything
//! ```

use lamina_discovery::identity::admit;
use tonic::service::Interceptor;
use tonic::{Request, Status};

/// In the certificates of those who may have commands run.
const USER: &str = "user.lamina.internal";
/// In the certificates of those who may call everything.
const CLIENT: &str = "client.lamina.internal";

/// Who is let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guard {
    /// Users and clients.
    Users,
    /// Clients.
    Clients,
    /// Anybody, where there is no TLS.
    Anyone,
}

impl Guard {
    /// The same, where only clients are let through.
    pub(crate) fn clients_alone(self) -> Self {
        match self {
            Self::Users | Self::Clients => Self::Clients,
            Self::Anyone => Self::Anyone,
        }
    }

    /// Names that let through; `None` where none is needed.
    fn wanted(self) -> Option<&'static [&'static str]> {
        match self {
            Self::Users => Some(&[USER, CLIENT]),
            Self::Clients => Some(&[CLIENT]),
            Self::Anyone => None,
        }
    }

    /// # Errors
    /// `UNAUTHENTICATED` without a certificate, `PERMISSION_DENIED` with one that says something else.
    pub(crate) fn check<T>(self, request: &Request<T>) -> Result<(), Status> {
        self.wanted().map_or(Ok(()), |names| admit(request, names))
    }
}

impl Interceptor for Guard {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        self.check(&request).map(|()| request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_have_commands_run_and_clients_do_everything() {
        let users = ["user.lamina.internal", "client.lamina.internal"];
        assert_eq!(Guard::Users.wanted(), Some(&users[..]));
        assert_eq!(Guard::Clients.wanted(), Some(&users[1..]));
        assert_eq!(Guard::Users.clients_alone(), Guard::Clients);
        assert_eq!(Guard::Anyone.clients_alone(), Guard::Anyone);
    }

    #[test]
    fn a_caller_without_a_certificate_is_nobody() {
        let refused = Guard::Users.call(Request::new(())).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unauthenticated);
        assert!(Guard::Anyone.call(Request::new(())).is_ok());
    }
}
