//! The internal authority: one CA, one certificate for each server and client of the control plane, and one for every
//! node that asks with its pod's token.
//!
//! ```text
//!  CA (own, or given by cert-manager) ── authority: whom everybody trusts ──> every pod, as ca.crt
//!   ├── servers of the control plane and their clients: Secrets, 90 days, written by the leader        (secrets)
//!   └── nodes: 24 hours, signed by any replica for who the API server says it is    (review, sign, service, serve)
//! ```
//!
//! Nodes have a name in common, because clients dial them by address. Who holds the client certificate may ask nodes
//! for anything, so only the operator and the provisioner mount it; a node's own admits it to other nodes' layers and
//! to discovery alone. A new CA is published before it signs anything, and the old one is trusted until what it signed
//! has been replaced.

mod authority;
mod ration;
mod review;
mod secrets;
mod serve;
mod service;
mod sign;
#[cfg(test)]
mod tests;

pub(crate) use secrets::{Found, renewed};
pub(crate) use serve::serve;

/// The operator's own CA and its key: only the operator reads it.
pub(crate) const CA_SECRET: &str = "lamina-ca";
/// The CAs that are trusted, without keys.
pub(crate) const AUTHORITY_SECRET: &str = "lamina-authority";
/// The certificate of who signs for nodes.
pub(crate) const OPERATOR_SECRET: &str = "lamina-operator-tls";
/// The certificate of discovery.
pub(crate) const DISCOVERY_SECRET: &str = "lamina-discovery-tls";
/// The certificate of the node servers' clients.
pub(crate) const CLIENT_SECRET: &str = "lamina-client-tls";
/// The certificate of what runs commands.
pub(crate) const AFSLET_SECRET: &str = "lamina-afslet-tls";
/// The certificate of who finds nodes for commands.
pub(crate) const PROXY_SECRET: &str = "lamina-proxy-tls";
/// The certificate of who may have commands run, and nothing else.
pub(crate) const USER_SECRET: &str = "lamina-user-tls";
/// Every one of them that the operator makes.
pub(crate) const SECRETS: [&str; 8] = [
    AFSLET_SECRET,
    PROXY_SECRET,
    USER_SECRET,
    OPERATOR_SECRET,
    DISCOVERY_SECRET,
    CLIENT_SECRET,
    AUTHORITY_SECRET,
    CA_SECRET,
];

/// Name in every node's certificate.
pub(crate) const SERVER_NAME: &str = "node.lamina.internal";
/// Name in every node's certificate that says what it may call: other nodes' layers.
const PEER_NAME: &str = "peer.lamina.internal";
/// Name of who signs for nodes.
const OPERATOR_NAME: &str = "operator.lamina.internal";
/// Name of discovery.
const DISCOVERY_NAME: &str = "discovery.lamina.internal";
/// Name of who may ask nodes for anything.
const CLIENT_NAME: &str = "client.lamina.internal";
/// Name of what runs commands.
const AFSLET_NAME: &str = "afslet.lamina.internal";
/// Name of who finds nodes for commands; afslets take commands from it and from clients.
const PROXY_NAME: &str = "proxy.lamina.internal";
/// Name of who may have proxies run commands.
const USER_NAME: &str = "user.lamina.internal";
/// What the names that mean something end with: no node is called so.
const RESERVED: &str = "lamina.internal";
/// Port of who signs for nodes.
pub(crate) const PORT: u16 = 7160;
/// For whom nodes' tokens are.
pub(crate) const AUDIENCE: &str = "lamina.dev";
