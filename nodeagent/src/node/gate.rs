//! Who may call what on TCP: the names in the caller's certificate say it.
//!
//! Every certificate of our authority gets a connection. `client.lamina.internal` may call everything; a node's own, with
//! `peer.lamina.internal` in it, only what nodes do for each other; any other nothing.

use lamina_discovery::identity::alternative_names;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Status};

/// Name of who may call everything: the operator and the provisioner.
const CLIENT: &str = "client.lamina.internal";
/// Name in every node's certificate.
const PEER: &str = "peer.lamina.internal";

/// Admits callers to a service.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gate {
    peers: bool,
}

/// A service for the operator and the provisioner.
pub(crate) fn for_clients<S>(service: S) -> InterceptedService<S, Gate> {
    InterceptedService::new(service, Gate { peers: false })
}

/// A service for other nodes, too.
#[cfg_attr(
    not(test),
    allow(dead_code, reason = "the services of layers come with the layers")
)]
pub(crate) fn for_peers<S>(service: S) -> InterceptedService<S, Gate> {
    InterceptedService::new(service, Gate { peers: true })
}

impl Gate {
    fn admits(self, names: &[String]) -> bool {
        let has = |wanted: &str| names.iter().any(|name| name == wanted);
        has(CLIENT) || (self.peers && has(PEER))
    }
}

impl Interceptor for Gate {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let shown = request.peer_certs();
        let own = shown.as_ref().and_then(|all| all.first());
        let names = own.and_then(|own| alternative_names(own));
        match self.admits(&names.unwrap_or_default()) {
            true => Ok(request),
            false => Err(Status::permission_denied(match self.peers {
                true => "this is for nodes: the certificate has to name peer.lamina.internal",
                false => {
                    "nodes do not do this for each other: the certificate has to name client.lamina.internal"
                }
            })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_may_not_do_what_the_operator_may() {
        let names = |all: &[&str]| -> Vec<String> { all.iter().map(ToString::to_string).collect() };
        let node = names(&["node.lamina.internal", "peer.lamina.internal", "node-a"]);
        let client = names(&["client.lamina.internal"]);
        let server = names(&["node.lamina.internal", "discovery.lamina.internal"]);
        for (who, all, peers, admitted) in [
            ("client", &client, false, true),
            ("client", &client, true, true),
            ("node", &node, false, false),
            ("node", &node, true, true),
            ("server", &server, false, false),
            ("server", &server, true, false),
            ("nobody", &names(&[]), true, false),
        ] {
            assert_eq!(Gate { peers }.admits(all), admitted, "{who}, {peers}");
        }
    }

    #[test]
    fn without_a_certificate_nothing_may_be_called() {
        for peers in [false, true] {
            let refused = Gate { peers }.call(Request::new(())).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::PermissionDenied);
        }
    }
}
