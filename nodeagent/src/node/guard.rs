//! Who may call what over TCP: by the names in the caller's certificate, which the authority gave it.
//!
//! ```text
//! client.lamina.internal   the operator, and people with its certificate: everything
//! peer.lamina.internal     another node: its layerstore's services alone
//! ```
//! On the Unix socket it is the file's mode and the user that decide.

use lamina_discovery::identity::admit;
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
    fn wanted(self) -> &'static [&'static str] {
        match self {
            Self::Clients => &[CLIENT],
            Self::Nodes => &[PEER, CLIENT],
        }
    }
}

impl Interceptor for Guard {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        admit(&request, self.wanted()).map(|()| request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_reach_layers_alone() {
        assert_eq!(Guard::Clients.wanted(), ["client.lamina.internal"]);
        let nodes = ["peer.lamina.internal", "client.lamina.internal"];
        assert_eq!(Guard::Nodes.wanted(), nodes);
    }

    #[test]
    fn a_caller_without_a_certificate_is_nobody() {
        let refused = Guard::Nodes.call(Request::new(())).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    }
}
