//! Who may call what: by the names in the caller's certificate, which the authority gave it.
//!
//! ```text
//! user.lamina.internal     people and programs that have commands run: runs, and the status
//! client.lamina.internal   the operator, and people with its certificate: everything
//! ```

use lamina_discovery::identity::caller_names;
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

    fn admits(self, names: &[String]) -> bool {
        let has = |wanted: &str| names.iter().any(|name| name == wanted);
        self == Self::Anyone || has(CLIENT) || (self == Self::Users && has(USER))
    }

    /// # Errors
    /// `UNAUTHENTICATED` without a certificate, `PERMISSION_DENIED` with one that says something else.
    pub(crate) fn check<T>(self, request: &Request<T>) -> Result<(), Status> {
        if self == Self::Anyone {
            return Ok(());
        }
        let names = caller_names(request)
            .ok_or_else(|| Status::unauthenticated("a caller must show a certificate"))?;
        if self.admits(&names) {
            return Ok(());
        }
        let shown = names.join(", ");
        let wanted = match self {
            Self::Users => format!("{USER} or {CLIENT}"),
            Self::Clients | Self::Anyone => CLIENT.to_owned(),
        };
        let why = format!("the certificate is for {shown}; this needs the name {wanted}");
        Err(Status::permission_denied(why))
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
        for (name, users, clients) in [
            ("client.lamina.internal", true, true),
            ("user.lamina.internal", true, false),
            ("peer.lamina.internal", false, false),
            ("n1", false, false),
        ] {
            let names = [name.to_owned()];
            assert_eq!(Guard::Users.admits(&names), users, "{name}");
            assert_eq!(Guard::Clients.admits(&names), clients, "{name}");
            assert!(Guard::Anyone.admits(&names));
        }
    }

    #[test]
    fn a_caller_without_a_certificate_is_nobody() {
        let refused = Guard::Users.call(Request::new(())).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unauthenticated);
        assert!(Guard::Anyone.call(Request::new(())).is_ok());
    }
}
