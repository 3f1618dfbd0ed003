//! Who may call what over TCP: by the names in the caller's certificate, which the authority gave it.
//!
//! ```text
//! client.lamina.internal   the operator, and people with its certificate: everything
//! peer.lamina.internal     another node: its layerstore's services alone
//! ```
//! On the Unix socket it is the file's mode and the user that decide.

use lamina_discovery::identity::caller_names;
use tonic::service::Interceptor;
use tonic::{Request, Status};

/// In the certificates of those who may call everything.
const CLIENT: &str = "client.lamina.internal";
/// In the certificates of nodes.
const PEER: &str = "peer.lamina.internal";

/// Who is let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Guard {
    /// Clients.
    Clients,
    /// Clients and nodes.
    Nodes,
}

impl Guard {
    fn admits(self, names: &[String]) -> bool {
        let has = |wanted: &str| names.iter().any(|name| name == wanted);
        has(CLIENT) || (self == Self::Nodes && has(PEER))
    }
}

impl Interceptor for Guard {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let names = caller_names(&request);
        let names =
            names.ok_or_else(|| Status::unauthenticated("a caller must show a certificate"))?;
        if self.admits(&names) {
            return Ok(request);
        }
        let shown = names.join(", ");
        let why = format!("the certificate is for {shown}, which may not call this service");
        Err(Status::permission_denied(why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_reach_layers_alone_and_strangers_nothing() {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        for (caller, clients, nodes) in [
            (&["client.lamina.internal"][..], true, true),
            (
                &["n1", "node.lamina.internal", "peer.lamina.internal"],
                false,
                true,
            ),
            (&["n1", "node.lamina.internal"], false, false),
            (&["discovery.lamina.internal"], false, false),
            (&[], false, false),
        ] {
            let caller = names(caller);
            assert_eq!(Guard::Clients.admits(&caller), clients, "{caller:?}");
            assert_eq!(Guard::Nodes.admits(&caller), nodes, "{caller:?}");
        }
    }

    #[test]
    fn a_caller_without_a_certificate_is_nobody() {
        let refused = Guard::Nodes.call(Request::new(())).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    }
}
